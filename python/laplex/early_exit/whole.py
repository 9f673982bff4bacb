"""Whole numbers among the arguments."""

from __future__ import annotations

import operator
from typing import Any


def whole(name: str, value: Any, least: int) -> int:
    """The value as an int.

    Raises
    ------
    TypeError, ValueError
        It is no whole number, or less than `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number
