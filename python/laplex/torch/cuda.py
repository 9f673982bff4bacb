"""Execution of the operator on CUDA tensors: plans of the core on torch's streams and memory.

Everything runs on the current stream of the tensors' device; memory comes from torch's allocator.

Orders (the sorted anchors) are kept for as long as their anchors live. They are found again by the
identity of the anchor tensors and by the version that PyTorch counts up at every in-place
operation. That is enough for a backward pass. But writing through ``tensor.data`` counts nothing
up, and gradcheck and some optimisers do so: a forward pass therefore compares the anchors with
those that were sorted, one pass over them and a wait for the answer, unless `verify` is off.

In a stream that is captured into a CUDA graph, the sort is captured too: every replay takes the
anchors as they are by then, also those that an optimiser moved within the graph.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

from .. import _core
from .call import Signature


def takes(tensor: Tensor) -> bool:
    """Whether a tensor's calls are executed here."""
    return tensor.is_cuda


# What is asked of torch.cuda, in one place: tests put an emulated device here.


def _on(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device)


def _stream(device: torch.device) -> int:
    address: int = torch.cuda.current_stream(device).cuda_stream
    return address


def _event(device: torch.device) -> Any:
    event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def _wait(event: Any, storage: Tensor) -> None:
    """Let the current stream, another than the order's, wait for the order."""
    stream = torch.cuda.current_stream(storage.device)
    stream.wait_event(event)
    storage.record_stream(stream)


def _memory(nbytes: int, device: torch.device) -> Tensor:
    return torch.empty(nbytes, dtype=torch.uint8, device=device)


# --- orders -------------------------------------------------------------------------------------


Addresses = tuple[int, int]
"""Addresses of targets and sources; 0 instead of the sources: they are the targets."""

Parameters = tuple[int, int, int, int, bool]
"""Addresses of lengthscale, frequency and both phases (0: not given), and real_part."""


@dataclass
class _Order:
    """Sorted anchors on a device, and what identifies them."""

    plan: _core.CudaPlan
    storage: Tensor
    stream: int
    event: Any
    state: tuple[Any, ...]
    tensors: list[weakref.ref[Tensor]] = field(default_factory=list)

    def is_of(self, anchors: Sequence[Tensor]) -> bool:
        return len(anchors) == len(self.tensors) and all(
            own() is given for own, given in zip(self.tensors, anchors, strict=True)
        )


verify = True
"""Whether a forward pass compares anchors with those of the order that it found."""

_orders: dict[tuple[Any, ...], _Order] = {}
# Of the graph that is being captured: forgotten by the next call outside, or with their anchors.
# (A call outside on another thread makes a capture sort once more.)
_captured: dict[tuple[Any, ...], _Order] = {}
_lock = threading.RLock()  # a finaliser may run inside, on the same thread


def clear() -> None:
    """Forget every order, for instance after anchors were changed behind PyTorch's back."""
    with _lock:
        _orders.clear()
        _captured.clear()


def usage() -> tuple[int, int]:
    """How many orders there are, and the bytes of device memory that they hold."""
    with _lock:
        orders = [*_orders.values(), *_captured.values()]
        return len(orders), sum(order.storage.numel() for order in orders)


def _state_of(anchors: Sequence[Tensor]) -> tuple[Any, ...]:
    """What changes when a tensor's content or layout does."""
    return tuple(
        (each._version, each.data_ptr(), each.shape, each.stride(), each.is_neg())
        for each in anchors
    )


def _order_of(
    sig: Signature,
    given: Sequence[Tensor],
    addresses: Addresses,
    parameters: Parameters,
    trusted: bool,
) -> _Order:
    """Find or build the order of targets and perhaps sources.

    `given` are the caller's tensors, by which it is found; at `addresses` they are contiguous, with
    all heads; `trusted` ones are taken for what they were.
    """
    if any(each.is_inference() for each in given):  # which have no version
        return _build(sig, given[0].device, addresses, parameters)
    key = (*map(id, given), sig.anchor_batch)
    state = _state_of(given)
    stream = _stream(given[0].device)
    capture = _core.cuda_capture_id(stream)
    with _lock:
        if capture is not None:
            return _captured_order(
                sig, given, addresses, parameters, (capture, *key), state, trusted or not verify
            )
        _captured.clear()  # their memory is the graph's again
        order = _orders.get(key)
        if order is not None and order.is_of(given) and order.state == state:
            if order.stream != stream:
                _wait(order.event, order.storage)
            if trusted or not verify or _holds(order, addresses, stream):
                return order
        moved = order is not None and order.is_of(given) and order.stream == stream
        _orders.pop(key, None)  # before anything can fail
        if moved and order is not None:
            _move(sig, order, addresses, stream)
        else:
            order = _build(sig, given[0].device, addresses, parameters)
            order.tensors = [weakref.ref(each, _forgetter(_orders, key)) for each in given]
        order.state = state
        _orders[key] = order
        return order


def _captured_order(
    sig: Signature,
    given: Sequence[Tensor],
    addresses: Addresses,
    parameters: Parameters,
    key: tuple[Any, ...],
    state: tuple[Any, ...],
    trusted: bool,
) -> _Order:
    """Find or build the order in the graph itself: nothing is looked at, all is sorted.

    Nor can anchors be compared there: those that are not trusted are sorted once more.

    An order from before the capture is of no use. The graph would go on reading it, and neither
    move it along with its anchors nor keep it alive.
    """
    order = _captured.get(key)
    if trusted and order is not None and order.is_of(given) and order.state == state:
        if order.stream != _stream(given[0].device):
            _wait(order.event, order.storage)
        return order
    for old in [each for each in _captured if each[0] != key[0]]:
        del _captured[old]
    order = _build(sig, given[0].device, addresses, parameters)
    order.tensors = [weakref.ref(each, _forgetter(_captured, key)) for each in given]
    order.state = state
    _captured[key] = order
    return order


