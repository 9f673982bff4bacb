"""Examples of an axis: the rows with the largest codes on it, at either end.

Examples describe an axis without another model or a list of words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .coding import coded_batches, rows_for
from .estimator import CEDAR
from .metrics.inputs import Array
from .settings import checked_ks, whole

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class AxisExamples:
    """The rows with the largest codes on each axis, the largest first.

    Attributes
    ----------
    positive, negative : ndarray ``[axes, n]`` of int64
        Row numbers for the positive and the negative end; -1 where fewer than n rows have a code
        above (below) 0.
    positive_codes, negative_codes : ndarray ``[axes, n]`` of float64
        The codes of these rows, with their signs; 0 where there is no row.
    """

    positive: Index
    negative: Index
    positive_codes: Array
    negative_codes: Array


def top_examples(
    cedar: CEDAR, embeddings: Any, n: int = 9, *, k: int | None = None
) -> AxisExamples:
    """Find the n rows with the largest codes on each axis, and the n rows with the smallest.

    Parameters
    ----------
    cedar : CEDAR
        A fitted model.
    embeddings : array, Tensor or memory map ``[n, d]``; or batches of them
        Embeddings to search. They are read once, so a generator of batches is accepted.
    n : int
        Number of rows for each end of each axis.
    k : int, optional
        Number of nonzero entries of a code, by default that of the fit. A row counts for an axis
        only if the axis is among its k.

    Returns
    -------
    AxisExamples

    Notes
    -----
    Of equal codes, the first rows win. Memory is O(axes n), plus one batch.
    """
    rows = rows_for(cedar.fitted_, embeddings, device=cedar.device)
    found = ExampleSearch(cedar.fitted_.axes, n)
    (entries,) = checked_ks(cedar.k_ if k is None else k, rows.dim)
    for _, codes in coded_batches(cedar.fitted_, rows, (entries,)):
        found.update(codes.cpu().numpy())
    return found.compute()


class ExampleSearch:
    """The search of `top_examples`, for codes that come in batches.

    Parameters
    ----------
    axes : int
        Length of a code.
    n : int
        Number of rows for each end of each axis.
    """

    def __init__(self, axes: int, n: int) -> None:
        self._ends = (_Largest(axes, whole("n", n)), _Largest(axes, n))
        self._seen = 0

    def update(self, codes: npt.NDArray[Any]) -> None:
        """Add the codes ``[b, axes]`` of the next rows."""
        rows, axes = np.nonzero(codes)
        values = codes[rows, axes].astype(np.float64)
        for end, sign in zip(self._ends, (1, -1), strict=True):
            mine = sign * values > 0
            end.update(axes[mine], sign * values[mine], rows[mine] + self._seen)
        self._seen += len(codes)

    def compute(self) -> AxisExamples:
        """Return the rows with the largest codes so far."""
        up, down = self._ends
        return AxisExamples(up.rows.copy(), down.rows.copy(), up.values.copy(), 0.0 - down.values)


class _Largest:
    """The n largest positive values of each axis and their rows, in descending order."""

    def __init__(self, axes: int, n: int) -> None:
        self.values = np.zeros((axes, n))
        self.rows = np.full((axes, n), -1, np.int64)

    def update(self, axes: npt.NDArray[np.intp], values: Array, rows: npt.NDArray[np.intp]) -> None:
        """Add values with their axes and rows; the rows come after all earlier ones."""
        # After a few batches nearly all values are too small, so little is left to sort. Equal
        # values lose, because they come later.
        news = values > self.values[axes, -1]
        axes, values, rows = axes[news], values[news], rows[news]
        changed, counts = np.unique(axes, return_counts=True)
        if not len(changed):
            return
        n = self.values.shape[1]
        axes = np.concatenate([np.repeat(changed, n), axes])
        values = np.concatenate([self.values[changed].ravel(), values])
        rows = np.concatenate([self.rows[changed].ravel(), rows])
        order = np.lexsort((rows, -values, axes))
        ends = np.cumsum(counts + n)
        first = np.concatenate([[0], ends[:-1]])
        kept = order[(first[:, None] + np.arange(n))]
        self.values[changed] = values[kept]
        self.rows[changed] = rows[kept]
