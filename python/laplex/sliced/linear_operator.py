"""`SlicedKernelOperator`: the matrix of a kernel in R^d for the methods of ``linear_operator``."""

from __future__ import annotations

from typing import Literal

import torch
from linear_operator import LinearOperator
from torch import Tensor

from .arguments import check_kernel, check_lengthscale, check_points, slices_of
from .line_kernel import line_kernel
from .product import matvec

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
    kernel : {"laplace", "matern32"}
        The kernel. ("energy" has no positive semidefinite matrix.)
    projections : int
        The number of directions.
    generator : torch.Generator, optional
        The source of their random rotation.

    Attributes
    ----------
    points, lengthscale, directions : Tensor
        What the matrix is made of. The package differentiates by the first two.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As for `laplex.sliced.matvec`.
    ImportError
        If ``linear_operator`` is not installed.

    Notes
    -----
    Above d = 9 ("laplace") and d = 7 ("matern32"), where f is approximated within 5e-6, an
    eigenvalue may be as low as -5e-6 n: the noise variance should be larger.

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
        super().__init__(points, lengthscale, slices.groups[0], kernel=kernel)
        self.points = points
        self.lengthscale = lengthscale
        self.directions = slices.groups[0]
        self.kernel = kernel

    def _matmul(self, rhs: Tensor) -> Tensor:
        rows = rhs if rhs.dim() == 1 else rhs.mT
        products = matvec(
            rows,
            self.points,
            lengthscale=self.lengthscale,
            kernel=self.kernel,
            directions=self.directions,
        )
        return products if rhs.dim() == 1 else products.mT

    def _size(self) -> torch.Size:
        return torch.Size((len(self.points), len(self.points)))

    def _transpose_nonbatch(self) -> SlicedKernelOperator:
        return self  # symmetric

    def _diagonal(self) -> Tensor:
        at_zero = line_kernel(self.kernel, self.points.shape[1]).at_zero
        return self.points.new_full((len(self.points),), at_zero)
