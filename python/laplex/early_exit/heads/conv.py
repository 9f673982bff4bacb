"""The head that starts with a convolution, for feature maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..activations import main_tensor
from . import HEADS


@HEADS.register("conv")
class ConvHead(nn.Module):
    """A 3 x 3 convolution with batch normalisation, then an average and a linear layer.

    This head accepts feature maps only.

    Parameters
    ----------
    in_features : int
        Number of channels of the feature map.
    num_classes : int
        Number of classes.
    hidden : int, optional
        Number of channels of the convolution; by default `in_features`.
    stride : int
        Stride of the convolution.
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
        """Compute the logits of a batch.

        Parameters
        ----------
        activation : Tensor ``[batch, channels, height, width]``, or sequence of them
            The output of the module that the head is attached to. Of a list the head reads the last
            entry, of a tuple the first.

        Returns
        -------
        Tensor ``[batch, num_classes]``
            The logits.
        """
        maps = torch.relu(self.norm(self.conv(main_tensor(activation))))
        logits: Tensor = self.linear(maps.mean((2, 3)))
        return logits
