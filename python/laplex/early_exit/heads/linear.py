"""The head that averages over positions and applies a linear layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from . import HEADS
from .base import positions


@HEADS.register("linear")
class LinearHead(nn.Module):
    """An average over positions, then a linear layer.

    Parameters
    ----------
    in_features : int
        Number of channels of a feature map, or dimension of the tokens or features.
    num_classes : int
        Number of classes.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
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
        logits: Tensor = self.linear(positions(activation).mean(1))
        return logits
