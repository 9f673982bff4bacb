"""Renamed parameters, whose old names work for one more release, with a warning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def renamed(named: dict[str, Any], owner: str, old: str, new: str) -> dict[str, Any]:
    """Return keyword arguments with the new name in place of the old one.

    Raises
    ------
    TypeError
        If both names are given.
    """
    if new in named:
        raise TypeError(f"{owner} got both {new} and {old}, its former name: leave out {old}")
    warnings.warn(
        f"the parameter {old} of {owner} is now called {new}: the old name will be removed in the "
        "next release",
        DeprecationWarning,
        stacklevel=3,
    )
    return {new if name == old else name: value for name, value in named.items()}


def renamed_parameter(owner: str, old: str, new: str) -> Callable[[Function], Function]:
    """Let a function accept the old name of a keyword that its signature does not show."""

    def put(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **named: Any) -> Any:
            if old in named:
                named = renamed(named, owner, old, new)
            return function(*args, **named)

        return call  # type: ignore[return-value]

    return put
