"""Sums over rows, which can be added over any parts of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over ``count`` rows: float64 tensors, of the same shapes for all parts of the data."""

    count: int
    tensors: tuple[Tensor, ...]

    def holding(self, count: int, tensors: Sequence[Tensor]) -> Sums:
        """Return the same kind of sums with other values."""
        return Sums(count, tuple(tensors))

    def __add__(self, other: Sums) -> Sums:
        if not isinstance(other, Sums):
            return NotImplemented
        both = zip(self.tensors, other.tensors, strict=True)
        return self.holding(self.count + other.count, [a + b for a, b in both])

    def __radd__(self, other: object) -> Sums:
        return self if isinstance(other, int) and other == 0 else NotImplemented
