"""The picture of a head's routing: features and classes on their common line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from laplex._support.arguments import integer
from laplex._support.optional import require
from laplex.torch.log_product import logmatvec
from laplex.torch.sharded import whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from laplex.nn.head import LaplexHead

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

#: The largest number of routes drawn; more would turn the picture grey.
MOST_ROUTES = 400

#: Of more classes than this, some are drawn by name, and the others as a density.
MOST_CLASSES = 60

#: The number of classes drawn by name out of many.
NAMED = 24

#: Lengthscales on each side of a class that is in the middle of the picture.
REACH = 3.0

#: Labels stand upright in a row of their own if there are more than this.
MOST_LEVEL = 12
ADDS, SUBTRACTS = "#2166ac", "#b2182b"


class _Line(NamedTuple):
    """What the picture shows: classes [k], features [j], and the routes between them."""

    class_at: Array
    feature_at: Array
    gain: Array
    flow: Array  # [k, j]
    lengthscale: float


def draw_routing(
    layer: LaplexHead,
    class_names: Sequence[str] | None,
    feature_names: Sequence[str] | None,
    ax: Axes | None,
    head: int,
    around: int | str | None,
) -> Axes:
    """Draw one head of ``layer``; see `laplex.nn.LaplexHead.plot_routing`."""
    require("matplotlib", extra="demo", feature="LaplexHead.plot_routing")
    from matplotlib import pyplot

    head = integer("head", head, 0)
    if head >= layer.heads:
        raise ValueError(f"head must be between 0 and {layer.heads - 1}, got {head}")
    names = _names("class_names", class_names, layer.num_classes)
    features = _names("feature_names", feature_names, layer.in_features)
    centre = None if around is None else _class(around, names, layer.num_classes)

    every, sources, lengthscale = (
        whole(each)[head].detach().double().cpu().numpy()
        for each in (layer.targets, layer.sources, layer.lengthscale)
    )
    window = _window(every, sources, float(lengthscale), centre)
    classes, near = _shown(every, window, centre), _inside(sources, window)
    line = _line(layer, head, classes, near)
    if ax is None:
        _, ax = pyplot.subplots(figsize=(10, 4), layout="constrained")
    ax.set_xlim(*window)
    if len(classes) < len(_inside(every, window)):
        _draw_density(ax, every, window)
    _draw_routes(ax, line)
    size = np.abs(line.gain) / max(np.abs(line.gain).max(initial=0), np.finfo(float).tiny)
    ax.scatter(
        line.feature_at, np.zeros_like(line.feature_at), s=6 + 40 * size, color="#555555", zorder=3
    )
    ax.scatter(
        line.class_at,
        np.ones_like(line.class_at),
        s=70 if len(classes) <= MOST_LEVEL else 20,
        color="black",
        zorder=4,
    )
    label = [names[each] if names else str(each) for each in classes]
    emphasised = None if centre is None else int(np.flatnonzero(classes == centre)[0])
    if len(label) <= MOST_LEVEL:
        _label_level(ax, line.class_at, label)
    else:
        _label_upright(ax, line.class_at, label, emphasised)
    named = [] if features is None else [features[each] for each in near]
    for place, name in zip(line.feature_at, named, strict=False):
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

    longest = max(map(len, label))
    ax.set_ylim(
        -0.12 - 0.028 * max(map(len, features)) if features else -0.12,
        1.5 if len(label) <= MOST_LEVEL else 1.3 + 0.035 * longest,
    )
    ax.set_yticks([0, 1], ["features", "classes"])
    ax.set_xlabel(f"anchor (lengthscale {line.lengthscale:.3g})")
    ax.set_title("blue routes add to a class, red routes subtract from it", fontsize=10)
    for side in ("left", "right", "top"):
        ax.spines[side].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax


def _window(
    classes: Array, features: Array, lengthscale: float, centre: int | None
) -> tuple[float, float]:
    """The part of the line that is drawn: all of it, or some lengthscales around a class."""
    if centre is not None:
        return classes[centre] - REACH * lengthscale, classes[centre] + REACH * lengthscale
    every = np.concatenate([classes, features])
    margin = 0.03 * max(float(np.ptp(every)), np.finfo(float).tiny)
    return float(every.min() - margin), float(every.max() + margin)


def _inside(places: Array, window: tuple[float, float]) -> Indices:
    return np.flatnonzero((places >= window[0]) & (places <= window[1]))


def _shown(places: Array, window: tuple[float, float], centre: int | None) -> Indices:
    """The classes that are drawn by name: those in the window, or some of them at even ranks."""
    inside = _inside(places, window)
    if len(inside) <= MOST_CLASSES:
        return inside
    inside = inside[np.argsort(places[inside], kind="stable")]
    ranks = np.linspace(0, len(inside) - 1, NAMED).round().astype(np.int64)
    if centre is not None:
        own = int(np.flatnonzero(inside == centre)[0])
        ranks[np.abs(ranks - own).argmin()] = own
    shown: Indices = inside[ranks]
    return shown


@torch.no_grad()
def _line(layer: LaplexHead, head: int, classes: Indices, features: Indices) -> _Line:
    kernels = layer._whole()
    lengthscale = kernels.log_lengthscale[head].exp()
    targets, sources = kernels.targets[head], kernels.sources[head][features]
    # The logarithm, because the sum underflows for features far from all classes.
    sums = logmatvec(torch.zeros_like(targets), sources, targets, lengthscale=lengthscale)
    at = targets[classes]
    routing = torch.exp(-(at[:, None] - sources).abs() / lengthscale - sums)
    gain = kernels.gain[head][features]
    flow = routing * gain
    if kernels.target_phase is not None and kernels.source_phase is not None:
        phase = kernels.target_phase[head][classes, None] - kernels.source_phase[head][features]
        flow = flow * torch.cos(phase)
    # The anchors themselves: those of `_whole` are moved to the outermost class.
    sources = whole(layer.sources)[head][features]
    class_at, feature_at, gains, flows = (
        each.double().cpu().numpy() for each in (at, sources, gain, flow)
    )
    return _Line(class_at, feature_at, gains, flows, float(lengthscale))


def _draw_routes(ax: Axes, line: _Line) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba

    strongest = np.argsort(-np.abs(line.flow), axis=None)[:MOST_ROUTES][::-1]
    rows, columns = np.unravel_index(strongest, line.flow.shape)
    strength = np.abs(line.flow[rows, columns])
    strength = strength / max(strength.max(initial=0), np.finfo(float).tiny)
    colors = [
        (*to_rgba(ADDS if line.flow[c, f] > 0 else SUBTRACTS)[:3], 0.05 + 0.75 * s)
        for c, f, s in zip(rows, columns, strength, strict=True)
    ]
    routes = [
        [(line.feature_at[f], 0.0), (line.class_at[c], 1.0)]
        for c, f in zip(rows, columns, strict=True)
    ]
    ax.add_collection(LineCollection(routes, colors=colors, linewidths=0.4 + 1.8 * strength))


def _draw_density(ax: Axes, places: Array, window: tuple[float, float]) -> None:
    """Draw how many classes lie where, above the line of the classes."""
    counts, edges = np.histogram(places, bins=200, range=window)
    ax.stairs(1 + 0.2 * counts / counts.max(), edges, baseline=1.0, fill=True, color="#dddddd")


def _label_upright(ax: Axes, places: Array, names: list[str], emphasised: int | None) -> None:
    """Write names of classes upright and side by side, with lines to their places."""
    order = np.argsort(places, kind="stable")
    columns = _apart(places[order], *ax.get_xlim())
    for column, index in zip(columns, order, strict=True):
        ax.annotate(
            names[index],
            (places[index], 1.0),
            xytext=(column, 1.25),
            ha="center",
            va="bottom",
            rotation=90,
            fontsize=8,
            fontweight="bold" if index == emphasised else "normal",
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.5, "shrinkA": 0},
        )


def _apart(places: Array, low: float, high: float) -> Array:
    """Move increasing places apart by as little as possible (isotonic regression)."""
    gap = (high - low) / max(len(places) + 1, 40)
    steps = gap * np.arange(len(places))
    blocks: list[tuple[float, int]] = []  # the means and sizes of runs of equal values
    for value in places - steps:
        mean, size = float(value), 1
        while blocks and blocks[-1][0] >= mean:
            other, count = blocks.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        blocks.append((mean, size))
    apart = np.concatenate([np.full(size, mean) for mean, size in blocks]) + steps
    inside: Array = np.clip(apart, low + gap + steps, high - gap - steps[::-1])
    return inside


def _label_level(ax: Axes, places: Array, names: list[str]) -> None:
    for level, index in _without_overlap(places, [len(name) for name in names]):
        ax.annotate(
            names[index],
            (places[index], 1.0),
            xytext=(0, 8 + 12 * level),
            textcoords="offset points",
            ha="center",
            va="bottom",
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6} if level else None,
        )


def _without_overlap(places: Array, lengths: list[int]) -> list[tuple[int, int]]:
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


def _class(around: int | str, names: list[str] | None, num_classes: int) -> int:
    """The number of the class that is in the middle."""
    if isinstance(around, str):
        if names is None or around not in names:
            raise ValueError(
                f"around must be one of class_names or a number, got {around!r}: pass the names, "
                f"or a number between 0 and {num_classes - 1}"
            )
        return names.index(around)
    around = integer("around", around, 0)
    if around >= num_classes:
        raise ValueError(f"around must be between 0 and {num_classes - 1}, got {around}")
    return around


def _names(argument: str, names: Sequence[str] | None, count: int) -> list[str] | None:
    if names is None:
        return None
    if len(names) != count:
        raise ValueError(f"{argument} must have {count} entries, got {len(names)}")
    return [str(name) for name in names]
