"""Roots of the low-rank operators that GPyTorch's kernels return."""

from __future__ import annotations

import torch
from linear_operator import LinearOperator
from linear_operator.operators import (
    ConstantMulLinearOperator,
    DenseLinearOperator,
    InterpolatedLinearOperator,
    MulLinearOperator,
    RootLinearOperator,
    SumLinearOperator,
)
from linear_operator.utils.cholesky import psd_safe_cholesky
from linear_operator.utils.interpolation import left_interp
from torch import Tensor

MOST_COLUMNS = 64
"""The largest rank that is treated as low; the cost grows with its square."""


def root_of(operator: LinearOperator) -> Tensor | None:
    """A root R ``[*b, n, r]`` of an operator ``R R^T`` of low rank, or None if it is not known.

    These are linear and constant kernels, index kernels, and their sums and products.
    """
    root = _root_of(operator)
    return root if root is not None and root.shape[-1] <= MOST_COLUMNS else None


def _root_of(operator: LinearOperator) -> Tensor | None:
    if isinstance(operator, RootLinearOperator):
        if operator.root.shape[-1] > MOST_COLUMNS:
            return None
        columns: Tensor = operator.root.to_dense()
        return columns
    if isinstance(operator, DenseLinearOperator):
        return _constant(operator.tensor)
    if isinstance(operator, InterpolatedLinearOperator):
        return _interpolated(operator)
    if isinstance(operator, ConstantMulLinearOperator):
        root, factor = root_of(operator.base_linear_op), operator._constant
        if root is None or not bool((factor >= 0).all()):
            return None
        scaled: Tensor = root * factor.sqrt()[..., None, None]
        return scaled
    if isinstance(operator, SumLinearOperator):
        roots = [root_of(each) for each in operator.linear_ops]
        known = [each for each in roots if each is not None]
        if len(known) < len(roots):
            return None
        batch = operator.batch_shape
        return torch.cat([each.expand(*batch, *each.shape[-2:]) for each in known], -1)
    if isinstance(operator, MulLinearOperator):
        one, two = root_of(operator.left_linear_op), root_of(operator.right_linear_op)
        return None if one is None or two is None else products(one, two)
    return None


def products(one: Tensor, two: Tensor) -> Tensor:
    """All products ``[*b, n, r s]`` of a column of one root and a column of the other."""
    return (one[..., :, None] * two[..., None, :]).flatten(-2)


def _constant(tensor: Tensor) -> Tensor | None:
    """The root of a number that is expanded to a matrix, as a constant kernel does."""
    if tensor.stride()[-2:] != (0, 0) or not bool((tensor[..., 0, 0] >= 0).all()):
        return None
    number = tensor[..., :1, :1]
    if tensor._base is not None:  # derivatives of a part of the matrix would be a whole one
        number = tensor._base.as_strided(number.shape, number.stride(), number.storage_offset())
    return number.sqrt().expand(*tensor.shape[:-1], 1)


def _interpolated(operator: InterpolatedLinearOperator) -> Tensor | None:
    """The rows of the Cholesky factor of a small matrix, as for the tasks of an index kernel."""
    sides = (
        (operator.left_interp_indices, operator.right_interp_indices),
        (operator.left_interp_values, operator.right_interp_values),
    )
    same = all(one.shape == two.shape and torch.equal(one, two) for one, two in sides)
    base = operator.base_linear_op
    if not same or base.shape[-1] > MOST_COLUMNS:
        return None
    factor = psd_safe_cholesky(base.to_dense())
    root: Tensor = left_interp(operator.left_interp_indices, operator.left_interp_values, factor)
    return root
