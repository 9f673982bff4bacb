"""The tables and pictures of the study of projections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from cells import table
from laplex.nn import LaplexLinear
from projection_runs import BUDGETS, LAPLEX, METHODS, ORDERS, RATES, STARTS
from projection_training import built, split_of, trained
from studies import Record, Results, Settings, spread

_COLORS = {"Laplex": "#d95f02", "Laplex, 3 heads": "#e7a15a"}
_GRAIN = 48  # pixels a side of the drawn images
#: What an order is called in the picture.
_NAMES = {"random": "random", "hilbert": "Hilbert curve", "sample": "from a sample"}


def of(records: list[Record], **wanted: Any) -> list[Record]:
    """The records with these values."""
    return [each for each in records if all(each[k] == value for k, value in wanted.items())]


def values(records: list[Record], name: str) -> list[float]:
    return [each[name] for each in records]


def mean(records: list[Record], name: str) -> float:
    return float(np.mean(values(records, name)))


def methods(task: str) -> Callable[[list[Record], Path], str]:
    """The table of a task's methods, and their accuracies by time and parameters."""

    def write(records: list[Record], folder: Path) -> str:
        rows, points = [], []
        for name, method in METHODS[task].items():
            tested = of(records, tested=True, **method)
            if not tested:
                continue
            rate = tested[0]["rate"]
            edge = " (edge)" if rate in (min(RATES), max(RATES)) else ""
            rows.append(
                [
                    name,
                    f"{tested[0]['parameters']:,}",
                    spread(values(tested, "accuracy"), 1),
                    spread(values(tested, "accuracy_learned"), 1),
                    f"{rate:g}{edge}",
                    f"{mean(tested, 'step_ms'):.1f}",
                    f"{mean(tested, 'prepared_s'):.1f}",
                    f"{mean(tested, 'cpu_s'):.1f}",
                    f"{mean(tested, 'peak_mib'):,.0f}",
                ]
            )
            points.append((name, tested))
        scatter(points, folder / f"projections_{task}.png")
        head = [
            "first layer", "its parameters", "test accuracy, %", "on learned rows, %",
            "learning rate", "ms a step", "s for fixed features", "s in total", "peak MiB",
        ]  # fmt: skip
        return table(head, rows) + f"\n![Accuracy by time and size](projections_{task}.png)\n"

    return write


