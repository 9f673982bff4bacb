"""Quality of reconstructions in one pass: explained variance, cosines and sparsity."""

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
class ReconstructionReport:
    """Result of ``Reconstruction.compute``.

    Attributes
    ----------
    fve : float
        Fraction of variance explained, at most 1; nan if the embeddings have no variance.
    cosine : float
        Mean cosine of the centred embedding with the centred reconstruction; nan without ``mean``.
    cosine_mean_only : float
        Mean cosine of the embedding with the mean alone, without centring: the cosine that a
        constant reconstruction reaches.
    l0 : float
        Mean number of nonzero entries of a code; nan without codes.
    dead : int or None
        Number of axes that were 0 in every row; None without codes.
    count : int
        Number of rows.
    positive, negative : ndarray ``[axes]`` of int64, or None
        Numbers of rows in which each axis was above and below 0; None without codes.
    """

    fve: float
    cosine: float
    cosine_mean_only: float
    l0: float
    dead: int | None
    count: int
    positive: Counts | None = field(default=None, repr=False)
    negative: Counts | None = field(default=None, repr=False)

    @property
    def density(self) -> Array | None:
        """The fraction of rows in which each axis is not 0, ``[axes]``; None without codes."""
        if self.positive is None or self.negative is None:
            return None
        density: Array = (self.positive + self.negative) / self.count
        return density


class Reconstruction:
    r"""Measures reconstructions over batches, in float64 and O(d + axes) memory.

    .. math::
        \text{FVE} = 1 - \frac{E|z - \hat z|^2}{E|z|^2 - |E z|^2}, \qquad
        \text{cosine} = E\,\frac{\langle z - b, \hat z - b\rangle}{|z - b|\,|\hat z - b|}, \qquad
        \text{cosine, mean only} = E\,\frac{\langle z, b\rangle}{|z|\,|b|}, \qquad
        L_0 = E\,\#\{i : s_i \ne 0\}

    Parameters
    ----------
    mean : array ``[d]``, optional
        The centre b of the cosines: the vector that the model subtracts, ``mean_`` of a fitted
        model. A centre that is known beforehand allows one pass, and makes the cosine independent
        of the other rows. Without it ``cosine`` is nan, and ``cosine_mean_only``, which is linear
        in b / abs(b), uses the mean of the rows.

    Notes
    -----
    *Variance*. The difference in the definition cancels digits if the common mean is large.
    Therefore the variance is summed about the first row of a batch, and batches are joined by the
    update of Chan, Golub and LeVeque, "Algorithms for computing the sample variance", The American
    Statistician 37 (1983). If all rows are equal, the variance is exactly 0, and the FVE is nan.

    *Cosine*. A row equal to b has no direction and is left out. A reconstruction equal to b, such
    as that of an empty code, has cosine 0, because it says nothing about the row. The same holds
    for rows of zeros and a mean of zeros in ``cosine_mean_only``.

    *Codes*. An entry counts if it is not 0, whatever its sign.

    Examples
    --------
    >>> import numpy as np
    >>> from laplex.cedar.metrics import Reconstruction
    >>> z = np.array([[3.0, 1.0], [1.0, -1.0]])
    >>> codes = z - z.mean(0)
    >>> codes[:, 1] = 0
    >>> measured = Reconstruction(z.mean(0))
    >>> measured.update(z, z.mean(0) + codes, codes)
    >>> report = measured.compute()
    >>> report.fve, report.l0, report.dead
    (0.5, 1.0, 1)
    """

    def __init__(self, mean: ArrayInput | None = None) -> None:
        self._mean = None if mean is None else float64("mean", mean, ndim=1).copy()
        self._sums: _Sums | None = None

    def update(self, z: ArrayInput, z_hat: ArrayInput, codes: ArrayInput | None = None) -> None:
        """Measure a batch.

        Parameters
        ----------
        z, z_hat : array or Tensor ``[b, d]``
            Embeddings and their reconstructions.
        codes : array or Tensor ``[b, axes]``, optional
            Their codes; pass them with every batch or with none.

        Raises
        ------
        ValueError
            If shapes disagree with each other or with earlier batches, there are no rows, or a
            value is not finite. Nothing of the batch is counted then.
        """
        batch = _measure(self._mean, z, z_hat, codes)
        self._sums = batch if self._sums is None else _joined(self._sums, batch)

    def merge(self, other: Reconstruction) -> Reconstruction:
        """Add the measurements of another accumulator with the same ``mean``, and return self.

        The result equals that of one accumulator for all rows, up to rounding.

        Parameters
        ----------
        other : Reconstruction
            The other accumulator, which is not changed.

        Returns
        -------
        Reconstruction
            This accumulator.

        Raises
        ------
        ValueError
            If the other one was made with another ``mean``.
        """
        if (self._mean is None) != (other._mean is None) or (
            self._mean is not None
            and other._mean is not None
            and not np.array_equal(self._mean, other._mean)
        ):
            raise ValueError("other was made with another mean: give both the same one")
        if other._sums is not None:
            self._sums = other._sums if self._sums is None else _joined(self._sums, other._sums)
        return self

    def compute(self) -> ReconstructionReport:
        """Return the report on all rows so far.

        Returns
        -------
        ReconstructionReport

        Raises
        ------
        ValueError
            If there were none.
        """
        sums = self._sums
        if sums is None:
            raise ValueError("nothing was measured: call update first")
        mean = sums.shift + sums.offset if self._mean is None else self._mean
        free = nan
        if sums.nonzero:
            free = float(sums.units @ unit_rows(mean[None])[0]) / sums.nonzero
        l0, dead = nan, None
        if sums.positive is not None and sums.negative is not None:
            firing = sums.positive + sums.negative
            l0, dead = float(firing.sum()) / sums.count, int((firing == 0).sum())
        return ReconstructionReport(
            fve=1 - sums.residual / sums.scatter if sums.scatter > 0 else nan,
            cosine=sums.cosines / sums.directed if sums.directed else nan,
            cosine_mean_only=free,
            l0=l0,
            dead=dead,
            count=sums.count,
            positive=sums.positive,
            negative=sums.negative,
        )


