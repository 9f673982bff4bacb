"""Execution of the operator: a plan of the core, run on the tensors' memory.

The core sees heads x rows: a head has its own anchors, rows are vectors that share them. Leading
dimensions that the anchors have become heads, those that only the values have become rows; both
are views wherever strides allow, so nothing is copied in the common layouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from .. import _core
from . import cuda as cuda_execution
from .call import Signature, signature

Tensors = tuple[
    Tensor, Tensor, "Tensor | None", Tensor, "Tensor | None", "Tensor | None", "Tensor | None"
]
"""values, targets, sources, lengthscale, frequency, target_phase, source_phase."""

_APPLY = 0  # mode of the core's sum: K itself, not its transpose or adjoint
_NAME_OF = {torch.float32: "float32", torch.float64: "float64"}
# The core reads a null pointer as "absent", and torch gives null for tensors without elements.
# (Not a tensor: this module may be first imported under a mode that makes tensors without memory.)
_NO_ELEMENTS = np.zeros(1)


def apply(
    values: Tensor,
    targets: Tensor,
    sources: Tensor | None,
    lengthscale: Tensor,
    frequency: Tensor | None,
    target_phase: Tensor | None,
    source_phase: Tensor | None,
    real_part: bool,
    parity: int,
    moment: int,
) -> Tensor:
    """Return S(parity, moment) of the module `derivatives`, a new contiguous tensor [*batch, n]."""
    sig = signature(
        values,
        targets,
        sources,
        lengthscale,
        frequency,
        target_phase,
        source_phase,
        real_part,
        parity,
        moment,
    )
    threads = torch.get_num_threads()
    anchors = (targets, sources, lengthscale, frequency, target_phase, source_phase)
    plan = plan_of(sig, anchors, real_part, threads)
    out = targets.new_empty((*sig.batch, sig.targets), dtype=sig.result_dtype)
    if out.numel() == 0:
        return out
    split = HeadsAndRows(sig)
    given, given_head, given_row = split.strided(values, sig.sources)
    result, result_head, result_row = split.writable(out)
    plan.sum(
        _pointer(given),
        given.is_complex(),
        given_head,
        given_row,
        split.rows,
        result.data_ptr(),
        result.is_complex(),
        result_head,
        result_row,
        _APPLY,
        parity,
        moment,
        threads,
    )
    return out if result.data_ptr() == out.data_ptr() else split.restored(result).contiguous()


def plain_product(
    values: Tensor, targets: Tensor, sources: Tensor | None, lengthscale: float
) -> Tensor | None:
    """Return the product of contiguous tensors with a real kernel of one head.

    None where the arguments are anything else, right or wrong: `apply` then takes them or says what
    they should be. A small product costs less than finding out how tensors of all kinds are laid.
    """
    dtype = targets.dtype
    if (
        cuda_execution.takes(targets)
        or dtype not in _NAME_OF
        or values.dtype is not dtype
        or targets.dim() != 1
        or values.dim() == 0
        or not (targets.is_contiguous() and values.is_contiguous())
        or targets.is_neg()
        or values.is_neg()
    ):
        return None
    n, m = targets.shape[0], values.shape[-1]
    if sources is not None:
        if (
            sources.dtype is not dtype
            or sources.shape != (m,)
            or not sources.is_contiguous()
            or sources.is_neg()
        ):
            return None
    elif m != n:
        return None
    x, v, y = targets.data_ptr(), values.data_ptr(), 0 if sources is None else sources.data_ptr()
    if not (x and v and (sources is None or y)):  # no elements, or no memory
        return None
    out = targets.new_empty((*values.shape[:-1], n))
    _core.plain_product(
        dtype is torch.float64,
        n,
        m,
        x,
        y,
        lengthscale,
        v,
        values.numel() // m,
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def vjp(
    grad: Tensor,
    values: Tensor,
    targets: Tensor,
    sources: Tensor | None,
    lengthscale: Tensor,
    frequency: Tensor | None,
    target_phase: Tensor | None,
    source_phase: Tensor | None,
    real_part: bool,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Return the seven first-order gradients in one fused pass, None where not needed."""
    inputs: Tensors = (
        values,
        targets,
        sources,
        lengthscale,
        frequency,
        target_phase,
        source_phase,
    )
    sig = signature(*inputs, real_part)
    check_gradient(grad, sig)
    threads = torch.get_num_threads()
    plan = plan_of(sig, inputs[1:], real_part, threads, backward=True)
    split = HeadsAndRows(sig)
    n, m = sig.targets, sig.sources
    given, given_head, given_row = split.strided(values, m)
    cotangent, cotangent_head, cotangent_row = split.strided(grad, n)

    # One gradient per head; in the self case the targets' is the sum of both roles.
    wanted = list(needs)
    wanted[2] = needs[1] if sources is None else needs[2]
    values_shape = (*sig.batch, m) if split.in_order else (split.heads, split.rows, m)
    shapes = (values_shape, *(sig.anchor_batch + size for size in _anchor_sizes(n, m)))
    dtypes = (values.dtype, *_anchor_dtypes(sig.dtype))
    found = [
        targets.new_empty(shape, dtype=dtype) if need else None
        for need, shape, dtype in zip(wanted, shapes, dtypes, strict=True)
    ]
    if n and m and split.heads and split.rows:
        dv, dx, dy, d_ell, d_omega, d_theta, d_phi = (
            0 if each is None else each.data_ptr() for each in found
        )
        plan.vjp(
            _pointer(given),
            given.is_complex(),
            given_head,
            given_row,
            split.rows,
            _pointer(cotangent),
            cotangent.is_complex(),
            cotangent_head,
            cotangent_row,
            dv,
            dx,
            dy,
            d_ell,
            d_omega,
            d_theta,
            d_phi,
            threads,
        )
    else:
        for each in found:
            if each is not None:
                each.zero_()

    if found[0] is not None and not split.in_order:
        found[0] = split.restored(found[0])
    d_targets, d_sources = found[1], found[2]
    if sources is None and d_targets is not None and d_sources is not None:
        d_targets += d_sources
    return [
        None if each is None or tensor is None else _summed(each, tensor)
        for each, tensor in zip(found, inputs, strict=True)
    ]


