"""The section on training: the settings of each run, and the learning curves of its exits."""

from __future__ import annotations

from typing import Any

from ..._support.html_pages import Table
from ..runs.study import Study
from ..training.result import TrainingResult
from .number_formats import percent

#: Maximum number of runs whose curves are shown: the first of each kind of phases.
_SHOWN = 6


def training(study: Study) -> dict[str, Any]:
    """The contents of the section, for at least one run."""
    return {
        "facts": _facts(study) if study.facts else None,
        "phases": _phases(study.training),
        "runs": len(study.training),
        "curves": {name: study.training[name].plot() for name in _chosen(study.training)},
    }


def _facts(study: Study) -> Table:
    columns = list(dict.fromkeys(column for facts in study.facts.values() for column in facts))
    rows = [
        [name, *(facts.get(column, "–") for column in columns)]
        for name, facts in study.facts.items()
    ]
    return Table(["run", *columns], rows)


def _phases(found: dict[str, TrainingResult]) -> Table:
    most = max(len(result.exit_names) for result in found.values())
    columns = ["run", "phases", "epochs", *(f"exit {k + 1}" for k in range(most - 1)), "output"]
    rows = []
    for name, result in found.items():
        last = list(result.history[-1].val_accuracy) if result.history else []
        right = [percent(one) for one in last]
        missing = ["–"] * (most - len(right))
        rows.append(
            [name, _text(result), str(len(result.history)), *right[:-1], *missing, *right[-1:]]
        )
    return Table(columns, rows)


def _text(result: TrainingResult) -> str:
    parts = []
    for phase in result.phases:
        rate = "" if phase.learning_rate is None else f" at learning rate {phase.learning_rate:g}"
        parts.append(f"{phase.train} {phase.epochs}{rate}")
    return ", then ".join(parts)


def _chosen(found: dict[str, TrainingResult]) -> list[str]:
    """The first run of each kind of phases and exits."""
    kinds: dict[tuple[object, ...], str] = {}
    for name, result in found.items():
        kinds.setdefault((result.phases, result.exit_names), name)
    return list(kinds.values())[:_SHOWN]
