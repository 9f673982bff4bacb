"""Covariance models of flattened images: sums of Laplace kernels between learnable anchors."""

from .model import LaplaceCovariance
from .training import History

__all__ = ["History", "LaplaceCovariance"]
