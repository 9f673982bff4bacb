"""The head that reads the last real token, for causal models."""

from __future__ import annotations

from torch import Tensor

from . import HEADS
from .token import TokenHead, token_at


@HEADS.register("last-token")
class LastTokenHead(TokenHead):
    """Layer normalisation and a linear layer on the last token, which has seen all others.

    This is for causal models, whose first token has seen nothing but itself. With a mask it is the
    last real token, whether padding comes before or after the text.

    Parameters
    ----------
    in_features : int
        Dimension of the tokens.
    num_classes : int
        Number of classes.
    """

    def pool(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Take the last real token, as in `Head.pool`."""
        if mask is None:
            return features[:, -1]
        return token_at(features, mask.shape[1] - 1 - mask.flip(1).int().argmax(1))
