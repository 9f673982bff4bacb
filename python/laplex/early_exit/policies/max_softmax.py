"""The policy that compares the largest softmax probability with a threshold."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from . import POLICIES
from .base import Policy, SoftmaxPolicy
from .learned import LearnedScore


@POLICIES.register("max-softmax")
class MaxSoftmax(SoftmaxPolicy):
    """Leave when the largest softmax probability reaches the threshold.

    Parameters
    ----------
    threshold : float or sequence of float
        Probabilities, from 0 to 1.
    strict, fallback
        As in `Policy`.

    Examples
    --------
    >>> import torch
    >>> from laplex.early_exit import MaxSoftmax
    >>> logits = torch.tensor([[[0.0, 5.0], [0.0, 1.0]], [[0.0, 1.0], [2.0, 0.0]]])
    >>> MaxSoftmax(0.9).exit_index(logits)
    tensor([0, 1])
    """

    label = "max softmax"

    def of_probabilities(self, probabilities: Tensor) -> Tensor:
        """Return the largest probability.

        Parameters
        ----------
        probabilities : Tensor ``[..., classes]``, float64
            The probabilities.

        Returns
        -------
        Tensor ``[...]``
            The scores.
        """
        return probabilities.amax(-1)

    def scaled(self, scaling: Any) -> Policy:
        """Return a `LearnedScore` whose scorer is the scaling, as in `Policy.scaled`."""
        return LearnedScore(scaling, self.thresholds, strict=self.strict, fallback=self.fallback)
