"""The policy that compares the margin between the two largest probabilities with a threshold."""

from __future__ import annotations

from torch import Tensor

from . import POLICIES
from .base import SoftmaxPolicy


@POLICIES.register("margin")
class Margin(SoftmaxPolicy):
    """Leave when the two largest softmax probabilities differ by the threshold or more.

    Parameters
    ----------
    threshold : float or sequence of float
        Differences, from 0 to 1.
    strict, fallback
        As in `Policy`.
    """

    def of_probabilities(self, probabilities: Tensor) -> Tensor:
        """Return the difference of the two largest probabilities.

        Parameters
        ----------
        probabilities : Tensor ``[..., classes]``, float64
            The probabilities.

        Returns
        -------
        Tensor ``[...]``
            The scores.
        """
        top = probabilities.topk(2, dim=-1).values
        return top[..., 0] - top[..., 1]
