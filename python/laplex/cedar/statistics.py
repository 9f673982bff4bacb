"""The first pass over embeddings: their mean and size, a sample, and checks of the values."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laplex._support.communicator import Communicator, OneProcess, together

from .rows import Rows, as_rows

#: Variances between this and its inverse have squares that float64 can represent.
_LEAST = 1e-290
#: A row with more than this share of the variance dominates a fit, if there are so many rows.
_DOMINANT, _MANY = 0.5, 20
#: Number of random keys that are drawn together.
_KEYS = 2**20
#: Number of columns of a sample that are put in order together.
_COLUMNS = 64
#: Distances from the mean below this, in standard deviations of the rows, count as this: a few rows
#: of padding, at the mean, must not decide what the logarithms are on average.
_NEAR = 1e-3


class ConstantColumnWarning(UserWarning):
    """Some columns of the embeddings have the same value in every row."""


class DominantRowWarning(UserWarning):
    """A single row holds most of the variance of the embeddings."""


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
        Number of rows n, of all processes.
    mean : Tensor [d]
        Mean of the rows, in float64.
    scale : float
        Root of the total variance: of the mean squared norm of the centred rows.
    sample : Tensor [m, d]
        Rows drawn uniformly without replacement, in their order; all rows if there are no more
        than were asked for. Over several processes, those of the rows drawn that are here.
    sampled : int
        Number of rows drawn, of all processes.
    log_norms : tuple of float, or None
        Mean and standard deviation of the logarithm of the distance of a row from the mean, in the
        sample; None without one.
    """

    count: int
    mean: Tensor
    scale: float
    sample: Tensor
    sampled: int
    log_norms: tuple[float, float] | None = None


def gather(
    rows: Rows,
    sample_size: int,
    generator: torch.Generator,
    comm: Communicator | None = None,
    before: int = 0,
) -> Statistics:
    """Collect the statistics of embeddings in one pass, on all processes alike.

    Parameters
    ----------
    rows : Rows
        The rows of this process.
    sample_size : int
        Number of rows to draw from all processes.
    generator : torch.Generator
        Draws a key for each row of all processes, so the sample does not depend on who has it.
    comm : Communicator, optional
        The processes.
    before : int
        Number of rows on the processes before this one.

    Raises
    ------
    ValueError
        If there are fewer than two rows, all rows are the same, or a value is NaN or infinite.

    Warns
    -----
    ConstantColumnWarning
        If a column has the same value in every row.
    DominantRowWarning
        If one row of more than 20 holds more than half of the variance.
    """
    comm = comm or OneProcess()
    sample = _Sample(sample_size, generator, before)
    spread = together(comm, lambda: Spread.of(rows, sample.offer))
    spread = sum(comm.all_gather_object(spread))
    known = spread.checked(rows.name, warn=comm.rank == 0)
    mean, found = known.mean.to(rows.device), sample.rows(comm, rows)
    logs = sum(comm.all_gather_object(log_sums(found, mean, known.scale)))
    return Statistics(
        spread.count,
        mean,
        known.scale,
        found,
        min(sample_size, spread.count),
        mean_and_deviation(logs),
    )


