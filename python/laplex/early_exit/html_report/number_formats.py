"""Numbers as the page shows them: a word where there is none."""

from __future__ import annotations

import math

import numpy as np

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
