"""The exact factor of a `LaplaceGram`, which costs O(n) to apply."""

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
