"""Checks of numbers among the arguments: each returns the number, or raises and names it."""

from __future__ import annotations

import math
import operator
from typing import Any, get_args


def whole(name: str, value: Any, least: int, kind: str = "a whole number") -> int:
    """The value as an int; `kind` is what messages ask for.

    Raises
    ------
    TypeError, ValueError
        It is no whole number, or less than `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be {kind}, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def integer(name: str, value: Any, least: int = 1) -> int:
    """As `whole`, of which messages say "an integer"."""
    return whole(name, value, least, "an integer")


def one_of(name: str, value: Any, literal: Any) -> Any:
    """The value, if it is one of the words of a Literal, or an error that names it."""
    if value not in get_args(literal):
        raise ValueError(f"{name} must be one of {get_args(literal)}, got {value!r}")
    return value


def positive(name: str, value: Any) -> float:
    """A finite number above 0, or an error that names it."""
    number = _number(name, value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be positive and finite, got {number:g}")
    return number


def not_negative(name: str, value: Any) -> float:
    """A finite number of at least 0, or an error that names it."""
    number = _number(name, value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} must be at least 0 and finite, got {number:g}")
    return number


def share(name: str, value: Any) -> float:
    """A number from 0 to 1, or an error that names it."""
    number = _number(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must be 0 to 1, got {number:g}")
    return number


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
