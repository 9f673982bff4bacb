"""The mapping of leading dimensions to the core's heads and rows, for NumPy, torch and Gram.

A head has anchors of its own; rows are vectors that share the anchors of a head. Leading dimensions
that the anchors have become heads. Those that only the values have become rows. Heads come first.
Both are views wherever strides allow, so the common layouts are not copied.
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
    """The dimensions of the batch, with those of the heads first."""
    in_order: bool
    """Whether the dimensions of the batch are in that order already."""
    batch: tuple[int, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the batch in the order of ``order``."""
        return tuple(self.batch[dim] for dim in self.order)

    @property
    def back(self) -> tuple[int, ...]:
        """The inverse permutation of ``order``."""
        return tuple(self.order.index(dim) for dim in range(len(self.order)))


@lru_cache(maxsize=256)
def layout_of(batch: tuple[int, ...], anchor_batch: tuple[int, ...]) -> Layout:
    """Return the layout of vectors ``[*batch, count]`` for anchors ``[*anchor_batch, n]``."""
    padded = (1,) * (len(batch) - len(anchor_batch)) + anchor_batch
    dims = range(len(batch))
    heads = [dim for dim in dims if padded[dim] != 1]
    order = (*heads, *(dim for dim in dims if padded[dim] == 1))
    number = prod(anchor_batch)
    rows = prod(batch[dim] for dim in dims if padded[dim] == 1)
    return Layout(number, rows, order, order == tuple(dims), batch)
