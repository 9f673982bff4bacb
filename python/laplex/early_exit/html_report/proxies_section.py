"""The section on calibration and failure prediction as indicators of a good network."""

from __future__ import annotations

from typing import Any

from ..._support.html_pages import Table
from ..evaluation.correlations import Correlations
from ..runs.study import Study
from . import figures
from .number_formats import number

#: With fewer networks than this, correlations say little.
_FEW = 10


def proxies(study: Study) -> dict[str, Any]:
    """The contents of the section."""
    return {
        "correlations": _correlations(study.comparison.correlations()),
        "few": _networks(study) < _FEW,
        "caution": _caution(study),
        "figure": figures.proxies(study.comparison),
    }


def _correlations(found: Correlations) -> Table:
    rows = [
        [
            row.measure,
            number(row.pearson),
            _probability(row.pearson_p),
            number(row.spearman),
            _probability(row.spearman_p),
            str(row.runs),
            number(row.partial),
            _probability(row.partial_p),
            number(row.within),
            _probability(row.within_p),
            str(row.within_runs),
        ]
        for row in found.rows
    ]
    head = ["", "Pearson", "p", "Spearman", "p", "evaluations"]
    return Table([*head, "given accuracy", "p", "within groups", "p", "evaluations"], rows)


def _probability(value: float) -> str:
    return "< 0.001" if value < 0.001 else number(value)


def _networks(study: Study) -> int:
    """The number of distinct networks; several evaluations of one network count once."""
    if study.facts:
        return len(study.facts)
    evaluations = [one for runs in study.comparison.groups.values() for one in runs]
    return len({one.static.accuracy.tobytes() for one in evaluations})


def _caution(study: Study) -> str:
    evaluations = sum(map(len, study.comparison.groups.values()))
    networks = _networks(study)
    text = f"{evaluations} evaluation{'s' if evaluations != 1 else ''} of {networks} network"
    text += "s" if networks != 1 else ""
    if evaluations < 3:
        return f"{text}: correlations are undefined with fewer than 3."
    if networks < _FEW:
        return (
            f"{text} only: such correlations may well arise by chance. The p-values assume that "
            "all evaluations are independent, so they are too small."
        )
    return (
        f"{text}. The p-values assume independent evaluations; evaluations of one network, one "
        "group or one seed are not independent."
    )
