"""Null controls: embeddings without structure, on which a sound method must gain nothing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .pca import principal_axes


def isotropic_gaussian(count: int, sample: Tensor, generator: torch.Generator) -> Tensor:
    """Draw rows [count, d] without a preferred direction, like sample [m, d] in d and precision.

    All rotations are equivalent, so none explains more than a random one.
    """
    return torch.randn(count, sample.shape[1], generator=generator, dtype=sample.dtype)


def covariance_gaussian(count: int, sample: Tensor, generator: torch.Generator) -> Tensor:
    """Draw Gaussian rows [count, d] with the covariance of sample [m, d].

    The covariance determines these rows, so nothing can be gained over principal axes.
    """
    axes, variances = principal_axes(sample)
    factor = torch.from_numpy(np.sqrt(variances)[:, None] * axes)
    white = torch.randn(count, len(factor), generator=generator, dtype=torch.float64)
    return (white @ factor).to(sample.dtype)
