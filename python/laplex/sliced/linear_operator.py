"""`SlicedKernelOperator`: the matrix of a kernel in R^d for the methods of ``linear_operator``."""

from __future__ import annotations

from typing import Any, Literal

import torch
from linear_operator import LinearOperator
from torch import Tensor

from ..torch.autograd import is_concrete
from .arguments import (
    Slices,
    check_distribution,
    check_kernel,
    check_lengthscale,
    check_like,
    check_points,
    projections_of,
    scaled,
    slices_of,
)
from .chunks import mean_product, means_of
from .directions import Rule

Kernel = Literal["laplace", "matern32"]

NO_BATCH = torch.Size()


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
        The weights of given directions, at least 0, whose sum is 1. The default is equal weights.
    kernel : {"laplace", "matern32"}
        The kernel. ("energy" has no positive semidefinite matrix.)
    projections : int
        The number of directions.
    generator : torch.Generator, optional
        The source of their random rotation.
    batch_shape : torch.Size
        Leading dimensions along which the same matrix is repeated, as ``expand`` makes them.

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
    an eigenvalue may be as low as -5e-6 n, so the noise variance should be larger. Second
    derivatives by points are those of the kernel only for "matern32", as `laplex.sliced.matvec`
    says.

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
        batch_shape: torch.Size = NO_BATCH,
    ) -> None:
        check_points("points", points)
        kernel = check_kernel(kernel, Kernel)
        lengthscale = check_lengthscale(lengthscale, points, "points")
        if not isinstance(lengthscale, Tensor):
            lengthscale = points.new_tensor(lengthscale)
        slices = slices_of(kernel, points, projections, directions, generator, False)
        rule = slices.rules[0]
        if weights is not None:
            rule = Rule(rule.directions, _check_rule_weights(weights, rule.directions))
        elif not isinstance(directions, Tensor):
            rule = Rule(*(each.clone() for each in rule))  # all calls share the drawn ones
        super().__init__(points, lengthscale, *rule, kernel=kernel, batch_shape=batch_shape)
        self.points = points
        self.lengthscale = lengthscale
        self.directions, self.weights = rule
        self.kernel = kernel
        self._slices = Slices(slices.kernel, [rule])
        self._batch_shape = torch.Size(batch_shape)

    def _matmul(self, rhs: Tensor) -> Tensor:
        check_like("the right-hand side", rhs, self.points, "points")
        if rhs.dim() > 1:
            whole = torch.broadcast_shapes(self._batch_shape, rhs.shape[:-2])  # type: ignore[no-untyped-call]
            rhs = rhs.expand(*whole, *rhs.shape[-2:])
        rows = rhs if rhs.dim() == 1 else rhs.mT
        points, _ = scaled(self.lengthscale, self.kernel, self.points)
        products, _ = mean_product(self._slices, rows, points, None)
        return products if rhs.dim() == 1 else products.mT

    def _size(self) -> torch.Size:
        return torch.Size((*self._batch_shape, len(self.points), len(self.points)))

    def _transpose_nonbatch(self) -> SlicedKernelOperator:
        return self  # symmetric

    def _diagonal(self) -> Tensor:
        entry = self._slices.kernel.at_zero * self.weights.sum()
        return entry.expand(*self._batch_shape, len(self.points))

    def _get_indices(self, row_index: Tensor, col_index: Tensor, *batch_indices: Tensor) -> Tensor:
        """Compute single entries by the formula."""
        row_index, col_index, *_ = torch.broadcast_tensors(row_index, col_index, *batch_indices)  # type: ignore[no-untyped-call]
        rows, columns = row_index.flatten(), col_index.flatten()
        points, _ = scaled(self.lengthscale, self.kernel, self.points)

        def entries(directions: Tensor, weights: Tensor, differences: Tensor) -> Tensor:
            distances = projections_of(differences, directions).abs()
            return weights @ self._slices.kernel.at(distances)

        (mean,) = means_of(self._slices, entries, len(rows), points[rows] - points[columns])
        return mean.reshape(row_index.shape)

    def _getitem(self, row_index: Any, col_index: Any, *batch_indices: Any) -> LinearOperator:
        whole = all(isinstance(i, slice) and i == slice(None) for i in (row_index, col_index))
        if not (whole and batch_indices):
            return super()._getitem(row_index, col_index, *batch_indices)
        return self._expand_batch(torch.empty(()).expand(self._batch_shape)[batch_indices].shape)

    def _expand_batch(self, batch_shape: torch.Size | list[int]) -> SlicedKernelOperator:
        return type(self)(*self._args, kernel=self.kernel, batch_shape=torch.Size(batch_shape))

    def _unsqueeze_batch(self, dim: int) -> SlicedKernelOperator:
        batch = self._batch_shape
        return self._expand_batch(torch.Size((*batch[:dim], 1, *batch[dim:])))

    def _permute_batch(self, *dims: int) -> SlicedKernelOperator:
        return self._expand_batch(torch.Size([self._batch_shape[dim] for dim in dims]))


def _check_rule_weights(weights: Any, directions: Tensor) -> Tensor:
    weights = check_distribution("weights", weights, directions, "directions")
    if is_concrete(weights):
        total = float(weights.detach().sum())
        if not abs(total - 1) < 1e-3:
            raise ValueError(
                f"weights must have the sum 1, got {total:g}: pass weights / weights.sum()"
            )
    checked: Tensor = weights
    return checked
