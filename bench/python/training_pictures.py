"""The pictures of docs/measurements/training.md."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from training_runs import TASKS

COLORS = {"digits": "#d95f02", "fashion": "#7570b3", "glosses": "#1b9e77", "words": "#e7298a"}
METHODS = {"Laplex": "#d95f02", "dense": "#1b9e77", "low-rank": "#7570b3"}

#: The left end of the differences' picture; an arrow points to what lies beyond.
LEAST = -8
#: Means and standard errors, by variant and task.
Differences = Mapping[str, Mapping[str, tuple[float, float]]]


def differences(parts: Mapping[str, Differences], path: Path) -> None:
    """Draw the difference of every variant to the reference, a panel a part."""
    rows = [len(each) for each in parts.values()]
    figure = Figure(figsize=(8, 1.2 + 0.33 * sum(rows)), layout="constrained")
    axes = figure.subplots(len(parts), 1, sharex=True, height_ratios=rows, squeeze=False)[:, 0]
    for ax, (part, variants) in zip(axes, parts.items(), strict=True):
        for shift, (task, color) in zip((-0.27, -0.09, 0.09, 0.27), COLORS.items(), strict=True):
            found = [
                (place + shift, *tasks[task])
                for place, tasks in enumerate(variants.values())
                if task in tasks
            ]
            places, means, errors = zip(*found, strict=True) if found else ([], [], [])
            bars = [2 * error for error in errors]
            style = {"fmt": "o", "ms": 4, "color": color, "label": TASKS[task].title}
            ax.errorbar(means, places, xerr=bars, **style)
            far = [place for place, mean in zip(places, means, strict=True) if mean < LEAST]
            ax.plot([LEAST + 0.15] * len(far), far, "<", ms=6, color=color)
        ax.axvline(0, color="0.4", lw=0.8)
        ax.set_yticks(range(len(variants)), list(variants), fontsize=8)
        ax.set_ylim(len(variants) - 0.5, -0.5)
        ax.set_xlim(LEAST, 6)
        ax.set_title(part, loc="left", fontsize=9, fontweight="bold", pad=3)
        ax.grid(axis="x", alpha=0.3)
    axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, frameon=False, fontsize=8)
    axes[-1].set_xlabel("accuracy minus that of the reference, points; bars: two standard errors")
    figure.savefig(path, dpi=110)


def rates(curves: Mapping[str, Mapping[str, Mapping[float, list[float]]]], path: Path) -> None:
    """Draw the accuracy on held-out training samples by learning rate: a panel a task."""
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False)[0]
    for ax, (task, methods) in zip(axes, curves.items(), strict=True):
        highest = 0.0
        for method, curve in methods.items():
            at = sorted(curve)
            means = [statistics.fmean(curve[rate]) for rate in at]
            highest = max(highest, *means)
            ax.plot(at, means, "o-", ms=4, color=METHODS[method], label=method)
        ax.set(title=TASKS[task].title, xlabel="learning rate", xscale="log")
        ax.set_ylim(highest - 30, highest + 2)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("held-out accuracy, %")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
