"""Checks of what callers pass to :class:`laplex.Plan`, in one place and before any work.

Every message names the argument and the remedy. Whether the *numbers* are legal (finite anchors, a
positive lengthscale) is checked by the C++ core, which looks at them anyway.
"""

from __future__ import annotations

import math
import operator
import os
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: to_dense() and other n-times-m requests stop here (in entries): 2**28 doubles are 2 GiB.
MAX_DENSE_ENTRIES = 2**28

#: numpy.asarray() of an operator stops here (in entries): it is often called by accident, by a
#: function that knows no operators. 2**24 doubles are 128 MiB.
MAX_ARRAY_ENTRIES = 2**24

_REAL_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
_COMPLEX_OF: dict[np.dtype[Any], np.dtype[Any]] = {
    np.dtype(np.float32): np.dtype(np.complex64),
    np.dtype(np.float64): np.dtype(np.complex128),
}


def complex_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The complex type whose parts are ``dtype``."""
    return _COMPLEX_OF[dtype]


def is_on_gpu(value: object) -> bool:
    """Whether an array says that it is in the memory of a CUDA device."""
    device_of = getattr(value, "__dlpack_device__", None)
    if device_of is not None:
        try:
            return int(device_of()[0]) == 2  # kDLCUDA
        except Exception:  # what cannot say where it is, such as a sparse tensor, is not for us
            return False
    return hasattr(value, "__cuda_array_interface__")


def as_array(name: str, value: object, wanted: str = "an array of floats") -> Array:
    """An array of numbers, without copying, or a TypeError naming the argument."""
    if value is None:
        raise TypeError(f"{name} is None: pass {wanted}")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise TypeError(f"{name} has masked entries: pass {name}.compressed() or {name}.filled()")
    if not isinstance(value, np.ndarray) and is_on_gpu(value):
        raise TypeError(f"{name} is in GPU memory: use laplex.cuda.Plan, or copy it to the host")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise TypeError(f"{name} is not array-like ({error})") from None
    if array.dtype.kind not in "fciub":
        raise TypeError(f"{name} has dtype {array.dtype}: pass an array of numbers")
    return array


def precision(*arrays: Array) -> np.dtype[Any]:
    """The precision of anchors and phases together: that of the first that is of floats.

    Integers take the precision of the others, and float64 where there are no others.
    """
    for array in arrays:
        dtype: np.dtype[Any] = array.dtype.newbyteorder("=")
        if dtype in _REAL_DTYPES:
            return dtype
    return np.dtype(np.float64)


def without_loss(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """Integers as floats, or a ValueError where these would be other numbers."""
    most = 2 ** (np.finfo(dtype).nmant + 1)
    if array.dtype.itemsize >= dtype.itemsize and array.size:
        extreme = max(int(array.max()), int(array.min()), key=abs)
        if abs(extreme) > most:
            raise ValueError(
                f"{name} has the integer {extreme}, but {dtype} holds every integer only up to "
                f"{most}: subtract an origin, such as {name} - {name}.min()"
            )
    return array.astype(dtype)


def anchors(name: str, value: object, dtype: np.dtype[Any] | None = None) -> Array:
    """Anchors or phases ``[..., count]`` in float32 or float64, native byte order, any strides.

    Integers and booleans become floats of `dtype`, float64 by default.
    """
    array = as_array(name, value)
    if array.dtype.kind in "iub":
        array = without_loss(name, array, np.dtype(np.float64) if dtype is None else dtype)
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        raise TypeError(
            f"{name} must be float32 or float64, got {array.dtype}: convert with "
            f"{name}.astype(numpy.float64)"
        )
    if array.ndim == 0:
        raise ValueError(
            f"{name} must have at least one dimension [..., count], got a scalar: pass [{name}]"
        )
    if dtype is not None and array.dtype.newbyteorder("=") != dtype:
        raise TypeError(
            f"{name} is {array.dtype} but {'the plan is' if name == 'targets' else 'targets are'} "
            f"{dtype}: convert one with "
            f"{name}.astype(numpy.{dtype})"
        )
    return array


def scalars(name: str, value: object) -> Array:
    """Lengthscales or frequencies, one per head, as float64: a Python float keeps its digits."""
    if isinstance(value, (int, Fraction)) and not isinstance(value, bool):
        try:
            value = float(value)  # NumPy has no type for fractions and integers beyond 64 bits
        except OverflowError:
            raise ValueError(f"{name} must be finite, got an integer beyond any float") from None
    array = as_array(name, value, "a float, or an array of one per head")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be real numbers, got {array.dtype}")
    return array.astype(np.float64)


def sides(has_sources: bool, is_self: bool) -> None:
    """Refuse an update of a plan with the sides of another one."""
    if has_sources and is_self:
        raise ValueError(
            "sources were given, but this plan's sources are its targets: pass targets alone"
        )
    if not has_sources and not is_self:
        raise ValueError("sources is None, but this plan has sources of its own: pass both")


def num_threads(value: object) -> int:
    """A thread count; None means the default (0 for the core)."""
    if value is None:
        return 0
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"num_threads must be an integer or None, got {type(value).__name__}"
        ) from None
    if count < 1:
        raise ValueError(f"num_threads must be at least 1, got {count}: pass None for the default")
    return min(count, 1024)


def broadcast_shapes(named: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """NumPy's broadcast of leading dimensions, with an error that names the arguments."""
    try:
        return np.broadcast_shapes(*named.values())
    except ValueError:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in named.items())
        raise ValueError(f"leading dimensions do not broadcast: {listed}") from None