def fve(z: ArrayInput, z_hat: ArrayInput) -> float:
    r"""Return the fraction of variance explained (FVE) by reconstructions of embeddings.

    .. math:: \text{FVE} = 1 - \frac{E|z - \hat z|^2}{E|z|^2 - |E z|^2}

    The value is 1 for a perfect reconstruction, 0 for the mean alone, and negative for anything
    worse than the mean. It equals R^2 with ``multioutput="variance_weighted"``, and no rotation
    changes it.

    Parameters
    ----------
    z : array or Tensor ``[n, d]``
        Embeddings. Arrays, including memory-mapped ones, are read in blocks of rows.
    z_hat : array or Tensor ``[n, d]``
        Their reconstructions.

    Returns
    -------
    float
        The FVE; nan if all rows of z are equal, because there is then nothing to explain.

    Raises
    ------
    ValueError
        As `Reconstruction.update`, which measures batches.

    Notes
    -----
    Other formulas circulate under this name:

    - Division by :math:`E|z|^2`, without subtracting the part of the mean, credits the
      reconstruction with the common mean, which costs nothing to keep. For embeddings in a narrow
      cone, the mean alone then "explains" nearly everything.
    - The average of a ratio for each row or each coordinate gives those with hardly any variance
      the same weight as all others, and a rotation changes it.
    - The variance of the residual in place of its mean square forgives a constant error.
    """
    rows, approximations = untouched("z", z), untouched("z_hat", z_hat)
    same_shape("z", rows, "z_hat", approximations)
    measured = Reconstruction()
    for block in row_blocks(rows, approximations):
        measured.update(rows[block], approximations[block])
    return measured.compute().fve


# --- inside ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sums:
    """Sums over rows that determine all metrics; they are immutable, so they can be shared."""

    count: int
    shift: Array  # [d], a row: the mean is shift + offset
    offset: Array  # [d]
    scatter: float  # sum |z - mean|^2
    residual: float  # sum |z - z_hat|^2
    cosines: float  # sum of cosines of the rows that have a direction
    directed: int  # how many do
    units: Array  # [d], sum of z / |z|
    nonzero: int  # rows that are not 0
    positive: Counts | None  # [axes]
    negative: Counts | None


def _measure(
    mean: Array | None, z: ArrayInput, z_hat: ArrayInput, codes: ArrayInput | None
) -> _Sums:
    rows, approximations = float64("z", z), float64("z_hat", z_hat)
    same_shape("z", rows, "z_hat", approximations)
    shift = rows[0].copy()
    moved = rows - shift
    offset = moved.mean(axis=0)
    units = unit_rows(rows)
    cosines, directed = 0.0, 0
    if mean is not None:
        same_width("z", rows, "mean", mean)
        centred = rows - mean
        has_direction = centred.any(axis=1)
        both = (unit_rows(centred) * unit_rows(approximations - mean)).sum(axis=1)
        cosines, directed = float(both.sum()), int(has_direction.sum())
    positive = negative = None
    if codes is not None:
        entries = float64("codes", codes)
        same_rows("z", rows, "codes", entries)
        positive = (entries > 0).sum(axis=0, dtype=np.int64)
        negative = (entries < 0).sum(axis=0, dtype=np.int64)
    return _Sums(
        count=len(rows),
        shift=shift,
        offset=offset,
        scatter=float(np.square(moved - offset).sum()),
        residual=float(np.square(rows - approximations).sum()),
        cosines=cosines,
        directed=directed,
        units=units.sum(axis=0),
        nonzero=int(rows.any(axis=1).sum()),
        positive=positive,
        negative=negative,
    )


def _joined(a: _Sums, b: _Sums) -> _Sums:
    same_shape("z", b.shift, "z of earlier batches", a.shift)
    count = a.count + b.count
    # The large common part cancels between two rows, and exactly if they are equal.
    step = (b.shift - a.shift) + (b.offset - a.offset)
    return _Sums(
        count=count,
        shift=a.shift,
        offset=a.offset + step * (b.count / count),
        scatter=a.scatter + b.scatter + float(step @ step) * (a.count * b.count / count),
        residual=a.residual + b.residual,
        cosines=a.cosines + b.cosines,
        directed=a.directed + b.directed,
        units=a.units + b.units,
        nonzero=a.nonzero + b.nonzero,
        positive=_joined_counts(a.positive, b.positive),
        negative=_joined_counts(a.negative, b.negative),
    )


def _joined_counts(a: Counts | None, b: Counts | None) -> Counts | None:
    if a is None and b is None:
        return None
    if a is None or b is None:
        raise ValueError("codes must come with every batch or with none")
    same_shape("codes", b, "codes of earlier batches", a)
    return a + b
