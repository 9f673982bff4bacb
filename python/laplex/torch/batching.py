"""The batching rules of the registry's operators for ``torch.vmap``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import derivatives
from .call import TENSORS, TRAILING, Call
from .registry import LIBRARY, MATVEC


def pad_batch(
    in_dims: Sequence[int | None], args: Sequence[Any], trailing: Sequence[int] = TRAILING
) -> list[Any]:
    """Move the vmapped dimension of every tensor to the front, so that all still broadcast.

    A tensor with fewer leading dimensions than the widest gets dimensions of size 1 between the
    vmapped dimension and its own. Tensors that are not vmapped, such as shared anchors, remain
    shared. ``trailing`` counts the last dimensions of each tensor that are not leading ones.
    """
    tensors = args[: len(trailing)]
    widest = max(
        tensor.dim() - last - (dim is not None)
        for tensor, dim, last in zip(tensors, in_dims, trailing, strict=False)
        if tensor is not None
    )
    padded = []
    for tensor, dim, last in zip(tensors, in_dims, trailing, strict=False):
        if tensor is not None and dim is not None:
            tensor = tensor.movedim(dim, 0)
            missing = widest - (tensor.dim() - 1 - last)
            tensor = tensor.reshape(tensor.shape[:1] + (1,) * missing + tensor.shape[1:])
        padded.append(tensor)
    return [*padded, *args[len(trailing) :]]


def _matvec_vmap(info: Any, in_dims: Sequence[Any], *args: Any) -> tuple[Tensor, int]:
    return MATVEC(*pad_batch(in_dims, args)), 0


def _matvec_vjp_vmap(
    info: Any, in_dims: Sequence[Any], *args: Any
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Batch the gradients by the composite formula.

    The fused pass sums over everything that shares an anchor, but vmap needs each summand.
    """
    grad, given, needs = args[0], args[1:-1], args[-1]
    tensors = given[:TENSORS]
    in_dim, own_dims = in_dims[0], in_dims[1 : 1 + TENSORS]
    own = [
        None if t is None else t.shape if dim is None else t.movedim(dim, 0).shape[1:]
        for t, dim in zip(tensors, own_dims, strict=True)
    ]
    call = Call(*pad_batch(own_dims, given))
    grad = grad.expand(info.batch_size, *grad.shape) if in_dim is None else grad.movedim(in_dim, 0)
    widest = grad.dim() - 2  # the gradient has every leading dimension of the result
    shapes = [
        () if shape is None else (info.batch_size,) + (1,) * (widest + last - len(shape)) + shape
        for shape, last in zip(own, TRAILING, strict=True)
    ]
    found = derivatives.vjp(lambda one: MATVEC(*one), grad, call, needs, shapes)
    result = tuple(
        grad.new_empty((info.batch_size, 0))
        if each is None or shape is None
        else each.reshape(info.batch_size, *shape)
        for each, shape in zip(found, own, strict=True)
    )
    return result, (0,) * TENSORS


torch.library.register_vmap("laplex::matvec", _matvec_vmap, lib=LIBRARY)
torch.library.register_vmap("laplex::matvec_vjp", _matvec_vjp_vmap, lib=LIBRARY)
