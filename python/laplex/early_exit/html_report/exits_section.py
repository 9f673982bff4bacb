"""The section on single exits: how often they are right, calibration, failure prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..._support.html_pages import Table
from ..evaluation.result import Evaluation
from ..runs.study import Study
from .number_formats import number, percent

#: Groups whose reliability is drawn.
_DRAWN = 4

_COLUMNS = ("nll", "brier", "ece", "auroc", "aurc", "fpr95", "eefp")


def exits(study: Study) -> list[dict[str, Any]]:
    """What the section shows, by group."""
    return [
        {
            "name": name,
            "runs": len(runs),
            "numbers": _exits(runs),
            "reliability": runs[0].reliability.plot() if place < _DRAWN else None,
        }
        for place, (name, runs) in enumerate(study.comparison.groups.items())
    ]


def _exits(runs: Sequence[Evaluation]) -> Table:
    first = runs[0]
    same = [one for one in runs if one.exit_names == first.exit_names]

    def mean(attribute: str) -> list[float]:
        found: list[float] = np.mean([getattr(one, attribute) for one in same], axis=0).tolist()
        return found

    columns = [mean(name) for name in _COLUMNS]
    rows = [
        [name, percent(cost), percent(right), *map(number, rest)]
        for name, cost, right, *rest in zip(
            first.exit_names, mean("costs"), mean("accuracy"), *columns, strict=True
        )
    ]
    heads = ("NLL", "Brier", "ECE", "AUROC", "AURC", "FPR95", "EEFP")
    return Table(["exit", "cost", "accuracy", *heads], rows)
