"""Numbers as the page shows them: a word where there is none."""

from __future__ import annotations

import math

from ..arrays import Array
from ..evaluation.comparison import spread as mean_and_deviation

UNDEFINED = "undefined"


def number(value: float, digits: int = 3) -> str:
    """A number, or a word where there is none."""
    return UNDEFINED if math.isnan(value) else f"{value:.{digits}f}"


def percent(value: float, digits: int = 1) -> str:
    """A part as per cent, or a word where there is none."""
    return UNDEFINED if math.isnan(value) else f"{100 * value:.{digits}f} %"


def spread(values: Array, *, parts: bool) -> str:
    """Mean and, of several runs, standard deviation; a word where a run has no such number."""
    return mean_and_deviation(values, parts=parts, percent=" %", missing=UNDEFINED)
