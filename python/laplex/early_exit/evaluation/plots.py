"""The figures of evaluations, made with matplotlib; nothing is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..._support.figure_text import figure_text
from ..._support.optional import require
from ..arrays import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .comparison import Comparison
    from .curves import Curve
    from .result import Evaluation
    from .risk_control import RiskControl

POLICY, ORACLE, CHANCE, STATIC = "#0072b2", "#009e73", "#8c8c8c", "#d55e00"
_LETTERS = 12


def evaluation_figure(found: Evaluation) -> Figure:
    """Four panels: the curve, accuracy by exit, reliability by exit, and samples by exit."""
    require("matplotlib", extra="exits", feature="Evaluation.plot")
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(11, 9), layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12))
    (curve, exits), (reliability, shares) = figure.subplots(2, 2)
    _curve(curve, found)
    _exits(exits, found)
    _reliability(reliability, found)
    _shares(shares, found)
    figure.suptitle(
        f"{found.policy}, calibration: {found.calibration}, {found.samples:,} samples",
        fontsize="medium",
    )
    return figure


def comparison_figure(found: Comparison) -> Figure:
    """The mean curve of each group, with a band from the smallest to the largest of its runs."""
    require("matplotlib", extra="exits", feature="Comparison.plot")
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5.5), layout="constrained")
    ax = figure.subplots()
    cycle = colormaps["tab10" if len(found.groups) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    labels = [figure_text(name) for name in found.groups]
    for i, (label, runs) in enumerate(zip(labels, found.groups.values(), strict=True)):
        low = max(run.curve.cost.min() for run in runs)
        high = max(run.curve.cost.max() for run in runs)
        cost = np.linspace(low, high, 200)
        accuracy = 100 * np.stack([run.curve.accuracy_at(cost) for run in runs])
        colour = cycle[i % len(cycle)]
        style = ("-", "--", ":")[i // len(cycle) % 3]
        ax.plot(100 * cost, accuracy.mean(0), style, color=colour, label=label, linewidth=1.8)
        if len(runs) > 1:
            ax.fill_between(
                100 * cost, accuracy.min(0), accuracy.max(0), color=colour, alpha=0.18, linewidth=0
            )
    _cost_axes(ax)
    counts = sorted({len(runs) for runs in found.groups.values()})
    if counts[-1] > 1:
        number = f"{counts[0]} to {counts[-1]}" if counts[0] < counts[-1] else f"{counts[0]}"
        ax.set_title(f"Mean and range of {number} runs", fontsize="medium")
    longest = max(map(len, labels))
    _legend_below(ax, max(1, min(len(labels), 80 // (longest + 6))))
    return figure


def risk_figure(found: RiskControl) -> Figure:
    """Risk and upper bound against cost, the limit, and the chosen thresholds."""
    require("matplotlib", extra="exits", feature="RiskControl.plot")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    ax = figure.subplots()
    order = np.argsort(found.costs, kind="stable")
    cost, sure = 100 * found.costs[order], found.certified[order]
    ax.plot(cost, found.risks[order], "-", color=POLICY, label="risk of the calibration samples")
    ax.plot(cost, found.bounds[order], "--", color=STATIC, label="upper confidence bound")
    ax.axhline(found.epsilon, color="#b0b0b0", linewidth=0.9, label="limit epsilon")
    ax.plot(cost[sure], found.bounds[order][sure], ".", color=ORACLE, label="certified")
    if found.chosen is not None:
        ax.plot(100 * found.cost, found.bound, "*", color="black", ms=11, label="chosen")
    _cost_axes(ax)
    ax.set_ylim(bottom=0)
    ax.set_ylabel(found.loss)
    _legend_below(ax, 3)
    return figure


def draw_curve(ax: Axes, found: Curve, colour: str, style: str, label: str, dearest: float) -> None:
    """Draw accuracy against cost; extend the curve of the oracle to the cost of the last exit."""
    order = np.argsort(found.cost, kind="stable")
    cost, accuracy = 100 * found.cost[order], 100 * found.accuracy[order]
    if label == "oracle" and cost[-1] < 100 * dearest:  # a larger budget gains nothing
        cost, accuracy = np.append(cost, 100 * dearest), np.append(accuracy, accuracy[-1])
    ax.plot(cost, accuracy, style, color=colour, label=label, linewidth=1.8)


def _cost_axes(ax: Axes) -> None:
    """Label the axes, and draw a line at the cost of the plain backbone."""
    ax.axvline(100, color="#b0b0b0", linewidth=0.8)
    ax.set_xlim(left=0)
    ax.set_xlabel("mean cost, % of the plain backbone")
    ax.set_ylabel("accuracy, %")
    tidy(ax)


def tidy(ax: Axes) -> None:
    """The common style of axes: two spines and a pale grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#e6e6e6", linewidth=0.6)
    ax.set_axisbelow(True)


