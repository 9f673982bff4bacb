"""The pictures of the study of large heads."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from laplex.nn import LaplexHead

STYLES = {  # by the first word of a method
    "dense": ("dense", "#333333", "s"),
    "low": ("low rank", "#d95f02", "o"),
    "hashed": ("hashed", "#7570b3", "v"),
    "hierarchical": ("hierarchical", "#999999", "^"),
    "Laplex": ("Laplex", "#1b9e77", "D"),
    "real": ("Laplex, real", "#66a61e", "P"),
}
#: The word that the second picture is drawn around.
WORD = "photograph"

#: Words with these letters are among the classes, but not in the picture.
VULGAR = ("fuck", "shit", "cunt", "nigg", "bitch", "porn", "whore", "slut", "cock", "dick", "rape")


def _style(method: str) -> tuple[str, str, str]:
    return STYLES["real" if "real" in method else method.split()[0].strip(",")]


def _short(method: str) -> str:
    digits = [word for word in method.replace(",", " ").split() if word.isdigit()]
    return digits[0] if digits else ""


def draw_accuracy(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the accuracy over the parameters of the head, and over processor time."""
    sizes = sorted({each["words"] for each in records})
    figure = Figure(figsize=(10, 3.7 * len(sizes)), layout="constrained")
    rows = figure.subplots(len(sizes), 2, squeeze=False)
    for words, (left, right) in zip(sizes, rows, strict=True):
        own = [each for each in records if each["words"] == words]
        for method in dict.fromkeys(each["method"] for each in own):
            runs = [each for each in own if each["method"] == method]
            _, color, marker = _style(method)
            longer = "long" in method
            if not longer:
                accuracy = statistics.fmean(each["top1"] for each in runs)
                size = runs[0]["parameters"] / words
                left.plot(size, accuracy, marker, color=color, markersize=7)
                left.annotate(
                    _short(method),
                    (size, accuracy),
                    xytext=(6, -3),
                    textcoords="offset points",
                    fontsize=8,
                    color=color,
                )
            points = [
                [statistics.fmean(run["curve"][step][part] for run in runs) for part in (0, 1)]
                for step in range(len(runs[0]["curve"]))
            ]
            times, heights = zip(*points, strict=True)
            right.plot(times, heights, ":" if longer else "-", color=color, linewidth=1)
            right.plot(times, heights, marker, color=color, markersize=5)
            right.annotate(
                _short(method),
                (times[-1], heights[-1]),
                xytext=(5, -3),
                textcoords="offset points",
                fontsize=8,
                color=color,
            )
        left.set(
            xscale="log",
            xlabel="parameters of the head for each class",
            ylabel="test accuracy (top 1), %",
            title=f"{words:,} words",
        )
        right.set(
            xscale="log",
            xlabel="processor time from the start, s",
            title="before, in the middle and at the end of training",
        )
        for ax in (left, right):
            ax.grid(visible=True, alpha=0.3)
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter(NullFormatter())
        _legend(left, [each["method"] for each in own])
    figure.savefig(path, dpi=110)


def _legend(ax: Axes, methods: Sequence[str]) -> None:
    for label, color, marker in dict.fromkeys(_style(method) for method in methods):
        ax.plot([], [], marker, color=color, label=label)
    ax.legend(fontsize=8, loc="upper left")


def draw_routing(
    head: LaplexHead, classes: Sequence[str], features: Sequence[str], folder: Path
) -> None:
    """Draw one line of a head: all of it, and the surroundings of a word."""
    classes = ["(vulgar)" if any(each in word for each in VULGAR) else word for word in classes]
    figure = Figure(figsize=(11, 8), layout="constrained")
    above, below = figure.subplots(2, 1)
    head.plot_routing(classes, ax=above)
    around = WORD if WORD in classes else classes[0]
    head.plot_routing(classes, features, below, around=around)
    above.set_title(f"one line of {len(classes):,} words and {head.in_features} features")
    below.set_title(f"the surroundings of \u201c{around}\u201d; blue adds, red subtracts")
    figure.savefig(folder / "large_heads_routing.png", dpi=110)
