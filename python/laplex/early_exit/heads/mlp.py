"""The head that averages over positions and applies a layer of hidden units."""

from __future__ import annotations

from torch import Tensor, nn

from . import HEADS
from .base import Head


@HEADS.register("mlp")
class MLPHead(Head):
    """An average over positions, then a layer of hidden units and a linear layer.

    Parameters
    ----------
    in_features : int
        Number of channels of a feature map, or dimension of the tokens or features.
    num_classes : int
        Number of classes.
    hidden : int, optional
        Number of hidden units; by default `in_features`.
    """

    def __init__(self, in_features: int, num_classes: int, hidden: int | None = None) -> None:
        super().__init__()
        width = in_features if hidden is None else hidden
        self.layers = nn.Sequential(
            nn.Linear(in_features, width), nn.ReLU(), nn.Linear(width, num_classes)
        )

    def classify(self, features: Tensor) -> Tensor:
        """Compute the logits, as in `Head.classify`."""
        logits: Tensor = self.layers(features)
        return logits
