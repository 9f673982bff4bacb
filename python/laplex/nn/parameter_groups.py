"""Parameter groups for an optimiser, which keep weight decay off the anchors."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import nn

from laplex.nn.kernel_layer import KernelLayer
from laplex.torch.sharded import whole


def param_groups(
    model: nn.Module, weight_decay: float, *, lr: float | None = None
) -> list[dict[str, Any]]:
    r"""Split a model's parameters into a group with weight decay and a group without.

    Weight decay pulls a parameter towards zero, which suits gains and dense weights. In a layer of
    Laplace kernels it would pull all anchors to one place, all phases to one phase and the
    lengthscales to 1. The usual rule, by the number of dimensions, does not exempt them, because
    anchors and phases have two dimensions, as a dense weight does.

    Parameters
    ----------
    model : nn.Module
        Any module. Layers of Laplace kernels may be anywhere in it.
    weight_decay : float
        The weight decay of the first group, at least 0.
    lr : float, optional
        A learning rate for Adam and its relatives, which move a parameter by about the learning
        rate in each step, whatever its scale. If it is given, every group has a rate: anchors
        that of ``lr`` times the mean lengthscale of their layer, gains that of ``lr`` times their
        root mean square, everything else ``lr``. By default all have the optimiser's rate.

    Returns
    -------
    list of dict
        The groups for an optimiser's constructor. The first group has every parameter of two or
        more dimensions that is not an anchor or phase. The second group, with weight decay 0, has
        the rest: anchors, phases, lengthscales, biases and the scales of normalisation layers.
        With ``lr``, groups follow that have the same weight decay but other learning rates. Every
        parameter, frozen or not, is in exactly one group, in the order of ``model.parameters()``.

    Raises
    ------
    TypeError
        If ``model`` is not a module, or ``weight_decay`` or ``lr`` is not a number.
    ValueError
        If ``weight_decay`` or ``lr`` is negative or not finite.

    Examples
    --------
    >>> import torch
    >>> import laplex
    >>> model = torch.nn.Sequential(laplex.nn.LaplexLinear(64, 8), torch.nn.Linear(8, 2))
    >>> groups = laplex.nn.param_groups(model, weight_decay=0.1)
    >>> [len(group["params"]) for group in groups]  # two weights, seven others
    [2, 7]
    >>> optimiser = torch.optim.AdamW(groups, lr=1e-2)

    With rates in the units of the layer, in which anchors and gains have smaller ones:

    >>> groups = laplex.nn.param_groups(model, weight_decay=0.1, lr=1e-2)
    >>> [len(group["params"]) for group in groups]  # weight, others, anchors, gains
    [1, 5, 2, 1]
    >>> round(groups[2]["lr"], 6)  # a lengthscale of 1 / sqrt(2 * 8)
    0.0025
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}: pass the model, "
            "not its parameters"
        )
    decay = _number("weight_decay", weight_decay)
    rate = None if lr is None else _number("lr", lr)
    layers = [module for module in model.modules() if isinstance(module, KernelLayer)]
    geometry = {id(tensor) for layer in layers for tensor in layer.geometry()}
    scales = {} if rate is None else {k: v for layer in layers for k, v in _scales(layer).items()}
    # By whether they decay and by scale; these two are always there, and first.
    members: dict[tuple[bool, float], list[nn.Parameter]] = {(True, 1.0): [], (False, 1.0): []}
    for parameter in model.parameters():
        decays = parameter.dim() >= 2 and id(parameter) not in geometry
        members.setdefault((decays, scales.get(id(parameter), 1.0)), []).append(parameter)
    return [
        {"params": some, "weight_decay": decay if decays else 0.0}
        | ({} if rate is None else {"lr": rate * scale})
        for (decays, scale), some in members.items()
    ]


@torch.no_grad()
def _scales(layer: KernelLayer) -> dict[int, float]:
    """The scale of the anchors and gains of a layer, by the identity of the parameters."""
    length = float(whole(layer.log_lengthscale).double().exp().mean())
    size = float(whole(layer.source_gain).double().square().mean().sqrt())
    scales = {id(tensor): length for tensor in layer.made_of("targets", "sources")}
    # Gains that start at zero have no scale yet.
    return scales | {id(tensor): size or 1.0 for tensor in layer.made_of("source_gain")}


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {value}")
    return number
