"""Principal axes, rotated by varimax."""

from __future__ import annotations

from .dictionary import BASELINES
from .orthomax import OrthomaxRotation


@BASELINES.register("varimax", order=2)
class Varimax(OrthomaxRotation):
    """Principal axes, rotated to the largest variance of the squared coordinates of each axis.

    Unlike quartimax, varimax gains nothing from an axis that is large in every row. Rohe and Zeng
    apply varimax to whitened scores ("Vintage factor analysis with varimax performs statistical
    inference", arXiv 2004.05387). Here the scores are not whitened, so that the basis stays
    orthonormal.

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

    gamma = 1.0
