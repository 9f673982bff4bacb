"""Execution of the operator on CUDA tensors: plans of the core on torch's streams and memory.

Everything runs on the current stream of the tensors' device. Memory comes from torch's allocator.

Orders (the sorted anchors) live as long as their anchors. They are found by the identity of the
anchor tensors and by their version, which PyTorch increments at every in-place operation. That is
enough for a backward pass. But writing through ``tensor.data``, as gradcheck and some optimisers
do, does not change the version. So a forward pass compares the anchors with those that were sorted,
unless ``verify`` is off. This takes one pass over the anchors and a wait for the answer.

In a stream that is captured into a CUDA graph, the sort is captured too. Every replay uses the
anchors as they are then, even those that an optimiser moved within the graph.
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
from .._support.core import PRODUCT, Gradients, Kernel, Memory, Term, Vectors
from .call import Call, Signature


def takes(tensor: Tensor) -> bool:
    """Whether calls on a tensor are executed by this module."""
    return tensor.is_cuda


# All uses of torch.cuda are in one place, so that tests can substitute an emulated device.


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Make a device current, as a context manager."""
    return torch.cuda.device(device)


def current_stream(device: torch.device) -> int:
    """Return the address of torch's current stream."""
    address: int = torch.cuda.current_stream(device).cuda_stream
    return address


def event(device: torch.device) -> Any:
    """Record an event on torch's current stream."""
    made: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    made.record(torch.cuda.current_stream(device))
    return made


def wait(event: Any, storage: Tensor) -> None:
    """Let the current stream, which is not the order's, wait for the order."""
    stream = torch.cuda.current_stream(storage.device)
    stream.wait_event(event)
    storage.record_stream(stream)


def memory(nbytes: int, device: torch.device) -> Tensor:
    """Allocate memory with torch's allocator."""
    return torch.empty(nbytes, dtype=torch.uint8, device=device)


def span(tensor: Tensor) -> Memory:
    """Return address and size of a tensor's memory."""
    return Memory(tensor.data_ptr(), tensor.numel())


# --- orders -------------------------------------------------------------------------------------


@dataclass
class _Order:
    """Sorted anchors on a device and their identification."""

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
"""Whether a forward pass compares the anchors with those of the order that it found."""

_orders: dict[tuple[Any, ...], _Order] = {}
# The orders of the graph that is being captured. The next call outside the capture forgets them, as
# does the end of their anchors. (A call on another thread makes the capture sort once more.)
_captured: dict[tuple[Any, ...], _Order] = {}
_lock = threading.RLock()  # a finaliser may run inside, on the same thread


def clear() -> None:
    """Forget every order, for instance after anchors were changed behind PyTorch's back."""
    with _lock:
        _orders.clear()
        _captured.clear()


def usage() -> tuple[int, int]:
    """Return the number of orders and the bytes of device memory that they hold."""
    with _lock:
        orders = [*_orders.values(), *_captured.values()]
        return len(orders), sum(order.storage.numel() for order in orders)


def _state_of(anchors: Sequence[Tensor]) -> tuple[Any, ...]:
    """Return a value that changes when a tensor's content or layout does."""
    return tuple(
        (each._version, each.data_ptr(), each.shape, each.stride(), each.is_neg())
        for each in anchors
    )


def _order_of(
    given: Sequence[Tensor], batch: tuple[int, ...], kernel: Kernel, trusted: bool
) -> _Order:
    """Find or build the order of targets and, if there are any, sources.

    ``given`` are the caller's tensors, which identify the order. In ``kernel`` they are contiguous
    and have all heads. ``trusted`` anchors are not compared with those that were sorted.
    """
    if any(each.is_inference() for each in given):  # tensors without a version
        return _build(given[0].device, kernel)
    key = (*map(id, given), batch)
    state = _state_of(given)
    stream = current_stream(given[0].device)
    capture = _core.cuda_capture_id(stream)
    with _lock:
        if capture is not None:
            return _captured_order(given, kernel, (capture, *key), state, trusted or not verify)
        _captured.clear()  # their memory belongs to the graph
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
    """Find or build an order within the graph, by a sort without any check.

    Anchors cannot be compared during a capture, so those that are not trusted are sorted again.

    An order from before the capture is useless. The graph would keep reading it, but would neither
    move it with its anchors nor keep it alive.
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
            # Another tensor may have taken over the address, and with it the key.
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

# How the core numbers the types of values, and of results if these are real; 0 is the plan's own.
_STORAGES = {torch.float16: 1, torch.bfloat16: 2}


class DevicePlan:
    """A plan of the core for one call, with the same methods as a plan on the CPU.

    ``kept`` are the objects that the plan points to, and ``values_dtype`` is the dtype of
    the call's values. The number of threads is ignored.
    """

    def __init__(
        self,
        plan: _core.CudaPlan,
        device: torch.device,
        kept: Sequence[Any],
        values_dtype: torch.dtype,
    ) -> None:
        self._plan = plan
        self._device = device
        self._kept = kept
        self._storage = _STORAGES.get(values_dtype, 0)

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
        """Write K v or another sum of the family, as ``execution.Plan.sum`` does."""
        with on(self._device):
            nbytes = self._plan.workspace_bytes(rows, values.is_complex, term)
            workspace = memory(nbytes, self._device)
            stream = current_stream(self._device)
            self._plan.sum(values, rows, out, self._storage, mode, term, stream, span(workspace))

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
        """Write the first-order gradients of the product itself, as ``execution.Plan.vjp`` does."""
        if term != PRODUCT:
            raise NotImplementedError("a plan on a GPU has the gradients of the product alone")
        with on(self._device):
            nbytes = self._plan.gradient_workspace_bytes(rows, values.is_complex)
            workspace = memory(nbytes, self._device)
            stream = current_stream(self._device)
            self._plan.vjp(values, grad, rows, self._storage, gradients, stream, span(workspace))


def plan_of(
    call: Call, sig: Signature, kernel: Kernel, laid: Sequence[Tensor | None], trusted: bool
) -> DevicePlan:
    """Find or build the plan of a call.

    ``laid`` are the tensors whose addresses ``kernel`` has: those of the call in the core's dtypes,
    contiguous and with all heads. ``trusted`` says that nothing has written to the anchors without
    PyTorch's knowledge.
    """
    anchors = [call.targets] if call.sources is None else [call.targets, call.sources]
    device = call.targets.device
    with on(device):
        order = _order_of(anchors, sig.anchor_batch, kernel, trusted)
        plan = order.plan.with_parameters(kernel)
        return DevicePlan(plan, device, (order.storage, *laid), call.values.dtype)
