"""Execution of the operator: a plan of the core runs on the memory of the tensors.

On the CPU, plans belong to the core, which finds them by the content of their anchors. On a GPU, a
plan is a ``cuda.DevicePlan``, which has the same two methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .. import _core
from .._support.core import Gradients, Kernel, Second, Term, Vectors
from .._support.sum_family import check_degree
from ..numpy.layout import Layout, layout_of
from . import cuda
from .call import DIRECT, HALF, NAMES, SIDES, TENSORS, Call, Signature, in_memory

_LITTLE = 1 << 20  # gradients of up to this many numbers are copied to take the core's fast path
_PRODUCT = 0  # mode of the core's sum: K itself, not its transpose or adjoint
# The core takes a null pointer for "absent", but torch returns null for tensors without elements.
# (Not a tensor: this module may be imported under a mode that makes tensors without memory.)
_NO_ELEMENTS = np.zeros(1)


class Plan(Protocol):
    """The matrix of a call's anchors and parameters."""

    def sum(
        self,
        values: Vectors,
        rows: int,
        out: Vectors,
        mode: int,
        term: Term,
        num_threads: int,
        /,
    ) -> None:
        """Write K v or another sum of the family."""

    def vjp(
        self,
        values: Vectors,
        grad: Vectors,
        rows: int,
        gradients: Gradients,
        term: Term,
        num_threads: int,
        /,
    ) -> None:
        """Write the first-order gradients that have an address."""

    def quantiles(self, levels: int, count: int, out: int, num_threads: int, /) -> None:
        """Write where the sum of Laplace CDFs at the anchors reaches ``[heads, count]`` levels."""


def product(call: Call, sig: Signature) -> tuple[Tensor, Plan]:
    """Compute S(parity, polynomial) of the module `derivatives`, a new ``[*batch, n]`` tensor."""
    if sig.direct:
        if sig.batch or sig.result_dtype is not sig.dtype:
            out = torch.empty(sig.shape, dtype=sig.result_dtype, device=call.targets.device)
        else:
            out = torch.empty_like(call.targets)  # which takes half the time
        return out, DIRECT.product(call[:TENSORS], call.form, out, torch.get_num_threads())
    plan = plan_of(call, sig)
    out = torch.empty(sig.shape, dtype=sig.result_dtype, device=call.targets.device)
    if out.numel() == 0:
        return out, plan
    layout = layout_of(sig.batch, sig.anchor_batch)
    _values, given = _strided(call.values, layout, sig.sources)
    result, written = _writable(out, layout)
    plan.sum(given, layout.rows, written, _PRODUCT, call.term, torch.get_num_threads())
    return (out if result is None else _restored(result, layout).contiguous()), plan


def gradients(
    grad: Tensor,
    call: Call,
    sig: Signature,
    needs: Sequence[bool],
    plan: Plan | None = None,
    overwrite: bool = False,
) -> list[Tensor | None]:
    """Compute the first-order gradients in one fused pass; those not needed are None.

    ``plan`` is the plan of the call's product, if it was kept. With ``overwrite``, the gradient by
    the values may be written over them.
    """
    if needs[3] or needs[4]:  # lengthscale and frequency
        check_degree(len(call.polynomial))
    if sig.direct and isinstance(plan, _core.Plan):
        cotangent = grad
        if len(sig.anchor_batch) == 1 < sig.anchor_batch[0] and grad.stride(-2) == 0:
            cotangent = grad.select(-2, 0)  # of a sum over heads, which share it
        if cotangent.numel() < _LITTLE:
            cotangent = cotangent.contiguous()  # the gradient of a sum is one number, repeated
        out = [
            torch.empty_like(each) if need and each is not None else None
            for each, need in zip(call[:TENSORS], needs, strict=True)
        ]
        if overwrite and needs[0]:
            out[0] = call.values
        threads = torch.get_num_threads()
        if DIRECT.vjp(plan, call[:TENSORS], call.form, cotangent, tuple(out), threads):
            return out
    # On a device, look the plan up again: the stream may have changed, or be captured into a graph.
    if plan is None or cuda.takes(call.targets):
        plan = plan_of(call, sig, backward=True)
    n, m = sig.targets, sig.sources
    layout = layout_of(sig.batch, sig.anchor_batch)
    device = call.targets.device
    forms = list(_forms(sig))
    own = (*sig.batch, m) if layout.in_order else (layout.heads, layout.rows, m)
    # The gradient by half-precision values is summed in float32 and rounded at the end.
    forms[0] = (sig.dtype if call.values.dtype in HALF else call.values.dtype, own)
    wanted = list(needs)
    apart = cuda.takes(call.targets)  # the core sums over both roles of an anchor only on the CPU
    if call.sources is None:
        wanted[2] = needs[1] and apart  # the targets' other role
    found = [
        torch.empty(shape, dtype=dtype, device=device) if need else None
        for need, (dtype, shape) in zip(wanted, forms, strict=True)
    ]
    if n and m and layout.heads and layout.rows:
        _values, given = _strided(call.values, layout, m)
        _grad, of_result = _strided(grad, layout, n)
        if call.sources is None and not apart:
            found[2] = found[1]
        addresses = Gradients(*[0 if each is None else each.data_ptr() for each in found])
        plan.vjp(given, of_result, layout.rows, addresses, call.term, torch.get_num_threads())
    else:
        for each in found:
            if each is not None:
                each.zero_()

    if found[0] is not None and not layout.in_order:
        found[0] = _restored(found[0], layout)
    d_targets, d_sources = found[1:3]
    if call.sources is None and apart and d_targets is not None and d_sources is not None:
        d_targets += d_sources
    return [
        None if each is None or tensor is None else _summed(each, tensor)
        for each, tensor in zip(found, call[:TENSORS], strict=True)
    ]