def scatter(points: list[tuple[str, list[Record]]], path: Path) -> None:
    """Draw test accuracy against parameters and against processor time."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for number, (name, tested) in enumerate(points):
        color = _COLORS.get(name, f"C{number % 10}" if number % 10 != 1 else "#444444")
        for ax, key in zip(axes, ("parameters", "cpu_s"), strict=True):
            ax.errorbar(
                max(mean(tested, key), 100 if key == "parameters" else 0.0),
                mean(tested, "accuracy"),
                np.std(values(tested, "accuracy")),
                fmt="D" if name.startswith("Laplex") else "o",
                color=color,
                ms=8,
                capsize=3,
                label=name,
            )
    axes[0].set(
        xlabel="parameters of the first layer (none: at 100)",
        ylabel="test accuracy, %",
        xscale="log",
    )
    axes[1].set(xlabel="processor time of a training, s", xlim=(0, None))
    for ax in axes:
        ax.grid(visible=True, alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.savefig(path, dpi=110)


def equal_time(records: list[Record], folder: Path) -> str:
    """The table of equal processor time."""
    rows = []
    for task in BUDGETS:
        for name, method in METHODS[task].items():
            found = of(records, task=task, **method)
            if found:
                rows.append(
                    [
                        task,
                        name,
                        f"{found[0]['budget_s']:g}",
                        f"{mean(found, 'steps'):,.0f}",
                        spread(values(found, "accuracy"), 1),
                    ]
                )
    return table(["task", "first layer", "s of training", "steps", "test accuracy, %"], rows)


def starts(records: list[Record], folder: Path) -> str:
    """The table of starts."""
    rows = []
    for name, start in STARTS.items():
        row = [name]
        for task in ("glosses", "photographs"):
            found = of(records, task=task, **({"anchors": 1.0} | LAPLEX | start))
            row.append(spread(values(found, "accuracy"), 1) if found else "")
        rows.append(row)
    return table(["start", "glosses: test accuracy, %", "photographs: test accuracy, %"], rows)


# --- where the pixels stand -----------------------------------------------------------------------


@torch.no_grad()
def drawn(network: nn.Sequential, size: tuple[int, int]) -> dict[str, list[Any]]:
    """The places of the green pixels of a grid on each head's line, and the weights of three units.

    Places are in thousandths of the line; weights in hundredths of the largest.
    """
    layer = network[0]
    assert isinstance(layer, LaplexLinear)
    grid = [np.linspace(0, each - 1, min(_GRAIN, each)).astype(int) for each in size]
    pixels = torch.from_numpy((grid[0][:, None] * size[1] + grid[1]).ravel() * 3 + 1)
    sources = layer.sources[:, pixels].clamp(-1, 1)
    weight = layer.weight[:3, pixels]
    weight = weight / weight.abs().amax(1, keepdim=True)
    return {
        "places": ((sources + 1) * 500).int().tolist(),
        "weights": (100 * weight).round().int().tolist(),
    }


def places(settings: Settings) -> Results:
    """Train, and tell where pixels stood before and after."""
    size = split_of(settings["task"], settings["quick"]).size
    assert size is not None
    before = drawn(built(settings)[2], size)
    results, network = trained(settings)
    return results | {"before": before, "after": drawn(network, size)}


def order(records: list[Record], folder: Path) -> str:
    """The picture of the learned order, and how far the pixels moved."""
    found = {kind: of(records, order=kind) for kind in ORDERS}
    kinds = [kind for kind in ORDERS if found[kind]]
    figure = Figure(figsize=(12, 2.1 * len(kinds) + 0.3), layout="constrained")
    axes = figure.subplots(len(kinds), 6, squeeze=False)
    rows = []
    for kind, line in zip(kinds, axes, strict=True):
        record = found[kind][0]
        before, after = (np.array(record[when]["places"]) for when in ("before", "after"))
        moved = np.abs(after - before) / 500
        rows.append(
            [
                _NAMES[kind],
                f"{record['accuracy']:.1f}",
                f"{np.median(moved):.4f}",
                f"{np.quantile(moved, 0.9):.4f}",
            ]
        )
        shown: list[tuple[str, NDArray[np.int64], str]] = [
            ("head 1, before", before[0], "viridis"),
            ("head 1, after", after[0], "viridis"),
            ("head 2, before", before[1], "viridis"),
            ("head 2, after", after[1], "viridis"),
            ("weights of a unit, before", np.array(record["before"]["weights"][0]), "RdBu"),
            ("weights of a unit, after", np.array(record["after"]["weights"][0]), "RdBu"),
        ]
        for ax, (title, image, colors) in zip(line, shown, strict=True):
            side = int(np.sqrt(image.size))
            low = 0 if colors == "viridis" else -100
            drawing = ax.imshow(image.reshape(side, side), cmap=colors, vmin=low, vmax=-low or 1000)
            ax.set(xticks=[], yticks=[])
            if kind == kinds[0]:
                ax.set_title(title, fontsize=10)
            if title in ("head 2, after", "weights of a unit, after"):
                bar = figure.colorbar(drawing, ax=ax, shrink=0.8)
                names = ["-1", "0", "1"]
                bar.set_ticks([low, (low + (-low or 1000)) / 2, -low or 1000], labels=names)
        line[0].set_ylabel(_NAMES[kind], fontsize=11)
    figure.savefig(folder / "projections_order.png", dpi=110)
    head = ["initial order", "test accuracy, %", "median distance moved", "90 % quantile"]
    return table(head, rows) + "\n![Places of the pixels](projections_order.png)\n"
