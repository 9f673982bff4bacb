"""`SlicedKernelOperator`: the matrix of a kernel in R^d for the methods of ``linear_operator``."""

from __future__ import annotations

from typing import Literal

import torch
from linear_operator import LinearOperator
from torch import Tensor

from .arguments import (
    Slices,
    check_kernel,
    check_lengthscale,
    check_points,
    check_weights,
    scaled,
    slices_of,
)
from .chunks import mean_product
from .directions import Rule

Kernel = Literal["laplace", "matern32"]


class SlicedKernelOperator(LinearOperator):  # type: ignore[misc]
    r"""The matrix of a kernel between points of R^d, which multiplies by sums on lines.

    Its entries are means :math:`\frac1P \sum_p f(|\langle \xi_p, x_i - x_j\rangle| / \ell)` over
    P directions, as in `laplex.sliced.matvec`, which are drawn once. The Fourier transform of f is
    not negative, because it is that of the kernel in R^d, integrated over spheres. So the matrix is
    positive semidefinite for any directions, and its sum with a noise variance is a covariance that
    conjugate gradients can solve.

    Parameters
    ----------
    points : Tensor, shape ``[n, d]``
        The points: float32 or float64, finite.
    lengthscale : float or Tensor, shape ``[]`` or ``[d]``
        The lengthscale, as in `laplex.sliced.matvec`.
    directions : {"auto", "orthogonal", "sobol", "random"} or Tensor, shape ``[P, d]``
        How directions are chosen, as in `laplex.sliced.matvec`.
    weights : Tensor, shape ``[P]``, optional
        The weights of given directions, which add up to 1. The default is equal weights.
    kernel : {"laplace", "matern32"}
        The kernel. ("energy" has no positive semidefinite matrix.)
    projections : int
        The number of directions.
    generator : torch.Generator, optional
        The source of their random rotation.

    Attributes
    ----------
    points, lengthscale, directions, weights : Tensor
        What the matrix is made of. The package differentiates by the first two.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As for `laplex.sliced.matvec`.
    ImportError
        If ``linear_operator`` is not installed.

    Notes
    -----
    Where f is a fit with an error of 5e-6 (d = 2, and above 9 for "laplace" or 7 for "matern32"),
    an eigenvalue may be as low as -5e-6 n, so the noise variance should be larger.

    Examples
    --------
    >>> import torch, laplex
    >>> points = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    >>> matrix = laplex.sliced.SlicedKernelOperator(points, projections=1000)
    >>> matrix.add_jitter(1.0).solve(torch.ones(2)).shape
    torch.Size([2])
    """

    def __init__(
        self,
        points: Tensor,
        lengthscale: float | Tensor = 1.0,
        directions: str | Tensor = "auto",
        weights: Tensor | None = None,
        *,
        kernel: str = "laplace",
        projections: int = 64,
        generator: torch.Generator | None = None,
    ) -> None:
        check_points("points", points)
        kernel = check_kernel(kernel, Kernel)
        lengthscale = check_lengthscale(lengthscale, points, "points")
        if not isinstance(lengthscale, Tensor):
            lengthscale = points.new_tensor(lengthscale)
        slices = slices_of(kernel, points, projections, directions, generator, False)
        rule = slices.rules[0]
        if weights is not None:
            rule = Rule(
                rule.directions, check_weights("weights", weights, rule.directions, "directions")
            )
        super().__init__(points, lengthscale, *rule, kernel=kernel)
        self.points = points
        self.lengthscale = lengthscale
        self.directions, self.weights = rule
        self.kernel = kernel
        self._slices = Slices(slices.kernel, [rule])

    def _matmul(self, rhs: Tensor) -> Tensor:
        rows = rhs if rhs.dim() == 1 else rhs.mT
        points, _ = scaled(self.lengthscale, self.kernel, self.points)
        products, _ = mean_product(self._slices, rows, points, None)
        return products if rhs.dim() == 1 else products.mT

    def _size(self) -> torch.Size:
        return torch.Size((len(self.points), len(self.points)))

    def _transpose_nonbatch(self) -> SlicedKernelOperator:
        return self  # symmetric

    def _diagonal(self) -> Tensor:
        return self.points.new_full((len(self.points),), self._slices.kernel.at_zero)
