"""The cache of plans behind `laplex.matvec`.

A plan holds the sorted order of the anchors and the decays between them. `laplex.matvec` finds
plans by the content of their anchors, so that the next batch through the same layer does not sort
again. All threads share the cache. It is bounded in bytes and drops the least recently used plan
first. A product that autograd records keeps its plan until its first backward pass, whatever the
bound.

Plans on a GPU are not counted here. They are looked up by the identity and version of their anchors
and live as long as these do. `clear` forgets them too.
"""

from __future__ import annotations

import operator
import sys
from typing import NamedTuple

from . import _core

__all__ = ["PlanCacheInfo", "clear", "info", "set_max_bytes"]


class PlanCacheInfo(NamedTuple):
    """The state of the cache, as `info` returns it.

    Attributes
    ----------
    plans : int
        The number of plans in the cache.
    bytes : int
        The memory that they hold.
    max_bytes : int
        The bound on ``bytes``; see `set_max_bytes`.
    hits, misses : int
        The number of look-ups since the last `clear` that found a plan, and that did not.
    """

    plans: int
    bytes: int
    max_bytes: int
    hits: int
    misses: int


def info() -> PlanCacheInfo:
    """Return what the cache holds now, and how many look-ups found a plan."""
    return PlanCacheInfo(**_core.plan_cache_info())


def clear() -> None:
    """Forget every plan. A plan that is in use lives on until its last user is done."""
    _core.plan_cache_clear()
    cuda_execution = sys.modules.get("laplex.torch.cuda")
    if cuda_execution is not None:  # otherwise there are no plans on a GPU
        cuda_execution.clear()


def set_max_bytes(max_bytes: int) -> None:
    """Bound the memory of the cache.

    Parameters
    ----------
    max_bytes : int
        The largest number of bytes that cached plans may hold; 0 disables the cache.

    Raises
    ------
    TypeError
        If ``max_bytes`` is not an integer.
    ValueError
        If ``max_bytes`` is negative.
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
