"""The sections on single exits, and on which of their numbers tells a good network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..evaluation.comparison import Correlations
from ..evaluation.result import Evaluation
from ..runs.study import Study
from .figures import proxies as proxies_figure
from .pieces import definitions, heading, number, paragraph, percent, picture, table

#: Networks fewer than which say little.
_FEW = 10
#: Groups whose reliability is drawn.
_DRAWN = 4

_MEANINGS = {
    "cost": "Of a sample that leaves at this exit, in parts of the plain backbone, the heads that "
    "it asked on the way included.",
    "accuracy": "How many of all samples the exit alone gets right.",
    "NLL, Brier score": "How much probability goes to the right class; lower is better. The first "
    "punishes confident mistakes without limit, the second is between 0 and 2.",
    "ECE": "Expected calibration error: how far confidence is from how often it is right. 0 means "
    "that of the samples of which the exit is 80 % sure, 80 % are right.",
    "AUROC": "The probability that a right answer has a higher score than a wrong one: 0.5 is "
    "chance, 1 is perfect. It looks at the order of scores alone, not at their size.",
    "AURC": "How many of the surest answers are wrong, averaged over how many are taken; lower is "
    "better.",
    "FPR95": "How many of the wrong answers are taken where 95 % of the right ones are; lower is "
    "better.",
    "EEFP": "Early-exit failure prediction: AUROC again, but a sample that no later exit gets "
    "right either may leave, as going on would cost more and bring nothing. There is none at the "
    "last exit, from which nobody goes on.",
}
_COLUMNS = ("nll", "brier", "ece", "auroc", "aurc", "fpr95", "eefp")


def exits(study: Study) -> str:
    """The section on exits as HTML."""
    groups = study.comparison.groups
    parts = [
        paragraph(
            "An exit can be judged in three ways: how often it is right; whether its confidence is "
            "the probability of being right (calibration); and whether its score tells right "
            "answers from wrong ones (failure prediction). The last decides who leaves, so that it "
            "matters most here."
        ),
        definitions(_MEANINGS),
        paragraph(
            "“Undefined” stands where a number has no meaning, such as telling right from wrong "
            "where all are right.",
            "note",
        ),
    ]
    for place, (name, runs) in enumerate(groups.items()):
        parts.append(heading(name if len(runs) == 1 else f"{name}: mean of {len(runs)} runs"))
        parts.append(_exits(runs))
        if place < _DRAWN:
            parts.append(
                picture(
                    runs[0].reliability.plot(),
                    f"How often each exit of {name} is right, by its confidence",
                )
            )
    parts.append(
        paragraph(
            "In the pictures, points on the diagonal mean that confidence is what it says; below "
            "it the exit is too sure, above it not sure enough. Exits are numbered from 0, in the "
            "order of the tables."
        )
    )
    return "\n".join(parts)


def _exits(runs: Sequence[Evaluation]) -> str:
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
    return table(["exit", "cost", "accuracy", *heads], rows)


def proxies(study: Study) -> str:
    """The section on calibration and failure prediction as proxies, as HTML."""
    groups = study.comparison.groups
    found = study.comparison.correlations()
    networks = _networks(study)
    parts = [
        paragraph(
            "It is common to calibrate exits and to take the calibration error (ECE) for a sign of "
            "how well early exits will work. The abstract of arXiv 2508.21495 says that failure "
            "prediction is the better sign: a calibrated exit may still send away the wrong "
            "samples. Here each evaluation is a point: its area under the curve of section 2, "
            "against the mean of a number over its exits."
        ),
        paragraph(
            "A correlation near 1 means that the number goes up with the area, near -1 that it "
            "goes down, near 0 that it tells nothing. A good sign is near 1 for AUROC and EEFP, "
            "and near -1 for ECE. Pearson's looks at values, Spearman's at their order; p is the "
            "probability of so strong a correlation by accident, if runs are independent."
        ),
        _correlations(found),
        paragraph(_few(study), "notice" if networks < _FEW else "note"),
        picture(proxies_figure(groups), "Area under the curve against mean ECE and mean EEFP"),
    ]
    return "\n".join(parts)


def _correlations(found: Correlations) -> str:
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
    return table(["", "Pearson", "p", "Spearman", "p", "evaluations"], rows)


def _probability(value: float) -> str:
    return "< 0.001" if value < 0.001 else number(value)


def _networks(study: Study) -> int:
    """How many networks the evaluations are of, those of one judged several ways counted once."""
    if study.facts:
        return len(study.facts)
    evaluations = [one for runs in study.comparison.groups.values() for one in runs]
    return len({one.static.accuracy.tobytes() for one in evaluations})


def _few(study: Study) -> str:
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
