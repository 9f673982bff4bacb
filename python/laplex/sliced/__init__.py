"""Sums of kernels between points of any dimension, by sums on lines.

A kernel of the distance between points in R^d is the mean over all directions of a kernel between
the points' projections. So a sum over n points is nearly the mean of a few sums on a line, each of
which takes O(n log n). `matvec` multiplies by the matrix of a kernel, `mmd` measures how far two
sets of points are from each other, `kde` estimates a density, and `SlicedKernelOperator` is the
matrix for the iterative methods of ``linear_operator``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from laplex._support.optional import require

require("torch", extra="torch", feature="laplex.sliced")

from laplex.sliced.density import kde  # noqa: E402  (after the check for torch)
from laplex.sliced.discrepancy import mmd  # noqa: E402
from laplex.sliced.product import matvec  # noqa: E402

if TYPE_CHECKING:
    from laplex.sliced.linear_operator import SlicedKernelOperator

__all__ = ["SlicedKernelOperator", "kde", "matvec", "mmd"]


def __getattr__(name: str) -> Any:
    if name == "SlicedKernelOperator":
        require("linear_operator", extra="gp", feature="laplex.sliced.SlicedKernelOperator")
        from laplex.sliced import linear_operator

        return linear_operator.SlicedKernelOperator
    raise AttributeError(f"module 'laplex.sliced' has no attribute {name!r}")
