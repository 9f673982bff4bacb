"""Elementwise products of operators of ``linear_operator``, which are exact dense matrices here.

The package itself multiplies roots of the factors. These exist for square matrices alone, need
jitter where a matrix is singular, and have wrong derivatives by coincident anchors then.
"""

from __future__ import annotations

from typing import Any

from linear_operator import LinearOperator
from linear_operator.operators import ConstantMulLinearOperator, DenseLinearOperator
from torch import Tensor

from .approximation import warn_of_size


class DenseProducts(LinearOperator):  # type: ignore[misc]
    """An operator whose elementwise products are dense, as those of a dense matrix are."""

    def _warn_of_size(self, what: str) -> None:
        """Warn of a square matrix that is too large for the package's Cholesky factors."""
        rows, columns = self.shape[-2:]
        if rows == columns:
            warn_of_size(rows, what)

    def _mul_matrix(self, other: LinearOperator) -> LinearOperator:
        self._warn_of_size("this product of two matrices is dense")
        return DenseLinearOperator(self.to_dense() * other.evaluate_kernel().to_dense())

    def _prod_batch(self, dim: int) -> LinearOperator:
        if self.shape[dim] == 1:
            return self.squeeze(dim)
        self._warn_of_size("the product of a batch of matrices is dense")
        return DenseLinearOperator(self.to_dense().prod(dim))


class ScaledLinearOperator(DenseProducts, ConstantMulLinearOperator):  # type: ignore[misc]
    """A multiple of such an operator."""

    def _transpose_nonbatch(self) -> ScaledLinearOperator:
        return type(self)(self.base_linear_op._transpose_nonbatch(), self._constant)

    def _unsqueeze_batch(self, dim: int) -> ScaledLinearOperator:
        base = self.base_linear_op._expand_batch(self.batch_shape)._unsqueeze_batch(dim)
        return type(self)(base, self._constant.expand(self.batch_shape).unsqueeze(dim))


class Scalable(DenseProducts):
    """An operator of which that is true of its multiples too."""

    def _mul_constant(self, other: float | Tensor) -> Any:
        return ScaledLinearOperator(self, other)
