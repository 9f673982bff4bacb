"""The head that mixes the maximum and the average over positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import HEADS
from .base import Head, largest


@HEADS.register("pooled")
class PooledHead(Head):
    """A learned mix of the maximum and the average over positions, then a linear layer.

    The logits are ``W (a max + (1 - a) mean) + b`` with ``a = sigmoid(mix)``, as in shallow-deep
    networks (Kaya et al. 2019).

    Parameters
    ----------
    in_features : int
        Number of channels of a feature map, or dimension of the tokens or features.
    num_classes : int
        Number of classes.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(()))
        self.linear = nn.Linear(in_features, num_classes)

    def pool(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Mix the maximum and the average over the real positions, as in `Head.pool`."""
        share = self.mix.sigmoid()
        return share * largest(features, mask) + (1 - share) * super().pool(features, mask)

    def classify(self, features: Tensor) -> Tensor:
        """Compute the logits, as in `Head.classify`."""
        logits: Tensor = self.linear(features)
        return logits
