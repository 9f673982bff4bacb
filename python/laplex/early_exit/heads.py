"""Heads of exits: from what a module puts out to logits.

Each takes feature maps ``[batch, channels, height, width]``, tokens ``[batch, tokens, dim]`` or
features ``[batch, features]`` as said; of a list or tuple (one entry a scale) the last entry.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from laplex.nn import LaplexHead

__all__ = [
    "ConvHead",
    "LaplexExit",
    "LinearHead",
    "MLPHead",
    "PooledHead",
    "TokenHead",
    "make_head",
]


class PooledHead(nn.Module):
    """Maximum and average over positions, mixed by a learned share, then linear.

    ``W (a max + (1 - a) mean) + b`` with ``a = sigmoid(mix)``, as in shallow-deep networks
    (Kaya et al. 2019).

    Parameters
    ----------
    in_features : int
        Channels of a map, or dim of tokens.
    num_classes : int
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(()))
        self.linear = nn.Linear(in_features, num_classes)

    def forward(self, activation: Any) -> Tensor:
        """Logits [batch, num_classes]."""
        positions = _positions(activation)
        share = self.mix.sigmoid()
        pooled = share * positions.amax(1) + (1 - share) * positions.mean(1)
        logits: Tensor = self.linear(pooled)
        return logits


class LinearHead(nn.Module):
    """Average over positions, then linear.

    Parameters
    ----------
    in_features, num_classes : int
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, num_classes)

    def forward(self, activation: Any) -> Tensor:
        """Logits [batch, num_classes]."""
        logits: Tensor = self.linear(_positions(activation).mean(1))
        return logits


class MLPHead(nn.Module):
    """Average over positions, then a layer of hidden units.

    Parameters
    ----------
    in_features, num_classes : int
    hidden : int, optional
        `in_features` when not given.
    """

    def __init__(self, in_features: int, num_classes: int, hidden: int | None = None) -> None:
        super().__init__()
        width = in_features if hidden is None else hidden
        self.layers = nn.Sequential(
            nn.Linear(in_features, width), nn.ReLU(), nn.Linear(width, num_classes)
        )

    def forward(self, activation: Any) -> Tensor:
        """Logits [batch, num_classes]."""
        logits: Tensor = self.layers(_positions(activation).mean(1))
        return logits


class ConvHead(nn.Module):
    """A 3 x 3 convolution with batch normalisation, then average and linear; for maps.

    Parameters
    ----------
    in_features, num_classes : int
    hidden : int, optional
        Channels of the convolution; `in_features` when not given.
    stride : int
        Of the convolution.
    """

    def __init__(
        self, in_features: int, num_classes: int, hidden: int | None = None, stride: int = 2
    ) -> None:
        super().__init__()
        width = in_features if hidden is None else hidden
        self.conv = nn.Conv2d(in_features, width, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, activation: Any) -> Tensor:
        """Logits [batch, num_classes]."""
        maps = torch.relu(self.norm(self.conv(_last(activation))))
        logits: Tensor = self.linear(maps.mean((2, 3)))
        return logits


class TokenHead(nn.Module):
    """Normalisation and a linear layer on the first token, the class token of a transformer.

    Parameters
    ----------
    in_features : int
        Dim of the tokens.
    num_classes : int
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_features)
        self.linear = nn.Linear(in_features, num_classes)

    def forward(self, activation: Any) -> Tensor:
        """Logits [batch, num_classes]."""
        logits: Tensor = self.linear(self.norm(_last(activation)[:, 0]))
        return logits


class LaplexExit(nn.Module):
    """Average over positions, then a `laplex.nn.LaplexHead`: few numbers, read as soft routing.

    Parameters
    ----------
    in_features, num_classes : int
    heads : int
        Of the Laplace kernels; parameters and cost grow with it.
    phased : bool
        Whether the kernels have phases, without which routes can't be negative.
    """

    def __init__(
        self, in_features: int, num_classes: int, *, heads: int = 2, phased: bool = True
    ) -> None:
        super().__init__()
        self.head = LaplexHead(in_features, num_classes, heads=heads, phased=phased)

    def forward(self, activation: Any) -> Tensor:
        """Logits [batch, num_classes]."""
        logits: Tensor = self.head(_positions(activation).mean(1))
        return logits


_KINDS: dict[str, Callable[[int, int], nn.Module]] = {
    "conv": ConvHead,
    "laplex": LaplexExit,
    "linear": LinearHead,
    "mlp": MLPHead,
    "pooled": PooledHead,
    "token": TokenHead,
}


def make_head(
    head: str | Callable[[Any, int], nn.Module], activation: Any, num_classes: int, *, where: str
) -> nn.Module:
    """A new head for activations like the one given.

    Parameters
    ----------
    head : str or callable
        ``"pooled"``, ``"linear"``, ``"mlp"``, ``"conv"``, ``"token"``, ``"laplex"``; or a function
        of the activation and the number of classes.
    activation : Tensor, or nested
    num_classes : int
        At least 1.
    where : str
        The exit's name, for messages.

    Raises
    ------
    ValueError, TypeError
        There is no such head, or it does not take such an activation.
    """
    try:
        classes = operator.index(num_classes)
    except TypeError:
        raise TypeError(f"num_classes must be an integer, got {num_classes!r}") from None
    if classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {classes}")
    if callable(head):
        return head(activation, classes)
    if head not in _KINDS:
        raise ValueError(
            f"head must be one of {', '.join(sorted(_KINDS))} or a function, got {head!r}"
        )
    shape = tuple(_last(activation).shape)
    needs = {"conv": (4,), "token": (3,)}.get(head, (2, 3, 4))
    if len(shape) not in needs:
        wanted = {4: "[batch, channels, height, width]", 3: "[batch, tokens, dim]"}
        raise ValueError(
            f"head={head!r} needs activations {wanted.get(needs[0], '[batch, features]')}, but "
            f"those of {where!r} are {list(shape)}: take another head"
        )
    return _KINDS[head](shape[1] if len(shape) != 3 else shape[2], classes)


def _last(activation: Any) -> Tensor:
    value = activation[-1] if isinstance(activation, (list, tuple)) else activation
    value = getattr(value, "last_hidden_state", value)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"an activation is a {type(value).__name__}: heads take Tensors, or lists of them"
        )
    return value


def _positions(activation: Any) -> Tensor:
    """Features by position: [batch, positions, features]."""
    value = _last(activation)
    if value.ndim == 4:
        return value.flatten(2).transpose(1, 2)
    return value if value.ndim == 3 else value[:, None]
