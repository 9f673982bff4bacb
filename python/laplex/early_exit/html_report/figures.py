"""The figures that the report adds to those of the results, made with matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from ..._support.figure_text import figure_text
from ..evaluation.comparison import Comparison
from ..evaluation.plots import CHANCE, ORACLE, POLICY, STATIC, draw_curve, tidy
from ..evaluation.result import Evaluation

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def baselines(groups: Mapping[str, Sequence[Evaluation]]) -> Figure:
    """A panel for each group: the curve of its first run between random exits and the oracle."""
    count = len(groups)
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(3.4 * columns + 0.6, 3.1 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for ax, (name, runs) in zip(axes.flat, groups.items(), strict=False):
        found = runs[0]
        draw_curve(ax, found.oracle, ORACLE, "--", "oracle", float(found.costs[-1]))
        draw_curve(ax, found.curve, POLICY, "-", "policy", float(found.costs[-1]))
        draw_curve(ax, found.random, CHANCE, ":", "random exits", float(found.costs[-1]))
        ax.plot(
            100 * found.costs, 100 * found.accuracy, "o", color=STATIC, ms=5, label="single exit"
        )
        ax.axvline(100, color="#b0b0b0", linewidth=0.8)
        ax.set_title(figure_text(name), fontsize="medium")
        tidy(ax)
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
        ncols=4 if columns > 1 else 2,
        frameon=False,
        fontsize="small",
    )
    return figure


def proxies(comparison: Comparison) -> Figure:
    """Area under the curve of each run against accuracy, calibration error and EEFP."""
    figure = Figure(figsize=(12.5, 3.6), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    measures = (
        ("mean_accuracy", "mean accuracy of the early exits"),
        ("mean_ece", "mean ECE (lower is better)"),
        ("mean_eefp", "mean EEFP (higher is better)"),
    )
    for ax, (attribute, label) in zip(panels, measures, strict=True):
        for place, (name, runs) in enumerate(comparison.groups.items()):
            ax.plot(
                [getattr(run, attribute) for run in runs],
                [100 * run.curve.area_from(comparison.low) for run in runs],
                "osD^v<>"[place // len(_COLOURS) % 7],
                color=_COLOURS[place % len(_COLOURS)],
                label=figure_text(name),
            )
        ax.set_xlabel(label)
        tidy(ax)
    panels[0].set_ylabel("area under the curve, %")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right upper", frameon=False, fontsize="small")
    return figure