def _legend_below(ax: Axes, columns: int) -> None:
    """A legend under the axis label, where it covers nothing."""
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        ncols=columns,
        frameon=False,
        fontsize="small",
    )


def _exit_colours(count: int) -> list[Any]:
    """One colour for each exit, dark for early ones."""
    from matplotlib import colormaps

    return list(colormaps["viridis"](np.linspace(0.05, 0.88, count)))


def _curve(ax: Axes, found: Evaluation) -> None:
    dearest = float(found.costs[-1])
    draw_curve(ax, found.oracle, ORACLE, "--", "oracle", dearest)
    draw_curve(ax, found.random, CHANCE, ":", "random exits", dearest)
    draw_curve(ax, found.curve, POLICY, "-", "policy", dearest)
    ax.plot(
        100 * found.costs,
        100 * found.accuracy,
        "o",
        color=STATIC,
        label="single exit",
        markersize=6,
    )
    if found.operating_point is not None:
        point = found.operating_point
        ax.plot(
            100 * point.cost, 100 * point.accuracy, "*", color="black", label=point.policy, ms=11
        )
    _cost_axes(ax)
    how = "validation samples" if found.protocol == "validation" else "the test samples"
    ax.set_title(f"Accuracy against cost; thresholds from {how}", fontsize="medium")
    _legend_below(ax, 3 if found.operating_point is not None else 4)


def _exits(ax: Axes, found: Evaluation) -> None:
    place = np.arange(len(found.exit_names))
    bars = ax.bar(
        place, 100 * found.accuracy, color=_exit_colours(len(place)), width=0.65, linewidth=0
    )
    if len(place) <= 10:
        ax.bar_label(bars, fmt="%.1f", fontsize="small", padding=2)
    ax.set_xticks(place, labels=_short(found.exit_names))
    if len(place) > 5:
        ax.tick_params("x", rotation=40)
        for text in ax.get_xticklabels():
            text.set_horizontalalignment("right")
    ax.set_ylim(0, 100 if found.accuracy.max() < 0.93 else 108)
    ax.set_yticks(range(0, 101, 20))
    ax.set_ylabel("accuracy, %")
    ax.set_title("Each exit on all samples", fontsize="medium")
    tidy(ax)
    ax.grid(visible=False, axis="x")


def _reliability(ax: Axes, found: Evaluation) -> None:
    table = found.reliability
    ax.plot([0, 1], [0, 1], color="#b0b0b0", linewidth=0.9)
    rows = zip(
        _short(found.exit_names),
        _exit_colours(len(found.exit_names)),
        table.counts,
        table.confidence,
        table.accuracy,
        strict=True,
    )
    for name, colour, counts, confidence, accuracy in rows:
        there = counts > 0
        ax.plot(
            confidence[there],
            accuracy[there],
            "o-",
            color=colour,
            label=name,
            markersize=3.5,
            linewidth=1.3,
        )
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)
    ax.set_xlabel("mean confidence of a bin")
    ax.set_ylabel("accuracy of the bin")
    ax.set_title(f"Reliability: ECE {_range(found.ece)}", fontsize="medium")
    tidy(ax)
    _legend_below(ax, min(len(found.exit_names), 4))


def _shares(ax: Axes, found: Evaluation) -> None:
    order = np.argsort(found.curve.cost, kind="stable")
    names = _short(found.exit_names)
    cost = 100 * found.curve.cost[order]
    ax.stackplot(
        cost,
        100 * found.curve.shares[order].T,
        labels=names,
        colors=_exit_colours(len(names)),
        linewidth=0,
    )
    if cost[0] < cost[-1]:
        ax.set_xlim(cost[0], cost[-1])
    ax.set_ylim(0, 100)
    ax.set_xlabel("mean cost, % of the plain backbone")
    ax.set_ylabel("samples leaving, %")
    ax.set_title("Samples that leave at each exit", fontsize="medium")
    tidy(ax)
    _legend_below(ax, min(len(names), 4))


def _range(values: Array) -> str:
    low, high = f"{values.min():.3f}", f"{values.max():.3f}"
    return low if low == high else f"{low} to {high}"


def _short(names: tuple[str, ...]) -> list[str]:
    """Names of the exits, or their numbers if the names are too long for a legend."""
    if max(map(len, names)) <= _LETTERS:
        return [figure_text(name) for name in names]
    return [*(f"exit {k}" for k in range(len(names) - 1)), figure_text(names[-1], _LETTERS)]
