"""The first pass over embeddings: their mean and size, a sample, and checks of the values."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from .rows import Rows

#: Variances between this and its inverse have squares that float64 can represent.
_LEAST = 1e-290


class ConstantColumnWarning(UserWarning):
    """Some columns of the embeddings have the same value in every row."""


def check_size(largest: Tensor, name: str) -> None:
    """Raise an error for numbers whose squares overflow a float64."""
    if float(largest) > _LEAST**-0.5:
        raise _out_of_range(name, "large", largest)


def _out_of_range(name: str, size: str, largest: Tensor) -> ValueError:
    return ValueError(
        f"{name} is so {size} that its squares do not fit a float64: divide it by "
        f"{float(largest):.3g}"
    )


@dataclass(frozen=True)
class Statistics:
    """Statistics of embeddings [n, d] from one pass over them.

    Attributes
    ----------
    count : int
        Number of rows n.
    mean : Tensor [d]
        Mean of the rows, in float64.
    scale : float
        Root of the total variance: of the mean squared norm of the centred rows.
    sample : Tensor [m, d]
        Rows drawn uniformly without replacement, in their order; all rows if there are no more
        than were asked for.
    """

    count: int
    mean: Tensor
    scale: float
    sample: Tensor


def gather(rows: Rows, sample_size: int, generator: torch.Generator) -> Statistics:
    """Collect the statistics of embeddings in one pass.

    Raises
    ------
    ValueError
        If there are fewer than two rows, all rows are the same, or a value is NaN or infinite.

    Warns
    -----
    ConstantColumnWarning
        If a column has the same value in every row.
    """
    count = 0
    shift: Tensor | None = None
    sample = _Sample(sample_size, generator)
    for batch in rows.batches():
        exact = batch.double()
        if shift is None:  # sums of differences to the first row: a common mean does not cancel
            shift = exact[0].clone()
            total = torch.zeros_like(shift)
            square = torch.zeros((), dtype=torch.float64, device=batch.device)
            low, high = batch.amin(0), batch.amax(0)
        exact = exact - shift
        total += exact.sum(0)
        square += exact.square().sum()
        low, high = torch.minimum(low, batch.amin(0)), torch.maximum(high, batch.amax(0))
        sample.offer(batch)
        count += len(batch)
    if shift is None or count < 2:
        raise ValueError(
            f"{rows.name} has {count} sample(s), n_samples = {count}, but a change of basis is "
            "learned from at least 2 rows: pass more embeddings"
        )
    offset = total / count
    variance = float(square / count - offset.square().sum())
    varies = bool((low < high).any())
    if varies and not _LEAST < variance < 1 / _LEAST:
        size = "large" if variance > 1 else "small"
        raise _out_of_range(rows.name, size, torch.maximum(low.abs(), high.abs()).max())
    if not varies:
        raise ValueError(
            f"all {count} rows of {rows.name} are the same, so there is nothing to learn: pass "
            "rows that differ"
        )
    constant = (low == high).nonzero()[:, 0].tolist()
    if constant:
        named = ", ".join(map(str, constant[:5])) + (", ..." if len(constant) > 5 else "")
        warnings.warn(
            f"{rows.name} has {len(constant)} constant columns ({named}): they carry no "
            "information, and as many axes stay unused. Remove them, or ignore this warning",
            ConstantColumnWarning,
            stacklevel=4,
        )
    return Statistics(count, shift + offset, variance**0.5, sample.rows())


class _Sample:
    """A uniform sample in one pass: the rows with the smallest of n random keys."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self._size = size
        self._generator = generator
        self._keys: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._held = 0
        self._limit = 1.0  # above it no key is among the smallest

    def offer(self, batch: Tensor) -> None:
        keys = torch.rand(len(batch), generator=self._generator, dtype=torch.float64)
        chosen = (keys < self._limit).nonzero()[:, 0]
        if not chosen.numel():
            return
        self._keys.append(keys[chosen])
        self._rows.append(batch[chosen.to(batch.device)])
        self._held += len(chosen)
        if self._held > 2 * self._size:  # seldom, as each time moves the whole sample
            self._thin()

    def rows(self) -> Tensor:
        if self._held > self._size:
            self._thin()
        return torch.cat(self._rows)

    def _thin(self) -> None:
        keys, rows = torch.cat(self._keys), torch.cat(self._rows)
        chosen = keys.topk(self._size, largest=False).indices.sort().values
        self._keys, self._rows = [keys[chosen]], [rows[chosen.to(rows.device)]]
        self._held, self._limit = self._size, float(self._keys[0].max())
