"""Disjoint parts of the rows, chosen by what is in a row and by nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .containers import Stream
from .rows import Rows, as_rows

#: Odd constants of 64 bits that mix the bits of a number (Steele, Lea and Flood, "Fast splittable
#: pseudorandom number generators", OOPSLA 2014), as signed numbers.
_MIX = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def hashes(batch: Tensor, seed: int) -> Tensor:
    """Return a number of 32 bits for each row of a batch [b, d], as int64 [b].

    It depends on the numbers in the row and on the seed alone: not on the place of the row, on its
    batch or on the process. Rows of equal numbers have equal hashes, also in different precisions:
    a float16 is hashed as the float64 of the same value, and -0.0 as 0.0. A row that was *rounded*
    to float16 holds other numbers and has another hash.

    This is multiply-shift hashing (Dietzfelbinger et al., 1997) of the 64 bits of each number, with
    a random odd factor for each column.
    """
    random = torch.Generator().manual_seed(seed)
    factors = torch.randint(-(2**62), 2**62, (batch.shape[1],), generator=random) * 2 + 1
    bits = (batch.double() + 0.0).contiguous().view(torch.int64)  # the sum turns -0.0 into 0.0
    bits = (bits ^ (bits >> 32)) * factors.to(batch.device)
    mixed = bits.sum(1)
    for factor in _MIX:
        mixed = (mixed ^ ((mixed >> 30) & (2**34 - 1))) * factor
    return (mixed >> 32) & (2**32 - 1)


def part_numbers(hashed: Tensor, parts: int) -> Tensor:
    """Return the number of the part, from 0 to ``parts`` - 1, of rows with these hashes."""
    return hashed % parts


@dataclass(frozen=True)
class Part:
    """One of several disjoint parts of the rows; equal rows are in the same part.

    Attributes
    ----------
    number : int
        Number of the part, from 0.
    of : int
        Number of parts.
    seed : int
        Seed of the hash that divides the rows.
    """

    number: int
    of: int
    seed: int

    def rows(self, rows: Rows) -> Rows:
        """Return the rows of this part, as a stream of batches."""

        def read(size: int) -> Iterator[Tensor]:
            for batch in rows.batches(size):
                yield batch[part_numbers(hashes(batch, self.seed), self.of) == self.number]

        stream = Stream(rows.dim, rows.dtype, read)
        return Rows([stream], rows.dtype, name=rows.name, device=rows.device)


@dataclass(frozen=True)
class OfPart:
    """``make(rows)`` of those rows that are in a part, as a function that can be pickled."""

    make: Callable[[Any], Any]
    part: Part

    def __call__(self, rows: Any) -> Any:
        """Return what ``make`` makes of the part."""
        return self.make(self.part.rows(as_rows(rows, name="rows", once=True, empty=True)))
