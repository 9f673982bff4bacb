"""The head that pools a feature map to a small grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from ..._support.arguments import whole
from ..activations import main_tensor
from . import HEADS


@HEADS.register("grid")
class GridHead(nn.Module):
    """A learned mix of the maximum and the average over the cells of a grid, then a linear layer.

    The feature map is pooled to ``grid`` x ``grid`` cells: ``a max + (1 - a) mean`` with
    ``a = sigmoid(mix)``, as in `PooledHead`. The linear layer reads all cells, so that an early
    exit with few channels still sees where things are.

    Parameters
    ----------
    in_features : int
        Number of channels of a feature map.
    num_classes : int
        Number of classes.
    grid : int
        Number of cells along each side. Maps may be smaller; cells then overlap.

    Raises
    ------
    TypeError, ValueError
        If ``grid`` is not a whole number of at least 1.
    """

    dimensions = (4,)

    def __init__(self, in_features: int, num_classes: int, grid: int = 4) -> None:
        super().__init__()
        self.grid = whole("grid", grid, 1)
        self.mix = nn.Parameter(torch.zeros(()))
        self.linear = nn.Linear(in_features * self.grid**2, num_classes)

    def forward(self, activation: Any) -> Tensor:
        """Compute the logits of a batch, as in `ConvHead.forward`."""
        maps, share = main_tensor(activation), self.mix.sigmoid()
        largest, mean = adaptive_max_pool2d(maps, self.grid), adaptive_avg_pool2d(maps, self.grid)
        pooled = share * largest + (1 - share) * mean
        logits: Tensor = self.linear(pooled.flatten(1))
        return logits