def has_second_gradients(call: Call, sig: Signature, grad: Tensor) -> bool:
    """Whether `second_gradients` supports a call: real, of the Laplace kernel, on the CPU."""
    return (
        sig.direct
        and call.is_plain
        and not call.is_complex_kernel
        and sig.result_dtype is sig.dtype
        and type(grad) is Tensor
        and grad.is_cpu
    )


def second_gradients(
    grad: Tensor,
    call: Call,
    sig: Signature,
    cotangents: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Backpropagate through `gradients` in one call of the core.

    ``cotangents`` are those of the gradients of values, targets, sources and lengthscale. Returns
    the gradients by ``grad`` and by those four, None where ``needs`` says so.
    """
    plan = plan_of(call, sig, backward=True)
    assert isinstance(plan, _core.Plan)
    n, m = sig.targets, sig.sources
    layout = layout_of(sig.batch, sig.anchor_batch)
    _values, given = _strided(call.values, layout, m)
    _grad, of_result = _strided(grad, layout, n)
    forms = [(sig.dtype, (layout.heads, layout.rows, m)), *_forms(sig)[1:4]]
    a, b, c, e = cotangents
    if call.sources is None:
        c = b
    if a is not None:
        a, _ = _strided(a, layout, m)
        a = a.reshape(layout.heads, layout.rows, m)
    laid = [
        None if each is None else each.to(dtype).expand(shape).resolve_neg().contiguous()
        for each, (dtype, shape) in zip((a, b, c, e), forms, strict=True)
    ]
    wanted = list(needs)
    if call.sources is None:
        wanted[3] = needs[2]  # the targets' other role
    outputs = [(sig.dtype, (layout.heads, layout.rows, n)), *forms]
    found = [
        torch.zeros(shape, dtype=dtype) if need else None
        for need, (dtype, shape) in zip(wanted, outputs, strict=True)
    ]
    if n and m and layout.heads and layout.rows:
        addresses = [0, *(0 if each is None else each.data_ptr() for each in laid)]
        results = [0 if each is None else each.data_ptr() for each in found]
        threads = torch.get_num_threads()
        plan.second_vjp(
            given, of_result, layout.rows, Second(*addresses), Second(*results), threads
        )
    d_grad, d_values, d_targets, d_sources, d_lengthscale = found
    if d_grad is not None:
        d_grad = _restored(d_grad, layout)
    if d_values is not None:
        d_values = _restored(d_values, layout)
    if call.sources is None and d_targets is not None and d_sources is not None:
        d_targets += d_sources
    found = [d_grad, d_values, d_targets, d_sources, d_lengthscale]
    originals = (grad, *call[:4])
    return [
        None if each is None or tensor is None else _summed(each, tensor)
        for each, tensor in zip(found, originals, strict=True)
    ]


def check_gradient(grad: Tensor, sig: Signature) -> None:
    """Refuse a gradient that does not have the result's shape and dtype."""
    if tuple(grad.shape) != sig.shape:
        raise ValueError(
            f"grad has shape {tuple(grad.shape)}, but the result has shape {sig.shape}"
        )
    if grad.dtype is not sig.result_dtype:
        raise TypeError(f"grad has dtype {grad.dtype}, but the result has dtype {sig.result_dtype}")


def plan_of(call: Call, sig: Signature, backward: bool = False) -> Plan:
    """Find or build the plan of a call's anchors and parameters.

    On the CPU the core copies what it keeps, so no tensor has to outlive the call.
    """
    batch = sig.anchor_batch
    heads = layout_of(batch, batch).heads
    shared = heads > 1 and _shares_anchors(call)
    laid = _laid(call, sig, shared)  # alive until the core has read them
    addresses = [
        0 if tensor is None else tensor.data_ptr() or _no_address(tensor) for tensor in laid
    ]
    kernel = Kernel(
        sig.dtype is torch.float64,
        call.real_part,
        0,  # the polynomial of a Matern kernel is in the term
        call.side,
        shared,
        heads,
        sig.targets,
        sig.sources,
        *addresses,
    )
    if cuda.takes(call.targets):
        return cuda.plan_of(call, sig, kernel, laid, backward)
    return _core.cached_plan(kernel, torch.get_num_threads())


def _forms(sig: Signature) -> list[tuple[torch.dtype, tuple[int, ...]]]:
    """Return the core's dtype and shape of each tensor with all heads (of values, without rows)."""
    batch = sig.anchor_batch
    vectors = {"targets": (*batch, sig.targets), "sources": (*batch, sig.sources)}
    return [
        (torch.float64, batch) if side is None else (sig.dtype, vectors[side]) for side in SIDES
    ]


def _shares_anchors(call: Call) -> bool:
    """Whether all heads have one set of anchors, by its shape or because it was expanded."""
    return all(
        size == 1 or step == 0
        for tensor in (call.targets, call.sources)
        if tensor is not None
        for size, step in zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True)
    )


