"""Figure of the order of the pixels in one head of a covariance model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from laplex._support.optional import require

from . import checks
from .heads import Heads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .model import LaplaceCovariance

_MOST_PIXELS = 1024


@torch.no_grad()
def draw_order(model: LaplaceCovariance, shape: Sequence[int] | None, head: int) -> Figure:
    """Draw one head of `model`; see `LaplaceCovariance.plot_order`."""
    require("matplotlib", extra="demo", feature="LaplaceCovariance.plot_order")
    from matplotlib import pyplot

    if checks.count("head", head, 0) >= model.heads:
        raise ValueError(f"head must be in 0..{model.heads - 1}, got {head}")
    side = math.isqrt(model.dim)
    shape = (side, side) if shape is None else shape
    shape = checks.image_shape("shape", shape, model.dim)
    order = model.anchors[head].argsort()
    rank = torch.empty(model.dim)
    rank[order] = torch.arange(model.dim) / max(model.dim - 1, 1)

    pictures = 2 + (model.phases is not None)
    figure, axes = pyplot.subplots(1, pictures, figsize=(3.6 * pictures, 3.6), layout="constrained")

    def draw(ax: int, values: Tensor, title: str, **style: object) -> None:
        image = axes[ax].imshow(values.cpu().numpy(), interpolation="nearest", **style)
        axes[ax].set_title(title, fontsize=10)
        axes[ax].set_xticks([])
        axes[ax].set_yticks([])
        figure.colorbar(image, ax=axes[ax], shrink=0.8)

    # A pixel that the head hardly uses has an arbitrary place, so it is drawn faint.
    weight = model.scales[head].abs()
    usual = weight.kthvalue(max(1, 9 * model.dim // 10)).values
    opacity = (weight / usual).nan_to_num(1.0).clamp(0.08, 1)
    faded = _first_channel(opacity, shape).cpu().numpy()

    title = "rank of each pixel's anchor\n(faint where the scale is small)"
    draw(0, _first_channel(rank, shape), title, cmap="turbo", alpha=faded)
    if model.phases is not None:
        turned = model.phases[head] + math.pi * (model.scales[head] < 0)
        angles = torch.remainder(turned + math.pi, 2 * math.pi) - math.pi
        cyclic = {"cmap": "twilight", "vmin": -math.pi, "vmax": math.pi}
        draw(1, _first_channel(angles, shape), "phase", alpha=faded, **cyclic)
    few = order[torch.linspace(0, model.dim - 1, min(model.dim, _MOST_PIXELS)).round().long()]
    one = Heads(
        model.anchors[head : head + 1],
        model.scales[head : head + 1],
        None if model.phases is None else model.phases[head : head + 1],
    ).take(few)
    matrix = one.rows(torch.arange(len(few), device=few.device))
    most = float(matrix.abs().max())
    title = "the head's covariance,\npixels sorted by anchor"
    draw(pictures - 1, matrix, title, cmap="RdBu_r", vmin=-most, vmax=most)
    return figure


def _first_channel(values: Tensor, shape: Sequence[int]) -> Tensor:
    picture = values.reshape(*shape)
    return picture[..., 0] if len(shape) == 3 else picture
