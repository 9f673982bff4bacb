"""Execution of the operator on CUDA tensors: plans of the core on torch's streams and memory.

Everything runs on the current stream of the tensors' device. Memory comes from torch's allocator.

Orders (the sorted anchors) live as long as their anchors. They are found by the identity of the
anchor tensors and by their version, which PyTorch increments at every in-place operation. That is
enough for a backward pass. But writing through ``tensor.data``, as gradcheck and some optimisers
do, does not change the version. So a forward pass makes sure of the anchors, unless ``verify`` is
off: it sorts short lines once more, and compares those of long ones with what was sorted.

Nothing waits for the GPU where lines are short. What a look at their anchors or parameters finds is
written to a word of memory that the host shares, and the next call raises it; see `check`. Long
lines wait: the answer saves a sort, which takes longer than the wait.

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
from .._support.core import Gradients, Kernel, Memory, Term, Vectors
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


def shared_word() -> Tensor:
    """Allocate 8 bytes, all 0, that host and device reach by the same address."""
    return torch.zeros(1, dtype=torch.int64, device="cpu", pin_memory=True)


def synchronize(device: torch.device) -> None:
    """Wait for all work on a device."""
    torch.cuda.synchronize(device)


def span(tensor: Tensor) -> Memory:
    """Return address and size of a tensor's memory."""
    return Memory(tensor.data_ptr(), tensor.numel())


class Scratch:
    """Lends memory to a call of the core that turns out to need some, until the call returns."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __call__(self, nbytes: int) -> Memory:
        """Lend memory."""
        self._lent = memory(nbytes, self._device)
        return span(self._lent)


# --- reports ------------------------------------------------------------------------------------

# For each device, the word in which the core reports what it found in calls that did not wait.
_reports: dict[torch.device, Tensor] = {}


def _report(device: torch.device, captures: bool) -> int:
    """Return the address of a device's report; 0 if there is none, and none can be made."""
    if device not in _reports and not captures:  # pinned memory is not to be had in a capture
        _reports.setdefault(device, shared_word())
    report = _reports.get(device)
    return 0 if report is None else report.data_ptr()


def _raise_reported(device: torch.device) -> None:
    """Raise what the device has reported so far. This does not wait, unless there is an error."""
    report = _reports.get(device)
    if report is None or not _core.cuda_reports(report.data_ptr()):
        return
    if _core.cuda_capture_id(current_stream(device)) is not None:  # the call after it will raise
        return
    synchronize(device)  # what is still to come would report it again
    clear()
    _core.cuda_check_report(report.data_ptr())


def check(device: torch.device | str | int | None = None) -> None:
    """Wait for the GPU, and raise the error of an earlier call whose numbers were not legal.

    Calls with short lines, of up to 131,072 anchors on both sides (of all heads, where these have
    anchors of their own), do not wait for the GPU.
    Anchors or phases that are NaN or infinite, and a lengthscale that is not positive, make their
    results NaN. The error is raised by the next ``laplex.matvec``, operator or layer on the
    device that comes after the GPU found it, or by this function.

    Parameters
    ----------
    device : torch.device, str or int, optional
        The GPU; by default all that Laplex has used.

    Raises
    ------
    ValueError
        If an earlier call had numbers that are not legal. The message names the argument and the
        entry.
    """
    if device is None:
        devices = list(_reports)
    else:
        given = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
        devices = [each for each in _reports if given.index in (None, each.index)]
    for each in devices:
        with on(each):
            synchronize(each)
            _raise_reported(each)


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
    lent: bool = False
    """Whether another stream may still read it."""

    def is_of(self, anchors: Sequence[Tensor]) -> bool:
        return len(anchors) == len(self.tensors) and all(
            own() is given for own, given in zip(self.tensors, anchors, strict=True)
        )


verify = True
"""Whether a forward pass makes sure that anchors of the same version are those of the order that it
found: by another sort of short lines, or by a comparison of long ones, which waits for the GPU."""

