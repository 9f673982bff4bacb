"""Endless shuffled mini-batches, which can continue from a noted place."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .rows import Rows

#: Number of rows of a file or a loader that are shuffled together.
_BUFFER_ROWS = 2**16


class MiniBatches:
    """Batches of ``size`` rows that use every row once per epoch, in a new order each epoch.

    Arrays and tensors in memory are shuffled as a whole. A file is read in blocks of rows, in
    random order, and each block is shuffled. The batches of a loader are shuffled within a buffer,
    so rows of one kind should not stand together there.

    Parameters
    ----------
    rows : Rows
        The embeddings.
    size : int
        Number of rows in a batch. The rest of an epoch that does not fill a batch is dropped,
        unless it is the whole epoch.
    seed : int
        Seed of the order.
    epoch : int
        Epoch to start in.
    used : int
        Number of batches of that epoch to skip.
    """

    def __init__(self, rows: Rows, size: int, seed: int, *, epoch: int = 0, used: int = 0) -> None:
        self._rows = rows
        self._size = size
        self._seed = seed
        self.epoch = epoch
        self.used = used
        self._stream = self._epoch(skip=used)

    def __next__(self) -> Tensor:
        for _ in range(2):
            batch = next(self._stream, None)
            if batch is not None:
                self.used += 1
                return batch
            self.epoch, self.used = self.epoch + 1, 0
            self._stream = self._epoch()
        raise ValueError(f"{self._rows.name} has no rows left: it can be iterated only once")

    def _epoch(self, skip: int = 0) -> Iterator[Tensor]:
        random = torch.Generator().manual_seed(self._seed + 1_000_003 * self.epoch)
        rows = self._rows
        if rows.in_memory and rows.count is not None:
            order = torch.randperm(rows.count, generator=random)
            for part in self._parts(order)[skip:]:
                yield rows.take(part)
        else:
            yield from self._shuffled(random, skip)

    def _shuffled(self, random: torch.Generator, skip: int) -> Iterator[Tensor]:
        for block in self._blocks(random):
            order = torch.randperm(len(block), generator=random)
            parts = self._parts(order)
            for part in parts[skip:]:
                yield block[part.to(block.device)]
            skip = max(0, skip - len(parts))

    def _blocks(self, random: torch.Generator) -> Iterator[Tensor]:
        rows = self._rows
        if rows.count is not None:
            starts = torch.arange(0, rows.count, _BUFFER_ROWS)
            for start in starts[torch.randperm(len(starts), generator=random)].tolist():
                yield rows.take(torch.arange(start, min(start + _BUFFER_ROWS, rows.count)))
            return
        held: list[Tensor] = []
        for batch in rows.batches():
            held.append(batch)
            if sum(map(len, held)) >= _BUFFER_ROWS:
                yield torch.cat(held)
                held = []
        if held:
            yield torch.cat(held)

    def _parts(self, order: Tensor) -> list[Tensor]:
        parts = list(torch.split(order, self._size))
        if len(parts) > 1 and len(parts[-1]) < self._size:
            parts.pop()
        return parts
