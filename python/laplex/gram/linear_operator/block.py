"""`LaplaceBlockLinearOperator`: the covariance between two sets of points."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...torch.approximation import warn_of_iterations
from ...torch.elementwise import Scalable
from .covariance import Covariance


class LaplaceBlockLinearOperator(Scalable):
    """The block of a covariance ``[*b, n, n]`` off its diagonal, in O(n).

    Parameters
    ----------
    whole : Covariance
        The covariance of all entries.
    first : int
        The rows are the first entries, this many, and the columns are the others.
    transposed : bool
        Whether rows and columns change places.
    """

    def __init__(self, whole: Covariance, *, first: int, transposed: bool = False) -> None:
        super().__init__(whole, first=first, transposed=transposed)
        self._whole = whole
        self._first = first
        self._transposed = transposed

    def matmul(self, other: Any) -> Any:
        """Multiply the block by a tensor ``[..., m, k]`` or ``[m]``, twice differentiable."""
        return self._product(other) if isinstance(other, Tensor) else super().matmul(other)

    def _matmul(self, rhs: Tensor) -> Tensor:
        warn_of_iterations(f"a {type(self).__name__}")
        return self._product(rhs)

    def _product(self, rhs: Tensor) -> Tensor:
        if rhs.dim() == 1:
            return self._product(rhs[:, None])[:, 0]
        zeros = rhs.new_zeros(*rhs.shape[:-2], self.shape[-2], rhs.shape[-1])
        whole = (rhs, zeros) if self._transposed else (zeros, rhs)
        product: Tensor = self._whole @ torch.cat(whole, -2)
        first, others = product.tensor_split([self._first], -2)
        return others if self._transposed else first

    def to_dense(self) -> Tensor:
        """Return the dense block ``[*b, n, m]``."""
        narrow = self if self.shape[-1] <= self.shape[-2] else self.mT
        eye = torch.eye(narrow.shape[-1], dtype=self.dtype, device=self.device)
        dense: Tensor = narrow._product(eye)
        return dense if narrow is self else dense.mT

    def _get_indices(self, row_index: Tensor, col_index: Tensor, *batch_indices: Tensor) -> Tensor:
        first, other = (col_index, row_index) if self._transposed else (row_index, col_index)
        entries: Tensor = self._whole._get_indices(first, other + self._first, *batch_indices)
        return entries

    def _size(self) -> torch.Size:
        sizes = (self._first, self._whole.shape[-1] - self._first)
        return torch.Size((*self._whole.batch_shape, *(sizes[::-1] if self._transposed else sizes)))

    def _transpose_nonbatch(self) -> LaplaceBlockLinearOperator:
        return type(self)(self._whole, first=self._first, transposed=not self._transposed)

    def _expand_batch(self, batch_shape: torch.Size | list[int]) -> LaplaceBlockLinearOperator:
        whole = self._whole._expand_batch(batch_shape)
        return type(self)(whole, first=self._first, transposed=self._transposed)