def _summed(gradient: Tensor, tensor: Tensor) -> Tensor:
    """Sum a gradient over the dimensions in which its tensor was repeated."""
    if gradient.shape != tensor.shape:
        gradient = gradient.sum_to_size(tensor.shape)
    if gradient.dtype is not tensor.dtype:
        gradient = gradient.to(tensor.dtype)
    return gradient.contiguous()


def _anchor_dtypes(dtype: torch.dtype) -> tuple[torch.dtype, ...]:
    """Core's dtypes of targets, sources, lengthscale, frequency and the two phases."""
    return (dtype, dtype, torch.float64, torch.float64, dtype, dtype)


def _anchor_sizes(n: int, m: int) -> tuple[tuple[int, ...], ...]:
    """Trailing sizes of targets, sources, lengthscale, frequency and the two phases."""
    return ((n,), (m,), (), (), (n,), (m,))


def check_gradient(grad: Tensor, sig: Signature) -> None:
    """Refuse a gradient that doesn't have the result's shape and dtype."""
    expected = (*sig.batch, sig.targets)
    if tuple(grad.shape) != expected:
        raise ValueError(f"grad has shape {tuple(grad.shape)}, but the result has {expected}")
    if grad.dtype is not sig.result_dtype:
        raise TypeError(f"grad has dtype {grad.dtype}, but the result has {sig.result_dtype}")


