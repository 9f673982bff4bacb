"""The contents of ``page.html``. Each section has a module and a template with its name."""

from __future__ import annotations

import numpy as np

from ..._support.html_pages import render_page
from ..evaluation.result import Evaluation
from ..metrics import METRICS
from ..runs.study import Study
from .costs_section import costs
from .exits_section import exits
from .number_formats import percent
from .proxies_section import proxies
from .tradeoff_section import tradeoff
from .training_section import training


def render(study: Study, title: str) -> str:
    """The report as HTML with embedded figures."""
    return render_page(
        __package__,
        "page.html",
        extra="exits",
        title=title,
        about=_about(study),
        numbers=_numbers(study),
        training=training(study) if study.training else None,
        tradeoff=tradeoff(study),
        exits=exits(study),
        metrics=METRICS.values(),
        proxies=proxies(study),
        dynamics=study.dynamics,
        costs=costs(study),
        conventions=_conventions(study),
    )


def _about(study: Study) -> str:
    groups = study.comparison.groups
    evaluations = _evaluations(study)
    count = len(evaluations)
    judged = sorted({one.samples for one in evaluations})
    text = f"{_many(count, 'evaluation')} in {_many(len(groups), 'group')}, on "
    text += " or ".join(f"{one:,}" for one in judged) + " samples"
    if study.facts:
        text = f"{_many(len(study.facts), 'run')}, {text}"
    return f"This report covers {text}."


def _numbers(study: Study) -> list[tuple[str, str]]:
    name, runs = best_group(study)
    full = float(np.mean([one.accuracy[-1] for one in runs]))
    half = float(np.mean([float(one.curve.accuracy_at(0.5)) for one in runs]))
    enough = [_enough(one) for one in runs]
    where = f" ({name})" if len(study.comparison.groups) > 1 else ""
    return [
        (percent(full), f"accuracy if every sample runs through the whole network{where}"),
        (percent(half), f"accuracy at half the cost of the plain backbone{where}"),
        (
            percent(float(np.mean(enough)), 0),
            f"of the backbone's cost suffices for the accuracy of the last exit minus 1 point"
            f"{where}",
        ),
        (
            percent(float(runs[0].costs[0]), 0),
            f"of the backbone's cost for a sample that leaves at the first exit{where}",
        ),
    ]


def best_group(study: Study) -> tuple[str, tuple[Evaluation, ...]]:
    """The group with the largest mean area under the curve."""

    def height(runs: tuple[Evaluation, ...]) -> float:
        area = float(np.mean([one.curve.area_from(study.comparison.low) for one in runs]))
        return -1.0 if np.isnan(area) else area

    return max(study.comparison.groups.items(), key=lambda item: height(item[1]))


def _enough(found: Evaluation) -> float:
    """The lowest mean cost within 1 point of the accuracy of the last exit; NaN if none exists."""
    curve = found.curve
    there = curve.accuracy >= found.accuracy[-1] - 0.01
    return float(curve.cost[there].min()) if there.any() else float("nan")


def _conventions(study: Study) -> dict[str, str]:
    """The meaning of every number; all meanings where evaluations differ."""
    found: dict[str, list[str]] = {}
    for one in _evaluations(study):
        for term, about in one.conventions.items():
            listed = found.setdefault(term.replace("_", " "), [])
            if about not in listed:
                listed.append(about)
    return {term: "; or ".join(abouts) for term, abouts in found.items()}


def _evaluations(study: Study) -> list[Evaluation]:
    return [one for runs in study.comparison.groups.values() for one in runs]


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'s' if count != 1 else ''}"
