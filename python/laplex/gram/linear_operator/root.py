"""Exact factors of a `LaplaceGram`, which cost O(n) to apply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from linear_operator import LinearOperator
from torch import Tensor

from ...torch.approximation import warn_of_iterations

if TYPE_CHECKING:
    from .gram import LaplaceGramLinearOperator


class Root(LinearOperator):  # type: ignore[misc]
    """The factor S of A = S S^T, its transpose, or the inverse of either."""

    def __init__(
        self, covariance: LaplaceGramLinearOperator, *, inverse: bool, transposed: bool
    ) -> None:
        super().__init__(covariance, inverse=inverse, transposed=transposed)
        self._covariance = covariance
        self._inverse = inverse
        self._transposed = transposed

    def matmul(self, other: Any) -> Any:
        """Multiply the factor by a tensor ``[..., n, k]`` or ``[n]``."""
        return self._product(other) if isinstance(other, Tensor) else super().matmul(other)

    def _matmul(self, rhs: Tensor) -> Tensor:
        warn_of_iterations("the factor of a LaplaceGram")
        return self._product(rhs)

    def _product(self, rhs: Tensor) -> Tensor:
        gram = self._covariance.gram
        multiply = gram.whiten if self._inverse else gram.color
        if rhs.dim() == 1:
            return multiply(rhs, transpose=self._transposed)
        rows = self._covariance._rows(rhs)
        return multiply(rows, transpose=self._transposed).movedim(0, -1)

    def _size(self) -> torch.Size:
        return torch.Size(self._covariance.shape)

    def _transpose_nonbatch(self) -> Root:
        return Root(self._covariance, inverse=self._inverse, transposed=not self._transposed)


class RepeatedRoot(LinearOperator):  # type: ignore[misc]
    """The factor ``[*b, n, m]`` of a matrix with repeated rows, by that of its m distinct ones.

    Parameters
    ----------
    root : Root
        The factor ``[*b, m, m]``.
    copy_of : Tensor ``[n]``
        The row of the factor that each row is.
    transposed : bool
        Whether rows and columns change places.
    """

    def __init__(self, root: Root, copy_of: Tensor, *, transposed: bool = False) -> None:
        super().__init__(root, copy_of, transposed=transposed)
        self._root = root
        self._copy_of = copy_of
        self._transposed = transposed

    def matmul(self, other: Any) -> Any:
        """Multiply the factor by a tensor ``[..., m, k]`` or ``[m]``."""
        return self._matmul(other) if isinstance(other, Tensor) else super().matmul(other)

    def _matmul(self, rhs: Tensor) -> Tensor:
        if rhs.dim() == 1:
            return self._matmul(rhs[:, None])[:, 0]
        if not self._transposed:
            product: Tensor = self._root @ rhs
            return product[..., self._copy_of, :]
        zeros = rhs.new_zeros(*rhs.shape[:-2], self._root.shape[-1], rhs.shape[-1])
        total: Tensor = self._root.mT @ zeros.index_add(-2, self._copy_of, rhs)
        return total

    def _size(self) -> torch.Size:
        shape = (len(self._copy_of), self._root.shape[-1])
        return torch.Size(
            (*self._root.batch_shape, *(reversed(shape) if self._transposed else shape))
        )

    def _transpose_nonbatch(self) -> RepeatedRoot:
        return RepeatedRoot(self._root, self._copy_of, transposed=not self._transposed)
