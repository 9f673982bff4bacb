"""Checks of the values in a settings file.

These functions convert values from YAML to checked ones. Each raises `Unfit` with a description of
valid values, for a message that names the key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

STRATEGIES = ("mixed", "joint", "disjoint")
SCHEDULERS = ("cosine", "none")
WEIGHTS = ("equal", "linear", "sdn")


class Unfit(ValueError):
    """A value does not fit this description, such as "a text"."""


def text(value: Any) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise Unfit("a text")
    return value


def source(value: Any) -> str:
    """The name of a data set, or the absolute path of a folder, so that it is valid anywhere."""
    name = text(value)
    return name if name in ("digits", "fashion-mnist") else str(Path(name).expanduser().resolve())


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise Unfit("true or false")
    return value


def one_of(words: Iterable[str]) -> Callable[[Any], str]:
    """One of some words, which are looked up when a value is checked."""

    def check(value: Any) -> str:
        if value not in (known := tuple(words)):
            raise Unfit(f"one of {', '.join(known)}")
        return str(value)

    return check


def whole(least: int, most: int | None = None) -> Callable[[Any], int]:
    """A whole number between bounds."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise Unfit(f"a whole number of at least {least}")
        if most is not None and value > most:
            raise Unfit(f"a whole number of at most {most}")
        return value

    return check


def number(words: str, fits: Callable[[float], bool]) -> Callable[[Any], float]:
    """A finite number that fits the condition that `words` describe."""

    def check(value: Any) -> float:
        try:  # YAML 1.1 reads 1e-3 as a text, because it has no decimal point
            found = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            found = math.nan
        if not (math.isfinite(found) and fits(found)):
            raise Unfit(words)
        return found

    return check


positive = number("a number above 0", lambda value: value > 0)
not_negative = number("a number of at least 0", lambda value: value >= 0)
fraction = number("a number above 0 and below 1", lambda value: 0 < value < 1)


def optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Null, or a value that `check` accepts."""
    return lambda value: None if value is None else check(value)


def names(value: Any) -> tuple[str, ...]:
    """Names in a list, or in a text separated by commas."""
    listed = [one.strip() for one in value.split(",")] if isinstance(value, str) else value
    if not isinstance(listed, (list, tuple)) or not listed:
        raise Unfit("a list of names")
    # Modules of a Sequential have names such as 0, which YAML reads as numbers.
    found = tuple(str(one) for one in listed)
    if "" in found:
        raise Unfit("a list of names")
    return found


def mapping(value: Any) -> dict[str, Any]:
    """A mapping whose keys are texts."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise Unfit("a mapping of names to values")
    return dict(value)


def strategy(value: Any) -> str | tuple[dict[str, Any], ...]:
    """A strategy by name, or mappings with the arguments of `Phase`."""
    if isinstance(value, str):
        return one_of(STRATEGIES)(value)
    if not isinstance(value, (list, tuple)) or not value:
        raise Unfit("mixed, joint, disjoint, or a list of phases")
    needed, known = {"train", "epochs"}, {"train", "epochs", "learning_rate"}
    for phase in value:
        if not isinstance(phase, Mapping) or not needed <= set(phase) <= known:
            raise Unfit(
                "mixed, joint, disjoint, or a list of phases such as {train: backbone, epochs: 5}, "
                "each with an optional learning_rate"
            )
    return tuple(dict(phase) for phase in value)


def weights(value: Any) -> str | tuple[float, ...]:
    """Weights of exits by name, or numbers."""
    if isinstance(value, str):
        return one_of(WEIGHTS)(value)
    if not isinstance(value, (list, tuple)) or not value:
        raise Unfit("equal, linear, sdn, or a number for each exit")
    return tuple(not_negative(one) for one in value)


def distillation(value: Any) -> dict[str, float]:
    """The arguments of `Distillation`."""
    given = mapping(value)
    if not set(given) <= {"weight", "temperature"}:
        raise Unfit("null, or a mapping with weight and temperature")
    return {key: not_negative(one) for key, one in given.items()}
