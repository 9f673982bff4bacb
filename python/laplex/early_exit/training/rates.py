"""Learning rates by part of a model: heads, backbone, and depth in the backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..model import MultiExitModel, evaluating
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


def groups_of(
    model: MultiExitModel, part: Part, depths: Mapping[str, int] | None = None
) -> list[Group]:
    """The parameters that a phase trains, by part and, in the backbone, by depth.

    Parameters
    ----------
    model : MultiExitModel
    part : "backbone", "all" or "heads"
    depths : mapping of str to int, optional
        The depth of each parameter of the backbone, as `depths_of` returns it.

    Returns
    -------
    list of Group
    """
    found: dict[tuple[str, int], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for trained in trained_parts(model, part):
        whose = "backbone" if trained is model.backbone else "heads"
        for name, one in trained.named_parameters():
            if one.requires_grad and id(one) not in seen:
                seen.add(id(one))
                depth = depths[name] if depths and whose == "backbone" else 0
                found.setdefault((whose, depth), []).append(one)
    last = model.num_exits - 1
    segment = {depth: f" segment {last - depth}" if depths else "" for depth in range(last + 1)}
    return [
        Group(whose + segment[depth] * (whose == "backbone"), whose, depth, parameters)
        for (whose, depth), parameters in found.items()
    ]


def depths_of(model: MultiExitModel, x: Any) -> dict[str, int]:
    """The depth of each parameter of the backbone: how many exits come after it has been used.

    Modules need not be registered in the order in which they run, so the backbone runs once, in
    evaluation mode and without gradients. A parameter is taken to be used when its module starts
    for the first time or, if that is not called itself, when the smallest module around it does.

    Parameters
    ----------
    model : MultiExitModel
    x
        Inputs of the model, on its device.

    Returns
    -------
    dict of str to int
        By name of the parameter in ``backbone.named_parameters()``.
    """
    left = model.num_exits - 1
    starts: dict[str, int] = {}

    def start(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            starts.setdefault(name, left)

        return hook

    def at_exit(k: int, activation: Any) -> Any:
        nonlocal left
        left -= 1
        return activation

    names = dict(model.backbone.named_modules())
    handles = [module.register_forward_pre_hook(start(name)) for name, module in names.items()]
    try:
        # Compiled modules would not call the hooks.
        with evaluating(model), torch.no_grad(), torch.compiler.set_stance("force_eager"):
            model.walk(x, at_exit)
    finally:
        for handle in handles:
            handle.remove()
    found: dict[int, int] = {}
    for name, module in names.items():
        around = name
        while around and around not in starts:
            around = around.rpartition(".")[0]
        for one in module.parameters(recurse=False):
            found[id(one)] = max(starts[around], found.get(id(one), 0))
    return {name: found[id(one)] for name, one in model.backbone.named_parameters()}


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
