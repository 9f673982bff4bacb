"""The page: sections as HTML, put into ``page.html``. All text from outside is escaped here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from laplex._support.data_uris import figure_uri

from ..basis import random_rotation
from ..estimator import CEDAR
from ..metrics import mcc
from ..naming import MIN_RESTARTS, AxisName, AxisNames, Name
from ..restarts import StabilityReport, stability
from . import figures
from .measuring import Measured
from .thumbnails import thumbnail

if TYPE_CHECKING:
    from ..baselines import Comparison

_LONGEST_TEXT = 160


def render(
    *,
    cedar: CEDAR,
    measured: Measured,
    names: AxisNames | None,
    items: Sequence[str] | None,
    thumbnails: Sequence[Any] | None,
    comparison: Comparison | None,
    max_axes: int,
    title: str,
) -> str:
    """The report as HTML, pictures embedded; parameters as of `laplex.cedar.report`."""
    starts = len(cedar.bases_)
    found = stability(cedar.restarts_) if starts > 1 else None
    recurs = found.recurring(MIN_RESTARTS) if found and starts >= MIN_RESTARTS else None
    # A mask of the caller's own, in names, goes before.
    known = [None if recurs is None else bool(one) for one in _mask(recurs, len(measured.share))]
    if names is not None:
        known = [
            own.recurs if own.recurs is not None else again
            for own, again in zip(names, known, strict=True)
        ]
    shown = _chosen(measured, known, max_axes)
    template = files("laplex.cedar.html_report").joinpath("page.html").read_text("utf-8")
    return Template(template).substitute(
        title=escape(title),
        about=escape(_about(cedar, measured)),
        k=cedar.k_,
        dim=cedar.n_features_in_,
        tiles=_tiles(cedar, measured),
        metrics=_metrics(measured),
        comparison=_comparison(comparison),
        stability=_stability(found, starts),
        axes_note=_axes_note(names, len(shown), len(measured.share)),
        axes="\n".join(
            _card(axis, measured, known[axis], names, items, thumbnails) for axis in shown
        ),
        firing=figure_uri(figures.firing(measured.report)),
        sizes=figure_uri(figures.code_sizes(measured)),
        busiest=escape(_busiest(measured)),
    )


# ---------------------------------------------------------------------------------------- sections


def _about(cedar: CEDAR, measured: Measured) -> str:
    parameters = cedar.get_params()
    starts = len(cedar.bases_)
    return (
        f"{cedar.n_features_in_} axes, at most {cedar.k_} of them in a code; "
        f"transform: {parameters['transform']}, {starts} start{'s' if starts > 1 else ''}, fitted "
        f"to {cedar.n_samples_seen_:,} embeddings. Measured on {measured.count:,}."
    )


def _tiles(cedar: CEDAR, measured: Measured) -> str:
    report = measured.report
    tiles = [
        (f"{100 * report.fve:.1f} %", f"of the variance explained by {cedar.k_} entries a row"),
        (f"{report.cosine:.3f}", "cosine with the embedding, both centred"),
        (f"{report.l0:.1f}", f"entries in a code, of {cedar.n_features_in_}"),
        (f"{report.dead:,}", "axes that never fire"),
    ]
    return "\n".join(
        f"<div class=tile><b>{escape(value)}</b><span>{escape(what)}</span></div>"
        for value, what in tiles
    )


def _metrics(measured: Measured) -> str:
    columns = ["", *(f"k = {k}" for k in measured.reports)]
    reports = list(measured.reports.values())
    rows = [
        ["fraction of variance explained", *(f"{one.fve:.4f}" for one in reports)],
        ["cosine, centred", *(f"{one.cosine:.4f}" for one in reports)],
        ["cosine of the mean alone", *(f"{one.cosine_mean_only:.4f}" for one in reports)],
        ["entries of a code (L0)", *(f"{one.l0:.2f}" for one in reports)],
        ["axes that never fire", *(f"{one.dead}" for one in reports)],
        ["rows", *(f"{one.count:,}" for one in reports)],
    ]
    return _table(columns, rows)


def _comparison(comparison: Comparison | None) -> str:
    if comparison is None:
        return (
            "<p class=notice>Not compared with baselines: without them the numbers of this report "
            "can't be called good or bad. Pass <code>compare=True</code>.</p>"
        )
    parts = [
        "<p>CEDAR, fitted anew, beside other ways to write an embedding with <i>k</i> numbers, on "
        "rows that none of them has seen. The floor is a random rotation: keeping the largest of "
        "any coordinates explains something. In null controls there is nothing to find, so CEDAR "
        "must gain nothing there: on Gaussian rows without structure over a random rotation, on "
        "Gaussian rows with the data's covariance over PCA.</p>",
        f'<img class=plot alt="Variance explained against the size of a code, by method" '
        f'src="{figure_uri(comparison.plot())}">',
    ]
    for part in comparison.table().split("\n\n"):
        lines = part.splitlines()
        cells = [re.split(r" {2,}", line.strip()) for line in lines if line.strip("-")]
        if len(lines) > 2 and len({len(row) for row in cells}) == 1 and len(cells[0]) > 1:
            parts.append(_table(cells[0], cells[1:]))
        elif len(lines) == 1:
            parts.append(f"<p>{escape(part)}</p>")
        else:
            parts.append(f"<pre>{escape(part)}</pre>")
    return "\n".join(parts)


def _stability(found: StabilityReport | None, starts: int) -> str:
    if found is None:
        return (
            "<p class=notice><b>One start only.</b> Another seed may explain as much with other "
            "axes, and this report can't tell which of these it would find again. Don't take them "
            f"for <i>the</i> concepts of the data: fit with <code>n_init={MIN_RESTARTS}</code> or "
            "more.</p>"
        )
    again = int((found.recurrence + 1 >= MIN_RESTARTS).sum())
    rows = [
        ["mean correlation (MCC) of two starts' axes", f"{found.mean:.3f}"],
        ["least of all pairs", f"{found.min:.3f}"],
        ["two random bases have about", f"{_random_mcc(len(found.recurrence)):.3f}"],
    ]
    if starts >= MIN_RESTARTS:
        share = again / len(found.recurrence)
        rows.append(
            [f"axes found by at least {MIN_RESTARTS} starts", f"{again} ({100 * share:.0f} %)"]
        )
    parts = [_table(["", f"{starts} starts"], rows)]
    if starts < MIN_RESTARTS:
        parts.append(
            f"<p class=notice><b>{starts} starts only.</b> An axis counts as a property of the "
            f"data where {MIN_RESTARTS} starts find it: fit with "
            f"<code>n_init={MIN_RESTARTS}</code> or more.</p>"
        )
    parts.append(
        f'<img class=plot alt="How many axes were found by how many starts" '
        f'src="{figure_uri(figures.recurrence(found))}">'
    )
    return "\n".join(parts)


def _axes_note(names: AxisNames | None, shown: int, axes: int) -> str:
    parts = [
        f"<p>{shown} of {axes} axes: those that recur first, then by their share of the codes' "
        "energy.</p>"
    ]
    if names is not None:
        parts.append(
            f"<p>A name is the word whose embedding, less the mean of all, has the largest cosine "
            f"(<em>score</em>) with the direction; the <em>margin</em> is how far the next word is "
            f"behind. Words with a score under {names.threshold:.3f} are no names.</p>"
        )
        if not names.confirmed:
            parts.append(
                f"<p class=notice><b>Unconfirmed names.</b> With {names.restarts} "
                f"start{'s' if names.restarts > 1 else ''} it is not known whether other starts "
                "find these axes.</p>"
            )
    return "\n".join(parts)


def _busiest(measured: Measured) -> str:
    report = measured.report
    assert report.positive is not None
    assert report.negative is not None
    rates = np.sort(report.positive + report.negative)[::-1] / report.count
    return (
        f"The busiest axis fires in {100 * rates[0]:.1f} % of the rows, the median axis in "
        f"{100 * float(np.median(rates)):.1f} %; if all fired alike, each would in "
        f"{100 * report.l0 / len(rates):.1f} %. A code always has its {report.l0:g} entries: where "
        "fewer causes are at work the rest are small, so this says how often an axis is chosen, "
        "not how much it matters. An entry is called clear above a tenth of the typical length of "
        "a row."
    )


# -------------------------------------------------------------------------------------------- axes


def _card(
    axis: int,
    measured: Measured,
    recurs: bool | None,
    names: AxisNames | None,
    items: Sequence[str] | None,
    thumbnails: Sequence[Any] | None,
) -> str:
    report, examples = measured.report, measured.examples
    assert report.positive is not None
    assert report.negative is not None
    name: AxisName | None = None if names is None else names[axis]
    badge = {
        True: "<span class='badge yes'>recurs</span>",
        False: "<span class='badge no'>this start only</span>",
        None: "<span class=badge>not known to recur</span>",
    }[recurs]
    ends = []
    for sign, rows, codes, fires, clear in (
        (
            "+",
            examples.positive[axis],
            examples.positive_codes[axis],
            report.positive[axis],
            measured.clear[0, axis],
        ),
        (
            "−",
            examples.negative[axis],
            examples.negative_codes[axis],
            report.negative[axis],
            measured.clear[1, axis],
        ),
    ):
        label = "" if name is None else _label(name, sign, recurs)
        here = [(int(row), float(code)) for row, code in zip(rows, codes, strict=True) if row >= 0]
        ends.append(
            f"<div class='end {'up' if sign == '+' else 'down'}'><h4><span class=sign>{sign}</span>"
            f"{label}</h4><p class=note>clear in {100 * clear / report.count:.1f} % of rows, "
            f"in the code of {100 * fires / report.count:.1f} %</p>"
            f"{_examples(here, items, thumbnails)}</div>"
        )
    share = 100 * measured.share[axis]
    return (
        f"<section class=axis><h3>Axis {axis} {badge}"
        f"<span class=note>{share:.2f} % of the codes' energy</span></h3>"
        f"<div class=ends>{''.join(ends)}</div></section>"
    )


def _label(axis: AxisName, sign: str, recurs: bool | None) -> str:
    name: Name | None = axis.positive if sign == "+" else axis.negative
    if name is not None:
        return (
            f"<span class=name>{escape(name.word)}</span><span class=note>score "
            f"{name.score:.3f}, margin {name.margin:.3f} to “{escape(name.runner_up)}”</span>"
        )
    score = axis.positive_score if sign == "+" else axis.negative_score
    why = "does not recur" if recurs is False else f"best score {score:.3f}"
    return f"<span class=none>no name</span><span class=note>{why}</span>"


def _examples(
    rows: list[tuple[int, float]], items: Sequence[str] | None, thumbnails: Sequence[Any] | None
) -> str:
    if not rows:
        return "<p class=note>no examples</p>"
    parts = []
    if thumbnails is not None:
        pictures = []
        for row, code in rows:
            source, rough = thumbnail(thumbnails[row], row)
            about = f"row {row}, code {code:.3g}"
            if items is not None:
                about += f": {_short(items[row])}"
            pictures.append(
                f'<img alt="{escape(about)}" title="{escape(about)}" src="{source}"'
                f"{' class=rough' if rough else ''}>"
            )
        parts.append(f"<div class=pictures>{''.join(pictures)}</div>")
    elif items is not None:
        lines = (
            f"<li><span class=code>{code:.3g}</span><span>{escape(_short(items[row]))}</span></li>"
            for row, code in rows
        )
        parts.append(f"<ul class=texts>{''.join(lines)}</ul>")
    else:
        listed = ", ".join(f"{row} ({code:.3g})" for row, code in rows)
        parts.append(f"<p class=note>rows (codes): {listed}</p>")
    return "".join(parts)


# ------------------------------------------------------------------------------------------ pieces


def _chosen(measured: Measured, recurs: Sequence[bool | None], max_axes: int) -> list[int]:
    again = np.array([one is True for one in recurs])
    order = np.lexsort((-measured.share, ~again))
    alive = order[measured.share[order] > 0]
    return [int(axis) for axis in alive[:max_axes]]


def _mask(recurs: Any, axes: int) -> Iterable[Any]:
    return [None] * axes if recurs is None else recurs


def _random_mcc(dim: int) -> float:
    """MCC of two random rotations, measured on one pair."""
    generator = torch.Generator().manual_seed(0)
    return mcc(random_rotation(dim, generator), torch.eye(dim, dtype=torch.float64))


def _short(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= _LONGEST_TEXT else line[: _LONGEST_TEXT - 1] + "…"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def row(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join([row("th", columns), *(row("td", cells) for cells in rows)])
    return f"<div class=wide><table>\n{body}\n</table></div>"
