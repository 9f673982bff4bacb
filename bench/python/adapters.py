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
CLOTHES: Sizes = GLOSSES | {"FourierFT": [3000], "C3A": [64]}
INVERTED: Sizes = {
    "everything": [0],
    "Laplex": [1, 2],
    "Laplex, no phases": [1, 2],
    "LoRA": [3, 6, 12],
}
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

_SIZES = {"Laplex": "heads", "LoRA": "rank", "FourierFT": "frequencies", "C3A": "block"}
_SIZES |= {"Laplex, no phases": "heads", "VeRA": "rank", "BOFT": "block"}


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
                "label": f"{method}, {_SIZES[method]} {size}" if size else method,
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

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True, layout="constrained")
    colours = plt.get_cmap("tab10")
    for place, method in enumerate(dict.fromkeys(row["method"] for row in made)):
        ours = [row for row in made if row["method"] == method]
        style = {
            "color": colours(place),
            "marker": "D" if method.startswith("Laplex") else "o",
            "markersize": 8 if method.startswith("Laplex") else 6,
            "capsize": 2,
            "label": method,
        }
        for axis, key in zip(axes, ("parameters", "cpu_s"), strict=True):
            if key == "parameters" and ours[0][key] == 0:
                mean = statistics.fmean(ours[0]["accuracy"])
                axis.axhline(mean, color=colours(place), linestyle=":", zorder=0)
                continue
            at = [row[key] if key == "parameters" else statistics.fmean(row[key]) for row in ours]
            mean = [statistics.fmean(row["accuracy"]) for row in ours]
            error = [
                statistics.stdev(row["accuracy"]) if len(row["accuracy"]) > 1 else 0 for row in ours
            ]
            axis.errorbar(at, mean, yerr=error, linestyle="-", **style)
    axes[0].set(xscale="log", xlabel="trainable parameters of the adapter")
    axes[0].set_ylabel("test accuracy, %")
    axes[1].set_xlabel("processor time of a training, s")
    for axis in axes:
        axis.grid(alpha=0.3)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


PARTS = {
    name: studies.Part(runs_of(name, sizes), train, table_of(name))
    for name, sizes in (("glosses", GLOSSES), ("clothes", CLOTHES), ("inverted", INVERTED))
}

if __name__ == "__main__":
    assert __doc__
    studies.main("adapters", __doc__, PARTS)
