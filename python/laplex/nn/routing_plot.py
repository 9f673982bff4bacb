"""The picture of a head's routing: features and classes on their common line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from laplex._support.optional import require
from laplex.torch.sharded import whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from laplex.nn.head import LaplexHead

#: The largest number of routes drawn; more would turn the picture grey.
MOST_ROUTES = 400
ADDS, SUBTRACTS = "#2166ac", "#b2182b"


def draw_routing(
    layer: LaplexHead,
    class_names: Sequence[str] | None,
    feature_names: Sequence[str] | None,
    ax: Axes | None,
    head: int,
) -> Axes:
    """Draw one head of ``layer``; see `laplex.nn.LaplexHead.plot_routing`."""
    require("matplotlib", extra="demo", feature="LaplexHead.plot_routing")
    from matplotlib import pyplot
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba

    if not 0 <= head < layer.heads:
        raise ValueError(f"head must be between 0 and {layer.heads - 1}, got {head}")
    classes = _names("class_names", class_names, layer.num_classes)
    features = _names("feature_names", feature_names, layer.in_features)
    if classes is None:
        classes = [str(number) for number in range(layer.num_classes)]

    with torch.no_grad():
        routing = layer.routing()[head].double().cpu().numpy()
        gain, class_at, feature_at = (
            whole(tensor)[head].double().cpu().numpy()
            for tensor in (layer.source_gain, layer.targets, layer.sources)
        )
        sign = np.ones_like(routing)
        lengthscale = float(whole(layer.lengthscale)[head])
        if layer.target_phase is not None and layer.source_phase is not None:
            phase = whole(layer.target_phase)[head, :, None] - whole(layer.source_phase)[head]
            sign = torch.cos(phase).double().cpu().numpy()

    if ax is None:
        _, ax = pyplot.subplots(figsize=(10, 4), layout="constrained")
    flow = routing * gain * sign
    strongest = np.argsort(-np.abs(flow), axis=None)[:MOST_ROUTES][::-1]
    rows, columns = np.unravel_index(strongest, flow.shape)
    strength = np.abs(flow[rows, columns])
    strength = strength / max(strength.max(), np.finfo(float).tiny)
    colors = [
        (*to_rgba(ADDS if flow[c, f] > 0 else SUBTRACTS)[:3], 0.05 + 0.75 * s)
        for c, f, s in zip(rows, columns, strength, strict=True)
    ]
    routes = [
        [(feature_at[f], 0.0), (class_at[c], 1.0)] for c, f in zip(rows, columns, strict=True)
    ]
    ax.add_collection(LineCollection(routes, colors=colors, linewidths=0.4 + 1.8 * strength))

    size = np.abs(gain) / max(np.abs(gain).max(), np.finfo(float).tiny)
    ax.scatter(feature_at, np.zeros_like(feature_at), s=6 + 40 * size, color="#555555", zorder=3)
    ax.scatter(class_at, np.ones_like(class_at), s=70, color="black", zorder=4)
    for level, order in _without_overlap(class_at, [len(name) for name in classes]):
        ax.annotate(
            classes[order],
            (class_at[order], 1.0),
            xytext=(0, 8 + 12 * level),
            textcoords="offset points",
            ha="center",
            va="bottom",
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6} if level else None,
        )
    for place, name in zip(feature_at, features or [], strict=False):
        ax.annotate(
            name,
            (place, 0.0),
            xytext=(0, -8),
            textcoords="offset points",
            ha="center",
            va="top",
            rotation=90,
            fontsize=7,
        )

    ax.set_ylim(-0.35 if features else -0.12, 1.5)
    ax.set_yticks([0, 1], ["features", "classes"])
    ax.set_xlabel(f"anchor (lengthscale {lengthscale:.3g})")
    ax.set_title("blue routes add to a class, red routes subtract from it", fontsize=10)
    for side in ("left", "right", "top"):
        ax.spines[side].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax


def _without_overlap(places: NDArray[np.float64], lengths: list[int]) -> list[tuple[int, int]]:
    """Return (level, index) of each label, on three levels so that labels do not overlap."""
    line = max(float(np.ptp(places)), np.finfo(float).tiny)
    levels: list[tuple[int, int]] = []
    ends = [-np.inf] * 3
    for index in np.argsort(places):
        half = line * (0.01 + 0.007 * lengths[index])  # a letter is about 1/70 of the line
        free = [level for level in range(3) if places[index] - half > ends[level]]
        level = free[0] if free else int(np.argmin(ends))
        ends[level] = places[index] + half
        levels.append((level, int(index)))
    return levels


def _names(argument: str, names: Sequence[str] | None, count: int) -> list[str] | None:
    if names is None:
        return None
    if len(names) != count:
        raise ValueError(f"{argument} must have {count} entries, got {len(names)}")
    return [str(name) for name in names]
