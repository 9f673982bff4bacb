"""Functions that the heads share, and the making of a head from its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..._support.arguments import integer
from . import HEADS

__all__ = ["make_head"]


def make_head(
    head: str | Callable[[Any, int], nn.Module], activation: Any, num_classes: int, *, where: str
) -> nn.Module:
    """Make a new head for activations like the one given.

    Parameters
    ----------
    head : str or callable
        A name from `laplex.early_exit.heads.HEADS`, or a function that takes the activation and the
        number of classes and returns a module.
    activation : Tensor, or nested
        An example of the output of the module that the head is attached to.
    num_classes : int
        Number of classes, at least 1.
    where : str
        Name of the exit, for messages.

    Returns
    -------
    Module

    Raises
    ------
    ValueError, TypeError
        If there is no such head, or it does not accept such an activation.
    """
    classes = integer("num_classes", num_classes)
    if callable(head):
        return head(activation, classes)
    if head not in HEADS:
        raise ValueError(
            f"head must be one of {', '.join(sorted(HEADS))} or a function, got {head!r}"
        )
    kind = HEADS[head]
    shape = tuple(last(activation).shape)
    needs = getattr(kind, "dimensions", (2, 3, 4))
    if len(shape) not in needs:
        wanted = {4: "[batch, channels, height, width]", 3: "[batch, tokens, dim]"}
        raise ValueError(
            f"head={head!r} needs activations {wanted.get(needs[0], '[batch, features]')}, but "
            f"those of {where!r} are {list(shape)}: choose another head"
        )
    return kind(shape[1] if len(shape) != 3 else shape[2], classes)


def last(activation: Any) -> Tensor:
    """The Tensor of an activation; the last one if there are several."""
    value = activation[-1] if isinstance(activation, (list, tuple)) else activation
    value = getattr(value, "last_hidden_state", value)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"an activation is a {type(value).__name__}: heads take Tensors, or lists of Tensors"
        )
    return value


def positions(activation: Any) -> Tensor:
    """Features by position: [batch, positions, features]."""
    value = last(activation)
    if value.ndim == 4:
        return value.flatten(2).transpose(1, 2)
    return value if value.ndim == 3 else value[:, None]