def values(name: str, value: object, dtype: np.dtype[Any], count: int, what: str) -> Array:
    """Values ``[..., count]``, real or complex, of the plan's precision; float16 under float32.

    Integers and booleans are rounded to the plan's precision.
    """
    array = as_array(name, value)
    if array.dtype.kind in "iub":
        array = array.astype(dtype)
    allowed = {dtype, complex_dtype(dtype)}
    if dtype == np.float32:
        allowed.add(np.dtype(np.float16))
    if array.dtype.newbyteorder("=") not in allowed:
        raise TypeError(
            f"{name} has dtype {array.dtype} but the plan is {dtype}: convert with "
            f"{name}.astype(numpy.{complex_dtype(dtype) if array.dtype.kind == 'c' else dtype})"
        )
    if array.ndim == 0:
        raise ValueError(f"{name} must have shape [..., {count}], got a scalar")
    if array.shape[-1] != count:
        raise ValueError(
            f"{name} has shape {list(array.shape)} but the last dimension must be {count}, "
            f"the number of {what}"
        )
    return array


def output(
    name: str, value: object, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: Array
) -> Array:
    """A caller's output array, exactly as the result will be."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {type(value).__name__}")
    if value.shape != shape or value.dtype != dtype:
        raise ValueError(
            f"{name} has shape {list(value.shape)} and dtype {value.dtype}, but the result has "
            f"shape {list(shape)} and dtype {dtype}"
        )
    if not value.flags.writeable:
        raise ValueError(f"{name} is read-only: pass a writeable array, or {name}.copy()")
    if not value.flags.c_contiguous:
        raise ValueError(
            f"{name} must be C-contiguous: pass numpy.empty({list(shape)}, numpy.{dtype})"
        )
    if np.may_share_memory(value, inputs):
        raise ValueError(f"{name} overlaps the input: pass separate memory")
    return value


def enough_memory(what: str, nbytes: int) -> None:
    """Refuses at once what cannot fit, instead of driving the machine into swap.

    Raises
    ------
    MemoryError
        If ``nbytes`` is more than the physical memory.
    """
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system: let the allocator decide
        return
    if nbytes > physical:
        raise MemoryError(
            f"{what} needs about {nbytes / 2**30:,.1f} GiB, more than this machine's "
            f"{physical / 2**30:,.1f} GiB"
        )


def becomes_array(owner: str, shape: tuple[int, ...], copy: bool | None, product: str) -> None:
    """Check that ``numpy.asarray(owner)`` may write down a matrix.

    Raises
    ------
    ValueError
        With ``copy=False``, as there is no matrix that could be shared.
    MemoryError
        Above `MAX_ARRAY_ENTRIES`, as nobody may have asked for it; `product` is what to call.
    """
    if copy is not None and not copy:
        raise ValueError(
            f"{owner} has no matrix in memory that an array could share: leave out copy=False"
        )
    if math.prod(shape) > MAX_ARRAY_ENTRIES:
        raise MemoryError(
            f"{owner} of shape {list(shape)} is too large to become a NumPy array unasked, which "
            f"it does up to {MAX_ARRAY_ENTRIES} entries: multiply with {product}, or call "
            "to_dense() for the matrix"
        )


def dense_size(batch: int, n: int, m: int) -> None:
    """Refuses to write down a matrix whose whole point is not to be written down."""
    if batch * n * m > MAX_DENSE_ENTRIES:
        raise MemoryError(
            f"to_dense would write {batch} x {n} x {m} entries; it is meant for tests and "
            f"pictures, up to {MAX_DENSE_ENTRIES} entries: use apply()"
        )
