"""The section on calibration and failure prediction: which of them tells a good network."""

from __future__ import annotations

from typing import Any

from ..._support.html_pages import Table
from ..evaluation.correlations import Correlations
from ..runs.study import Study
from . import figures
from .number_formats import number

#: Networks fewer than which say little.
_FEW = 10


def proxies(study: Study) -> dict[str, Any]:
    """What the section shows."""
    return {
        "correlations": _correlations(study.comparison.correlations()),
        "few": _networks(study) < _FEW,
        "caution": _caution(study),
        "figure": figures.proxies(study.comparison.groups),
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
        ]
        for row in found.rows
    ]
    return Table(["", "Pearson", "p", "Spearman", "p", "evaluations"], rows)


def _probability(value: float) -> str:
    return "< 0.001" if value < 0.001 else number(value)


def _networks(study: Study) -> int:
    """How many networks the evaluations are of, those of one judged several ways counted once."""
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
            f"{text} only: such numbers may well be accidents, and p-values, which take all "
            "evaluations for independent, are too small."
        )
    return (
        f"{text}. p-values take evaluations for independent; those of one network, one group or "
        "one seed are not."
    )
