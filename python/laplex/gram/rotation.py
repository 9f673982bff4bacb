"""Cosine and sine of a frequency times a place, however far away."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_SPLIT = 2.0**27 + 1
_LARGEST = 2.0**996  # beyond, a number can't be split, nor has an angle any meaning


def rotation(frequency: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Cos and sin of frequency * places, float64 of the same shape.

    The product is taken with what its rounding loses, so that differences of angles are right to a
    few units, wherever the places are: 1e-16 of an angle of 1e16 would be all of it.
    """
    result: tuple[Tensor, Tensor] = _Rotation.apply(frequency, places)  # type: ignore[no-untyped-call]
    return result


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, frequency: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        angle = frequency * places
        rest = _lost(frequency, places, angle)
        c, s, rc, rs = angle.cos(), angle.sin(), rest.cos(), rest.sin()
        cosine, sine = c * rc - s * rs, s * rc + c * rs
        ctx.save_for_backward(frequency, places, cosine, sine)
        return cosine, sine

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        frequency, places, cosine, sine = ctx.saved_tensors
        by_angle = grads[1] * cosine - grads[0] * sine
        return by_angle * places, by_angle * frequency


def _lost(a: Tensor, b: Tensor, product: Tensor) -> Tensor:
    """A b - product, exactly (Dekker's product, with Veltkamp's split)."""
    a_high, b_high = _high(a), _high(b)
    a_low, b_low = a - a_high, b - b_high
    rest = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    usual = (a.abs() < _LARGEST) & (b.abs() < _LARGEST) & product.isfinite()
    return torch.where(usual, rest, torch.zeros_like(rest))


def _high(x: Tensor) -> Tensor:
    scaled = _SPLIT * x
    return scaled - (scaled - x)
