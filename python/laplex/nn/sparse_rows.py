"""Sparse inputs of a layer: a row is multiplied by the kernel of the sources that it names."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from laplex.torch.sharded import is_distributed


class SparseRows(NamedTuple):
    """The stored entries of every row, filled up with zeros in column 0 to the longest row."""

    values: Tensor
    """``[rows, longest]``, differentiable with respect to the entries of the sparse tensor."""
    columns: Tensor
    """``[rows, longest]`` of int64."""

    def of(self, parameter: Tensor) -> Tensor:
        """Return a parameter ``[heads, m]`` at the columns, as ``[rows, heads, longest]``.

        The gradient by a parameter is dense: every optimiser takes it.
        """
        taken = parameter.index_select(1, self.columns.flatten())
        return taken.view(len(parameter), *self.columns.shape).transpose(0, 1)


def check_sparse(input: Tensor, targets: Tensor) -> None:  # noqa: A002  (nn.Linear's name for it)
    """Refuse sparse inputs that are not rows of single entries, or whose layer is spread."""
    if input.layout not in (torch.sparse_coo, torch.sparse_csr):
        raise TypeError(f"input has layout {input.layout}: convert it with input.to_sparse_coo()")
    if input.dim() != 2 or input.dense_dim() > 0:
        raise ValueError(
            f"a sparse input must have two sparse dimensions [rows, in_features], got shape "
            f"{tuple(input.shape)} with {input.dense_dim()} dense: convert it with input.to_dense()"
        )
    if is_distributed(targets):
        raise NotImplementedError(
            "a layer that is spread over processes takes no sparse input: spread the batch "
            "instead, or convert it with input.to_dense()"
        )


def sparse_rows(input: Tensor) -> SparseRows:  # noqa: A002
    """Pad the rows of a tensor in COO or CSR layout to one length."""
    if input.layout is torch.sparse_coo:
        input = input.coalesce()  # noqa: A001
        rows, columns = input.indices()
        counts = torch.bincount(rows, minlength=len(input))
        starts = counts.cumsum(0) - counts
    else:
        starts, columns = input.crow_indices()[:-1].long(), input.col_indices().long()
        counts = input.crow_indices().diff()
        rows = torch.repeat_interleave(counts)
    longest = max(1, int(counts.max())) if len(counts) else 1
    places = rows * longest + torch.arange(len(rows), device=rows.device) - starts[rows]
    size = len(counts) * longest
    values = input.values()
    return SparseRows(
        values.new_zeros(size).scatter(0, places, values).view(-1, longest),
        columns.new_zeros(size).scatter(0, places, columns).view(-1, longest),
    )
