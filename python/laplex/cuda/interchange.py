"""Exchange of GPU arrays with other libraries: array interface, DLPack, streams and pools."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .._support.core import Memory
from .array import NOWHERE, Array, address_of

if TYPE_CHECKING:
    from collections.abc import Sequence

#: DLPack's numbers of the devices that can be read: kDLCUDA, and the host in the emulation only.
DEVICE_TYPES = frozenset({1, 2} if _core.cuda_emulated else {2})


@dataclass
class View:
    """A contiguous array of any library in device memory."""

    pointer: int  #: never 0, which means "not given" to the core
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read_only: bool
    owner: object  #: keeps the memory alive

    @property
    def is_complex(self) -> bool:
        """Whether the entries are complex."""
        return self.dtype.kind == "c"

    @property
    def nbytes(self) -> int:
        """The number of bytes of the entries."""
        return math.prod(self.shape) * self.dtype.itemsize


class DeviceArrays:
    """The arrays of one call, and the stream that it runs on."""

    def __init__(self, stream: object, **arrays: object) -> None:
        self._arrays = arrays
        self._interfaces = {name: _interface_of(each) for name, each in arrays.items()}
        self._streams: dict[str, object] = {}
        for name, each in arrays.items():
            own = _current_stream_of(each)
            if own is None:
                own = (self._interfaces[name] or {}).get("stream")
            self._streams[name] = own
        if stream is None:
            stream = next((each for each in self._streams.values() if each is not None), None)
        #: The object to keep alive while the stream is used; its address is `stream`.
        self.owner = stream
        self.stream = address_of(stream)

    def view(self, name: str) -> View:
        """Return an argument, ready to be read on the stream.

        Raises
        ------
        TypeError
            If it is not a CUDA array.
        ValueError
            If it is not contiguous, has a mask, or is on another GPU.
        RuntimeError
            If it names another stream than the one that is captured into a graph.
        """
        value = self._arrays[name]
        interface = self._interfaces[name]
        own = self._streams[name]
        if own is not None and address_of(own) != self.stream:
            if _core.cuda_capture_id(self.stream) is not None:
                raise RuntimeError(
                    f"{name} belongs to another stream than the one that is captured into a "
                    "graph, and a graph cannot wait for another stream: pass an array of the "
                    "captured stream"
                )
            _core.cuda_synchronize(address_of(own))
        device = _device_of(value)
        if device is not None and device[0] == 2 and device[1] != _core.cuda_current_device():
            raise ValueError(
                f"{name} is on GPU {device[1]}, but the current GPU is "
                f"{_core.cuda_current_device()}: make the array's GPU the current one, for "
                f"instance with cupy.cuda.Device({device[1]}) or torch.cuda.device({device[1]})"
            )
        if interface is None:
            return self._from_dlpack(name, value, device)
        if interface.get("mask") is not None:
            raise ValueError(f"{name} has a mask: pass an array without one")
        if any(getattr(value, each, bool)() for each in ("is_conj", "is_neg")):
            # lazy views of PyTorch, which the interface does not report
            raise ValueError(
                f"{name} is a lazily conjugated or negated view: pass "
                f"{name}.resolve_conj().resolve_neg()"
            )
        address, read_only = interface["data"]
        return _contiguous(
            name, address, interface["shape"], interface.get("strides"), interface["typestr"],
            bool(read_only), value,
        )  # fmt: skip

    def _from_dlpack(self, name: str, value: object, device: tuple[int, int] | None) -> View:
        if device is None or not hasattr(value, "__dlpack__"):
            raise TypeError(
                f"{name} must be a CUDA array (with __cuda_array_interface__ or __dlpack__), got "
                f"{type(value).__name__}"
            )
        if device[0] not in DEVICE_TYPES:
            raise TypeError(f"{name} is not in GPU memory: use laplex.Plan, or copy it to the GPU")
        # The producer orders its work before ours; 1 is DLPack's legacy default stream.
        stream = None if device[0] == 1 else self.stream or 1
        capsule = value.__dlpack__(stream=stream)
        address, shape, strides, typestr, _, _ = _core.read_dlpack(capsule)
        return _contiguous(name, address, shape, strides, typestr, False, capsule)


def _contiguous(
    name: str,
    address: int,
    shape: Sequence[int],
    strides: Sequence[int] | None,
    typestr: str,
    read_only: bool,
    owner: object,
) -> View:
    dtype = np.dtype(typestr)
    if 0 in shape:
        return View(NOWHERE, tuple(shape), dtype, read_only, owner)
    if strides is not None:
        step = dtype.itemsize
        for size, stride in zip(reversed(shape), reversed(strides), strict=True):
            if size > 1 and stride != step:
                raise ValueError(
                    f"{name} must be C-contiguous: pass a copy, such as "
                    f"cupy.ascontiguousarray({name}) or {name}.contiguous()"
                )
            step *= size
    # The parts of a complex number are read separately.
    alignment = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    if address % alignment:
        raise ValueError(
            f"{name} starts at an address that is not a multiple of {alignment} bytes: pass a copy"
        )
    return View(address, tuple(shape), dtype, read_only, owner)


def _interface_of(value: object) -> dict[str, Any] | None:
    device = _device_of(value)
    if device is not None and device[0] == 1:  # some host arrays raise when asked
        return None
    interface: dict[str, Any] | None = getattr(value, "__cuda_array_interface__", None)
    if (
        interface is not None
        and device is not None
        and interface.get("version", 0) < 3
        and _current_stream_of(value) is None
    ):
        return None  # before version 3 it names no stream to wait for, but DLPack waits (JAX)
    return interface


def _device_of(value: object) -> tuple[int, int] | None:
    """Return DLPack's numbers for the kind of memory and for the device, or None."""
    device_of = getattr(value, "__dlpack_device__", None)
    if device_of is None:
        return None
    kind, number = device_of()
    return int(kind), int(number)


