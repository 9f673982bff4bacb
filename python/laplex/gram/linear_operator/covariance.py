"""The common base of the covariances here: symmetric matrices with algebra of their own."""

from __future__ import annotations

from typing import Any

from linear_operator.operators import ConstantDiagLinearOperator, DiagLinearOperator
from torch import Tensor

from ...torch.approximation import warn_of_iterations
from ...torch.elementwise import DenseProducts
from ..checks import broadcast


class Covariance(DenseProducts):
    """A symmetric, positive semidefinite matrix whose class has its own exact algebra.

    A subclass has `_product`, `_solve`, `_principal`, `inv_quad_logdet` and what the package asks
    of every operator.
    """

    def _product(self, rhs: Tensor) -> Tensor:
        raise NotImplementedError

    def matmul(self, other: Any) -> Any:
        """Multiply A by a tensor ``[..., n, k]`` or ``[n]``, twice differentiable."""
        return self._product(other) if isinstance(other, Tensor) else super().matmul(other)

    def _matmul(self, rhs: Tensor) -> Tensor:
        """What the package itself calls, also within iterations."""
        warn_of_iterations(f"a {type(self).__name__}")
        return self._product(rhs)

    def solve(self, right_tensor: Tensor, left_tensor: Tensor | None = None) -> Tensor:
        """Multiply the inverse of A by ``right_tensor``, of shape ``[..., n, k]`` or ``[n]``.

        If ``left_tensor`` is given, multiply the result by it from the left.
        """
        result: Tensor = self._solve(right_tensor)
        return result if left_tensor is None else left_tensor @ result

    def inv_quad(self, inv_quad_rhs: Tensor, reduce_inv_quad: bool = True) -> Tensor:
        """Return the traces of ``R^T A^-1 R``, or its diagonals if ``reduce_inv_quad=False``."""
        quadratic: Tensor = self.inv_quad_logdet(inv_quad_rhs, reduce_inv_quad=reduce_inv_quad)[0]
        return quadratic

    def diagonalization(self, method: str | None = None) -> Any:
        """Return eigenvalues and eigenvectors of the dense matrix, for any size."""
        return super().diagonalization(method or "symeig")

    def evaluate_kernel(self) -> Covariance:
        """Return the operator itself, which is not lazy."""
        return self

    def __add__(self, other: Any) -> Any:
        """Add another operator; a diagonal becomes noise."""
        if isinstance(other, ConstantDiagLinearOperator):
            return self.add_diagonal(other.diag_values)
        if isinstance(other, DiagLinearOperator):
            return self.add_diagonal(other._diag)
        return super().__add__(other)

    def mul(self, other: Any) -> Any:
        """Multiply by another operator or tensor.

        Positive numbers, one for each matrix of the batch, keep the type of the operator.
        """
        if isinstance(other, Tensor) and other.dim() >= 2 and other.shape[-2:] == (1, 1):
            return self._mul_constant(other[..., 0, 0])
        return super().mul(other)

    def _choose_root_method(self) -> str:
        return "cholesky"  # of the dense matrix: exact for every size, unlike Lanczos

    def _sum_batch(self, dim: int) -> Any:
        return self.squeeze(dim) if self.shape[dim] == 1 else super()._sum_batch(dim)

    def _rows(self, matrices: Tensor) -> Tensor:
        """Columns of ``[..., n, k]`` as rows that broadcast with the batch, ``[k, ..., n]``."""
        lead = broadcast(matrices.shape[:-2], self.batch_shape)
        return matrices.expand(*lead, *matrices.shape[-2:]).movedim(-1, 0)

    def _transpose_nonbatch(self) -> Covariance:
        return self

    def _getitem(self, row_index: Any, col_index: Any, *batch_indices: Any) -> Any:
        """Principal submatrices keep their type; others multiply through the whole matrix."""
        tensors = any(isinstance(each, Tensor) for each in (row_index, col_index, *batch_indices))
        if tensors or row_index != col_index:
            return super()._getitem(row_index, col_index, *batch_indices)
        return self._principal(row_index, batch_indices)

    def _principal(self, index: Any, batch: tuple[Any, ...]) -> Covariance:
        raise NotImplementedError
