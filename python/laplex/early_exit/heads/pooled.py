"""The head that mixes the maximum and the average over positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import HEADS
from .base import positions


@HEADS.register("pooled")
class PooledHead(nn.Module):
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

    def forward(self, activation: Any) -> Tensor:
        """Compute the logits of a batch.

        Parameters
        ----------
        activation : Tensor, or sequence of them
            The output of the module that the head is attached to. If it has several tensors, the
            head reads the last one.

        Returns
        -------
        Tensor ``[batch, num_classes]``
            The logits.
        """
        by_position = positions(activation)
        share = self.mix.sigmoid()
        pooled = share * by_position.amax(1) + (1 - share) * by_position.mean(1)
        logits: Tensor = self.linear(pooled)
        return logits
