"""`laplex.cuda.Array`: GPU memory that Laplex owns, in a form that other libraries accept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..numpy import checks

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The address of an array without entries; not 0, which means "not given" to the core.
NOWHERE = 256


class Array:
    """An array in GPU memory that Laplex owns.

    Results have this type when the library of the input is neither CuPy nor PyTorch.

    Other libraries accept it without a copy: ``cupy.asarray(a)``, ``jax.dlpack.from_dlpack(a)``,
    ``torch.from_dlpack(a)``, ``numba.cuda.as_cuda_array(a)``. All of these order their work after
    the array's. ``torch.as_tensor`` would not, because it ignores the stream of the array.

    Parameters
    ----------
    shape : sequence of int
        The dimensions.
    dtype : numpy.dtype
        The type of the entries.
    stream : int or stream
        The stream on which the memory is allocated and freed: an address, or a stream of CuPy or
        PyTorch.
    axes : sequence of int
        The dimensions from the slowest to the fastest in memory; C order by default.

    Attributes
    ----------
    shape : tuple of int
        The dimensions.
    dtype : numpy.dtype
        The type of the entries.
    """

    def __init__(
        self, shape: Sequence[int], dtype: np.dtype[Any], stream: object, axes: Sequence[int] = ()
    ) -> None:
        # `axes` lists the dimensions from the slowest to the fastest in memory; default: C order.
        self._shape = tuple(shape)
        self._dtype = np.dtype(dtype)
        self._axes = tuple(axes) or tuple(range(len(self._shape)))
        strides = [0] * len(self._shape)
        step = 1
        for axis in reversed(self._axes):
            strides[axis] = step
            step *= self._shape[axis]
        self._in_order = self._axes == tuple(range(len(self._shape)))
        self._strides = tuple(stride * self._dtype.itemsize for stride in strides)
        self._stream = address_of(stream)
        self._memory = _core.DeviceArray(
            step * self._dtype.itemsize, self._dtype.str, list(self._shape), strides, self._stream
        )
        self._kept = stream  # last: the memory, deleted before it, is freed on this stream

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the entries."""
        return self._dtype

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self._shape)

    @property
    def nbytes(self) -> int:
        """The number of bytes of GPU memory."""
        return math.prod(self._shape) * self._dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self._shape,
            "typestr": self._dtype.str,
            "data": (self._memory.pointer, False),
            "strides": None if self._in_order else self._strides,
            "version": 3,
            "stream": self._stream or 1,  # 0 is not allowed there: it is ambiguous
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1 if _core.cuda_emulated else 2), self._memory.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """Return an unversioned DLPack capsule for a consumer on ``stream``.

        ``stream`` is as in the array API standard: an address, 1 or None for the legacy default
        stream, or -1 for no waiting. If it is not the stream of the array, the call waits for that.
        The memory is freed on the array's stream, so work on another stream must be done before the
        consumer releases it.

        Raises
        ------
        BufferError
            If a copy or another device is requested.
        """
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError(
                "this array can be exported only without a copy and on its own device: leave out "
                "copy and dl_device"
            )
        if stream != -1 and address_of(stream) != self._stream:  # -1: do not wait
            _core.cuda_synchronize(self._stream)
        return self._memory.to_dlpack()

    def numpy(self) -> checks.Array:
        """Return a copy on the host, after waiting for the array's stream."""
        laid = np.empty([self._shape[axis] for axis in self._axes], self._dtype)
        if laid.size:
            self._memory.copy_to_host(_core.address(laid))
        return laid if self._in_order else laid.transpose(np.argsort(self._axes)).copy()

    def __repr__(self) -> str:
        return f"laplex.cuda.Array(shape={self._shape}, dtype={self._dtype})"


def address_of(stream: object) -> int:
    """Return a stream's address; 0 is the legacy default stream, which others also call 1."""
    if stream is None:
        return 0
    address = stream
    for attribute in ("ptr", "cuda_stream"):
        address = getattr(stream, attribute, address)
    if not isinstance(address, int) or isinstance(address, bool) or address < 0:
        raise TypeError(
            "stream must be an address (an int) or a stream of CuPy or PyTorch, got "
            f"{type(stream).__name__}"
        )
    return 0 if address == 1 else address
