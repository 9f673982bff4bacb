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
from typing import Any

import torch
from torch import Tensor

from .. import _core
from .._support.core import Gradients, Kernel, Memory, Vectors
from .call import Call, Signature


def takes(tensor: Tensor) -> bool:
    """Whether a tensor's calls are executed here."""
    return tensor.is_cuda


# What is asked of torch.cuda, in one place: tests put an emulated device here.


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Make a device the current one."""
    return torch.cuda.device(device)


def current_stream(device: torch.device) -> int:
    """The address of the stream that torch works on."""
    address: int = torch.cuda.current_stream(device).cuda_stream
    return address


def event(device: torch.device) -> Any:
    """An event at this point of that stream."""
    made: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    made.record(torch.cuda.current_stream(device))
    return made


def wait(event: Any, storage: Tensor) -> None:
    """Let the current stream, another than the order's, wait for the order."""
    stream = torch.cuda.current_stream(storage.device)
    stream.wait_event(event)
    storage.record_stream(stream)


def memory(nbytes: int, device: torch.device) -> Tensor:
    """Memory of torch's allocator."""
    return torch.empty(nbytes, dtype=torch.uint8, device=device)


def span(tensor: Tensor) -> Memory:
    """Where memory lies."""
    return Memory(tensor.data_ptr(), tensor.numel())


# --- orders -------------------------------------------------------------------------------------


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
    given: Sequence[Tensor], batch: tuple[int, ...], kernel: Kernel, trusted: bool
) -> _Order:
    """Find or build the order of targets and perhaps sources.

    `given` are the caller's tensors, by which it is found; in `kernel` they are contiguous, with
    all heads; `trusted` ones are taken for what they were.
    """
    if any(each.is_inference() for each in given):  # which have no version
        return _build(given[0].device, kernel)
    key = (*map(id, given), batch)
    state = _state_of(given)
    stream = current_stream(given[0].device)
    capture = _core.cuda_capture_id(stream)
    with _lock:
        if capture is not None:
            return _captured_order(given, kernel, (capture, *key), state, trusted or not verify)
        _captured.clear()  # their memory is the graph's again
        order = _orders.get(key)
        if order is not None and order.is_of(given) and order.state == state:
            if order.stream != stream:
                wait(order.event, order.storage)
            if trusted or not verify or _holds(order, kernel, stream):
                return order
        moved = order is not None and order.is_of(given) and order.stream == stream
        _orders.pop(key, None)  # before anything can fail
        if moved and order is not None:
            _move(order, kernel, stream)
        else:
            order = _build(given[0].device, kernel)
            order.tensors = [weakref.ref(each, _forgetter(_orders, key)) for each in given]
        order.state = state
        _orders[key] = order
        return order


def _captured_order(
    given: Sequence[Tensor],
    kernel: Kernel,
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
        if order.stream != current_stream(given[0].device):
            wait(order.event, order.storage)
        return order
    for old in [each for each in _captured if each[0] != key[0]]:
        del _captured[old]
    order = _build(given[0].device, kernel)
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


def _build(device: torch.device, kernel: Kernel) -> _Order:
    stream = current_stream(device)
    storage = memory(_core.cuda_storage_bytes(kernel), device)
    scratch = memory(_core.cuda_scratch_bytes(kernel), device)
    plan = _core.CudaPlan(kernel, stream, span(storage), span(scratch))
    return _Order(plan, storage, stream, event(device), ())


def _holds(order: _Order, kernel: Kernel, stream: int) -> bool:
    scratch = memory(64, order.storage.device)
    return order.plan.holds(kernel.targets, kernel.sources, stream, span(scratch))


def _move(order: _Order, kernel: Kernel, stream: int) -> None:
    device = order.storage.device
    scratch = memory(_core.cuda_scratch_bytes(kernel), device)
    order.plan.update(kernel.targets, kernel.sources, stream, span(scratch))
    order.event = event(device)


# --- plans --------------------------------------------------------------------------------------


class DevicePlan:
    """A plan of the core for one call, with the methods of the CPU's.

    `kept` is what the plan points to. The number of threads is the device's business.
    """

    def __init__(self, plan: _core.CudaPlan, device: torch.device, kept: Sequence[Any]) -> None:
        self._plan = plan
        self._device = device
        self._kept = kept

    def sum(
        self,
        values: Vectors,
        rows: int,
        out: Vectors,
        mode: int,
        parity: int,
        moment: int,
        num_threads: int,
        /,
    ) -> None:
        """As `execution.Plan.sum`."""
        with on(self._device):
            nbytes = self._plan.workspace_bytes(rows, values.is_complex, moment)
            workspace = memory(nbytes, self._device)
            stream = current_stream(self._device)
            self._plan.sum(values, rows, out, 0, mode, parity, moment, stream, span(workspace))

    def vjp(
        self, values: Vectors, grad: Vectors, rows: int, gradients: Gradients, num_threads: int, /
    ) -> None:
        """As `execution.Plan.vjp`."""
        with on(self._device):
            nbytes = self._plan.gradient_workspace_bytes(rows, values.is_complex)
            workspace = memory(nbytes, self._device)
            stream = current_stream(self._device)
            self._plan.vjp(values, grad, rows, gradients, stream, span(workspace))


def plan_of(
    call: Call, sig: Signature, kernel: Kernel, laid: Sequence[Tensor | None], trusted: bool
) -> DevicePlan:
    """Find or build the plan of a call.

    `laid` are the tensors whose addresses `kernel` has: the call's in the core's dtypes, contiguous
    with all heads. `trusted`: nothing wrote to the anchors without PyTorch's knowledge.
    """
    anchors = [call.targets] if call.sources is None else [call.targets, call.sources]
    device = call.targets.device
    with on(device):
        order = _order_of(anchors, sig.anchor_batch, kernel, trusted)
        return DevicePlan(order.plan.with_parameters(kernel), device, (order.storage, *laid))
