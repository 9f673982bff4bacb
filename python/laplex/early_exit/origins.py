"""What the modules of this package were made from, so that files can say how to make them again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)

_PLACE = "laplex_origin"


class Origin(NamedTuple):
    """The name and the arguments with which a module was made, as types of JSON."""

    name: str
    options: Mapping[str, Any]


def with_origin(module: M, name: str, options: Mapping[str, Any]) -> M:
    """Return a module that remembers what it was made from, in copies and pickles too."""
    vars(module)[_PLACE] = Origin(name, dict(options))
    return module


def origin_of(module: nn.Module) -> Origin | None:
    """Return what a module was made from; None if it does not know."""
    return vars(module).get(_PLACE)
