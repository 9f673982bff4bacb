"""The section on training: what each run was, and how its exits learned."""

from __future__ import annotations

from ..runs.study import Study
from ..training.result import TrainingResult
from .pieces import heading, paragraph, percent, picture, table

#: Runs whose curves are shown: the first of each kind of phases.
_SHOWN = 6


def training(study: Study) -> str:
    """The section as HTML."""
    if not study.training:
        return paragraph("Nothing is known here about how these networks were trained.", "notice")
    parts = []
    if study.facts:
        parts.append(_facts(study))
    parts.append(
        paragraph(
            "What each phase trained and for how many epochs, and how often each exit was right "
            "about validation images at the end:"
        )
    )
    parts.append(_phases(study.training))
    shown = _chosen(study.training)
    parts.append(
        paragraph(
            "Loss (lower is better) and accuracy of each exit on validation images, epoch by "
            "epoch. Grey lines and words say where a phase begins and what it trains. In a phase "
            "that trains the backbone alone, the heads have learned nothing yet, so that only the "
            "output is to be looked at."
        )
    )
    if len(shown) < len(study.training):
        parts.append(
            paragraph(
                f"Shown are {len(shown)} of {len(study.training)} runs: the first of each kind.",
                "note",
            )
        )
    for name in shown:
        parts.append(heading(name))
        parts.append(picture(study.training[name].plot(), f"Training curves of {name}"))
    return "\n".join(parts)


def _facts(study: Study) -> str:
    columns = list(dict.fromkeys(column for facts in study.facts.values() for column in facts))
    rows = [
        [name, *(facts.get(column, "–") for column in columns)]
        for name, facts in study.facts.items()
    ]
    return table(["run", *columns], rows)


def _phases(found: dict[str, TrainingResult]) -> str:
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
    return table(columns, rows)


def _text(result: TrainingResult) -> str:
    parts = []
    for phase in result.phases:
        rate = "" if phase.learning_rate is None else f" at rate {phase.learning_rate:g}"
        parts.append(f"{phase.train} {phase.epochs}{rate}")
    return ", then ".join(parts)


def _chosen(found: dict[str, TrainingResult]) -> list[str]:
    """The first run of each kind of phases and exits."""
    kinds: dict[tuple[object, ...], str] = {}
    for name, result in found.items():
        kinds.setdefault((result.phases, result.exit_names), name)
    return list(kinds.values())[:_SHOWN]
