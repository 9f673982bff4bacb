"""Cosine and sine of a frequency times a place, however far away."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_SPLIT = 2.0**27 + 1
#: Numbers at a time, which keeps what is between in the cache: four times faster than all at once.
_BLOCK = 2**14


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
        cosine, sine = torch.empty_like(places), torch.empty_like(places)
        n = places.shape[-1]
        step = _BLOCK if places.device.type == "cpu" else max(n, 1)
        for start in range(0, n, step):
            block = (..., slice(start, start + step))
            _rotate(frequency[block], places[block], cosine[block], sine[block])
        ctx.save_for_backward(frequency, places, cosine, sine)
        return cosine, sine

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        frequency, places, cosine, sine = ctx.saved_tensors
        by_angle = grads[1] * cosine - grads[0] * sine
        return by_angle * places, by_angle * frequency


def _rotate(frequency: Tensor, places: Tensor, cosine: Tensor, sine: Tensor) -> None:
    angle = frequency * places
    rest = _lost(frequency, places, angle)
    c, s = angle.cos(), angle.sin()
    # Half a unit of the angle: tiny for ordinary ones, of order 1 for those beyond 1e16.
    rest_c, rest_s = rest.cos(), rest.sin_()
    torch.sub(c * rest_c, s * rest_s, out=cosine)
    torch.add(s * rest_c, c * rest_s, out=sine)


def _lost(a: Tensor, b: Tensor, product: Tensor) -> Tensor:
    """What rounding took from the product of a and b: Dekker's algorithm, with Veltkamp's split."""
    a_high, b_high = _high(a), _high(b)
    a_low, b_low = a - a_high, b - b_high
    rest = (a_high * b_high).sub_(product).add_(a_high * b_low).add_(a_low * b_high)
    rest.add_(a_low * b_low)
    return rest.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)  # numbers that cannot be split


def _high(x: Tensor) -> Tensor:
    scaled = _SPLIT * x
    return scaled - (scaled - x)
