"""What ``page.html`` shows, gathered: each section has a module and a template of its name."""

from __future__ import annotations

import numpy as np

from ..._support.html_pages import render_page
from ..evaluation.result import Evaluation
from ..runs.study import Study
from .costs_section import costs
from .exits_section import exits
from .number_formats import percent
from .proxies_section import proxies
from .tradeoff_section import tradeoff
from .training_section import training


def render(study: Study, title: str) -> str:
    """The report as HTML, pictures embedded."""
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
    text = f"{_many(count, 'evaluation')} in {_many(len(groups), 'group')}, of "
    text += " or ".join(f"{one:,}" for one in judged) + " samples"
    if study.facts:
        text = f"{_many(len(study.facts), 'run')}; {text}"
    return text + "."


def _numbers(study: Study) -> list[tuple[str, str]]:
    name, runs = best_group(study)
    full = float(np.mean([one.accuracy[-1] for one in runs]))
    half = float(np.mean([float(one.curve.accuracy_at(0.5)) for one in runs]))
    enough = [_enough(one) for one in runs]
    where = f" ({name})" if len(study.comparison.groups) > 1 else ""
    return [
        (percent(full), f"right when every sample goes through the whole network{where}"),
        (percent(half), f"right at half of the plain backbone's cost{where}"),
        (
            percent(float(np.mean(enough)), 0),
            f"of the backbone's cost is enough to be within 1 point of the last exit{where}",
        ),
        (percent(float(runs[0].costs[0]), 0), "of its cost is what the first exit takes"),
    ]


def best_group(study: Study) -> tuple[str, tuple[Evaluation, ...]]:
    """The group with the largest mean area under the curve."""

    def height(runs: tuple[Evaluation, ...]) -> float:
        area = float(np.mean([one.area for one in runs]))
        return -1.0 if np.isnan(area) else area

    return max(study.comparison.groups.items(), key=lambda item: height(item[1]))


def _enough(found: Evaluation) -> float:
    """The least mean cost within a point of the last exit's accuracy; NaN if there is none."""
    curve = found.curve
    there = curve.accuracy >= found.accuracy[-1] - 0.01
    return float(curve.cost[there].min()) if there.any() else float("nan")


def _conventions(study: Study) -> dict[str, str]:
    """What every number means; where evaluations differ, all of it."""
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
