"""Parameter groups of an optimiser: weight decay for what it suits."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from torch import nn

from laplex.nn.kernel_layer import KernelLayer


def param_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split a model's parameters into those that weight decay suits and those that it harms.

    Decay pulls a parameter to zero. That suits gains and dense weights. It would pull all anchors
    of a layer of Laplace kernels to one place, its phases to one phase and its lengthscales to 1,
    though many of them have two dimensions as a dense weight has.

    Parameters
    ----------
    model : nn.Module
        Any module; layers of Laplace kernels may be anywhere in it.
    weight_decay : float
        At least 0.

    Returns
    -------
    list of two dict
        For an optimiser's constructor. The first group, with `weight_decay`, has every parameter of
        two or more dimensions that is not an anchor or phase. The second, with 0, has the rest:
        anchors, phases, lengthscales, biases, scales of normalisation layers. Every parameter is
        in one group, once, in the order of ``model.parameters()``; frozen ones are there as they
        are there.

    Raises
    ------
    TypeError
        When `model` is no module, or `weight_decay` no number.
    ValueError
        When `weight_decay` is negative or not finite.

    Examples
    --------
    >>> import torch
    >>> import laplex
    >>> model = torch.nn.Sequential(laplex.nn.LaplexLinear(8, 4), torch.nn.Linear(4, 2))
    >>> groups = laplex.nn.param_groups(model, weight_decay=0.1)
    >>> [len(group["params"]) for group in groups]  # two weights; seven others
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
