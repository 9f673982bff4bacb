"""Checks of arguments: each returns the value, or raises an error that names the argument."""

from __future__ import annotations

import math
import operator
import sys
from typing import Any, get_args


def whole(name: str, value: Any, least: int, kind: str = "a whole number") -> int:
    """Return the value as an int; messages call it ``kind``.

    Raises
    ------
    TypeError
        If the value is not a whole number.
    ValueError
        If it is less than ``least``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be {kind}, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def integer(name: str, value: Any, least: int = 1) -> int:
    """Check the value as `whole` does; messages call it "an integer"."""
    return whole(name, value, least, "an integer")


def one_of(name: str, value: Any, literal: Any) -> Any:
    """Return the value if it is one of the strings of a Literal; otherwise raise a ValueError."""
    if value not in get_args(literal):
        raise ValueError(f"{name} must be one of {get_args(literal)}, got {value!r}")
    return value


def positive(name: str, value: Any) -> float:
    """Return a finite number above 0, or raise an error."""
    number = _number(name, value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be positive and finite, got {number:g}")
    return number


def not_negative(name: str, value: Any) -> float:
    """Return a finite number of at least 0, or raise an error."""
    number = _number(name, value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} must be at least 0 and finite, got {number:g}")
    return number


def share(name: str, value: Any) -> float:
    """Return a number between 0 and 1, or raise an error."""
    number = _number(name, value)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {number:g}")
    return number


def kernel_number(name: str, number: float, where: str = "") -> None:
    """Refuse a lengthscale or a frequency that no kernel has, in the words of the compiled core.

    A plan on a GPU reads its parameters in device memory, where nothing can raise an error. So
    numbers from the host are checked before they go there. ``where`` ends the message.
    """
    if name == "lengthscale":
        if not 0 < number < math.inf:
            raise ValueError(f"lengthscale must be positive and finite, got {number:g}{where}")
        if number < sys.float_info.min:  # its reciprocal would overflow
            raise ValueError(
                "lengthscale must be at least 2.23e-308, the smallest normal number, got "
                f"{number:g}{where}"
            )
    elif not -math.inf < number < math.inf:
        raise ValueError(f"{name} must be finite, got {number:g}{where}")


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