def _is_in_device_memory(value: object) -> bool:
    device = _device_of(value)
    return device is not None and device[0] in DEVICE_TYPES


def is_on_device(value: object) -> bool:
    """Whether an argument is an array on a GPU."""
    if isinstance(value, (np.ndarray, np.generic)):  # on the host, also in the emulation
        return False
    return _interface_of(value) is not None or _is_in_device_memory(value)


def _library_of(value: object) -> str:
    return type(value).__module__.partition(".")[0]


def _current_stream_of(value: object) -> object:
    """Return the current stream of the array's library, as an object that keeps it alive."""
    library = _library_of(value)
    if library == "cupy" and hasattr(value, "__cuda_array_interface__"):
        return sys.modules["cupy"].cuda.get_current_stream()
    if library == "torch" and getattr(value, "is_cuda", False):
        return sys.modules["torch"].cuda.current_stream(value.device)  # type: ignore[attr-defined]
    return None


def pointer_to(given: View | Array | None) -> int:
    """Return an address for the core; 0 stands for None."""
    if given is None:
        return 0
    return given.pointer if isinstance(given, View) else given._memory.pointer or NOWHERE


def new_array(
    like: object,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    stream: object,
    axes: Sequence[int] = (),
) -> tuple[Any, int]:
    """Return a new array of the library of ``like`` on the stream, and its address; see Array."""
    axes = axes or range(len(shape))
    laid = tuple(shape[axis] for axis in axes)
    back = tuple(int(k) for k in np.argsort(axes))
    library = _library_of(like)
    address = address_of(stream)
    # Allocate on the stream of the call, so that the library's allocator knows where it is used.
    if library == "cupy":
        cupy = sys.modules["cupy"]
        if address_of(cupy.cuda.get_current_stream()) == address:
            array = cupy.empty(laid, dtype)
        else:
            with cupy.cuda.ExternalStream(address) if address else cupy.cuda.Stream.null:
                array = cupy.empty(laid, dtype)
        return array.transpose(back), array.data.ptr or NOWHERE
    if library == "torch":
        torch = sys.modules["torch"]
        device = like.device  # type: ignore[attr-defined]
        kind = getattr(torch, dtype.name)
        if device.type == "cpu" or address_of(torch.cuda.current_stream(device)) == address:
            tensor = torch.empty(laid, dtype=kind, device=device)
        else:
            with torch.cuda.stream(
                torch.cuda.ExternalStream(address, device)
                if address
                else torch.cuda.default_stream(device)
            ):
                tensor = torch.empty(laid, dtype=kind, device=device)
        return tensor.permute(back), tensor.data_ptr() or NOWHERE
    if _core.cuda_capture_id(address) is not None:
        raise RuntimeError(
            "a result allocated while the stream is captured into a graph would belong to the "
            "graph: pass out, allocated before the capture, or use arrays of CuPy or PyTorch"
        )
    own = Array(shape, dtype, stream, axes)
    return own, own._memory.pointer or NOWHERE


@dataclass
class Lent:
    """Memory lent to the core while this object lives."""

    owner: object
    span: Memory


def lend(like: object, nbytes: int, call: DeviceArrays) -> Lent:
    """Lend memory from the pool of the library of ``like``, or from CUDA's if it has none.

    While the stream is captured into a graph, the memory comes from CUDA's pool in any case.
    Another pool would reuse the memory while the graph still needs it, whereas memory that CUDA
    allocates in a capture belongs to the graph.
    """
    if nbytes == 0:
        return Lent(None, Memory(0, 0))
    bytes_ = np.dtype(np.uint8)
    if _library_of(like) in ("cupy", "torch") and _core.cuda_capture_id(call.stream) is None:
        owner, address = new_array(like, (nbytes,), bytes_, call.owner)
        return Lent(owner, Memory(address, nbytes))
    own = Array((nbytes,), bytes_, call.owner)
    return Lent(own, Memory(pointer_to(own), nbytes))


class Scratch:
    """Lends memory to a call of the core that turns out to need some, until the call returns."""

    def __init__(self, like: object, call: DeviceArrays) -> None:
        self._like = like
        self._call = call

    def __call__(self, nbytes: int) -> Memory:
        """Lend memory as `lend` does."""
        self._lent = lend(self._like, nbytes, self._call)
        return self._lent.span
