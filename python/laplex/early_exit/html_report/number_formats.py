"""Formats of the numbers on the page; an undefined number becomes a word."""

from __future__ import annotations

import math

from ..arrays import Array
from ..evaluation.comparison import spread as mean_and_deviation

UNDEFINED = "undefined"


def number(value: float, digits: int = 3) -> str:
    """A number, or a word if it is undefined."""
    return UNDEFINED if math.isnan(value) else f"{value:.{digits}f}"


def percent(value: float, digits: int = 1) -> str:
    """A fraction in per cent, or a word if it is undefined."""
    return UNDEFINED if math.isnan(value) else f"{100 * value:.{digits}f} %"


def spread(values: Array, *, parts: bool) -> str:
    """Mean and, for several runs, standard deviation, or a word if one is undefined."""
    return mean_and_deviation(values, parts=parts, percent=" %", missing=UNDEFINED)
