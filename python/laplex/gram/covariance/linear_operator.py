"""`HeadsLinearOperator`: a sum of scaled kernels for GPyTorch's package linear_operator."""

from __future__ import annotations

from typing import Any

import torch
from linear_operator import LinearOperator
from torch import Tensor

from .heads import Heads


class HeadsLinearOperator(LinearOperator):  # type: ignore[misc]
    """The symmetric matrix sum_h D_h Re(K_h) D_h.

    Parameters
    ----------
    anchors, scales, phases
        As for `Heads`; leave out the phases of a real kernel. The arguments are tensors only,
        because the package takes operators apart into tensors and builds new ones from them.
    """

    def __init__(self, *parts: Tensor) -> None:
        super().__init__(*parts)
        self.heads = Heads(*parts)

    @classmethod
    def of(cls, heads: Heads) -> HeadsLinearOperator:
        """Wrap a sum of heads."""
        return cls(*(part for part in heads if part is not None))

    def _matmul(self, rhs: Tensor) -> Tensor:
        if rhs.dim() == 1:
            return self.heads.products(rhs[None]).sum((0, 1))
        return self.heads.products(rhs.mT).sum(-2).mT

    def _size(self) -> torch.Size:
        pixels = self.heads.anchors.shape[-1]
        return torch.Size((pixels, pixels))

    def _transpose_nonbatch(self) -> HeadsLinearOperator:
        return self

    def _diagonal(self) -> Tensor:
        return self.heads.diagonal()

    def _get_indices(self, row_index: Tensor, col_index: Tensor, *batch_indices: Any) -> Tensor:
        return self.heads.entries(row_index, col_index)

    def to_dense(self) -> Tensor:
        """Return the matrix [n, n] by its formula."""
        return self.heads.rows(torch.arange(self.shape[-1], device=self.device))
