"""Compare adapters of Laplace kernels with those of peft, for docs/measurements/adapters.md.

    python bench/python/adapters.py [--quick] [--only NAME ...] [--page] [--to FOLDER]

Each part adapts a frozen network to a task: the upper layers of MiniLM to glosses of WordNet, the
last blocks of EfficientNet-Lite0 to Fashion-MNIST, a small perceptron to negatives of its images.
The learning rate of every method is searched for on held-out training samples with a seed of its
own, from a usual rate in steps of half a decade until the best one has a worse one on each side.
Without --quick, this needs Debian's dataset-fashion-mnist and wordnet-base, and an hour.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import adapters_times
import studies
from adapters_methods import STARTS, adapted
from adapters_tasks import task

SEEDS = range(1, 4)
TUNING_SEED = 101
SEARCH = 6  # learning rates at most

#: The methods of a task, with sizes of which the first one is searched with; None has no size.
Sizes = dict[str, list[int]]
GLOSSES: Sizes = {
    "classifier alone": [0],
    "everything": [0],
    "Laplex": [1, 2],
    "Laplex, no phases": [1],
    "LoRA": [2, 1, 5],
    "VeRA": [256],
    "IA3": [0],
    "FourierFT": [2000],
    "C3A": [96, 48],
    "BOFT": [4],
}
CLOTHES: Sizes = {
    "classifier alone": [0],
    "everything": [0],
    "Laplex": [1],
    "LoRA": [2, 1],
    "VeRA": [256],
    "IA3": [0],
    "C3A": [64],
    "FourierFT": [3000],
}
INVERTED: Sizes = {
    "Laplex": [1, 2],
    "LoRA": [3, 6],
    "Laplex, gains from 0": [1],
    "Laplex, no phases": [1],
    "everything": [0],
}
LONGER: Sizes = {"LoRA": [3, 6], "Laplex": [1]}
QUICK: Sizes = {
    "classifier alone": [0],
    "everything": [0],
    "Laplex": [1],
    "LoRA": [1],
    "VeRA": [4],
    "IA3": [0],
    "FourierFT": [8],
    "C3A": [4],
    "BOFT": [2],
}


# ---------------------------------------------------------------------------------------- trainings


def runs_of(name: str, sizes: Sizes) -> Any:
    """The trainings of a task: a search for each method, then the seeds of each of its sizes."""

    def runs(records: studies.Records, quick: bool) -> Iterator[dict]:
        loaded = task(name, quick)  # before the trainings fork
        chosen = {m: s for m, s in QUICK.items() if m in sizes} if quick else sizes
        head = STARTS["classifier alone"]
        for method, each in chosen.items():
            fixed = {"task": name, "method": method, "head": head, "quick": quick}
            half = yield from search(records, fixed | {"size": each[0]})
            head = half if method == "classifier alone" else head
            for size in each:
                for seed in SEEDS if not quick else SEEDS[:1]:
                    yield fixed | {"size": size, "half_decades": half, "seed": seed}
        assert loaded

    return runs


def search(records: studies.Records, fixed: dict) -> Generator[dict, None, int]:
    """Climb to the best learning rate on held-out samples; return it, in half decades."""
    start = STARTS[fixed["method"]]
    halves = [start] if fixed["quick"] else [start, start - 1, start + 1]
    tried: list[int] = []
    while halves and len(tried) < SEARCH:
        tried.append(halves.pop(0))
        yield fixed | {"half_decades": tried[-1], "seed": TUNING_SEED}
        found = records.where(method=fixed["method"], size=fixed["size"], seed=TUNING_SEED)
        top: int = studies.best(found, "half_decades", "accuracy")
        if not fixed["quick"] and not halves:
            halves = [half for half in (top - 1, top + 1) if half not in tried]
    return top


def train(chosen: dict) -> dict[str, Any]:
    """Train once, and judge on test samples, or on held-out ones with the seed of the search.

    Learning rates are given in half decades: the adapter's, and that of the classifier, which is
    the best one of a classifier alone.
    """
    given = task(chosen["task"], chosen["quick"])
    torch.manual_seed(chosen["seed"])
    body = adapted(copy.deepcopy(given.network), chosen["method"], chosen["size"], given)
    classifier = copy.deepcopy(given.classifier)
    if given.train_classifier:
        nn.init.zeros_(classifier.weight)
        nn.init.zeros_(classifier.bias)
    else:
        classifier.requires_grad_(False)
    rate = 10 ** (chosen["half_decades"] / 2)
    adapter = [each for each in body.parameters() if each.requires_grad]
    groups = [{"params": adapter, "lr": rate}] if adapter else []
    if given.train_classifier:
        alone = chosen["method"] == "classifier alone"
        groups.append(
            {"params": classifier.parameters(), "lr": rate if alone else 10 ** (chosen["head"] / 2)}
        )
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    steps = given.steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / (0.1 * steps), (steps - step) / (0.9 * steps))
    )
    for _ in range(given.epochs):
        for inputs, labels in given.batches("train", given.batch):
            optimiser.zero_grad()
            nn.functional.cross_entropy(classifier(body(inputs)), labels).backward()
            optimiser.step()
            schedule.step()
    part = "held" if chosen["seed"] == TUNING_SEED else "test"
    with torch.no_grad():
        right = sum(
            int((classifier(body(inputs)).argmax(-1) == labels).sum())
            for inputs, labels in given.batches(part, 200)
        )
    total = sum(len(labels) for _, labels in given.samples[part])
    return {"accuracy": 100 * right / total, "parameters": sum(each.numel() for each in adapter)}


# ----------------------------------------------------------------------------------------- the page

_SIZES = {"LoRA": "rank", "VeRA": "rank", "FourierFT": "frequencies"}
_SIZES |= {"C3A": "block", "BOFT": "block"}


def rows(records: list[dict]) -> list[dict]:
    """One row for each method and size, over seeds."""
    found: dict[tuple[str, int], list[dict]] = {}
    for each in records:
        if each["seed"] != TUNING_SEED:
            found.setdefault((each["method"], each["size"]), []).append(each)
    made = []
    for (method, size), runs in found.items():
        tried = [
            r["half_decades"] for r in records if r["method"] == method and r["seed"] == TUNING_SEED
        ]
        half = runs[0]["half_decades"]
        edge = "*" if half in (min(tried), max(tried)) else ""
        made.append(
            {
                "method": method,
                "label": f"{method}, {_SIZES.get(method, 'heads')} {size}" if size else method,
                "parameters": runs[0]["parameters"],
                "rate": f"{10 ** (half / 2):.1g}{edge}",
                "accuracy": [r["accuracy"] for r in runs],
                "cpu_s": [r["cpu_s"] for r in runs],
                "peak_mib": [r["peak_mib"] for r in runs],
            }
        )
    return sorted(made, key=lambda row: row["parameters"])


def table_of(name: str) -> Any:
    """The table of a task, and its picture."""

    def table(records: list[dict], folder: Path) -> str:
        made = rows(records)
        if name != "longer":  # three rows
            plot(made, folder / f"adapters_{name}.png")
        lines = [
            "| method | parameters | learning rate | test accuracy, % | CPU s | peak MiB |",
            "|---|---|---|---|---|---|",
        ]
        for row in made:
            lines.append(
                f"| {row['label']} | {row['parameters']:,} | {row['rate']} | "
                f"{studies.spread(row['accuracy'])} | {studies.spread(row['cpu_s'], 1)} | "
                f"{studies.spread(row['peak_mib'], 0)} |"
            )
        seeds = len(made[0]["accuracy"])
        return "\n".join(lines) + f"\n\n{seeds} seed{'s' * (seeds > 1)}.\n"

    return table


def plot(made: list[dict], path: Path) -> None:
    """Accuracy against parameters and against processor time, a line for each method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    colours = (*plt.get_cmap("tab10").colors, "black")
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True, layout="constrained")
    for method, colour in zip(STARTS, colours, strict=True):
        ours = [row for row in made if row["method"] == method]
        if not ours:
            continue
        mean = [statistics.fmean(row["accuracy"]) for row in ours]
        several = len(ours[0]["accuracy"]) > 1
        error = [statistics.stdev(row["accuracy"]) for row in ours] if several else None
        big = method.startswith("Laplex")
        style = {"color": colour, "label": method, "capsize": 2, "linestyle": "-"}
        style |= {"marker": "D" if big else "o", "markersize": 8 if big else 6}
        if method in ("classifier alone", "everything"):  # far below and far above the others
            axes[0].axhline(mean[0], color=colour, linestyle=":", zorder=0)
        else:
            axes[0].errorbar([row["parameters"] for row in ours], mean, yerr=error, **style)
        seconds = [statistics.fmean(row["cpu_s"]) for row in ours]
        axes[1].errorbar(seconds, mean, yerr=error, **style)
    axes[0].set(xscale="log", xlabel="trainable parameters of the adapter")
    low, high = axes[0].get_xlim()
    ticks = [first * 10**power for power in range(6) for first in (1, 2, 3, 5, 7)]
    shown = [tick for tick in ticks if low <= tick <= high]
    axes[0].set_xticks(shown, [f"{tick:,}" for tick in shown])
    axes[0].set_xticks([], minor=True)
    axes[0].set_ylabel("test accuracy, %")
    axes[1].set_xlabel("processor time of a training, s")
    for axis in axes:
        axis.grid(alpha=0.3)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


TASKS = {"glosses": GLOSSES, "clothes": CLOTHES, "inverted": INVERTED, "longer": LONGER}
PARTS = {
    name: studies.Part(runs_of(name, sizes), train, table_of(name)) for name, sizes in TASKS.items()
}
PARTS["times"] = studies.Part(adapters_times.runs, adapters_times.measured, adapters_times.table)

if __name__ == "__main__":
    assert __doc__
    studies.main("adapters", __doc__, PARTS)
