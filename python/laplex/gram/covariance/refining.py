"""From the model of small images to a model of larger ones: a finer grid, and new amplitudes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .matching import best_amplitudes, best_noise, square_root
from .starting import curve, set_amplitudes
from .training import standardised

if TYPE_CHECKING:
    from .model import LaplaceCovariance

#: Room on the line for the children of a pixel, relative to that of the pixel: a little less, so
#: that children of two parents do not meet at the same place.
_ROOM = 0.99

#: Room for the children of the only pixel, in lengthscales: so little that they stay one value.
_ROOM_OF_ONE = 1e-3


@torch.no_grad()
def refined(
    model: LaplaceCovariance, shape: Sequence[int], new_shape: Sequence[int]
) -> LaplaceCovariance:
    """See `LaplaceCovariance.refined`; the shapes have been checked."""
    parent = _parents(shape, new_shape)
    fine = type(model)(
        len(parent), model.heads, model.phased, device=model.mean.device, dtype=model.mean.dtype
    )
    for name, value in model.state_dict().items():
        fine.state_dict()[name].copy_(value[..., parent.to(value.device)])
    for head in range(model.heads):
        place = curve(new_shape, head, model.heads).argsort()
        spread = _between(model.anchors[head].cpu(), parent, place, sum(shape[2:]) or 1)
        fine.anchors[head] = spread
    return fine


def _parents(shape: Sequence[int], new_shape: Sequence[int]) -> Tensor:
    """The index of the number that each number of a larger image comes from, int64 [numbers]."""
    index = torch.zeros(1, dtype=torch.int64)
    for size, new_size in zip(shape, new_shape, strict=True):
        along = torch.arange(new_size) * size // new_size
        index = (index[:, None] * size + along).flatten()
    return index


def _between(anchors: Tensor, parent: Tensor, place: Tensor, channels: int) -> Tensor:
    """Spread the pixels of one parent over the line around its anchor, in the order of `place`.

    They fill the room that a pixel has in the order of all anchors, which is that of `channels`
    numbers, because the channels of a pixel are usually neighbours on the line.
    """
    count = len(anchors)
    line, order = anchors.sort()
    rank = order.argsort().double()
    family = (parent * len(parent) + place).argsort()  # by parent, then along the curve
    children = torch.bincount(parent, minlength=count)
    sibling = torch.empty_like(family)
    sibling[family] = torch.arange(len(parent)) - (children.cumsum(0) - children)[parent[family]]
    channel = parent % channels
    step = (sibling + (channel + 1) / (channels + 1)) / children[parent] - 0.5
    wanted = rank[parent] + _ROOM * channels * step
    # Beyond the ends of the line, the gap there goes on: at the ends themselves they would be tied.
    low = wanted.floor().long().clamp(0, max(count - 2, 0))
    gap = line.diff() if count > 1 else line.new_full((1,), _ROOM_OF_ONE)
    return line[low] + (wanted - low).to(line) * gap[low]


@torch.no_grad()
def refit_amplitudes(model: LaplaceCovariance, images: Tensor, sweeps: int) -> None:
    """See `LaplaceCovariance.refit_amplitudes`; `images` [n, dim] have been checked."""
    rows = standardised(model, images)
    variance = rows.square().mean(0)
    weight = 1 / len(rows)
    if model.heads > 1 or len(rows) > model.dim:
        rows, weight = square_root(rows, weight), 1.0
    for _ in range(sweeps):
        for head in range(model.heads):
            heads = model.parts()
            amplitudes = heads.amplitudes()
            # Half a step, because all pixels change at once: whole steps jump to and fro.
            amplitudes[head] += (best_amplitudes(heads, head, rows, weight) - amplitudes[head]) / 2
            set_amplitudes(model, amplitudes)
    model.log_noise.copy_(best_noise(model.parts(), variance).log())
