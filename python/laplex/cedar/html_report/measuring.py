"""Measurements of the codes for the report, in one pass over the embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from laplex._support.progress import progress_bar

from ..axis_examples import AxisExamples, ExampleSearch
from ..coding import coded_batches, restored
from ..estimator import CEDAR
from ..metrics import Reconstruction, ReconstructionReport
from ..metrics.inputs import Array
from ..rows import Rows

#: Edges of the histogram of ``abs(s_i) * norm(a_i) / scale_``: four decades, and all outside them.
EDGES = np.concatenate([[0.0], np.logspace(-3, 1, 65), [np.inf]])

#: Entries above this fraction of `scale_` count as clear.
_CLEAR = 0.1


@dataclass(frozen=True, eq=False)
class Measured:
    """Measurements of the codes of embeddings.

    Attributes
    ----------
    count : int
        Number of embeddings.
    reports : dict
        A report for each k of the model; the other attributes are for the largest k.
    share : ndarray ``[axes]``
        Share of each axis in the energy of the codes, :math:`E s_i^2 |a_i|^2` over its sum.
    sizes : ndarray ``[2, bins]`` of int64
        Numbers of entries above (row 0) and below 0 (row 1) between the bin edges.
    clear : ndarray ``[2, axes]`` of int64
        Numbers of rows in which the contribution of an axis, above (row 0) and below 0 (row 1), is
        more than a tenth of ``scale_``. A code always has k entries: where fewer causes are at
        work, the rest are noise.
    examples : AxisExamples
        The rows with the largest codes of each axis.
    """

    count: int
    reports: dict[int, ReconstructionReport]
    share: Array
    sizes: npt.NDArray[np.int64]
    clear: npt.NDArray[np.int64]
    examples: AxisExamples

    @property
    def report(self) -> ReconstructionReport:
        """The report for the largest k."""
        return self.reports[max(self.reports)]


def measure(
    cedar: CEDAR, rows: Rows, ks: tuple[int, ...], examples: int, progress: bool
) -> Measured:
    """Measure the codes in one pass over the embeddings, for ks in ascending order."""
    norms = cedar.basis_.atom_norms
    lengths = np.ones(cedar.fitted_.axes) if norms is None else norms.double().cpu().numpy()
    measured = {k: Reconstruction(cedar.mean_) for k in ks}
    energy = np.zeros(cedar.fitted_.axes)
    sizes = np.zeros((2, len(EDGES) - 1), np.int64)
    clear = np.zeros((2, cedar.fitted_.axes), np.int64)
    search = ExampleSearch(cedar.fitted_.axes, examples)
    count = 0
    with progress_bar(progress, extra="cedar") as report:
        for batch, *codes in coded_batches(cedar.fitted_, rows, ks):
            for one, entries in zip(measured.values(), codes, strict=True):
                one.update(batch, restored(cedar.fitted_, entries), entries)
            last = codes[-1].double().cpu().numpy()
            search.update(last)
            parts = last * lengths
            energy += np.square(parts).sum(axis=0)
            least = _CLEAR * (cedar.scale_ or 1.0)
            clear += np.stack([(parts > least).sum(axis=0), (parts < -least).sum(axis=0)])
            for sign, half in enumerate((parts[parts > 0], -parts[parts < 0])):
                sizes[sign] += np.histogram(half / (cedar.scale_ or 1.0), EDGES)[0]
            count += len(last)
            report("computing codes", count, rows.count, "")
    total = energy.sum()
    return Measured(
        count=count,
        reports={k: one.compute() for k, one in measured.items()},
        share=energy / total if total > 0 else energy,
        sizes=sizes,
        clear=clear,
        examples=search.compute(),
    )
