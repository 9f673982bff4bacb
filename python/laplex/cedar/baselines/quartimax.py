"""Principal axes, rotated by quartimax."""

from __future__ import annotations

from .dictionary import BASELINES
from .orthomax import OrthomaxRotation


@BASELINES.register("quartimax", order=3)
class Quartimax(OrthomaxRotation):
    """Principal axes, rotated to the largest sum of the fourth powers of all coordinates.

    For a row of given norm, this sum is largest if one coordinate has all of the norm. It is a
    smooth relative of the energy in the top k. The rotation gives simple structure to the *scores*
    [n, d], so that each embedding has few large scores. Rotating the loadings would instead
    simplify the columns of the embeddings.

    Parameters
    ----------
    k : int
        Number of nonzero entries of a code.
    max_iter : int
        Maximum number of iterations.
    tol : float
        Smallest gain of an iteration, as a fraction of the criterion.
    max_rows : int
        Largest number of rows in memory; more rows are sampled uniformly.
    random_state : int, RandomState or None
        Seed of the sample. The rotation starts from the principal axes.

    Attributes
    ----------
    rotation_ : ndarray ``[d, d]``
        The rotation: ``atoms_`` is ``rotation_.T`` times the principal axes.
    criterion_ : list of float
        The criterion at the start and after each step.
    n_iter_ : int
        Number of steps.
    converged_ : bool
        Whether the last step gained no more than the tolerance.
    """

    gamma = 0.0
