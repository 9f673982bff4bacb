"""The base of the heads, and the making of a head from its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..._support.arguments import integer
from ..activations import main_tensor
from ..origins import with_origin
from . import HEADS

__all__ = ["Head", "make_head"]


class Head(nn.Module):
    """Base class of the heads that make one vector of features of the positions of an activation.

    A subclass defines `classify`, and `pool` unless it takes the average.
    """

    #: Whether the head is called with ``mask=``, which tells real tokens from padding.
    reads_mask = True

    def forward(self, activation: Any, mask: Tensor | None = None) -> Tensor:
        """Compute the logits of a batch.

        Parameters
        ----------
        activation : Tensor, or sequence of them
            ``[batch, channels, ...]`` with dimensions of space, ``[batch, tokens, dim]`` or
            ``[batch, features]``. Of a list the head reads the last entry, of a tuple the first.
        mask : Tensor ``[batch, tokens]`` of bool, optional
            Which tokens are real. Others do not count.

        Returns
        -------
        Tensor ``[batch, num_classes]``
            The logits.
        """
        if mask is not None:
            mask = mask | ~mask.any(1, keepdim=True)  # of a row of padding all count
        return self.classify(self.pool(positions(activation), mask))

    def pool(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Make one vector of the features by position: the average over the real ones.

        Parameters
        ----------
        features : Tensor ``[batch, positions, features]``
            The activation.
        mask : Tensor ``[batch, positions]`` of bool, or None
            Which positions are real; at least one of each sample.

        Returns
        -------
        Tensor ``[batch, features]``
            The vectors.
        """
        if mask is None:
            return features.mean(1)
        total = features.masked_fill(~mask[:, :, None], 0).sum(1)
        return total / mask.sum(1, keepdim=True)

    def classify(self, features: Tensor) -> Tensor:
        """Compute the logits from features.

        Parameters
        ----------
        features : Tensor ``[batch, features]``
            The pooled features.

        Returns
        -------
        Tensor ``[batch, num_classes]``
            The logits.
        """
        raise NotImplementedError


def largest(features: Tensor, mask: Tensor | None) -> Tensor:
    """The maximum over the real positions, as in `Head.pool`."""
    if mask is not None:
        features = features.masked_fill(~mask[:, :, None], -torch.inf)
    return features.amax(1)


def make_head(
    head: str | Callable[[Any, int], nn.Module],
    activation: Any,
    num_classes: int,
    *,
    where: str,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Make a new head for activations like the one given.

    Parameters
    ----------
    head : str or callable
        A name from `laplex.early_exit.heads.HEADS`, or a function that takes the activation and the
        number of classes and returns a module.
    activation : Tensor, or nested
        An example of the output of the module that the head is attached to. For a head by name, its
        channels come after the batch if it has more than three dimensions, and last otherwise.
    num_classes : int
        Number of classes, at least 1.
    where : str
        Name of the exit, for messages.
    options : mapping, optional
        More arguments of the class of the head.

    Returns
    -------
    Module

    Raises
    ------
    ValueError, TypeError
        If there is no such head, or it does not accept such an activation or option.
    """
    classes = integer("num_classes", num_classes)
    options = dict(options or {})
    if callable(head):
        return head(activation, classes, **options)
    if head not in HEADS:
        raise ValueError(
            f"head must be one of {', '.join(sorted(HEADS))} or a function, got {head!r}"
        )
    kind = HEADS[head]
    shape = tuple(main_tensor(activation).shape)
    needs = getattr(kind, "dimensions", (2, 3, 4, 5))
    if len(shape) not in needs:
        wanted = {4: "[batch, channels, height, width]", 3: "[batch, tokens, dim]"}
        raise ValueError(
            f"head={head!r} needs activations {wanted.get(needs[0], '[batch, features]')}, but "
            f"those of {where!r} are {list(shape)}: choose another head"
        )
    features = shape[1] if len(shape) > 3 else shape[-1]
    try:
        made = kind(features, classes, **options)
    except TypeError as error:
        if not options:
            raise
        raise TypeError(f"head_options do not fit head={head!r}: {error}") from error
    return with_origin(made, head, {"features": features, "classes": classes, "options": options})


def positions(activation: Any) -> Tensor:
    """Features by position: [batch, positions, features]."""
    value = main_tensor(activation)
    if value.ndim > 3:
        return value.flatten(2).transpose(1, 2)
    return value if value.ndim == 3 else value[:, None]
