"""Covariance models of flattened images: sums of Laplace kernels between learnable anchors."""

from .coarse_to_fine import fit_coarse_to_fine
from .model import LaplaceCovariance
from .training import History

__all__ = ["History", "LaplaceCovariance", "fit_coarse_to_fine"]
