"""The contents of ``page.html``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from laplex._support.html_pages import Table, render_page

from ..basis import random_rotation
from ..confirmation import MIN_STARTS, Confirmation
from ..estimator import CEDAR
from ..metrics import mcc
from ..naming import AxisNames, Name
from ..page_inputs import RowExamples, known_axes
from ..restarts import StabilityReport, stability
from . import figures
from .measuring import Measured

if TYPE_CHECKING:
    from ..baselines import Comparison


class Example(NamedTuple):
    """An example row at an end of an axis, with its text and picture if it has them."""

    row: int
    code: float
    text: str | None
    picture: tuple[str, bool] | None


class End(NamedTuple):
    """One of the two ends of an axis, "up" or "down".

    ``clear`` and ``fires`` are fractions of the rows. ``score`` is that of the best word, or None
    without names.
    """

    side: str
    name: Name | None
    score: float | None
    clear: float
    fires: float
    examples: list[Example]


class Axis(NamedTuple):
    """An axis and its share of the energy of the codes."""

    number: int
    confirmed: bool | None
    share: float
    ends: list[End]


def render(
    *,
    cedar: CEDAR,
    measured: Measured,
    names: AxisNames | None,
    described: RowExamples,
    comparison: Comparison | None,
    max_axes: int,
    title: str,
) -> str:
    """Render the report as HTML with embedded pictures, as `laplex.cedar.report` describes it."""
    starts = len(cedar.bases_)
    found = stability(cedar.restarts_) if starts > 1 else None
    known = known_axes(cedar, names)
    return render_page(
        __package__,
        "page.html",
        extra="cedar",
        title=title,
        about=_about(cedar, measured),
        k=cedar.k_,
        dim=cedar.fitted_.axes,
        numbers=_numbers(cedar, measured),
        metrics=_metrics(measured),
        comparison=comparison,
        compared=[] if comparison is None else [Table(*one) for one in comparison.tables()],
        starts=starts,
        enough_starts=MIN_STARTS,
        confirmation=cedar.confirmation_,
        stability=None if found is None else _stability(found, cedar.confirmation_),
        recurrence=None if found is None else figures.recurrence(found),
        names=names,
        axes=[
            _axis(axis, measured, known[axis], names, described)
            for axis in _chosen(measured, known, max_axes)
        ],
        firing=figures.firing(measured.report),
        sizes=figures.code_sizes(measured),
        busiest=_busiest(measured),
    )


# ---------------------------------------------------------------------------------------- sections


def _about(cedar: CEDAR, measured: Measured) -> str:
    starts = len(cedar.bases_)
    return (
        f"The model has {cedar.fitted_.axes} axes, of which a code uses at most {cedar.k_}. "
        f"Its basis is {cedar.basis}; it was fitted to {cedar.n_samples_seen_:,} "
        f"embeddings from {starts} start{'s' if starts > 1 else ''}. This report measures it on "
        f"{measured.count:,} embeddings."
    )


def _numbers(cedar: CEDAR, measured: Measured) -> list[tuple[str, str]]:
    report = measured.report
    return [
        (
            f"{100 * report.fve:.1f} %",
            f"of the variance is explained by {cedar.k_} entries per row",
        ),
        (f"{report.cosine:.3f}", "mean cosine of centred embedding and reconstruction"),
        (f"{report.l0:.1f}", f"nonzero entries in a code, of {cedar.fitted_.axes}"),
        (f"{report.dead:,}", "axes that never fire"),
    ]


def _metrics(measured: Measured) -> Table:
    columns = ["", *(f"k = {k}" for k in measured.reports)]
    reports = list(measured.reports.values())
    rows = [
        ["fraction of variance explained", *(f"{one.fve:.4f}" for one in reports)],
        ["cosine after centring", *(f"{one.cosine:.4f}" for one in reports)],
        ["cosine of the mean alone", *(f"{one.cosine_mean_only:.4f}" for one in reports)],
        ["nonzero entries of a code (L0)", *(f"{one.l0:.2f}" for one in reports)],
        ["axes that never fire", *(f"{one.dead}" for one in reports)],
        ["number of rows", *(f"{one.count:,}" for one in reports)],
    ]
    return Table(columns, rows)


def _stability(found: StabilityReport, confirmation: Confirmation | None) -> Table:
    rows = [
        ["mean correlation (MCC) of the axes of two starts", f"{found.mean:.3f}"],
        ["smallest MCC of all pairs", f"{found.min:.3f}"],
        ["MCC of two random bases, about", f"{_random_mcc(len(found.recurrence)):.3f}"],
    ]
    if confirmation is not None:
        again = (confirmation.cosine > confirmation.threshold).sum(axis=0) >= 2
        for what, mask in (
            ("axes found in two disjoint parts of the rows", again),
            ("axes confirmed", confirmation.confirmed),
        ):
            rows.append([what, f"{int(mask.sum())} ({100 * mask.mean():.0f} %)"])
    return Table(["", f"{len(found.mcc)} starts"], rows)


def _busiest(measured: Measured) -> str:
    report = measured.report
    assert report.positive is not None
    assert report.negative is not None
    rates = np.sort(report.positive + report.negative)[::-1] / report.count
    return (
        f"The busiest axis fires in {100 * rates[0]:.1f} % of the rows, the median axis in "
        f"{100 * float(np.median(rates)):.1f} %. If all axes fired equally often, each would fire "
        f"in {100 * report.l0 / len(rates):.1f} %. A code always has {report.l0:g} entries, "
        "and some are small where fewer causes are at work. The rates therefore say how often an "
        "axis is chosen, not how much it matters. An entry is called clear if it is above a tenth "
        "of the typical length of a row."
    )


# -------------------------------------------------------------------------------------------- axes


def _axis(
    axis: int,
    measured: Measured,
    confirmed: bool | None,
    names: AxisNames | None,
    described: RowExamples,
) -> Axis:
    report, examples = measured.report, measured.examples
    assert report.positive is not None
    assert report.negative is not None
    name = None if names is None else names[axis]
    ends = []
    for place, (side, sign, fires, rows, codes) in enumerate(
        (
            ("up", "positive", report.positive, examples.positive, examples.positive_codes),
            ("down", "negative", report.negative, examples.negative, examples.negative_codes),
        )
    ):
        shown = [
            Example(
                int(row),
                float(code),
                described.text(row),
                described.picture(row),
            )
            for row, code in zip(rows[axis], codes[axis], strict=True)
            if row >= 0
        ]
        ends.append(
            End(
                side,
                None if name is None else getattr(name, sign),
                None if name is None else getattr(name, f"{sign}_score"),
                measured.clear[place, axis] / report.count,
                fires[axis] / report.count,
                shown,
            )
        )
    return Axis(axis, confirmed, measured.share[axis], ends)


def _chosen(measured: Measured, known: Sequence[bool | None], max_axes: int) -> list[int]:
    confirmed = np.array([one is True for one in known])
    order = np.lexsort((-measured.share, ~confirmed))
    alive = order[measured.share[order] > 0]
    return [int(axis) for axis in alive[:max_axes]]


def _random_mcc(dim: int) -> float:
    """Measure the MCC of two random rotations on one pair."""
    generator = torch.Generator().manual_seed(0)
    return mcc(random_rotation(dim, generator), torch.eye(dim, dtype=torch.float64))