def _forgetter(orders: dict[tuple[Any, ...], _Order], key: tuple[Any, ...]) -> Any:
    def forget(dead: weakref.ref[Tensor]) -> None:
        with _lock:
            order = orders.get(key)
            # The key may have gone to a tensor that took the address over.
            if order is not None and any(own is dead for own in order.tensors):
                del orders[key]

    return forget


def _sizes(sig: Signature, addresses: Addresses) -> tuple[str, int, int, int, bool]:
    name = "float64" if sig.dtype is torch.float64 else "float32"
    return name, prod(sig.anchor_batch), sig.targets, sig.sources, addresses[1] == 0


def _build(
    sig: Signature, device: torch.device, addresses: Addresses, parameters: Parameters
) -> _Order:
    sizes = _sizes(sig, addresses)
    dtype, heads, n, m, _ = sizes
    targets, sources = addresses
    stream = _stream(device)
    storage = _memory(_core.cuda_storage_bytes(*sizes), device)
    scratch = _memory(_core.cuda_scratch_bytes(*sizes), device)
    plan = _core.CudaPlan(
        dtype,
        heads,
        n,
        m,
        targets,
        sources,
        *parameters,
        stream,
        storage.data_ptr(),
        storage.numel(),
        scratch.data_ptr(),
        scratch.numel(),
    )
    return _Order(plan, storage, stream, _event(device), ())


def _holds(order: _Order, addresses: Addresses, stream: int) -> bool:
    scratch = _memory(64, order.storage.device)
    return order.plan.holds(*addresses, stream, scratch.data_ptr(), scratch.numel())


def _move(sig: Signature, order: _Order, addresses: Addresses, stream: int) -> None:
    device = order.storage.device
    scratch = _memory(_core.cuda_scratch_bytes(*_sizes(sig, addresses)), device)
    order.plan.update(*addresses, stream, scratch.data_ptr(), scratch.numel())
    order.event = _event(device)


# --- plans --------------------------------------------------------------------------------------


class BoundPlan:
    """A plan of the core for one call, with the interface of the CPU's plan."""

    def __init__(self, plan: _core.CudaPlan, device: torch.device, kept: Sequence[Any]) -> None:
        self._plan = plan
        self._device = device
        self._kept = kept  # what the plan points to

    def sum(
        self,
        values: int,
        values_complex: bool,
        values_head_stride: int,
        values_row_stride: int,
        rows: int,
        out: int,
        out_complex: bool,
        out_head_stride: int,
        out_row_stride: int,
        mode: int,
        parity: int,
        moment: int,
        num_threads: int,
    ) -> None:
        """See `_core.Plan.sum`; the number of threads is the device's business."""
        with _on(self._device):
            workspace = _memory(
                self._plan.workspace_bytes(rows, values_complex, moment), self._device
            )
            self._plan.sum(
                values,
                values_complex,
                values_head_stride,
                values_row_stride,
                rows,
                out,
                out_complex,
                out_head_stride,
                out_row_stride,
                0,
                mode,
                parity,
                moment,
                _stream(self._device),
                workspace.data_ptr(),
                workspace.numel(),
            )

    def vjp(
        self,
        values: int,
        values_complex: bool,
        values_head_stride: int,
        values_row_stride: int,
        rows: int,
        grad: int,
        grad_complex: bool,
        grad_head_stride: int,
        grad_row_stride: int,
        d_values: int,
        d_targets: int,
        d_sources: int,
        d_lengthscale: int,
        d_frequency: int,
        d_target_phase: int,
        d_source_phase: int,
        num_threads: int,
    ) -> None:
        """See `_core.Plan.vjp`."""
        with _on(self._device):
            workspace = _memory(
                self._plan.gradient_workspace_bytes(rows, values_complex), self._device
            )
            self._plan.vjp(
                values,
                values_complex,
                values_head_stride,
                values_row_stride,
                rows,
                grad,
                grad_complex,
                grad_head_stride,
                grad_row_stride,
                d_values,
                d_targets,
                d_sources,
                d_lengthscale,
                d_frequency,
                d_target_phase,
                d_source_phase,
                _stream(self._device),
                workspace.data_ptr(),
                workspace.numel(),
            )


def plan_of(
    sig: Signature,
    given: Sequence[Tensor | None],
    laid: Sequence[Tensor | None],
    addresses: Sequence[int],
    real_part: bool,
    trusted: bool,
) -> BoundPlan:
    """Find or build the plan of targets, sources, lengthscale, frequency and both phases.

    `given` are the caller's tensors; `laid` are the same in the core's dtypes, contiguous with all
    heads, and `addresses` their memory (0: not given). `trusted`: nothing wrote to the anchors
    without PyTorch's knowledge.
    """
    x, y, ell, omega, theta, phi = addresses
    parameters = (ell, omega, theta, phi, real_part)
    anchors = [each for each in given[:2] if each is not None]
    device = anchors[0].device
    with _on(device):
        order = _order_of(sig, anchors, (x, y), parameters, trusted)
        return BoundPlan(order.plan.with_parameters(*parameters), device, (order.storage, *laid))
