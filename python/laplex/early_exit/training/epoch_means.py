"""Means over the samples of an epoch. Importing this needs torchmetrics."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from laplex._support.optional import require

torchmetrics = require("torchmetrics", extra="exits", feature="laplex.early_exit.train")


class EpochMeans(torchmetrics.Metric):  # type: ignore[misc, name-defined]
    """Means of several numbers over the samples of all processes.

    Parameters
    ----------
    size : int
        How many numbers.
    """

    # `torchmetrics.MeanMetric` ignores the weights if NaN are to be kept (1.9).
    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(size), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, means: Tensor, count: int) -> None:
        """Add the means [size] of a batch of `count` samples."""
        self.total += means.detach().to(self.total) * count
        self.weight += count

    def compute(self) -> Tensor:
        """The means [size]."""
        return self.total / self.weight

    def numbers(self) -> tuple[float, ...]:
        """The means as floats; NaN before any update."""
        if not self.update_called:
            return (math.nan,) * len(self.total)
        return tuple(self.compute().reshape(-1).tolist())  # torchmetrics squeezes one number
