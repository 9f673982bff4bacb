"""The head that reads the class token of a transformer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from . import HEADS
from .base import last


@HEADS.register("token")
class TokenHead(nn.Module):
    """Layer normalisation and a linear layer on the first token, the class token of a transformer.

    Parameters
    ----------
    in_features : int
        Dimension of the tokens.
    num_classes : int
        Number of classes.
    """

    dimensions = (3,)

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(in_features)
        self.linear = nn.Linear(in_features, num_classes)

    def forward(self, activation: Any) -> Tensor:
        """Compute the logits of a batch.

        Parameters
        ----------
        activation : Tensor ``[batch, tokens, dim]``, or sequence of them
            The output of the module that the head is attached to. If it has several tensors, the
            head reads the last one.

        Returns
        -------
        Tensor ``[batch, num_classes]``
            The logits.
        """
        logits: Tensor = self.linear(self.norm(last(activation)[:, 0]))
        return logits
