"""Splitting embeddings into rows for training and rows for the test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from ..rows import Rows, as_rows

#: Number of rows that are read from a file at a time.
_BATCH_ROWS = 4096


class Subset:
    """Some rows of a file, as batches that can be iterated again; they are never all in memory."""

    def __init__(self, rows: Rows, index: Tensor) -> None:
        self._rows = rows
        self._index = index

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[Tensor]:
        for part in torch.split(self._index, _BATCH_ROWS):
            yield self._rows.take(part)


def held_out(embeddings: Any, test_size: float | int, seed: int) -> tuple[Any, Any]:
    """Split embeddings at random into rows for training and rows for the test.

    Parameters
    ----------
    embeddings : array, Tensor or memory map [n, d]
        The rows to split.
    test_size : float or int
        Fraction or number of test rows, as in scikit-learn's ``train_test_split``.
    seed : int
        Seed of the split.

    Returns
    -------
    train, test : Tensor, or Subset of a file

    Raises
    ------
    ValueError
        If embeddings come in batches, which cannot be split, or a part has fewer than two rows.
    """
    rows = as_rows(embeddings, name="embeddings")
    if rows.count is None:
        raise ValueError("compare cannot split embeddings that come in batches: pass test as well")
    if rows.count < 4:
        raise ValueError(f"embeddings have {rows.count} rows, but compare needs at least 4")
    train, test = train_test_split(range(rows.count), test_size=test_size, random_state=seed)
    for name, index in (("training", train), ("test", test)):
        if len(index) < 2:
            raise ValueError(
                f"test_size={test_size} leaves {len(index)} {name} rows, but at least 2 are needed"
            )
    parts = [torch.tensor(index).sort().values for index in (train, test)]
    if rows.in_memory:
        return rows.take(parts[0]), rows.take(parts[1])
    return Subset(rows, parts[0]), Subset(rows, parts[1])
