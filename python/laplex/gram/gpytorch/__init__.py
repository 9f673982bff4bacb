"""Kernels for GPyTorch whose exact Gaussian processes cost O(n) in one dimension.

Importing this package needs GPyTorch, and lets its sums and products of kernels use the exact
algebra of these (see `composition`).
"""

from .composition import LaplaceSumKernel as LaplaceSumKernel
from .composition import install as _install
from .laplace import LaplaceKernel as LaplaceKernel
from .matern import MaternKernel as MaternKernel
from .sho import SHOKernel as SHOKernel

__all__ = ["LaplaceKernel", "LaplaceSumKernel", "MaternKernel", "SHOKernel"]

_install()
