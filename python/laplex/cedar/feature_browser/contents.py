"""What the browser shows: statistics of the axes, and the codes of all rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from laplex._support.progress import progress_bar

from ..axis_examples import AxisExamples, ExampleSearch
from ..coding import coded_batches, entries_of, joined
from ..estimator import CEDAR
from ..metrics.inputs import Array
from ..rows import Rows

#: Bins of the histogram of an axis, half of them below 0.
BINS = 40
#: Number of axes listed as similar to one.
SIMILAR = 8
_AXES_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Contents:
    """Statistics of the axes, and codes of the rows.

    Attributes
    ----------
    entries : ndarray ``[n, k]`` of int32
        Axes of each code.
    values : ndarray ``[n, k]``
        Coefficients on these axes; 0 where a code has fewer than k entries.
    share : ndarray ``[axes]``
        Share of each axis in the energy of the codes, :math:`E s_i^2 |a_i|^2` over its sum.
    counts : ndarray ``[2, axes]`` of int64
        Numbers of rows whose code has the axis with a positive and with a negative sign.
    limits : ndarray ``[axes]``
        Largest absolute value of the coefficients of each axis.
    histograms : ndarray ``[axes, BINS]`` of int64
        Numbers of nonzero coefficients in equal bins from minus to plus the limit of the axis.
    similar : ndarray ``[axes, SIMILAR]`` of int64
        The axes whose absolute coefficients have the largest cosine with those of each axis, over
        the rows; -1 where fewer axes have any.
    cosines : ndarray ``[axes, SIMILAR]``
        These cosines.
    examples : AxisExamples
        The rows with the largest codes of each axis.
    """

    entries: npt.NDArray[np.int32]
    values: Array
    share: Array
    counts: npt.NDArray[np.int64]
    limits: Array
    histograms: npt.NDArray[np.int64]
    similar: npt.NDArray[np.int64]
    cosines: Array
    examples: AxisExamples


def gather(cedar: CEDAR, rows: Rows, examples: int, progress: bool) -> Contents:
    """Code the embeddings in one pass, and compute the statistics; memory is O(n k + axes)."""

    def blocks() -> Iterator[Array]:
        done = 0
        with progress_bar(progress, extra="cedar") as report:
            for batch, codes in coded_batches(cedar.fitted_, rows, (cedar.k_,)):
                yield codes.double().cpu().numpy()
                done += len(batch)
                report("computing codes", done, rows.count, "")

    norms = cedar.basis_.atom_norms
    lengths = np.ones(cedar.fitted_.axes) if norms is None else norms.double().cpu().numpy()
    return statistics(blocks(), rows.count, cedar.k_, lengths, examples)


def statistics(
    blocks: Iterable[Array], rows: int | None, k: int, lengths: Array, examples: int
) -> Contents:
    """Compute the statistics of codes.

    Parameters
    ----------
    blocks : iterable of ndarrays ``[b, axes]``
        The codes.
    rows : int, optional
        Number of all codes, if it is known.
    k : int
        Largest number of nonzero entries of a code.
    lengths : ndarray ``[axes]``
        Norms of the atoms.
    examples : int
        Number of examples for each end of each axis.
    """
    axes = len(lengths)
    search = ExampleSearch(axes, examples)

    def seen(block: Array) -> Sequence[Array]:
        search.update(block)
        return entries_of(block, k)

    entries, values = joined(map(seen, blocks), rows)
    count = len(entries)
    kept = values != 0
    axis, value = entries[kept], values[kept]
    row = np.nonzero(kept)[0]

    energy = np.bincount(axis, np.square(value * lengths[axis]), axes)
    counts = np.stack([np.bincount(axis[sign * value > 0], minlength=axes) for sign in (1, -1)])
    limits = np.zeros(axes)
    np.maximum.at(limits, axis, np.abs(value))
    half = BINS // 2
    place = np.minimum((np.abs(value) / limits[axis] * half).astype(np.int64), half - 1)
    bins = np.where(value > 0, half + place, half - 1 - place)
    sizes = scipy.sparse.csc_array((np.abs(value), (row, axis)), shape=(count, axes))
    similar, cosines = _similar(sizes)
    return Contents(
        entries=entries,
        values=values,
        share=energy / max(energy.sum(), np.finfo(np.float64).tiny),
        counts=counts,
        limits=limits,
        histograms=np.bincount(axis * BINS + bins, minlength=axes * BINS).reshape(axes, BINS),
        similar=similar,
        cosines=cosines,
        examples=search.compute(),
    )


def _similar(sizes: Any) -> tuple[npt.NDArray[np.int64], Array]:
    """Return the columns with the largest cosines to each column, and the cosines."""
    axes = sizes.shape[1]
    norms = np.sqrt((sizes * sizes).sum(axis=0))
    norms[norms == 0] = 1.0
    unit = (sizes / norms).tocsc()
    similar = np.full((axes, SIMILAR), -1, np.int64)
    cosines = np.zeros((axes, SIMILAR))
    listed = min(SIMILAR, axes - 1)
    for start in range(0, axes, _AXES_AT_ONCE):
        found = (unit[:, start : start + _AXES_AT_ONCE].T @ unit).toarray()
        own = np.arange(len(found))
        found[own, start + own] = -1
        best = np.argsort(-found, axis=1, kind="stable")[:, :listed]
        values = np.take_along_axis(found, best, axis=1)
        block = slice(start, start + len(found))
        similar[block, :listed] = np.where(values > 0, best, -1)
        cosines[block, :listed] = np.maximum(values, 0)
    return similar, cosines
