"""Parameter groups for an optimiser, which keep weight decay off the anchors."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from torch import nn

from laplex.nn.kernel_layer import KernelLayer


def param_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split a model's parameters into a group with weight decay and a group without.

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

    Returns
    -------
    list of two dict
        The groups for an optimiser's constructor. The first group has every parameter of two or
        more dimensions that is not an anchor or phase. The second group, with weight decay 0, has
        the rest: anchors, phases, lengthscales, biases and the scales of normalisation layers.
        Every parameter, frozen or not, is in exactly one group, in the order of
        ``model.parameters()``.

    Raises
    ------
    TypeError
        If ``model`` is not a module, or ``weight_decay`` is not a number.
    ValueError
        If ``weight_decay`` is negative or not finite.

    Examples
    --------
    >>> import torch
    >>> import laplex
    >>> model = torch.nn.Sequential(laplex.nn.LaplexLinear(8, 4), torch.nn.Linear(4, 2))
    >>> groups = laplex.nn.param_groups(model, weight_decay=0.1)
    >>> [len(group["params"]) for group in groups]  # two weights, seven others
    [2, 7]
    >>> optimiser = torch.optim.AdamW(groups, lr=1e-2)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}: pass the model, "
            "not its parameters"
        )
    decay = _decay(weight_decay)
    geometry = {
        id(tensor)
        for module in model.modules()
        if isinstance(module, KernelLayer)
        for tensor in module.geometry()
    }
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        suits = parameter.dim() >= 2 and id(parameter) not in geometry
        (decayed if suits else others).append(parameter)
    return [{"params": decayed, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _decay(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"weight_decay must be a number, got {value!r}")
    decay = float(value)
    if not 0 <= decay < math.inf:
        raise ValueError(f"weight_decay must be finite and at least 0, got {value}")
    return decay
