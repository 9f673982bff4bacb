"""Which trainings the study of projections consists of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from projection_training import split_of
from studies import Records, Settings

#: The layer from a start that knows nothing of the inputs.
LAPLEX = {"method": "laplex", "heads": 1, "order": "random", "smooth": False, "reach": 0.0}
_OTHER = LAPLEX | {"heads": 0}
_WIDE = {"reach": 1.0}
_CURVE = {"order": "hilbert", "smooth": True}

#: The methods of each task by the names in its table.
METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "glosses": {
        "Laplex": LAPLEX | _WIDE,
        "Laplex, 3 heads": LAPLEX | _WIDE | {"heads": 3},
        "dense": _OTHER | {"method": "dense"},
        "low rank": _OTHER | {"method": "low rank"},
        "feature hashing": _OTHER | {"method": "count sketch"},
        "sparse random projection": _OTHER | {"method": "sparse projection"},
        "Gaussian projection": _OTHER | {"method": "gaussian"},
    },
    "photographs": {
        "Laplex": LAPLEX | _WIDE | _CURVE,
        "dense": _OTHER | {"method": "dense"},
        "dense, from the start of Laplex": LAPLEX | _WIDE | _CURVE | {"method": "dense"},
        "low rank": _OTHER | {"method": "low rank"},
        "count sketch": _OTHER | {"method": "count sketch"},
        "sparse random projection": _OTHER | {"method": "sparse projection"},
        "Gaussian projection": _OTHER | {"method": "gaussian"},
        "block means": _OTHER | {"method": "block means"},
        "convolution": _OTHER | {"method": "convolution"},
    },
}
METHODS["whole"] = {
    name: method
    for name, method in METHODS["photographs"].items()
    if name in ("Laplex", "dense", "low rank", "count sketch", "block means", "convolution")
}
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
MIDDLE = 4
SEEDS = 3
#: Seconds of processor time, and what is compared within them.
BUDGETS = {"photographs": 6.0}
COMPARED = ("Laplex", "dense", "count sketch", "block means", "convolution")
#: The starts of Laplex, by the names in their table. A distance is that between outputs.
STARTS: dict[str, dict[str, Any]] = {
    "lengthscale 1 / sqrt(inputs + outputs)": {},
    "one distance": _WIDE,
    "eight distances": {"reach": 8.0},
    "one distance, anchors at a tenth of the rate": _WIDE | {"anchors": 0.1},
    "one distance, order from a sample": _WIDE | {"order": "sample"},
    "one distance, Hilbert curve": _WIDE | {"order": "hilbert"},
    "one distance, one phase a colour": _WIDE | {"smooth": True},
    "one distance, one phase a colour, order from a sample": _WIDE
    | {"order": "sample", "smooth": True},
    "one distance, one phase a colour, Hilbert curve": _WIDE | _CURVE,
    "the same, anchors at a tenth of the rate": _WIDE | _CURVE | {"anchors": 0.1},
}
_ONLY_GLOSSES = (
    "eight distances",
    "one distance, anchors at a tenth of the rate",
    "one distance, order from a sample",
)
ORDERS = ("random", "hilbert", "sample")


def base(task: str, quick: bool) -> Settings:
    """What all trainings of a task share; its data is kept for the processes to come."""
    split_of(task, quick)
    sizes = {
        "glosses": {"hidden": 64, "batch": 256, "epochs": 2},
        "photographs": {"hidden": 64, "batch": 16, "epochs": 3},
        "whole": {"hidden": 32, "batch": 8, "epochs": 2},
    }[task]
    if quick:
        sizes = {"hidden": 16, "batch": 32, "epochs": 1}
    return {"task": task, "quick": quick, **sizes, "budget_s": 0.0, "anchors": 1.0}


def searched(task: str, records: Records, quick: bool) -> Iterable[Settings]:
    """Every method by learning rate, judged on held-out rows, then tested at its best rate.

    From the middle of the grid, the search goes up or down until both neighbours are worse.
    """
    for method in METHODS[task].values():
        shared = base(task, quick) | method
        tried: dict[int, float] = {}
        # A dense weight with a start of its own is to keep it: the search begins at lower rates.
        place = MIDDLE - 3 * (method["method"] == "dense" and method["heads"] > 0)
        while place not in tried:
            settings = shared | {"rate": RATES[place], "seed": 100, "tested": False}
            yield settings
            (record,) = records.where(**settings)
            tried[place] = record["accuracy"]
            top = max(tried, key=lambda each: tried[each])
            others = [each for each in (top + 1, top - 1) if 0 <= each < len(RATES)]
            place = next((each for each in others if each not in tried), top)
            if quick:
                break
        rate = RATES[max(tried, key=lambda each: tried[each])]
        for seed in range(2 if quick else SEEDS):
            yield shared | {"rate": rate, "seed": seed, "tested": True}


def glosses(records: Records, quick: bool) -> Iterable[Settings]:
    return searched("glosses", records, quick)


def photographs(records: Records, quick: bool) -> Iterable[Settings]:
    return searched("photographs", records, quick)


def whole(records: Records, quick: bool) -> Iterable[Settings]:
    """The methods at the rates that the smaller photographs found."""
    for method in METHODS["whole"].values():
        for rate in found_rates("photographs", records, quick, method):
            for seed in range(1 if quick else SEEDS):
                yield base("whole", quick) | method | {"rate": rate, "seed": seed, "tested": True}


def found_rates(
    task: str, records: Records, quick: bool, method: dict[str, Any]
) -> Iterable[float]:
    """The learning rate at which a method was tested, if it was."""
    tested = Records(records.path, task).where(**base(task, quick), **method, tested=True)
    return {each["rate"] for each in tested}


def equal_time(records: Records, quick: bool) -> Iterable[Settings]:
    """The trained methods again, each for the same processor time, at the rates found above."""
    for task, seconds in BUDGETS.items():
        budget = {"budget_s": 0.2 if quick else seconds, "tested": True}
        for name in COMPARED:
            method = METHODS[task].get(name, {})
            for rate in found_rates(task, records, quick, method) if method else ():
                for seed in range(1 if quick else SEEDS):
                    yield base(task, quick) | method | budget | {"rate": rate, "seed": seed}


def starts(records: Records, quick: bool) -> Iterable[Settings]:
    """Laplex from other starts, at one learning rate for each task."""
    for task, rate in (("photographs", 3e-2), ("glosses", 1e-2)):
        for name, start in STARTS.items():
            of_pixels = start.get("smooth") or start.get("order") == "hilbert"
            if name not in _ONLY_GLOSSES if task == "photographs" else not of_pixels:
                for seed in range(1 if quick else SEEDS):
                    shared = base(task, quick) | LAPLEX | start
                    yield shared | {"rate": rate, "seed": seed, "tested": True}


def order(records: Records, quick: bool) -> Iterable[Settings]:
    """One training for each initial order, whose pixels are drawn."""
    for kind in ORDERS:
        yield base("photographs", quick) | LAPLEX | _WIDE | {
            "order": kind, "smooth": kind != "random", "heads": 2, "rate": 3e-2, "seed": 0,
            "tested": True,
        }  # fmt: skip
