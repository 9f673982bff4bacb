"""The tables and pictures of structured.py."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from studies import Record, best, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "osDv^<>Ph*XpdH"
COLOURS = [*plt.get_cmap("tab10").colors, "#222222", "#8c6d31", "#7b4173", "#17735f"]


def groups(records: Sequence[Record]) -> dict[tuple[str, int], list[Record]]:
    """The trainings scored on test images, by method and budget; the best method first."""
    found: dict[tuple[str, int], list[Record]] = {}
    for each in records:
        if each["score"] == "test":
            found.setdefault((each["method"], each["heads"]), []).append(each)
    return dict(sorted(found.items(), key=lambda item: -mean(item[1], "accuracy")))


def mean(records: Sequence[Record], name: str) -> float:
    return statistics.fmean(each[name] for each in records)


def rate_of(records: Sequence[Record], method: str) -> str:
    """The chosen rate, with a mark if a neighbour of it was not tried."""
    tried = [each for each in records if each["method"] == method and each["score"] == "held out"]
    if not tried:
        return f"{next(each['rate'] for each in records if each['method'] == method):g}"
    rate = best(tried, "rate", "accuracy")
    rates = {each["rate"] for each in tried}
    edge = rate in (min(rates), max(rates)) and len(rates) > 1
    return f"{rate:g}{' (edge)' if edge else ''}"


def equal_parameters(network: str, records: list[Record], folder: Path) -> str:
    """Write a table of the methods, and draw accuracy against parameters and time."""
    found = groups(records)
    lines = [
        "| budget | layers | test accuracy, % | parameters of the layers | of the network "
        "| learning rate | CPU s | peak MiB |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for heads in sorted({heads for _, heads in found}):
        for (method, of), each in found.items():
            if of != heads or method == "dense":
                continue
            lines.append(row(f"{heads} head{'s' if heads > 1 else ''}", method, each, records))
    for (method, _), each in found.items():
        if method == "dense":
            lines.append(row("none", method, each, records))
    draw_fronts(network, found, folder / f"structured_{network}.png")
    seeds = len(next(iter(found.values())))
    return "\n".join(lines) + f"\n\nMean ± standard deviation of {seeds} seeds.\n"


def row(budget: str, method: str, found: list[Record], records: list[Record]) -> str:
    """A row of the table of equal parameters."""
    cells = [
        budget,
        method,
        spread([each["accuracy"] for each in found]),
        f"{found[0]['layer_parameters']:,}",
        f"{found[0]['parameters']:,}",
        rate_of(records, method),
        spread([each["cpu_s"] for each in found], 1),
        f"{mean(found, 'peak_mib'):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def equal_time(records: list[Record], folder: Path) -> str:
    """Write a table of the methods, and draw their accuracies."""
    found = groups(records)
    lines = [
        "| layers | steps | CPU s | test accuracy, % | parameters of the layers |",
        "|---|--:|--:|--:|--:|",
    ]
    for (method, _), each in found.items():
        cells = [
            method,
            str(each[0]["steps"]),
            spread([run["cpu_s"] for run in each], 1),
            spread([run["accuracy"] for run in each]),
            f"{each[0]['layer_parameters']:,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    draw_ranking(found, folder / "structured_time.png")
    seeds = len(next(iter(found.values())))
    return "\n".join(lines) + f"\n\nMean ± standard deviation of {seeds} seeds.\n"


def style(methods: Sequence[str]) -> dict[str, dict[str, object]]:
    """A colour and a marker for every method."""
    return {
        method: {"color": colour, "marker": marker, "markersize": 7, "linestyle": "none"}
        for method, colour, marker in zip(sorted(methods), COLOURS, MARKERS, strict=False)
    }


def draw_fronts(network: str, found: dict[tuple[str, int], list[Record]], path: Path) -> None:
    """Draw accuracy against parameters and against time, with the Pareto fronts."""
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.6), sharey=True, layout="constrained")
    styles = style([*dict.fromkeys(method for method, _ in found)])
    panels: list[tuple[Axes, str, str]] = [
        (axes[0], "layer_parameters", "parameters of the layers"),
        (axes[1], "cpu_s", "processor time of the training, s"),
    ]
    for axis, name, label in panels:
        for (method, _), each in found.items():
            values = [run["accuracy"] for run in each]
            error = statistics.stdev(values) if len(values) > 1 else 0.0
            axis.errorbar(
                mean(each, name),
                statistics.fmean(values),
                error,
                label=method,
                elinewidth=1,
                **styles[method],
            )
        front = pareto([(mean(each, name), mean(each, "accuracy")) for each in found.values()])
        axis.step(*zip(*front, strict=True), where="post", color="0.7", linewidth=1.2, zorder=0)
        axis.set(xlabel=label, xscale="log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(True, which="both", alpha=0.25)
    axes[0].set_ylabel("test accuracy, %")
    names = {"vit": "ViT", "mixer": "MLP-Mixer"}
    figure.suptitle(f"{names[network]}: structured layers, equal steps; grey: Pareto front")
    handles, labels = axes[0].get_legend_handles_labels()
    unique = dict(sorted(zip(labels, handles, strict=True), key=lambda item: item[0]))
    figure.legend(unique.values(), unique.keys(), loc="outside right center", fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in both: a lower cost, and a higher score."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front


def draw_ranking(found: dict[tuple[str, int], list[Record]], path: Path) -> None:
    """Draw the accuracies of all seeds, a method a line."""
    figure, axis = plt.subplots(figsize=(7, 0.32 * len(found) + 1.2), layout="constrained")
    for place, ((method, _), each) in enumerate(reversed(found.items())):
        colour = "tab:blue" if method.startswith("Laplex") else "0.4"
        values = [run["accuracy"] for run in each]
        axis.plot(values, [place] * len(values), "o", color=colour, alpha=0.5, markersize=5)
        axis.plot(statistics.fmean(values), place, "|", color=colour, markersize=16)
    axis.set_yticks(range(len(found)), [method for method, _ in reversed(found)])
    axis.set(xlabel="test accuracy, %", title="ViT, equal processor time")
    axis.grid(True, alpha=0.25)
    figure.savefig(path, dpi=110)
    plt.close(figure)
