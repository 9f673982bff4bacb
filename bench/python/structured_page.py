"""The tables and pictures of structured.py."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from studies import Record, Records, best, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Layers whose size no budget sets.
ONE_SIZE = ("butterfly", "dense")
#: Ours are blue, dense layers black, the others in colours far from these.
LOOKS = {
    "Laplex": ("#08519c", "o"),
    "Laplex, no phases": ("#3182bd", "X"),
    "Laplex, Matern 3/2": ("#6baed6", "s"),
    "Laplex, short start": ("#41b6c4", "H"),
    "dense": ("black", "P"),
    "dense, narrow": ("0.45", "D"),
    "low rank": ("#7f2704", "8"),
    "Monarch": ("#ff7f0e", "v"),
    "butterfly": ("#b5a500", "*"),
    "block circulant": ("#8c564b", "p"),
    "Toeplitz-like": ("#2ca02c", "<"),
    "circulant-diagonal": ("#17becf", "d"),
    "Kronecker": ("#d62728", "^"),
    "block diagonal": ("#e377c2", "h"),
    "VeRA-like": ("#9467bd", ">"),
}


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
    if found := groups(records):
        draw_fronts(network, found, folder / f"structured_{network}.png")
    return listing(records, folder)


def listing(records: list[Record], _: Path) -> str:
    """Write a table of the methods, a budget after the other."""
    found = groups(records)
    lines = [
        "| budget | layers | test accuracy, % | parameters of the layers | of the network "
        "| learning rate | CPU s | peak MiB |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for heads in sorted({heads for _, heads in found}):
        for (method, of), each in found.items():
            if of == heads and method not in ONE_SIZE:
                lines.append(row(f"{heads} head{'s' if heads > 1 else ''}", method, each, records))
    for (method, _), each in found.items():
        if method in ONE_SIZE:
            lines.append(row("of its own", method, each, records))
    return "\n".join(lines) + seeds_of(found)


def seeds_of(found: dict[tuple[str, int], list[Record]]) -> str:
    """Say what the numbers of a table are."""
    counts = sorted({len(each) for each in found.values()})
    if counts == [1]:
        return "\n\nOne seed.\n"
    return f"\n\nMean ± standard deviation of {' to '.join(map(str, counts))} seeds.\n"


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
    return "\n".join(lines) + seeds_of(found)


def styles_of(methods: Iterable[str]) -> dict[str, dict[str, Any]]:
    """How to draw each method, in the order of the legend."""
    return {
        method: {"color": colour, "marker": marker, "markersize": 8, "markeredgewidth": 0}
        for method, (colour, marker) in LOOKS.items()
        if method in methods
    }


def draw_fronts(network: str, found: dict[tuple[str, int], list[Record]], path: Path) -> None:
    """Draw accuracy against parameters and against time, with the Pareto fronts."""
    figure, axes = plt.subplots(1, 2, figsize=(11.5, 5), sharey=True, layout="constrained")
    styles = styles_of({method for method, _ in found})
    panels: list[tuple[Axes, str, str]] = [
        (axes[0], "layer_parameters", "parameters of the layers"),
        (axes[1], "cpu_s", "processor time of the training, s"),
    ]
    for axis, name, label in panels:
        for method, look in styles.items():
            entry: str | None = method
            for (other, _), each in found.items():
                if other == method:
                    place, values = mean(each, name), [run["accuracy"] for run in each]
                    axis.plot(place, statistics.fmean(values), **look, ls="none", label=entry)
                    ends = [min(values), max(values)]
                    axis.plot([place] * 2, ends, color=look["color"], lw=1, alpha=0.4, zorder=1)
                    entry = None  # one in the legend
        front = pareto([(mean(each, name), mean(each, "accuracy")) for each in found.values()])
        axis.step(*zip(*front, strict=True), where="post", color="0.7", linewidth=1.2, zorder=0)
        axis.set(xlabel=label, xscale="log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(True, which="both", alpha=0.25)
    axes[0].set_ylabel("test accuracy, %")
    names = {"vit": "ViT", "mixer": "MLP-Mixer"}
    figure.suptitle(
        f"{names[network]}: structured layers, equal steps (line: Pareto front; bars: seeds)"
    )
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
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


def ranks(records: list[Record], folder: Path) -> str:
    """Write the ranks at the start, and draw the accuracies of the ViT against them."""
    found = groups(Records(folder / "structured.jsonl", "vit").all())
    start = {(each["method"], each["heads"]): each["effective_rank"] for each in records}
    figure, axis = plt.subplots(figsize=(8, 4.4), layout="constrained")
    for method, look in styles_of({method for method, _ in found}).items():
        known = [(heads, each) for (other, heads), each in found.items() if other == method]
        known = [(heads, each) for heads, each in known if (method, heads) in start]
        for number, (heads, each) in enumerate(known):
            face = look["color"] if heads == 2 else "none"
            axis.plot(
                start[method, heads],
                mean(each, "accuracy"),
                **{**look, "markeredgewidth": 1.5, "markerfacecolor": face},
                ls="none",
                label=None if number else method,
            )
    axis.set(
        xlabel="effective rank of the initial weight, 64 x 64",
        ylabel="test accuracy, %",
        title="ViT: filled, the budget of 2 heads; hollow, of 1 head",
        xscale="log",
    )
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(True, alpha=0.25)
    figure.legend(loc="outside right center", fontsize=9)
    figure.savefig(folder / "structured_ranks.png", dpi=110)
    plt.close(figure)
    lines = ["| layers | rank, 1 head | rank, 2 heads |", "|---|--:|--:|"]
    for method in dict.fromkeys(method for method, _ in start):
        cells = [f"{start[method, heads]:.1f}" for heads in (1, 2)]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
