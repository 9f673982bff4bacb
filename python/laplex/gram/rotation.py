"""Cosine and sine of a frequency times a place, accurate at any distance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .checks import broadcast

_SPLIT = 2.0**27 + 1
#: The origin is the median of about this many places.
_SOME = 1001
#: Numbers per block: intermediate results stay in the cache, which is four times faster.
_BLOCK = 2**14


def rotation(
    frequency: Tensor, places: Tensor, origin: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute cos and sin of frequency * (places - origin), float64 ``[*b, n]``.

    Differences of angles are accurate to a few units of rounding, wherever the places are. To this
    end, differences and products are computed together with their rounding errors; for an angle of
    1e16, the rounding error is of order 1. Without one, the origin is a place near the
    median, so that the sines of places that are close together keep their digits.

    Parameters
    ----------
    frequency : Tensor ``[*b, 1]``
    places : Tensor ``[*b, n]``
    origin : Tensor ``[*b, 1]``, optional
    """
    n = places.shape[-1]
    if origin is None:
        origin = middle(places)
    batch = broadcast(frequency.shape[:-1], places.shape[:-1])
    result: tuple[Tensor, Tensor] = _Rotation.apply(  # type: ignore[no-untyped-call]
        frequency.expand(*batch, n), places.expand(*batch, n), origin.expand(*batch, n)
    )
    return result


def middle(places: Tensor) -> Tensor:
    """A place near the median of places ``[*b, n]``, or 0 if there is none: ``[*b, 1]``."""
    n = places.shape[-1]
    some = places.detach()[..., :: max(1, n // _SOME)]
    return some.median(-1, keepdim=True).values if n else some.new_zeros((*some.shape[:-1], 1))


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, frequency: Tensor, places: Tensor, origin: Tensor
    ) -> tuple[Tensor, Tensor]:
        cosine, sine = torch.empty_like(places), torch.empty_like(places)
        tensors, n = (frequency, places, origin, cosine, sine), places.shape[-1]
        if n <= _BLOCK or places.device.type != "cpu":
            _rotate(*tensors)
        else:
            for start in range(0, n, _BLOCK):
                _rotate(*(tensor[..., start : start + _BLOCK] for tensor in tensors))
        ctx.save_for_backward(frequency, places, origin, cosine, sine)
        return cosine, sine

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        frequency, places, origin, cosine, sine = ctx.saved_tensors
        by_angle = grads[1] * cosine - grads[0] * sine
        by_frequency, by_places, _ = ctx.needs_input_grad
        return (
            by_angle * (places - origin) if by_frequency else None,
            by_angle * frequency if by_places else None,
            None,
        )


def _rotate(
    frequency: Tensor, places: Tensor, origin: Tensor, cosine: Tensor, sine: Tensor
) -> None:
    distance = places - origin
    moved = distance - places
    lost = (places - (distance - moved)).sub_(origin + moved)  # Knuth's two-sum
    angle = frequency * distance
    rest = _lost(frequency, distance, angle).add_(lost.mul_(frequency))
    c, s = angle.cos(), angle.sin()
    # At most half a unit of the angle: tiny for ordinary angles, of order 1 beyond 1e16.
    rest_c, rest_s = rest.cos(), rest.sin_()
    torch.sub(c * rest_c, s * rest_s, out=cosine)
    torch.add(s * rest_c, c * rest_s, out=sine)


def _lost(a: Tensor, b: Tensor, product: Tensor) -> Tensor:
    """The rounding error of a product, by Dekker's algorithm with Veltkamp's splitting."""
    a_high, b_high = _high(a), _high(b)
    a_low, b_low = a - a_high, b - b_high
    rest = (a_high * b_high).sub_(product).add_(a_high * b_low).add_(a_low * b_high)
    rest.add_(a_low * b_low)
    return rest.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)  # numbers that cannot be split


def _high(x: Tensor) -> Tensor:
    scaled = _SPLIT * x
    return scaled - (scaled - x)
