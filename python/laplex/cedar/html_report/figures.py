"""The figures of the report, as matplotlib Figures."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..metrics import ReconstructionReport
from ..restarts import StabilityReport
from .measuring import EDGES, Measured

POSITIVE, NEGATIVE, NEITHER = "#1b9e77", "#d95f02", "#7570b3"


def firing(report: ReconstructionReport) -> Figure:
    """Plot how often each axis is in a code, above and below 0, the busiest axis first."""
    assert report.positive is not None
    assert report.negative is not None
    figure, ax = _figure(3.2)
    order = np.argsort(-(report.positive + report.negative), kind="stable")
    place = np.arange(len(order) + 1)
    up, down = (100 * counts[order] / report.count for counts in (report.positive, report.negative))
    ax.stairs(up, place, fill=True, color=POSITIVE, label="above 0")
    ax.stairs(-down, place, fill=True, color=NEGATIVE, label="below 0")
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_xlim(0, len(order))
    ax.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    ax.set_xlabel("axes, the busiest first")
    ax.set_ylabel("% of rows")
    ax.legend(frameon=False, fontsize="small")
    return figure


def code_sizes(measured: Measured) -> Figure:
    """Plot how large the nonzero entries of the codes are."""
    figure, ax = _figure(3)
    edges = EDGES.copy()
    edges[0], edges[-1] = edges[1] ** 2 / edges[2], edges[-2] ** 2 / edges[-3]
    total = max(int(measured.sizes.sum()), 1)
    for counts, color, label in zip(
        measured.sizes, (POSITIVE, NEGATIVE), ("above 0", "below 0"), strict=True
    ):
        ax.stairs(100 * counts / total, edges, color=color, label=label, linewidth=1.6)
    filled = np.flatnonzero(measured.sizes.sum(axis=0))
    if len(filled):
        ax.set_xlim(edges[filled[0]], edges[filled[-1] + 1])
    ax.set_xscale("log")
    ax.set_xlabel("size of an entry, relative to the typical distance from the mean")
    ax.set_ylabel("% of entries")
    ax.legend(frameon=False, fontsize="small")
    return figure


def recurrence(report: StabilityReport) -> Figure:
    """Plot how many axes were found by how many starts."""
    starts = np.arange(1, len(report.mcc) + 1)
    axes = np.array([int((report.recurrence + 1 == count).sum()) for count in starts])
    figure, ax = _figure(2.3)
    bars = ax.bar(starts, axes, color=[POSITIVE if n >= 3 else NEITHER for n in starts], width=0.5)
    ax.bar_label(bars, fontsize="small")
    ax.margins(y=0.15)
    ax.set_xticks(starts)
    ax.set_xlabel(f"starts that found an axis (|cosine| > {report.threshold:g})")
    ax.set_ylabel("axes")
    return figure


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(10, height), layout="constrained")
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax
