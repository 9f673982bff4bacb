"""Which trainings the study of projections consists of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from projection_training import split_of
from studies import Records, Settings, best

#: The layer as it is constructed, and what the starts are compared from.
LAPLEX = {"method": "laplex", "heads": 1, "order": "random", "smooth": False, "reach": 0.0}
_OTHER = LAPLEX | {"heads": 0}
_WIDE = {"reach": 2.0}
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
        "Laplex, 3 heads": LAPLEX | _WIDE | _CURVE | {"heads": 3},
        "dense": _OTHER | {"method": "dense"},
        "low rank": _OTHER | {"method": "low rank"},
        "count sketch": _OTHER | {"method": "count sketch"},
        "sparse random projection": _OTHER | {"method": "sparse projection"},
        "Gaussian projection": _OTHER | {"method": "gaussian"},
        "block means": _OTHER | {"method": "block means"},
        "convolution": _OTHER | {"method": "convolution"},
    },
}
METHODS["whole"] = {
    name: method for name, method in METHODS["photographs"].items() if name != "Laplex, 3 heads"
}
RATES = (3e-3, 1e-2, 3e-2)
SEEDS = {"glosses": 5, "photographs": 5, "whole": 3}
#: Seconds of processor time, and what is compared within them.
BUDGETS = {"glosses": 6.0, "photographs": 12.0}
COMPARED = ("Laplex", "dense", "low rank", "feature hashing", "count sketch", "block means")
#: The starts of Laplex, by the names in their table.
STARTS: dict[str, dict[str, Any]] = {
    "as constructed": {},
    "lengthscale of 1/2 distance between outputs": {"reach": 0.5},
    "2 distances": _WIDE,
    "8 distances": {"reach": 8.0},
    "2 distances, anchors at a tenth of the rate": _WIDE | {"anchors": 0.1},
    "2 distances, rows of pixels": _WIDE | {"order": "rows"},
    "2 distances, Hilbert curve": _WIDE | {"order": "hilbert"},
    "2 distances, order from a sample": _WIDE | {"order": "sample"},
    "2 distances, one phase a colour": _WIDE | {"smooth": True},
    "2 distances, rows, one phase a colour": _WIDE | {"order": "rows", "smooth": True},
    "2 distances, Hilbert, one phase a colour": _WIDE | _CURVE,
    "2 distances, sample, one phase a colour": _WIDE | {"order": "sample", "smooth": True},
}
ORDERS = ("random", "hilbert", "sample")


def base(task: str, quick: bool) -> Settings:
    """What all trainings of a task share; its data is kept for the processes to come."""
    split_of(task, quick)
    sizes = {
        "glosses": {"hidden": 64, "batch": 256, "epochs": 3},
        "photographs": {"hidden": 64, "batch": 32, "epochs": 3},
        "whole": {"hidden": 32, "batch": 16, "epochs": 3},
    }[task]
    if quick:
        sizes = {"hidden": 16, "batch": 32, "epochs": 1}
    return {"task": task, "quick": quick, **sizes, "budget_s": 0.0, "anchors": 1.0}


def searched(records: Records, shared: Settings, seeds: int, quick: bool) -> Iterable[Settings]:
    """Trainings by learning rate, judged on held-out rows, then tested ones at the best rate."""
    for rate in (1e-2,) if quick else RATES:
        yield shared | {"rate": rate, "seed": 100, "tested": False}
    rate = best(records.where(**shared, tested=False), "rate", "accuracy")
    for seed in range(2 if quick else seeds):
        yield shared | {"rate": rate, "seed": seed, "tested": True}


def compared(task: str, records: Records, quick: bool) -> Iterable[Settings]:
    """All methods of a task."""
    for method in METHODS[task].values():
        yield from searched(records, base(task, quick) | method, SEEDS[task], quick)


def glosses(records: Records, quick: bool) -> Iterable[Settings]:
    return compared("glosses", records, quick)


def photographs(records: Records, quick: bool) -> Iterable[Settings]:
    return compared("photographs", records, quick)


def whole(records: Records, quick: bool) -> Iterable[Settings]:
    return compared("whole", records, quick)


def equal_time(records: Records, quick: bool) -> Iterable[Settings]:
    """The trained methods again, each for the same processor time, at the rates found above."""
    for task, seconds in BUDGETS.items():
        others = Records(records.path, task)
        for name, method in METHODS[task].items():
            shared = base(task, quick) | method
            found = others.where(**shared, tested=True)
            if name not in COMPARED or not found:
                continue
            for seed in range(1 if quick else 3):
                yield shared | {
                    "budget_s": 0.2 if quick else seconds,
                    "rate": found[0]["rate"],
                    "seed": seed,
                    "tested": True,
                }


def starts(records: Records, quick: bool) -> Iterable[Settings]:
    """Laplex from other starts: those of the order for images only."""
    for task in ("glosses", "photographs"):
        for start in STARTS.values():
            shared = base(task, quick) | LAPLEX | start
            if task == "photographs" or not {"order", "smooth"} & set(start):
                for seed in range(1 if quick else 3):
                    yield shared | {"rate": 1e-2, "seed": seed, "tested": True}


def order(records: Records, quick: bool) -> Iterable[Settings]:
    """One training for each initial order, whose pixels are drawn."""
    for kind in ORDERS:
        yield base("photographs", quick) | LAPLEX | _WIDE | {
            "order": kind, "smooth": kind != "random", "heads": 2, "rate": 1e-2, "seed": 0,
            "tested": True,
        }  # fmt: skip
