"""A check whether embeddings resemble those of the fit, by their mean and their spread."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from .fitted import Fitted

#: With fewer rows than this, mean and norm say too little about where the data come from.
_ROWS_TO_JUDGE = 32
_FAR_MEAN = 0.5
_FAR_NORM = 1.5


class DriftWarning(UserWarning):
    """The embeddings differ from those of the fit in mean or norm."""


class Drift:
    """Compares the mean and spread of rows with those of the fit."""

    def __init__(self, fitted: Fitted) -> None:
        self.scale = fitted.scale
        self.apart = (fitted.mean.double() - fitted.data_mean) / (fitted.scale or 1.0)
        self.count = 0
        self.total: Any = 0.0
        self.square = 0.0

    def see(self, z: Tensor) -> None:
        """Add rows [n, d] from which b was subtracted."""
        if not self.scale:
            return
        z = z / self.scale  # squares of tiny or huge numbers would not fit a float32
        self.count += len(z)
        self.total = self.total + z.sum(0, dtype=torch.float64).cpu()
        self.square += float(z.square().sum(1).sum(dtype=torch.float64))

    def warn(self) -> None:
        """Warn if the rows seen are far from the rows of the fit."""
        if self.count < _ROWS_TO_JUDGE:
            return
        mean = self.total / self.count
        away = float((mean + self.apart).norm())
        if away > _FAR_MEAN:
            warnings.warn(
                f"the mean of X is {away:.2f} standard deviations of the training rows away from "
                "their mean, so its codes may mean something else: check the encoder and its "
                "normalisation, or fit again",
                DriftWarning,
                stacklevel=5,
            )
        spread = max(0.0, self.square / self.count - float(mean.square().sum()))
        ratio = spread**0.5
        if not 1 / _FAR_NORM < ratio < _FAR_NORM:
            warnings.warn(
                f"the centred rows of X are {ratio:.2f} times as long as those of the fit: "
                "check the encoder and its normalisation, or fit again",
                DriftWarning,
                stacklevel=5,
            )
