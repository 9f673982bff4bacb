"""Monosemanticity score: how alike the examples are that activate an axis."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import nan

import numpy as np
import numpy.typing as npt

from .inputs import (
    Array,
    ArrayInput,
    float64,
    row_blocks,
    same_rows,
    same_shape,
    same_width,
    unit_rows,
    untouched,
)

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MonosemanticityReport:
    """Result of ``Monosemanticity.compute``.

    Attributes
    ----------
    positive, negative : ndarray ``[axes]``
        Scores of the two halves of each axis, in [-1, 1]; nan where fewer than two examples have
        a positive weight.
    positive_count, negative_count : ndarray ``[axes]`` of int64
        Numbers of examples with a positive weight. A score of two examples says little.
    all_pairs : float
        Mean cosine of all pairs of examples. This is the score of an axis that all examples
        activate equally, and hence the level to compare with. nan for a single example.
    count : int
        Number of examples.
    """

    positive: Array
    negative: Array
    positive_count: Counts = field(repr=False)
    negative_count: Counts = field(repr=False)
    all_pairs: float
    count: int


class Monosemanticity:
    r"""Accumulates the monosemanticity score of each half of each axis over batches.

    .. math::
        \text{MS} = \frac{\sum_{i<j} w_i w_j \cos(e_i, e_j)}{\sum_{i<j} w_i w_j}, \qquad
        w_i = \frac{a_i - \min a}{\max a - \min a}

    Here e are embeddings of the examples by an *independent* encoder. The embeddings that the codes
    come from would reward any linear readout. The activations a of one half of an axis are
    max(s, 0) or max(-s, 0): the two ends of an axis may stand for two things, so each gets a score.

    Parameters
    ----------
    mean : array ``[e]``, optional
        Vector to subtract from the embeddings before the cosines. Without it, the score is the
        published one, to which a common mean adds the same for every axis (see ``all_pairs``).

    Notes
    -----
    This is the score of Pach et al., arXiv 2504.02821, as published programs compute it. The
    computation does not visit the pairs. With unit e,

    .. math:: \sum_{i \ne j} w_i w_j \langle e_i, e_j\rangle = |\sum_i w_i e_i|^2 - \sum_i w_i^2

    which costs O(n e) per axis in place of O(n^2 e); arXiv 2602.12403 also announces such a pass.
    The maximum cancels. The minimum is 0 for an axis that is not active in every example; otherwise
    the sums are shifted when it changes. Memory is O(axes e), in float64.

    Examples
    --------
    >>> import numpy as np
    >>> from laplex.cedar.metrics import monosemanticity
    >>> codes = np.array([[2.0], [1.0], [-1.0], [-1.0]])
    >>> embeddings = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> report = monosemanticity(codes, embeddings)
    >>> report.positive, report.negative, report.all_pairs
    (array([1.]), array([0.]), 0.5)
    """

    def __init__(self, mean: ArrayInput | None = None) -> None:
        self._mean = None if mean is None else float64("mean", mean, ndim=1).copy()
        self._halves: tuple[_Half, _Half] | None = None
        self._units = np.zeros(0)  # [e], sum of unit embeddings
        self._count = 0

    def update(self, codes: ArrayInput, embeddings: ArrayInput) -> None:
        """Add a batch of examples.

        Parameters
        ----------
        codes : array or Tensor ``[b, axes]``
            Signed codes of the examples.
        embeddings : array or Tensor ``[b, e]``
            Their embeddings by an independent encoder.

        Raises
        ------
        ValueError
            If shapes disagree with each other or with earlier batches, there are no rows, a value
            is not finite, or an embedding is zero (after centring).
        """
        entries, rows = float64("codes", codes), float64("embeddings", embeddings)
        same_rows("codes", entries, "embeddings", rows)
        if self._mean is not None:
            same_width("embeddings", rows, "mean", self._mean)
            rows = rows - self._mean
        if not rows.any(axis=1).all():
            raise ValueError("embeddings has a row of zeros, which has no cosine: leave it out")
        units = unit_rows(rows)
        if self._halves is None:
            shape = entries.shape[1], rows.shape[1]
            self._halves = _Half(*shape), _Half(*shape)
            self._units = np.zeros(rows.shape[1])
        positive, negative = self._halves
        same_shape("codes of one row", entries[0], "that of earlier batches", positive.least)
        same_shape("embeddings of one row", rows[0], "that of earlier batches", self._units)
        positive.add(np.maximum(entries, 0), units, self._units, self._count)
        negative.add(np.maximum(-entries, 0), units, self._units, self._count)
        self._units = self._units + units.sum(axis=0)
        self._count += len(units)

    def compute(self) -> MonosemanticityReport:
        """Return the report on all examples so far.

        Returns
        -------
        MonosemanticityReport

        Raises
        ------
        ValueError
            If there were none.
        """
        if self._halves is None:
            raise ValueError("nothing was measured: call update first")
        positive, negative = self._halves
        n = self._count
        pairs = n * (n - 1)
        return MonosemanticityReport(
            positive=positive.scores(n),
            negative=negative.scores(n),
            positive_count=n - positive.at_least,
            negative_count=n - negative.at_least,
            all_pairs=(float(self._units @ self._units) - n) / pairs if pairs else nan,
            count=n,
        )


def monosemanticity(
    codes: ArrayInput, embeddings: ArrayInput, *, mean: ArrayInput | None = None
) -> MonosemanticityReport:
    """Return the monosemanticity scores of codes, by embeddings of an independent encoder.

    This is `Monosemanticity` for whole arrays, which are read in blocks of rows; its documentation
    has the formula and the errors.

    Parameters
    ----------
    codes : array or Tensor ``[n, axes]``
        Signed codes of the examples.
    embeddings : array or Tensor ``[n, e]``
        Their embeddings by an independent encoder.
    mean : array ``[e]``, optional
        Vector to subtract from the embeddings.

    Returns
    -------
    MonosemanticityReport
    """
    entries, rows = untouched("codes", codes), untouched("embeddings", embeddings)
    same_rows("codes", entries, "embeddings", rows)
    measured = Monosemanticity(mean)
    for block in row_blocks(entries, rows):
        measured.update(entries[block], rows[block])
    return measured.compute()


# --- inside ---------------------------------------------------------------------------------------


class _Half:
    """Sums for one half of every axis, with weights w = a - least."""

    def __init__(self, axes: int, dim: int) -> None:
        self.least = np.full(axes, np.inf)
        self.at_least = np.zeros(axes, np.int64)  # rows with weight 0
        self.weighted = np.zeros((axes, dim))  # sum w e
        self.total = np.zeros(axes)  # sum w
        self.squares = np.zeros(axes)  # sum w^2

    def add(self, active: Array, units: Array, units_before: Array, count_before: int) -> None:
        """Add activations ``[b, axes]`` of examples with embeddings ``[b, e]``."""
        least = np.minimum(self.least, active.min(axis=0))
        if count_before:
            drop = self.least - least
            self.weighted += np.outer(drop, units_before)
            self.squares += drop * (2 * self.total + drop * count_before)
            self.total += drop * count_before
            self.at_least[drop > 0] = 0
        weights = active - least
        self.weighted += weights.T @ units
        self.total += weights.sum(axis=0)
        self.squares += np.square(weights).sum(axis=0)
        self.at_least += (weights == 0).sum(axis=0)
        self.least = least

    def scores(self, count: int) -> Array:
        pairs = np.square(self.total) - self.squares
        likeness = np.square(self.weighted).sum(axis=1) - self.squares
        # With fewer than two weights both are 0 up to rounding.
        defined = (count - self.at_least >= 2) & (pairs > 0)
        scores: Array = np.where(defined, likeness / np.where(defined, pairs, 1.0), np.nan)
        return np.clip(scores, -1, 1)
