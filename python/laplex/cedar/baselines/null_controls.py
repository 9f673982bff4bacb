"""Embeddings with nothing to find: what a sound method must not gain on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .pca import principal_axes


def isotropic_gaussian(count: int, sample: Tensor, generator: torch.Generator) -> Tensor:
    """Rows [count, d] without any preferred direction, d and precision those of sample [m, d].

    All rotations are alike, so none explains more than a random one.
    """
    return torch.randn(count, sample.shape[1], generator=generator, dtype=sample.dtype)


def covariance_gaussian(count: int, sample: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian rows [count, d] with the covariance of sample [m, d].

    All there is to know is the covariance: nothing to gain over principal axes.
    """
    axes, variances = principal_axes(sample)
    factor = torch.from_numpy(np.sqrt(variances)[:, None] * axes)
    white = torch.randn(count, len(factor), generator=generator, dtype=torch.float64)
    return (white @ factor).to(sample.dtype)
