"""The policy that compares the entropy of the softmax probabilities with a threshold."""

from __future__ import annotations

import torch
from torch import Tensor

from . import POLICIES
from .base import SoftmaxPolicy


@POLICIES.register("entropy")
class Entropy(SoftmaxPolicy):
    """Leave when the entropy of the softmax probabilities is at most the threshold, in nats.

    The score is the *negative* entropy. With `strict`, the entropy must be below the threshold.

    Parameters
    ----------
    threshold : float or sequence of float
        Entropies in nats, from 0 to log(classes).
    strict, fallback
        As in `Policy`.
    """

    def of_probabilities(self, probabilities: Tensor) -> Tensor:
        """Return the negative entropy of the probabilities.

        Parameters
        ----------
        probabilities : Tensor ``[..., classes]``, float64
            The probabilities.

        Returns
        -------
        Tensor ``[...]``
            The scores, in nats.
        """
        negative: Tensor = torch.special.entr(probabilities).sum(-1).neg()
        return negative

    def _cut(self, threshold: float) -> float:
        return -threshold
