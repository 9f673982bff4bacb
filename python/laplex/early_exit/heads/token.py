"""The head that reads the class token of a transformer."""

from __future__ import annotations

from torch import Tensor, nn

from . import HEADS
from .base import Head


@HEADS.register("token")
class TokenHead(Head):
    """Layer normalisation and a linear layer on the first token, the class token of a transformer.

    With a mask it is the first real token.

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

    def pool(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Take the first real token, as in `Head.pool`."""
        if mask is None:
            return features[:, 0]
        return token_at(features, mask.int().argmax(1))

    def classify(self, features: Tensor) -> Tensor:
        """Compute the logits, as in `Head.classify`."""
        logits: Tensor = self.linear(self.norm(features))
        return logits


def token_at(features: Tensor, numbers: Tensor) -> Tensor:
    """One token of each sample, by its number [batch]: [batch, dim]."""
    return features.gather(1, numbers[:, None, None].expand(-1, 1, features.shape[2]))[:, 0]
