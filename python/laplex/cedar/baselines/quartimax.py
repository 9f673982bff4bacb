"""Principal axes, rotated by quartimax."""

from __future__ import annotations

from .dictionary import BASELINES
from .orthomax import OrthomaxRotation


@BASELINES.register("quartimax", order=3)
class Quartimax(OrthomaxRotation):
    """Principal axes, rotated to the largest sum of the fourth powers of all coordinates.

    Of a row of a given norm that sum is largest where one coordinate has all of it: the smooth
    cousin of the energy in the top k. It is the *scores* [n, d] that are rotated to simple
    structure, so that each embedding has few large ones; rotating loadings would simplify the
    embedding's own columns.

    Parameters
    ----------
    max_iter, tol
        As in `orthomax`.
    max_rows : int
        Rows in memory, drawn uniformly.
    random_state : int, RandomState or None
        Of that draw; the rotation starts from the principal axes.

    Attributes
    ----------
    rotation_ : ndarray ``[d, d]``
        ``atoms_ = rotation_.T @ principal axes``.
    criterion_ : list of float
        At the start and after each step that was taken.
    n_iter_ : int
        Such steps.
    converged_ : bool
    """

    gamma = 0.0
