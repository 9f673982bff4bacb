"""The head that uses learnable Laplace kernels."""

from __future__ import annotations

from torch import Tensor

from laplex.nn import LaplexHead

from . import HEADS
from .base import Head


@HEADS.register("laplex")
class LaplexExit(Head):
    """An average over positions, then a `laplex.nn.LaplexHead`, which reads as soft routing.

    Parameters
    ----------
    in_features : int
        Number of channels of a feature map, or dimension of the tokens or features.
    num_classes : int
        Number of classes.
    heads : int
        Number of Laplace kernels; parameters and cost grow with it.
    phased : bool
        Whether the kernels have phases. Without phases, routing weights cannot be negative.
    """

    def __init__(
        self, in_features: int, num_classes: int, *, heads: int = 2, phased: bool = True
    ) -> None:
        super().__init__()
        self.head = LaplexHead(in_features, num_classes, heads=heads, phased=phased)

    def classify(self, features: Tensor) -> Tensor:
        """Compute the logits, as in `Head.classify`."""
        logits: Tensor = self.head(features)
        return logits
