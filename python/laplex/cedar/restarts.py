"""Recurrence of axes: which starts found an axis, each from rows of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .metrics.inputs import Array, ArrayInput, float64
from .metrics.matching import match


@dataclass(frozen=True, eq=False, repr=False)
class StabilityReport:
    """Result of `stability`.

    Attributes
    ----------
    mcc : ndarray ``[r, r]``
        Mean absolute cosine of matched atoms for every pair of restarts. It is symmetric, and its
        diagonal is 1.
    mean, min : float
        Mean and minimum of its entries off the diagonal.
    recurrence : ndarray ``[axes]`` of int64
        For each axis of restart 0, the number of *other* restarts in which its matched atom has an
        absolute cosine above ``threshold``, from 0 to r - 1.
    threshold : float
        Absolute cosine above which two atoms count as the same axis.
    """

    mcc: Array
    mean: float
    min: float
    recurrence: npt.NDArray[np.int64]
    threshold: float

    def recurring(self, min_restarts: int = 3) -> npt.NDArray[np.bool_]:
        """Return which axes of restart 0 were found by at least ``min_restarts`` restarts.

        Restart 0 counts as one of them, so 3 requires a match in two others.

        Parameters
        ----------
        min_restarts : int
            From 2 to the number of restarts.

        Returns
        -------
        ndarray ``[axes]`` of bool

        Raises
        ------
        ValueError
            If ``min_restarts`` is below 2, which every axis fulfils, or above the number of
            restarts.
        """
        restarts = len(self.mcc)
        if not 2 <= min_restarts <= restarts:
            raise ValueError(
                f"min_restarts must be from 2 to the number of restarts, {restarts}, got "
                f"{min_restarts}: fit with n_init={max(min_restarts, 2)} for more of them"
            )
        mask: npt.NDArray[np.bool_] = self.recurrence + 1 >= min_restarts
        return mask

    def table(self) -> str:
        """Return a text table: how many axes of restart 0 were found by how many restarts."""
        found = 1 + self.recurrence
        lines = ["restarts  axes  share"]
        for count in range(len(self.mcc), 0, -1):
            axes = int((found == count).sum())
            lines.append(f"{count:8d}  {axes:4d}  {axes / len(found):5.1%}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"Stability of {len(self.recurrence)} axes in {len(self.mcc)} restarts: "
            f"the MCC is {self.mean:.3f} on average and {self.min:.3f} at least.\n"
            f"Axes of restart 0 by the number of restarts that found them (|cosine| > "
            f"{self.threshold:g}):\n"
            f"{self.table()}"
        )


def stability(restarts: ArrayInput, *, threshold: float = 0.7) -> StabilityReport:
    r"""Measure how many axes the restarts of a model share.

    Restart 0 of a model saw all rows; the others saw disjoint parts of them. Axes that all of them
    found may still be no more than principal axes of the rows: `Confirmation` tests for that.

    .. math::
        \text{MCC}_{ab} = \frac1{\text{axes}} \max_\pi \sum_i |\cos(a_i, b_{\pi(i)})|, \qquad
        \text{recurrence}_i = \#\{b \ne 0 : |\cos(\text{atom}^0_i, \text{atom}^b_{\pi_b(i)})| >
        \text{threshold}\}

    Parameters
    ----------
    restarts : array or Tensor ``[r, axes, d]``
        Atoms of r >= 2 restarts, as in ``restarts_`` of a fitted model; the atoms of the model
        itself come first.
    threshold : float
        Absolute cosine above which two atoms count as the same axis, in (0, 1).

    Returns
    -------
    StabilityReport

    Raises
    ------
    ValueError
        If there are fewer than two restarts, a value is not finite, or the threshold is out of
        range.

    Notes
    -----
    The cost is r (r - 1) / 2 matchings of O(axes^3) each. Two random bases have an MCC well above
    0, for example 0.32 in 64 dimensions: compare with that, not with 0. A matching is one to one,
    so one atom of another restart can match only one of two equal atoms of restart 0.

    Examples
    --------
    >>> import numpy as np
    >>> from laplex.cedar import stability
    >>> same, turned = np.eye(3), np.array([[0.6, 0.8, 0], [-0.8, 0.6, 0], [0, 0, -1.0]])
    >>> report = stability([same, same[::-1], turned])
    >>> report.recurrence
    array([2, 2, 2])
    """
    if hasattr(restarts, "restarts_"):
        raise TypeError("restarts must be atoms [r, axes, d]: pass restarts_ of the model")
    atoms = float64("restarts", restarts, ndim=3)
    if len(atoms) < 2:
        raise ValueError(
            "restarts holds only one start: fit with n_init=2 or more (3 or more to name axes)"
        )
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be between 0 and 1, got {threshold}")
    mcc = np.eye(len(atoms))
    recurrence = np.zeros(atoms.shape[1], np.int64)
    for first in range(len(atoms)):
        for second in range(first + 1, len(atoms)):
            cosine = np.abs(match(atoms[first], atoms[second])[1])
            mcc[first, second] = mcc[second, first] = cosine.mean()
            if first == 0:
                recurrence += cosine > threshold
    pairs = mcc[np.triu_indices(len(atoms), 1)]
    return StabilityReport(mcc, float(pairs.mean()), float(pairs.min()), recurrence, threshold)
