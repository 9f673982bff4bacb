"""How leading dimensions become the core's heads and rows: one rule for NumPy, torch and Gram.

A head has its own anchors, rows are vectors that share them. Leading dimensions that the anchors
have are heads, those that only the values have are rows; heads come first. Both are views wherever
strides allow, so nothing is copied in the common layouts.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple


class Layout(NamedTuple):
    """``[*batch, count]`` as ``[heads, rows, count]``."""

    heads: int
    rows: int
    order: tuple[int, ...]
    """The batch's dimensions, those of the heads first."""
    in_order: bool
    """Whether they are so already."""
    batch: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch's sizes in that order."""
        return tuple(self.batch[dim] for dim in self.order)

    @property
    def back(self) -> tuple[int, ...]:
        """The inverse of `order`."""
        return tuple(self.order.index(dim) for dim in range(len(self.order)))


@lru_cache(maxsize=256)
def layout_of(batch: tuple[int, ...], anchor_batch: tuple[int, ...]) -> Layout:
    """The layout of vectors ``[*batch, count]`` for anchors ``[*anchor_batch, n]``."""
    padded = (1,) * (len(batch) - len(anchor_batch)) + anchor_batch
    dims = range(len(batch))
    heads = [dim for dim in dims if padded[dim] != 1]
    order = (*heads, *(dim for dim in dims if padded[dim] == 1))
    number = prod(anchor_batch)
    rows = prod(batch[dim] for dim in dims if padded[dim] == 1)
    return Layout(number, rows, order, order == tuple(dims), batch)
