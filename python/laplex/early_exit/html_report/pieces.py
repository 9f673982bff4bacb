"""Pieces of the page: tables, pictures, numbers. All text from outside is escaped here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
from matplotlib.figure import Figure

from laplex._support.data_uris import figure_uri

from ..arrays import Array

UNDEFINED = "undefined"


def number(value: float, digits: int = 3) -> str:
    """A number, or a word where there is none."""
    return UNDEFINED if math.isnan(value) else f"{value:.{digits}f}"


def percent(value: float, digits: int = 1) -> str:
    """A part as per cent, or a word where there is none."""
    return UNDEFINED if math.isnan(value) else f"{100 * value:.{digits}f} %"


def spread(values: Array, *, parts: bool) -> str:
    """Mean and, of several runs, standard deviation; a word where a run has no such number."""
    if np.isnan(values).any():
        return UNDEFINED
    scale, digits = (100, 1) if parts else (1, 3)
    text = f"{scale * values.mean():.{digits}f}"
    if len(values) > 1:
        text += f" ± {scale * values.std(ddof=1):.{digits}f}"
    return text + (" %" if parts else "")


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], best: Iterable[tuple[int, int]] = ()
) -> str:
    """A table; `best` are (row, column) of the cells to stand out."""
    marked = set(best)

    def cells(row: int, values: Sequence[str]) -> str:
        return "".join(
            f"<td{' class=best' if (row, place) in marked else ''}>{escape(value)}</td>"
            for place, value in enumerate(values)
        )

    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "\n".join(f"<tr>{cells(row, values)}</tr>" for row, values in enumerate(rows))
    return f"<div class=wide><table>\n<tr>{head}</tr>\n{body}\n</table></div>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{f' class={kind}' if kind else ''}>{escape(text)}</p>"


def heading(text: str) -> str:
    """A heading within a section."""
    return f"<h3>{escape(text)}</h3>"


def definitions(listed: Mapping[str, str]) -> str:
    """Terms and what they mean."""
    items = "\n".join(
        f"<dt>{escape(term)}</dt><dd>{escape(about)}</dd>" for term, about in listed.items()
    )
    return f"<dl>\n{items}\n</dl>"


def picture(figure: Figure, about: str) -> str:
    """An embedded picture, with what it shows for those who can't see it."""
    return f'<img class=plot alt="{escape(about)}" src="{figure_uri(figure)}">'
