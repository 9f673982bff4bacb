"""Principal axes, rotated by varimax."""

from __future__ import annotations

from .dictionary import BASELINES
from .orthomax import OrthomaxRotation


@BASELINES.register("varimax", order=2)
class Varimax(OrthomaxRotation):
    """Principal axes, rotated to the largest variance of the squared coordinates of each axis.

    Unlike quartimax, it gains nothing from an axis that is large in every row. Varimax of scores
    is that of Rohe and Zeng, "Vintage factor analysis with varimax performs statistical inference",
    arXiv 2004.05387, who whiten them; not so here, so that the basis stays orthonormal.
    Parameters and attributes are those of `Quartimax`.
    """

    gamma = 1.0
