"""The rows of all processes, of which this one has some."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from laplex._support.communicator import Communicator, OneProcess, together

from .moments import Moments
from .parts import OfPart, Part
from .rows import Rows, as_rows
from .statistics import Spread, Statistics, gather
from .sums import Sums

#: Largest numbers of rows and of entries of a file or a loader that are shuffled together.
_BUFFER_ROWS, _BUFFER_NUMBERS = 2**16, 2**25

Pass = TypeVar("Pass", Moments, Sums)


class Shards:
    """The rows of all processes, numbered in the order of the ranks; this one has some of them.

    Parameters
    ----------
    rows : Rows
        The rows of this process.
    comm : Communicator, optional
        The processes.

    Attributes
    ----------
    before : int
        Number of rows on the ranks before this one.
    """

    def __init__(self, rows: Rows, comm: Communicator | None = None) -> None:
        self.rows = rows
        self.comm = comm or OneProcess()
        self.before = 0
        if self.comm.size > 1:  # a stream is read once more: its rows must be numbered
            self._share_lengths()
            self.before = int(sum(self._counts[: self.comm.rank]))

    def _share_lengths(self) -> None:
        rows = self.rows
        mine = together(self.comm, rows.lengths)
        everyone = self.comm.all_gather_object((mine, rows.count is None, rows.in_memory))
        self._lengths = [length for lengths, _, _ in everyone for length in lengths]
        self._counts = [sum(lengths) for lengths, _, _ in everyone]
        self._stream = any(stream for _, stream, _ in everyone)
        self._in_memory = all(in_memory for _, _, in_memory in everyone)

    def statistics(self, sample_size: int, generator: torch.Generator) -> Statistics:
        """Make the first pass."""
        return gather(self.rows, sample_size, generator, self.comm, self.before)

    def total(self, make: Callable[[Any], Pass], part: Any = None) -> Pass:
        """Return the sum of ``make(rows)`` over all processes, here of the rows or a part of them.

        Raises
        ------
        ValueError
            On all of them, if one has not as many rows as in the first pass.
        """

        def mine() -> Pass:
            found = make(self.rows if part is None else part)
            count = sum(self.rows.lengths())
            if part is None and found.count != count:
                raise ValueError(
                    f"{self.rows.name} had {count} rows in the first pass and {found.count} in a "
                    "later one: it must give the same rows each time"
                )
            return found

        return _summed(self.comm, together(self.comm, mine))

    def part(self, part: Part) -> Shards:
        """Return the rows that are in a part, on the processes that have them."""
        return Shards(part.rows(self.rows), self.comm)

    def everything(self, part: Tensor) -> Tensor:
        """Return the rows [b, d] that the ranks have, one after the other."""
        return part if self.comm.size == 1 else self._concatenated(part)

    def blocks(
        self, random: torch.Generator
    ) -> Iterator[tuple[int, int, Callable[[Tensor], Tensor]]]:
        """Yield ranges of row numbers that are shuffled together, and a function that reads them.

        Rows in memory are one range. A file is cut into ranges, which come in random order, and
        the batches of a stream are put together in their order. The function takes numbers of rows
        in the range and returns these rows, on all processes.
        """
        if self.comm.size == 1:
            self._share_lengths()  # a stream has been read by now
        total = sum(self._counts)
        size = max(1, min(_BUFFER_ROWS, _BUFFER_NUMBERS // max(1, self.rows.dim)))
        if self._stream:
            yield from self._of_stream(size)
        elif self._in_memory:
            yield 0, total, lambda numbers: self._joined(numbers, self.rows.take)
        else:
            starts = torch.arange(0, total, size)
            for start in starts[torch.randperm(len(starts), generator=random)].tolist():
                stop = min(start + size, total)
                low, high = self._own(start, stop)
                read = partial(self.rows.take, torch.arange(low, high))
                yield start, stop, self._reader(together(self.comm, read), low)

    def _of_stream(self, size: int) -> Iterator[tuple[int, int, Callable[[Tensor], Tensor]]]:
        batches = self.rows.batches()
        held = torch.empty(0, self.rows.dim, dtype=self.rows.dtype, device=self.rows.device)
        start = stop = 0
        for place, length in enumerate(self._lengths, 1):
            stop += length
            if stop - start < size and place < len(self._lengths):
                continue
            low, high = self._own(start, stop)
            held = together(self.comm, partial(self._filled, held, batches, high - low))
            yield start, stop, self._reader(held[: high - low], low)
            held, start = held[high - low :], stop

    def _filled(self, held: Tensor, batches: Iterator[Tensor], count: int) -> Tensor:
        parts, there = [held], len(held)
        while there < count:
            batch = next(batches, None)
            if batch is None:
                raise ValueError(
                    f"{self.rows.name} has fewer rows than in the first pass: it must give the "
                    "same rows each time"
                )
            parts.append(batch)
            there += len(batch)
        return torch.cat(parts)

    def _own(self, start: int, stop: int) -> tuple[int, int]:
        """Return the range of the rows of this process that are in a range of all rows."""
        count = self._counts[self.comm.rank]
        low = min(max(start - self.before, 0), count)
        return low, max(low, min(stop - self.before, count))

    def _reader(self, block: Tensor, low: int) -> Callable[[Tensor], Tensor]:
        return lambda numbers: self._joined(
            numbers, lambda own: block[(own - low).to(block.device)]
        )

    def _joined(self, numbers: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the rows with the given numbers, which ``read`` gets where they are."""
        comm = self.comm
        if comm.size == 1:
            return read(numbers)
        owner = torch.bucketize(numbers, torch.tensor(self._counts).cumsum(0), right=True)
        mine = numbers[owner == comm.rank] - self.before
        part = together(comm, lambda: read(mine))
        found = self._concatenated(part, torch.bincount(owner, minlength=comm.size).tolist())
        result = torch.empty_like(found)
        result[owner.argsort(stable=True).to(found.device)] = found
        return result

    def _concatenated(self, part: Tensor, counts: list[int] | None = None) -> Tensor:
        dim = part.shape[1]
        sizes = None if counts is None else [count * dim for count in counts]
        parts = self.comm.all_gather(part.cpu().numpy().ravel(), sizes)
        return torch.from_numpy(np.concatenate(parts)).view(-1, dim).to(part.device)


