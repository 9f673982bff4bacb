"""Sparse inputs of a layer: a row is multiplied by the kernel of the sources that it names."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from laplex.torch.sharded import is_distributed


class SparseRows(NamedTuple):
    """The stored entries, in pieces of rows: each piece is filled up with zeros in column 0."""

    values: Tensor
    """``[pieces, width]``, differentiable with respect to the entries of the sparse tensor."""
    columns: Tensor
    """``[pieces, width]`` of int64."""
    owners: Tensor
    """``[pieces]`` of int64: the row that a piece is of, increasing."""
    rows: int

    def of(self, parameter: Tensor) -> Tensor:
        """Return a parameter ``[heads, m]`` at the columns, as ``[pieces, heads, width]``.

        The gradient by a parameter is dense: every optimiser takes it.
        """
        taken = parameter.index_select(1, self.columns.flatten())
        return taken.view(len(parameter), *self.columns.shape).transpose(0, 1)

    def sums(self, pieces: Tensor) -> Tensor:
        """Add up the products ``[pieces, n]`` of every row, as ``[rows, n]``."""
        return pieces.new_zeros(self.rows, pieces.shape[1]).index_add(0, self.owners, pieces)


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
    """Cut the rows of a tensor in COO or CSR layout into pieces as long as the mean row.

    Whatever the lengths of the rows are, there are at most twice as many pieces as rows, and so the
    zeros that fill them are at most as many as the entries and the rows together.
    """
    if input.layout is torch.sparse_coo:
        input = input.coalesce()  # noqa: A001
        rows, columns = input.indices()
        counts = torch.bincount(rows, minlength=len(input))
        starts = counts.cumsum(0) - counts
    else:
        starts, columns = input.crow_indices()[:-1].long(), input.col_indices().long()
        counts = input.crow_indices().diff()
        rows = torch.repeat_interleave(counts)
    width = max(1, math.ceil(len(columns) / max(1, len(input))))
    pieces = counts.add(width - 1).div(width, rounding_mode="floor")
    owners = torch.repeat_interleave(pieces)
    places = torch.arange(len(columns), device=columns.device) - starts[rows]
    places += (pieces.cumsum(0) - pieces)[rows] * width
    size = len(owners) * width
    values = input.values()
    return SparseRows(
        values.new_zeros(size).scatter(0, places, values).view(-1, width),
        columns.new_zeros(size).scatter(0, places, columns).view(-1, width),
        owners,
        len(input),
    )