SHORT = 1 << 17
"""Anchors of all lines and both sides up to which a sort is expected to take less time than to wait
for the GPU. This is an estimate, not measured on a GPU."""

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
    and have all heads. Of ``trusted`` anchors the version says enough.

    An order from before a capture is useless in it. The graph would keep reading it, but would
    neither move it with its anchors nor keep it alive.
    """
    device = given[0].device
    if any(each.is_inference() for each in given):  # tensors without a version
        return _build(device, kernel)
    state = _state_of(given)
    stream = current_stream(device)
    capture = _core.cuda_capture_id(stream)
    orders = _orders if capture is None else _captured
    key = (capture, *map(id, given), batch)
    with _lock:  # for the dictionaries alone: nothing waits for the device in here
        for old in [each for each in _captured if each[0] != capture]:
            del _captured[old]  # their memory belongs to the graph
        order = orders.get(key)
    if order is not None and order.is_of(given) and order.state == state:
        if order.stream != stream:
            wait(order.event, order.storage)
            order.lent = True
        if trusted or not verify:
            return order
        if capture is None and not _is_short(kernel) and _holds(order, kernel, stream):
            return order
    with _lock:  # before anything can fail; and nobody else is to find an order that moves
        found = orders.pop(key, None)
    # A short line is sorted in memory of its own: whoever has its last order, on another stream or
    # thread, goes on reading that. Looking at all of its parameters comes with it.
    if (
        found is not None
        and found is order
        and order.is_of(given)
        and order.stream == stream
        and not order.lent
        and not _is_short(kernel)
        and capture is None
    ):
        _move(order, kernel, stream)
    else:
        order = _build(device, kernel)
        order.tensors = [weakref.ref(each, _forgetter(orders, key)) for each in given]
    order.state = state
    with _lock:
        orders[key] = order
    return order


def _forgetter(orders: dict[tuple[Any, ...], _Order], key: tuple[Any, ...]) -> Any:
    def forget(dead: weakref.ref[Tensor]) -> None:
        with _lock:
            order = orders.get(key)
            # Another tensor may have taken over the address, and with it the key.
            if order is not None and any(own is dead for own in order.tensors):
                del orders[key]

    return forget


def _is_short(kernel: Kernel) -> bool:
    lines = 1 if kernel.shared_anchors else kernel.heads
    return lines * (kernel.n + kernel.m) <= SHORT


def _build(device: torch.device, kernel: Kernel) -> _Order:
    stream = current_stream(device)
    storage = memory(_core.cuda_storage_bytes(kernel), device)
    captures = _core.cuda_capture_id(stream) is not None
    report = _report(device, captures) if captures or _is_short(kernel) else 0
    plan = _core.CudaPlan(kernel, stream, span(storage), Scratch(device), report)
    return _Order(plan, storage, stream, event(device), ())


def _holds(order: _Order, kernel: Kernel, stream: int) -> bool:
    scratch = memory(64, order.storage.device)
    return order.plan.holds(kernel.targets, kernel.sources, stream, span(scratch))


def _move(order: _Order, kernel: Kernel, stream: int) -> None:
    device = order.storage.device
    no_report = 0  # only long lines move, which wait
    order.plan.update(kernel.targets, kernel.sources, stream, Scratch(device), no_report)
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
        """Write the first-order gradients that have an address, as ``execution.Plan.vjp`` does."""
        with on(self._device):
            nbytes = self._plan.gradient_workspace_bytes(rows, values.is_complex, term)
            workspace = memory(nbytes, self._device)
            stream = current_stream(self._device)
            self._plan.vjp(
                values, grad, rows, self._storage, gradients, term, stream, span(workspace)
            )

    def quantiles(self, levels: int, count: int, result: int, num_threads: int, /) -> None:
        """Write the places where the smoothed number of anchors below reaches each level.

        Levels and results are addresses of float64 arrays [heads, count] on the device. A level that
        does not lie between 0 and n gives NaN.
        """
        with on(self._device):
            workspace = memory(self._plan.quantile_workspace_bytes(), self._device)
            stream = current_stream(self._device)
            self._plan.quantiles(levels, count, result, stream, span(workspace))


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
        _raise_reported(device)
        order = _order_of(anchors, sig.anchor_batch, kernel, trusted)
        plan = order.plan.with_parameters(kernel)
        return DevicePlan(plan, device, (order.storage, *laid), call.values.dtype)
