"""The arrays of a covariance for the compiled core, made of its terms."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from ..torch.call import Scalar
from .checks import expanded
from .factor import Covariance, plain
from .terms import BaseTerm, Block


def covariance_of(
    terms: Sequence[BaseTerm],
    anchors: Tensor,
    noise: Tensor | float,
    batch: Sequence[int],
    origin: Tensor | None = None,
) -> Covariance:
    """Lay out a sum of terms and noise, with the batch as one dimension.

    Parameters
    ----------
    terms
        Checked terms.
    anchors, noise : Tensor ``[*b, n]``
        Float64; the noise may have shape ``[*b, 1]`` or be a number.
    batch
        The leading dimensions ``[*b]`` of all parameters together.
    origin : Tensor ``[*b, 1]``, optional
        Where the angles of frequencies are 0, see `Term.columns`.
    """
    blocks: list[Block] = []
    columns: list[Tensor | None] = []
    for term in terms:
        for part, column in term.parts(anchors, origin):
            found = part.blocks(anchors)
            blocks += found
            columns += len(found) * [column]
    lead, n = tuple(batch) or (1,), anchors.shape[-1]

    def flat(tensor: Tensor) -> Tensor:
        if len(lead) > 1:
            tensor = tensor.reshape(prod(lead), *tensor.shape[len(lead) :])
        return plain(tensor)

    covariance = Covariance(
        flat(anchors.expand(*lead, n)),
        flat(_row([each for block in blocks for each in block.lengthscales], lead, anchors)),
        flat(_loadings(blocks, columns, (*lead, n), anchors)),
        flat(expanded(noise, (*lead, n), anchors)),
    )
    weights = [each for block in blocks for each in block.weights]
    sizes = tuple(len(block.weights) for block in blocks)
    if set(sizes) == {1} and all(type(each) is float and each == 1.0 for each in weights):
        return covariance
    return covariance._replace(weights=flat(_row(weights, lead, anchors)), blocks=sizes)


def _row(numbers: list[Scalar], shape: Sequence[int], like: Tensor) -> Tensor:
    """Numbers and tensors side by side, ``[*shape, len(numbers)]``."""
    if any(isinstance(each, Tensor) for each in numbers):
        return _stacked([expanded(each, shape, like) for each in numbers], shape)
    row = torch.tensor(numbers, dtype=torch.float64, device=like.device)
    return row.expand(*shape, len(numbers))


def _loadings(
    blocks: list[Block], columns: list[Tensor | None], shape: Sequence[int], like: Tensor
) -> Tensor:
    """The loadings of blocks whose first column observes the process."""
    sizes = [len(block.weights) for block in blocks]
    if all(column is None for column in columns):
        return _row([float(k == 0) for size in sizes for k in range(size)], shape, like)
    found: list[Tensor] = []
    for column, size in zip(columns, sizes, strict=True):
        found.append(like.new_ones(()).expand(shape) if column is None else column)
        found += (size - 1) * [like.new_zeros(()).expand(shape)]
    return _stacked(found, shape)


def _stacked(tensors: list[Tensor], shape: Sequence[int]) -> Tensor:
    """Stack tensors along a new last dimension and expand them to a shape."""
    if len(tensors) == 1:
        return tensors[0].expand(shape)[..., None]
    tensors = [each if each.shape == shape else each.expand(shape) for each in tensors]
    return torch.stack(tensors, -1)
