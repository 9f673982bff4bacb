"""Checks of the arguments of `laplex.Plan`, all in one place and made before any work.

Every message names the argument and the remedy. The C++ core checks the *numbers* (finite anchors,
a positive lengthscale), because it reads them anyway.
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

#: The largest number of entries that to_dense() and other dense requests write: 2**28 doubles are
#: 2 GiB.
MAX_DENSE_ENTRIES = 2**28

#: The largest number of entries that numpy.asarray() of an operator writes. Functions that do not
#: know operators often call it by accident. 2**24 doubles are 128 MiB.
MAX_ARRAY_ENTRIES = 2**24

_REAL_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
_COMPLEX_OF: dict[np.dtype[Any], np.dtype[Any]] = {
    np.dtype(np.float32): np.dtype(np.complex64),
    np.dtype(np.float64): np.dtype(np.complex128),
}


def complex_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the complex type whose parts are ``dtype``."""
    return _COMPLEX_OF[dtype]


def is_on_gpu(value: object) -> bool:
    """Whether an array declares that it is in the memory of a CUDA device."""
    device_of = getattr(value, "__dlpack_device__", None)
    if device_of is not None:
        try:
            return int(device_of()[0]) == 2  # kDLCUDA
        except Exception:  # an object that cannot say where it is, such as a sparse tensor
            return False
    return hasattr(value, "__cuda_array_interface__")


def as_array(name: str, value: object, wanted: str = "an array of floats") -> Array:
    """Return an array of numbers without copying, or raise a TypeError that names the argument."""
    if value is None:
        raise TypeError(f"{name} is None: pass {wanted}")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise TypeError(f"{name} has masked entries: pass {name}.compressed() or {name}.filled()")
    if not isinstance(value, np.ndarray) and is_on_gpu(value):
        raise TypeError(f"{name} is in GPU memory: use laplex.cuda.Plan, or copy it to the host")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise TypeError(f"{name} is not array-like ({error})") from None
    if array.dtype.kind not in "fciub":
        raise TypeError(f"{name} has dtype {array.dtype}: pass an array of numbers")
    return array


def precision(*arrays: Array) -> np.dtype[Any]:
    """Return the common precision of anchors and phases: that of the first floating-point array.

    If all arrays hold integers, the precision is float64.
    """
    for array in arrays:
        dtype: np.dtype[Any] = array.dtype.newbyteorder("=")
        if dtype in _REAL_DTYPES:
            return dtype
    return np.dtype(np.float64)


def without_loss(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """Convert integers to floats, or raise a ValueError if that would change a number."""
    most = 2 ** (np.finfo(dtype).nmant + 1)
    if array.dtype.itemsize >= dtype.itemsize and array.size:
        extreme = max(int(array.max()), int(array.min()), key=abs)
        if abs(extreme) > most:
            raise ValueError(
                f"{name} has the integer {extreme}, but {dtype} is exact for integers only up to "
                f"{most}: subtract an origin, such as {name} - {name}.min()"
            )
    return array.astype(dtype)


def anchors(name: str, value: object, dtype: np.dtype[Any] | None = None) -> Array:
    """Return anchors or phases ``[..., count]`` in float32 or float64, with any strides.

    Integers and booleans become floats of ``dtype``, which is float64 by default.
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
    """Return lengthscales or frequencies, one per head, as float64, so that no digit is lost."""
    if isinstance(value, (int, Fraction)) and not isinstance(value, bool):
        try:
            value = float(value)  # NumPy has no type for fractions or for integers beyond 64 bits
        except OverflowError:
            raise ValueError(
                f"{name} must be finite, got an integer too large for a float"
            ) from None
    array = as_array(name, value, "a float, or an array with one per head")
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array.astype(np.float64)


def sides(has_sources: bool, is_self: bool) -> None:
    """Refuse an update whose sources do not match the kind of the plan (self case or not)."""
    if has_sources and is_self:
        raise ValueError(
            "sources were given, but this plan's sources are its targets: pass only targets"
        )
    if not has_sources and not is_self:
        raise ValueError("sources is None, but this plan has sources of its own: pass both")


def num_threads(value: object) -> int:
    """Return a thread count; None stands for the default, which is 0 for the core."""
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
    """Broadcast leading dimensions as NumPy does, with an error that names the arguments."""
    try:
        return np.broadcast_shapes(*named.values())
    except ValueError:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in named.items())
        raise ValueError(f"leading dimensions do not broadcast: {listed}") from None


def values(name: str, value: object, dtype: np.dtype[Any], count: int, what: str) -> Array:
    """Return values ``[..., count]``, real or complex, of the plan's precision.

    A float32 plan also takes float16. Integers and booleans are rounded to the plan's precision.
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
    """Check a caller's output array: its shape and dtype must be those of the result."""
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
    """Refuse at once a request that cannot fit, instead of driving the machine into swap.

    Raises
    ------
    MemoryError
        If ``nbytes`` is more than the physical memory.
    """
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system: leave it to the allocator
        return
    if nbytes > physical:
        raise MemoryError(
            f"{what} needs about {nbytes / 2**30:,.1f} GiB, more than this machine's "
            f"{physical / 2**30:,.1f} GiB"
        )


def becomes_array(owner: str, shape: tuple[int, ...], copy: bool | None, product: str) -> None:
    """Check that ``numpy.asarray(owner)`` may write the dense matrix.

    ``product`` is the call that the error message recommends instead.

    Raises
    ------
    ValueError
        If ``copy=False``, because there is no matrix in memory that could be shared.
    MemoryError
        If there are more than `MAX_ARRAY_ENTRIES` entries, as the conversion is then probably an
        accident.
    """
    if copy is not None and not copy:
        raise ValueError(
            f"{owner} has no matrix in memory that an array could share: leave out copy=False"
        )
    if math.prod(shape) > MAX_ARRAY_ENTRIES:
        raise MemoryError(
            f"{owner} of shape {list(shape)} is too large for an implicit conversion to a NumPy "
            f"array, which is limited to {MAX_ARRAY_ENTRIES} entries: multiply with {product}, or "
            "call to_dense() for the matrix"
        )


def dense_size(batch: int, n: int, m: int) -> None:
    """Refuse to write a dense matrix of more than `MAX_DENSE_ENTRIES` entries."""
    if batch * n * m > MAX_DENSE_ENTRIES:
        raise MemoryError(
            f"to_dense would write {batch} x {n} x {m} entries, but it is meant for tests and "
            f"pictures and is limited to {MAX_DENSE_ENTRIES} entries: use apply()"
        )
