"""The cache of plans behind `laplex.matvec`.

A plan (the sorted order of the anchors and the decays between them) is found again by the content
of its anchors, so that the next batch through the same layer does not sort a second time. The
cache is shared by all threads and bounded in bytes; the least recently used plan goes first. A
recorded product keeps its plan for its first backward pass, whatever the bound.

Plans on a GPU are not counted here: they live as long as their anchors, by whose identity and
version they are found again; `clear` forgets them too.
"""

from __future__ import annotations

import operator
import sys
from typing import NamedTuple

from . import _core


class PlanCacheInfo(NamedTuple):
    """State of the cache: plans held, their bytes, the bound, and look-ups since `clear`."""

    plans: int
    bytes: int
    max_bytes: int
    hits: int
    misses: int


def info() -> PlanCacheInfo:
    """Return what the cache holds now and how often it was of use."""
    return PlanCacheInfo(**_core.plan_cache_info())


def clear() -> None:
    """Forget every plan. Plans in use live on until their last user is done."""
    _core.plan_cache_clear()
    cuda_execution = sys.modules.get("laplex.torch.cuda")
    if cuda_execution is not None:  # there are none if torch was not used
        cuda_execution.clear()


def set_max_bytes(max_bytes: int) -> None:
    """Bound the memory of the cache; 0 keeps no plan at all.

    Raises
    ------
    TypeError
        When `max_bytes` is no integer.
    ValueError
        When `max_bytes` is negative.
    """
    try:
        max_bytes = operator.index(max_bytes)
    except TypeError:
        raise TypeError(
            f"max_bytes must be an integer, got {max_bytes!r}: pass a number of bytes"
        ) from None
    if max_bytes < 0:
        raise ValueError(f"max_bytes must be 0 or more, got {max_bytes}")
    _core.plan_cache_set_max_bytes(min(max_bytes, 2**62))
