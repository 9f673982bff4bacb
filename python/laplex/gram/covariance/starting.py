"""Starting values from images: principal components, and anchors along a curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .matching import best_noise, square_root
from .training import standardised

if TYPE_CHECKING:
    from .model import LaplaceCovariance

#: Standard deviation of what stands for a component that the images do not have.
_NO_COMPONENT = 0.1


@torch.no_grad()
def initialise(
    model: LaplaceCovariance, images: Tensor, shape: Sequence[int] | None, length: float
) -> None:
    """See `LaplaceCovariance.initialise`; `images` [n, dim] have been checked."""
    rows = standardised(model, images)
    each = 2 if model.phased else 1  # the rank of a head whose anchors are at one place
    loadings = square_root(rows, 1 / len(rows))[: each * model.heads]
    missing = each * model.heads - len(loadings)
    if missing > 0:
        loadings = torch.cat([loadings, _NO_COMPONENT * torch.randn(missing, model.dim).to(rows)])
    parts = loadings.reshape(model.heads, each, model.dim)
    set_amplitudes(model, parts)
    for head in range(model.heads):
        if shape is None:
            places = torch.rand(model.dim)
        else:
            places = curve(shape, head, model.heads).argsort() / model.dim
        model.anchors[head] = length * (places - 0.5)
    model.log_noise.copy_(best_noise(model.parts(), rows.square().mean(0)).log())


def set_amplitudes(model: LaplaceCovariance, parts: Tensor) -> None:
    """Set scales, and phases if there are any, from amplitudes [heads, 2 or 1, dim]."""
    if model.phases is None:
        model.scales.copy_(parts[:, 0])
    else:
        model.scales.copy_(parts.norm(dim=1))
        model.phases.copy_(torch.atan2(parts[:, 1], parts[:, 0]))


def curve(shape: Sequence[int], head: int = 0, heads: int = 1) -> Tensor:
    """Return the order [numbers] in which a Hilbert curve visits the numbers of an image.

    The channels of a pixel follow each other. Every head has a curve of its own: with one curve,
    pixels on two sides of a line that it never crosses would be far apart in all heads.

    Parameters
    ----------
    shape : (height, width) or (height, width, channels)
        The shape of an image.
    head, heads : int
        The curve of a head among so many is shifted by a part of the image, and every other curve
        is transposed.
    """
    height, width = shape[:2]
    channels = math.prod(shape[2:])
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    if head % 2:
        rows, columns = columns, rows
    longest = max(height, width)
    shift = longest * head // heads
    pixels = hilbert_index(rows + shift, columns + shift, (longest + shift - 1).bit_length())
    order = pixels.flatten().argsort()
    return (order[:, None] * channels + torch.arange(channels)).flatten()


def hilbert_index(rows: Tensor, columns: Tensor, bits: int) -> Tensor:
    """Return where a Hilbert curve through 2^bits x 2^bits pixels visits these, from 0.

    From the highest bit down, the quadrants are visited in the order (0, 0), (0, 1), (1, 1),
    (1, 0), and the curve within the first and the last one is reflected. Source: D. Hilbert, Math.
    Ann. 38 (1891); the loop over bits is the usual one.
    """
    index = torch.zeros_like(rows)
    for bit in reversed(range(bits)):
        low, high = (columns >> bit) & 1, (rows >> bit) & 1
        index = 4 * index + ((3 * low) ^ high)
        flip = (high == 0) & (low == 1)
        last = (1 << bit) - 1
        rows, columns = rows & last, columns & last
        rows, columns = (
            torch.where(flip, last - rows, rows),
            torch.where(flip, last - columns, columns),
        )
        swap = high == 0
        rows, columns = torch.where(swap, columns, rows), torch.where(swap, rows, columns)
    return index
