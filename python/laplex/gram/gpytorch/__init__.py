"""Kernels for GPyTorch whose exact Gaussian processes cost O(n) in one dimension.

Importing this package needs GPyTorch.
"""

from .kernels import LaplaceKernel as LaplaceKernel
from .kernels import LaplaceSumKernel as LaplaceSumKernel

__all__ = ["LaplaceKernel", "LaplaceSumKernel"]