class Elsewhere:
    """Rows that other processes hold and sum up; there is no sample of them here.

    Parameters
    ----------
    map_reduce : callable
        ``map_reduce(make)`` returns the sum of ``make(rows)`` over all parts of the rows.
    device : torch.device
        Where to solve.
    """

    def __init__(self, map_reduce: Callable[[Callable[[Any], Any]], Any], device: Any) -> None:
        self.comm = OneProcess()
        self._map_reduce = map_reduce
        spread: Spread = self._sum(Spread.of, (Spread,))
        self._statistics = spread.checked("X")
        self.rows = as_rows(
            torch.empty(0, spread.dim), dtype=spread.dtype, device=device, empty=True
        )

    def statistics(self, sample_size: int, generator: torch.Generator) -> Statistics:
        """Return what the first pass found."""
        return replace(self._statistics, mean=self._statistics.mean.to(self.rows.device))

    def total(self, make: Callable[[Any], Pass], part: Any = None) -> Pass:
        """Return the sum of ``make(rows)`` over all parts."""
        found: Pass = self._sum(make, (Moments, Sums))
        if found.count != self._statistics.count:
            raise ValueError(
                f"map_reduce passed over {self._statistics.count} rows at first and "
                f"{found.count} later: it must use the same parts each time"
            )
        return found

    def part(self, part: Part) -> Elsewhere:
        """Return the rows that are in a part."""
        return Elsewhere(lambda make: self._map_reduce(OfPart(make, part)), self.rows.device)

    def _sum(self, make: Callable[[Any], Any], kinds: tuple[type, ...]) -> Any:
        found = self._map_reduce(make)
        if not isinstance(found, kinds):
            raise TypeError(
                "map_reduce(make) must return the sum of make(rows) over all parts of the data, "
                f"got {type(found).__name__}"
            )
        return found


def _summed(comm: Communicator, sums: Pass) -> Pass:
    """Return the sums over all ranks, by one all_reduce."""
    if comm.size == 1:
        return sums
    tensors: tuple[Tensor, ...] = sums.tensors
    flat = np.concatenate([[sums.count], *(one.cpu().numpy().ravel() for one in tensors)])
    ends = np.cumsum([1, *(one.numel() for one in tensors[:-1])])
    count, *parts = np.split(comm.all_reduce(flat), ends)
    shaped = [
        torch.from_numpy(part).view(one.shape).to(one.device)
        for part, one in zip(parts, tensors, strict=True)
    ]
    return sums.holding(int(count.item()), shaped)
