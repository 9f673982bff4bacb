"""Learning rates by part of a model: heads, backbone, and depth in the backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from ..model import MultiExitModel
from .freezing import trained_parts
from .strategies import Part, Rates


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate.

    Attributes
    ----------
    name : str
        Name of the group, which loggers of learning rates show.
    part : "heads" or "backbone"
    depth : int
        How many exits lie between these parameters and the end of the backbone; 0 for heads.
    parameters : list of Parameter
    """

    name: str
    part: str
    depth: int
    parameters: list[nn.Parameter]

    def rate(self, rates: Rates, decay: float) -> float:
        """The learning rate of the group."""
        base = rates[self.part] if isinstance(rates, Mapping) else rates
        return float(base * decay**self.depth)


def groups_of(model: MultiExitModel, part: Part, by_depth: bool = True) -> list[Group]:
    """The parameters that a phase trains, by part and, in the backbone, by depth.

    The depth is that of the segments between exits. A parameter belongs to the segment of the first
    exit whose module holds it, or is registered after the module that does.
    """
    found: dict[tuple[str, int], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for trained in trained_parts(model, part):
        whose = "backbone" if trained is model.backbone else "heads"
        depths = depths_of(model) if whose == "backbone" and by_depth else {}
        for name, module in trained.named_modules():
            for one in module.parameters(recurse=False):
                if one.requires_grad and id(one) not in seen:
                    seen.add(id(one))
                    found.setdefault((whose, depths.get(name, 0)), []).append(one)
    last = model.num_exits - 1
    segment = {depth: f" segment {last - depth}" if by_depth else "" for depth in range(last + 1)}
    return [
        Group(whose + segment[depth] * (whose == "backbone"), whose, depth, parameters)
        for (whose, depth), parameters in found.items()
    ]


def depths_of(model: MultiExitModel) -> dict[str, int]:
    """The depth of each module of the backbone, in the order in which they are registered."""
    names = [name for name, _ in model.backbone.named_modules()]
    ends = [
        max(i for i, name in enumerate(names) if name == own or name.startswith(f"{own}."))
        for own in model.module_names
    ]
    return {name: sum(i <= end for end in ends) for i, name in enumerate(names)}


def set_rates(optimizer: Optimizer, groups: list[Group], rates: Rates | None, decay: float) -> None:
    """Set the learning rates of an optimiser of the caller's own.

    Parameters
    ----------
    optimizer : Optimizer
    groups : list of Group
        The groups that it was made from.
    rates : float, mapping or None
        The learning rates; by default those that the optimiser has.
    decay : float
        Factor of the learning rate for each segment before the last.

    Raises
    ------
    ValueError
        If the optimiser has other parameters, or a group of it would need several rates.
    """
    own = {id(one): group for group in groups for one in group.parameters}
    for made in optimizer.param_groups:
        if any(id(one) not in own for one in made["params"]):
            raise ValueError(
                "optimizer returned an optimiser of other parameters than those it was given: make "
                "a new one from the parameters at each call, since each phase trains others"
            )
        if rates is None and decay == 1.0:
            continue
        base = made["lr"] if rates is None else rates
        found = {own[id(one)].rate(base, decay) for one in made["params"]}
        if len(found) > 1:
            raise ValueError(
                "optimizer put parameters with different learning rates into one group: keep the "
                "groups that it is given, or split them further"
            )
        made["lr"] = found.pop()
