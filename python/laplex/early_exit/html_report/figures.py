"""The pictures that the report adds to those of the results, as matplotlib Figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..evaluation.curves import Curve
from ..evaluation.result import Evaluation

POLICY, ORACLE, CHANCE, STATIC = "#0072b2", "#009e73", "#8c8c8c", "#d55e00"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def baselines(groups: Mapping[str, Sequence[Evaluation]]) -> Figure:
    """A panel for each group: its first run's curve between what knows nothing and everything."""
    count = len(groups)
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(3.4 * columns + 0.6, 3.1 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for ax, (name, runs) in zip(axes.flat, groups.items(), strict=False):
        found = runs[0]
        _line(ax, found.oracle, ORACLE, "--", "oracle", float(found.costs[-1]))
        _line(ax, found.curve, POLICY, "-", "policy", float(found.costs[-1]))
        _line(ax, found.random, CHANCE, ":", "by chance", float(found.costs[-1]))
        ax.plot(100 * found.costs, 100 * found.accuracy, "o", color=STATIC, ms=5, label="one exit")
        ax.axvline(100, color="#b0b0b0", linewidth=0.8)
        ax.set_title(_short(name), fontsize="medium")
        _tidy(ax)
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    for ax in axes[:, 0]:
        ax.set_ylabel("accuracy, %")
    for ax in axes.flat[max(0, count - columns) : count]:
        ax.set_xlabel("mean cost, % of the plain backbone")
        ax.tick_params(labelbottom=True)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize="small",
    )
    return figure


def proxies(groups: Mapping[str, Sequence[Evaluation]]) -> Figure:
    """Area under the curve of each run against its calibration error and its EEFP."""
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    measures = (
        ("mean_ece", "mean ECE (lower is better calibrated)"),
        ("mean_eefp", "mean EEFP (higher tells better who may leave)"),
    )
    for ax, (attribute, label) in zip(panels, measures, strict=True):
        for place, (name, runs) in enumerate(groups.items()):
            ax.plot(
                [getattr(run, attribute) for run in runs],
                [100 * run.area for run in runs],
                "osD^v<>"[place // len(_COLOURS) % 7],
                color=_COLOURS[place % len(_COLOURS)],
                label=_short(name),
            )
        ax.set_xlabel(label)
        _tidy(ax)
    panels[0].set_ylabel("area under the curve, %")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right upper", frameon=False, fontsize="small")
    return figure


def _line(ax: Axes, found: Curve, colour: str, style: str, label: str, dearest: float) -> None:
    order = np.argsort(found.cost, kind="stable")
    cost, accuracy = 100 * found.cost[order], 100 * found.accuracy[order]
    if label == "oracle" and cost[-1] < 100 * dearest:  # more money buys nothing
        cost, accuracy = np.append(cost, 100 * dearest), np.append(accuracy, accuracy[-1])
    ax.plot(cost, accuracy, style, color=colour, label=label, linewidth=1.8)


def _tidy(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#e6e6e6", linewidth=0.6)
    ax.set_axisbelow(True)


def _short(name: str) -> str:
    return name if len(name) <= 34 else name[:33] + "…"
