"""The section on the single exits: accuracy, calibration, failure prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..._support.html_pages import Table
from ..evaluation.result import Evaluation
from ..metrics import METRICS
from ..runs.study import Study
from .number_formats import number, percent

#: Number of groups whose reliability diagram is drawn.
_DRAWN = 4


def exits(study: Study) -> list[dict[str, Any]]:
    """The contents of the section, by group."""
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

    def column(attribute: str, shown: Callable[[float], str]) -> list[str]:
        mean = np.mean([getattr(one, attribute) for one in same], axis=0)
        return [shown(one) for one in mean.tolist()]

    kinds = {
        name: kind for name, kind in METRICS.items() if all(hasattr(one, name) for one in same)
    }
    columns = [column(name, percent if kind.percent else number) for name, kind in kinds.items()]
    rows = zip(first.exit_names, column("costs", percent), *columns, strict=True)
    return Table(["exit", "cost", *(kind.label for kind in kinds.values())], list(rows))
