"""What a call of the operator has beside its arrays, and the layout of these in the core."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import jax.numpy as jnp

from .._support.sum_family import Polynomial

TRAILING = (1, 1, 1, 0, 0, 1, 1)
"""How many of the last dimensions of values, targets, sources, lengthscale, frequency, target_phase
and source_phase are not leading ones."""

Shape = tuple[int, ...]


class Form(NamedTuple):
    """A call of the operator without its arrays; all of these have equally many leading dimensions.

    Attributes
    ----------
    present : tuple of bool
        Which of the six arrays after the values are given.
    real_part : bool
    parity : int
    polynomial : tuple of float
    side : int
        As in the core, see `laplex._support.core.Form`.
    root : float
        By which the core divides the lengthscale: that of a Matern kernel.
    """

    present: tuple[bool, ...]
    real_part: bool
    parity: int
    polynomial: Polynomial
    side: int
    root: float

    @property
    def is_complex(self) -> bool:
        """Whether the matrix has complex entries."""
        return any(self.present[3:]) and not self.real_part

    def filled(self, given: Sequence[Any]) -> list[Any]:
        """Return the six arrays after the values, None for those absent."""
        rest = iter(given)
        return [next(rest) if each else None for each in self.present]

    def options(self, needs: Sequence[bool] = ()) -> list[int]:
        """Return the integers of a call of the core, which `numbers` completes."""
        return [_bits(self.present), self.real_part, self.parity, self.side, _bits(needs)]

    @property
    def numbers(self) -> list[float]:
        """The root and the polynomial."""
        return [self.root, *self.polynomial]


def _bits(flags: Sequence[bool]) -> int:
    return sum(1 << k for k, flag in enumerate(flags) if flag)


def leading(arrays: Sequence[Any], trailing: Sequence[int]) -> Shape:
    """Broadcast the leading dimensions of the arrays that are not None."""
    return jnp.broadcast_shapes(
        *(
            a.shape[: a.ndim - last]
            for a, last in zip(arrays, trailing, strict=True)
            if a is not None
        )
    )


class Grouping(NamedTuple):
    """Leading dimensions as rows, which share their anchors, and heads, which do not."""

    batch: Shape
    anchor_batch: Shape

    @property
    def _order(self) -> Shape:
        """The leading dimensions, with those of the rows first."""
        return tuple(sorted(range(len(self.batch)), key=lambda dim: self.anchor_batch[dim] != 1))

    @property
    def _rows(self) -> Shape:
        return tuple(self.batch[dim] for dim in self._order if self.anchor_batch[dim] == 1)

    @property
    def _heads(self) -> Shape:
        return tuple(self.batch[dim] for dim in self._order if self.anchor_batch[dim] != 1)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return prod(self._rows)

    @property
    def heads(self) -> int:
        """The number of heads."""
        return prod(self._heads)

    def vectors(self, array: Any) -> Any:
        """Lay ``[*batch, count]`` out as ``[rows, heads, count]``.

        Rows and heads that are all the same are there once.
        """
        last = array.shape[-1]
        array = jnp.transpose(array, (*self._order, array.ndim - 1))
        split = len(self._rows)
        rows, heads = array.shape[:split], array.shape[split:-1]
        rows = self._rows if any(size != 1 for size in rows) else rows
        heads = self._heads if any(size != 1 for size in heads) else heads
        array = jnp.broadcast_to(array, (*rows, *heads, last))
        return array.reshape(prod(rows), prod(heads), last)

    def of_heads(self, array: Any, last: int, shared: bool = False) -> Any:
        """Lay an array of the kernel out as ``[heads]`` or ``[heads, count]``.

        An array that is ``shared`` by all heads is there once.
        """
        trailing = array.shape[array.ndim - last :]
        if shared:
            return array.reshape(1, *trailing)
        whole = jnp.broadcast_to(array, (*self.anchor_batch, *trailing))
        return whole.reshape(self.heads, *trailing)

    def restored(self, array: Any) -> Any:
        """Lay ``[rows, heads, count]`` out as ``[*batch, count]``."""
        array = array.reshape(*self._rows, *self._heads, array.shape[-1])
        back = tuple(self._order.index(dim) for dim in range(len(self.batch)))
        return jnp.transpose(array, (*back, array.ndim - 1))
