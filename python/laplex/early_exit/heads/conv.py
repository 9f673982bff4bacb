"""A convolution, for maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import HEADS
from .base import last


@HEADS.register("conv")
class ConvHead(nn.Module):
    """A 3 x 3 convolution with batch normalisation, then average and linear; for maps.

    Parameters
    ----------
    in_features, num_classes : int
    hidden : int, optional
        Channels of the convolution; `in_features` when not given.
    stride : int
        Of the convolution.
    """

    dimensions = (4,)

    def __init__(
        self, in_features: int, num_classes: int, hidden: int | None = None, stride: int = 2
    ) -> None:
        super().__init__()
        width = in_features if hidden is None else hidden
        self.conv = nn.Conv2d(in_features, width, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, activation: Any) -> Tensor:
        """Logits [batch, num_classes]."""
        maps = torch.relu(self.norm(self.conv(last(activation))))
        logits: Tensor = self.linear(maps.mean((2, 3)))
        return logits
