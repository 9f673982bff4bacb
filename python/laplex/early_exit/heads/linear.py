"""The head that averages over positions and applies a linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from . import HEADS
from .base import Head


@HEADS.register("linear")
class LinearHead(Head):
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

    def classify(self, features: Tensor) -> Tensor:
        """Compute the logits, as in `Head.classify`."""
        logits: Tensor = self.linear(features)
        return logits