class HeadsAndRows:
    """The split of leading dimensions into heads (the anchors have them) and rows."""

    def __init__(self, sig: Signature) -> None:
        self.batch = sig.batch
        rank = len(sig.batch)
        if sig.anchor_batch:
            offset = rank - len(sig.anchor_batch)
            is_head = [d >= offset and sig.anchor_batch[d - offset] != 1 for d in range(rank)]
            heads = [d for d in range(rank) if is_head[d]]
            rows = [d for d in range(rank) if not is_head[d]]
            self.heads = prod(sig.batch[d] for d in heads)
            self.rows = prod(sig.batch[d] for d in rows)
            self.order = (*heads, *rows)
            # Heads before rows: the order in memory already.
            self.in_order = self.order == tuple(range(rank))
        else:
            self.heads, self.rows = 1, prod(sig.batch)
            self.order, self.in_order = tuple(range(rank)), True

    def strided(self, tensor: Tensor, length: int) -> tuple[Tensor, int, int]:
        """Arrange ``[*b, length]`` as heads x rows x length.

        Returns
        -------
        tensor
            Its memory: the argument's own where strides allow.
        head_stride, row_stride
            In elements; 0 where a head or row is a repetition. The last dimension is contiguous.
        """
        if _is_lazy(tensor):
            tensor = tensor.resolve_conj().resolve_neg()
        if self.in_order and tensor.is_contiguous() and tensor.shape[:-1] == self.batch:
            return tensor, self.rows * length, length  # without making views, which cost time
        tensor = tensor.expand(*self.batch, length)
        if not self.in_order:
            tensor = tensor.permute(*self.order, -1)
        tensor = tensor.reshape(self.heads, self.rows, length)
        if length > 1 and tensor.stride(-1) != 1:
            tensor = tensor.contiguous()
        return tensor, tensor.stride(0), tensor.stride(1)

    def writable(self, out: Tensor) -> tuple[Tensor, int, int]:
        """Arrange a contiguous result likewise; a new tensor where no view does, see `restored`."""
        length = out.shape[-1]
        if self.in_order:
            return out, self.rows * length, length
        shape = (self.heads, self.rows, length)
        try:
            out = out.permute(*self.order, -1).view(shape)
        except RuntimeError:
            out = out.new_empty(shape)
        return out, out.stride(0), out.stride(1)

    def restored(self, tensor: Tensor) -> Tensor:
        """View ``[heads, rows, length]`` as ``[*batch, length]``, not contiguous."""
        sizes = [self.batch[d] for d in self.order]
        back = [self.order.index(d) for d in range(len(self.order))]
        return tensor.reshape(*sizes, tensor.shape[-1]).permute(*back, -1)


def plan_of(
    sig: Signature,
    anchors: Sequence[Tensor | None],
    real_part: bool,
    threads: int,
    backward: bool = False,
) -> _core.Plan | cuda_execution.BoundPlan:
    """Look up or build the plan of targets, sources, lengthscale, frequency and both phases.

    On the CPU the core copies what it keeps: no tensor need outlive the call.
    """
    dtype, n, m = sig.dtype, sig.targets, sig.sources
    dtypes = _anchor_dtypes(dtype)
    sizes = _anchor_sizes(n, m)
    pointers = [0] * len(anchors)
    kept: list[Tensor | None] = [None] * len(anchors)  # alive until the core has read them
    for position, tensor in enumerate(anchors):
        if tensor is None:
            continue
        if tensor.dtype is not dtypes[position]:
            tensor = tensor.to(dtypes[position])
        if sig.anchor_batch:
            tensor = tensor.expand(sig.anchor_batch + sizes[position])
        if _is_lazy(tensor) or not tensor.is_contiguous():
            tensor = tensor.resolve_neg().contiguous()
        kept[position] = tensor
        pointers[position] = _pointer(tensor)
    assert kept[0] is not None  # targets are always given
    if cuda_execution.takes(kept[0]):
        return cuda_execution.plan_of(sig, anchors, kept, pointers, real_part, backward)
    heads = prod(sig.anchor_batch)
    x, y, ell, omega, theta, phi = pointers
    return _core.cached_plan(
        _NAME_OF[dtype], heads, n, m, x, y, ell, omega, theta, phi, real_part, threads
    )


def _is_lazy(tensor: Tensor) -> bool:
    """Whether the memory holds the conjugate or negative of what the tensor stands for."""
    return tensor.is_neg() or tensor.is_conj()


def _pointer(tensor: Tensor) -> int:
    address: int = tensor.data_ptr()
    if address == 0:
        if tensor.numel() > 0:
            raise ValueError(
                f"a tensor of shape {tuple(tensor.shape)} on {tensor.device} has no memory to read "
                "numbers from: pass a materialised one, such as tensor.clone() on the CPU"
            )
        return int(_NO_ELEMENTS.ctypes.data)
    return address