def _laid(call: Call, sig: Signature, shared: bool) -> list[Tensor | None]:
    """Return the six tensors of the kernel in the core's dtypes, contiguous and with all heads.

    If the anchors are ``shared``, they have no heads.
    """
    laid: list[Tensor | None] = []
    given = zip(call[1:TENSORS], NAMES[1:], _forms(sig)[1:], strict=True)
    for tensor, name, (dtype, shape) in given:
        if tensor is not None:
            if shared and name in ("targets", "sources"):
                tensor, shape = tensor[(0,) * (tensor.dim() - 1)], shape[-1:]
            if tensor.dtype is not dtype:
                tensor = tensor.to(dtype)
            if tensor.shape != shape:
                tensor = tensor.expand(shape)
            if tensor.is_neg() or not tensor.is_contiguous():
                tensor = tensor.resolve_neg().contiguous()
            tensor = in_memory(tensor)
        laid.append(tensor)
    return laid


# --- memory -------------------------------------------------------------------------------------


def _strided(tensor: Tensor, layout: Layout, length: int) -> tuple[Tensor, Vectors]:
    """View ``[*b, length]`` as heads x rows x length, without a copy if strides allow.

    The tensor that is returned holds the memory. The stride of a repeated head or row is 0.
    """
    if tensor.is_neg() or tensor.is_conj():  # memory holds the negative or conjugate
        tensor = tensor.resolve_conj().resolve_neg()
    heads, rows, order, in_order, batch = layout
    if in_order and tensor.is_contiguous() and tensor.shape[:-1] == batch:
        head, row = rows * length, length  # without views, which take time
    else:
        tensor = tensor.expand(*batch, length)
        if not in_order:
            tensor = tensor.permute(*order, -1)
        tensor = tensor.reshape(heads, rows, length)
        if length > 1 and tensor.stride(-1) != 1:
            tensor = tensor.contiguous()
        head, row = tensor.stride(0), tensor.stride(1)
    if not tensor.data_ptr():
        tensor = in_memory(tensor)
        head, row = rows * length, length
    address = tensor.data_ptr() or _no_address(tensor)
    return tensor, Vectors(address, tensor.is_complex(), head, row)


def _writable(out: Tensor, layout: Layout) -> tuple[Tensor | None, Vectors]:
    """Return where to write a contiguous result: a new tensor if no view fits; see `_restored`."""
    length = out.shape[-1]
    heads, rows, order, in_order, _ = layout
    if in_order:
        return None, Vectors(out.data_ptr(), out.is_complex(), rows * length, length)
    beside = None
    try:
        view = out.permute(*order, -1).view(heads, rows, length)
    except RuntimeError:
        beside = view = out.new_empty((heads, rows, length))
    return beside, Vectors(view.data_ptr(), out.is_complex(), view.stride(0), view.stride(1))


def _restored(tensor: Tensor, layout: Layout) -> Tensor:
    """View ``[heads, rows, length]`` as ``[*batch, length]``, which is not contiguous."""
    return tensor.reshape(*layout.sizes, tensor.shape[-1]).permute(*layout.back, -1)


def _summed(gradient: Tensor, tensor: Tensor) -> Tensor:
    """Sum a gradient over the dimensions along which its tensor was repeated."""
    if gradient.shape != tensor.shape:
        gradient = gradient.sum_to_size(tensor.shape)
    if gradient.dtype is not tensor.dtype:
        gradient = gradient.to(tensor.dtype)
    return gradient.contiguous()


def _no_address(tensor: Tensor) -> int:
    """Return the address that stands for a tensor without elements."""
    if tensor.numel() > 0:
        raise ValueError(
            f"a tensor of shape {tuple(tensor.shape)} on {tensor.device} has no memory to read "
            "numbers from: pass a tensor with data, on the CPU or a GPU"
        )
    return int(_NO_ELEMENTS.ctypes.data)
