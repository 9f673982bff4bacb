"""Endless shuffled mini-batches, which can continue from a noted place."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .shards import Shards


class MiniBatches:
    """Batches of ``size`` rows that use every row once per epoch, in a new order each epoch.

    Arrays and tensors in memory are shuffled as a whole. A file is read in blocks of rows, in
    random order, and each block is shuffled. The batches of a loader are shuffled within a buffer,
    so rows of one kind should not stand together there. Where the rows are on several processes,
    each of them gets the whole batch.

    Parameters
    ----------
    shards : Shards
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

    def __init__(
        self, shards: Shards, size: int, seed: int, *, epoch: int = 0, used: int = 0
    ) -> None:
        self._shards = shards
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
        raise ValueError(f"{self._shards.rows.name} has no rows left: it can be iterated only once")

    def _epoch(self, skip: int = 0) -> Iterator[Tensor]:
        random = torch.Generator().manual_seed(self._seed + 1_000_003 * self.epoch)
        for start, stop, read in self._shards.blocks(random):
            parts = self._parts(start + torch.randperm(stop - start, generator=random))
            for part in parts[skip:]:
                yield read(part)
            skip = max(0, skip - len(parts))

    def _parts(self, order: Tensor) -> list[Tensor]:
        parts = list(torch.split(order, self._size))
        if len(parts) > 1 and len(parts[-1]) < self._size:
            parts.pop()
        return parts