@torch.no_grad()
def log_sums(rows: Tensor, mean: Tensor, scale: float) -> Tensor:
    r"""Return the number of rows and the sums of :math:`\log |z - \text{mean}|` and its square [3].

    Logarithms, because few rows may hold most of a mean of squares. They come in float64 and on the
    CPU.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    for part in torch.split(rows, 2**13):
        distances = ((part - mean.to(part.dtype)) / scale).norm(dim=1).double()
        logs = distances.clamp_min(_NEAR).log() + math.log(scale)
        sums += torch.stack([torch.ones_like(logs), logs, logs.square()]).sum(1).cpu()
    return sums


def mean_and_deviation(sums: Tensor) -> tuple[float, float] | None:
    """Return mean and standard deviation from a count and sums [3]; None of no rows."""
    count, total, square = sums.tolist()
    if not count:
        return None
    return total / count, max(0.0, square / count - (total / count) ** 2) ** 0.5


def drawn(rows: Rows, size: int, seed: int, comm: Communicator, before: int) -> Rows:
    """Draw rows uniformly from those of all processes; return those that are here, in memory.

    Parameters are those of `gather`.
    """
    sample = _Sample(size, torch.Generator().manual_seed(seed), before)

    def read() -> None:
        for batch in rows.batches():
            sample.offer(batch)

    together(comm, read)
    return Rows([sample.rows(comm, rows)], rows.dtype, name=rows.name, device=rows.device)


@dataclass(frozen=True, eq=False)
class Spread:
    """Sums over rows that give their mean and variance, and can be added over parts of the data.

    Attributes
    ----------
    count : int
        Number of rows.
    dim : int
        Number of columns, d; 0 if there were no batches at all.
    dtype : torch.dtype
        Precision of the rows.
    sums : tuple of Tensor, or None
        Without rows None, else in float64 on the CPU: a row; the sums of the differences to it
        [d] and of their squares []; the least and the largest values of the columns [d]; and the
        largest of the differences [d].
    """

    count: int
    dim: int
    dtype: torch.dtype
    sums: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor] | None

    @classmethod
    def of(cls, rows: Any, see: Callable[[Tensor], None] = lambda batch: None) -> Spread:
        """Sum rows up; `see` is called with each batch."""
        given = as_rows(rows, name="rows", once=True, empty=True)
        count = 0
        shift: Tensor | None = None
        for batch in given.batches():
            exact = batch.double()
            if shift is None:  # sums of differences to the first row: a common mean does not cancel
                shift = exact[0].clone()
                total = torch.zeros_like(shift)
                square = torch.zeros((), dtype=torch.float64, device=batch.device)
                low, high = batch.amin(0), batch.amax(0)
                far = torch.zeros_like(shift)
            exact = exact - shift
            total += exact.sum(0)
            squares = exact.square().sum(1)
            square += squares.sum()
            far = _longer(far, exact[squares.argmax()])
            low, high = torch.minimum(low, batch.amin(0)), torch.maximum(high, batch.amax(0))
            see(batch)
            count += len(batch)
        if shift is None:
            return cls(0, given.dim, given.dtype, None)
        sums = (shift, total, square, low.double(), high.double(), far)
        shift, total, square, low, high, far = (one.cpu() for one in sums)
        return cls(count, given.dim, given.dtype, (shift, total, square, low, high, far))

    def __add__(self, other: Spread) -> Spread:
        if not isinstance(other, Spread):
            return NotImplemented
        if other.sums is None:
            return self
        if self.sums is None:
            return other
        if self.dim != other.dim:
            raise ValueError(
                f"parts of the data have {self.dim} and {other.dim} columns: pass rows of one width"
            )
        shift, total, square, low, high, far = self.sums
        gap = other.sums[0] - shift
        far = _longer(_longer(far, gap), other.sums[5] + gap)
        total = total + other.sums[1] + other.count * gap
        square = square + other.sums[2] + 2 * gap @ other.sums[1] + other.count * gap.square().sum()
        low, high = torch.minimum(low, other.sums[3]), torch.maximum(high, other.sums[4])
        return Spread(
            self.count + other.count,
            self.dim,
            torch.promote_types(self.dtype, other.dtype),
            (shift, total, square, low, high, far),
        )

    def __radd__(self, other: object) -> Spread:
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def checked(self, name: str, *, warn: bool = True) -> Statistics:
        """Return the statistics, without a sample, if the rows are enough to learn from."""
        count = self.count
        if self.sums is None or count < 2:
            raise ValueError(
                f"{name} has {count} sample(s), n_samples = {count}, but a change of basis is "
                "learned from at least 2 rows: pass more embeddings"
            )
        shift, total, square, low, high, far = self.sums
        offset = total / count
        variance = float(square / count - offset.square().sum())
        varies = bool((low < high).any())
        if varies and not _LEAST < variance < 1 / _LEAST:
            size = "small" if 0 <= variance < 1 else "large"  # NaN if the sums overflowed
            raise _out_of_range(name, size, torch.maximum(low.abs(), high.abs()).max())
        if not varies:
            raise ValueError(
                f"all {count} rows of {name} are the same, so there is nothing to learn: pass "
                "rows that differ"
            )
        largest = torch.maximum(low.abs(), high.abs()).max()
        # Sums over a row, of the precision of the rows.
        if float(largest) > torch.finfo(self.dtype).max / (4 * self.dim):
            raise ValueError(
                f"{name} is so large that sums over its rows do not fit {self.dtype}: divide it by "
                f"{float(largest):.3g}"
            )
        constant = (low == high).nonzero()[:, 0].tolist()
        if constant and warn:
            named = ", ".join(map(str, constant[:5])) + (", ..." if len(constant) > 5 else "")
            warnings.warn(
                f"{name} has {len(constant)} constant columns ({named}): they carry no "
                "information, and as many axes stay unused. Remove them, or ignore this warning",
                ConstantColumnWarning,
                stacklevel=7,  # the caller of CEDAR.fit
            )
        # A row with most of the variance is the first row, or the farthest from that.
        share = float(torch.stack([far - offset, offset]).square().sum(1).max()) / variance / count
        if share > _DOMINANT and count > _MANY and warn:
            warnings.warn(
                f"one of the {count} rows of {name} holds {share:.0%} of their variance, so the "
                "fit follows it alone: remove it if it is damaged, or divide rows by their norm",
                DominantRowWarning,
                stacklevel=7,
            )
        none = torch.empty(0, self.dim, dtype=self.dtype)
        return Statistics(count, shift + offset, variance**0.5, none, 0)


def _longer(first: Tensor, second: Tensor) -> Tensor:
    return first if first.square().sum() >= second.square().sum() else second


class _Sample:
    """A uniform sample in one pass: the rows with the smallest of n random keys.

    The first ``before`` keys are those of rows that others have. Memory is that of the sample: a
    row that is better than those so far takes the place of the worst of them.
    """

    def __init__(self, size: int, generator: torch.Generator, before: int) -> None:
        self._size = size
        self._generator = generator
        self._keys = torch.empty(0, dtype=torch.float64)
        self._places = torch.empty(0, dtype=torch.int64)  # numbers of the rows in the source
        self._rows: Tensor | None = None  # [size, d], of which as many as keys are in use
        self._seen = 0
        while before > 0:
            before -= len(self._draw(min(before, _KEYS)))

    def _draw(self, count: int) -> Tensor:
        return torch.rand(count, generator=self._generator, dtype=torch.float64)

    def offer(self, batch: Tensor) -> None:
        keys = self._draw(len(batch))
        places = torch.arange(self._seen, self._seen + len(batch))
        self._seen += len(batch)
        if self._rows is None:
            self._rows = batch.new_empty(self._size, batch.shape[1])
        held = len(self._keys)
        room = min(len(keys), self._size - held)
        self._rows[held : held + room] = batch[:room]
        self._keys = torch.cat([self._keys, keys[:room]])
        self._places = torch.cat([self._places, places[:room]])
        if room == len(keys):
            return
        # The best of the new rows against the worst of the old ones, one by one.
        better = (keys < self._keys.max()).nonzero()[:, 0]
        better = better[better >= room]
        new = better[keys[better].argsort()][: self._size]
        old = self._keys.topk(len(new)).indices
        won = keys[new] < self._keys[old]
        new, old = new[won], old[won]
        self._keys[old], self._places[old] = keys[new], places[new]
        self._rows[old.to(batch.device)] = batch[new.to(batch.device)]

    def rows(self, comm: Communicator, rows: Rows) -> Tensor:
        """Return those rows of the sample of all processes that are here, in their order."""
        held = self._rows
        if held is None:
            held = torch.empty(0, rows.dim, dtype=rows.dtype, device=rows.device)
        found = held[: len(self._keys)]
        order = self._places.argsort()
        if self._seen > len(order):
            for columns in torch.split(found, _COLUMNS, dim=1):  # a few at a time, to save memory
                columns.copy_(columns[order.to(found.device)])
        if comm.size == 1:
            return found
        keys = self._keys[order]
        everyone = torch.from_numpy(np.concatenate(comm.all_gather(keys.numpy())))
        if len(everyone) <= self._size:
            return found
        limit = everyone.kthvalue(self._size).values
        return found[(keys <= limit).to(found.device)]
