"""Checks of what the metrics accept: arrays or tensors of finite real numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..masks import unmasked

Array: TypeAlias = npt.NDArray[np.float64]
ArrayInput: TypeAlias = npt.ArrayLike | Tensor

#: Numbers converted to float64 at a time (32 MiB): a memory-mapped array is never read whole.
_NUMBERS_AT_ONCE = 2**22


def untouched(name: str, value: ArrayInput, ndim: int = 2) -> npt.NDArray[Any] | Tensor:
    """Check the type and shape of an array or tensor without converting its values.

    Raises
    ------
    TypeError
        If the values are not real numbers.
    ValueError
        If there are not ``ndim`` dimensions, or no values, or masked ones.
    """
    value = unmasked(value, name)
    array = value if isinstance(value, (np.ndarray, Tensor)) else np.asarray(value)
    real = not array.is_complex() if isinstance(array, Tensor) else array.dtype.kind in "fiub"
    if not real:
        raise TypeError(f"{name} must hold real numbers, got {array.dtype}")
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, got shape {tuple(array.shape)}")
    if 0 in array.shape:
        raise ValueError(f"{name} is empty: shape {tuple(array.shape)}")
    return array


def float64(name: str, value: ArrayInput, ndim: int = 2) -> Array:
    """Return the values as a finite float64 array with ``ndim`` dimensions, copied only if needed.

    Raises
    ------
    TypeError
        If the values are not real numbers.
    ValueError
        If there are not ``ndim`` dimensions, no values, or values that are not finite.
    """
    array = untouched(name, value, ndim)
    if isinstance(array, Tensor):
        array = array.detach().cpu().double().numpy()
    numbers = np.asarray(array, np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} has values that are not finite: leave those rows out")
    return numbers


def same_shape(first: str, a: Any, second: str, b: Any) -> None:
    """Check that two arrays have the same shape."""
    if tuple(a.shape) != tuple(b.shape):
        raise ValueError(
            f"{first} and {second} must have the same shape, got {tuple(a.shape)} and "
            f"{tuple(b.shape)}"
        )


def same_rows(first: str, a: Any, second: str, b: Any) -> None:
    """Check that two arrays have the same number of rows."""
    if len(a) != len(b):
        raise ValueError(
            f"{first} and {second} must have the same number of rows, got {len(a)} and {len(b)}"
        )


def same_width(first: str, a: Any, second: str, b: Any) -> None:
    """Check that two arrays agree in the size of their last dimension."""
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(
            f"{first} and {second} must agree in their last dimension, got {tuple(a.shape)} and "
            f"{tuple(b.shape)}"
        )


def row_blocks(*arrays: Any) -> Iterator[slice]:
    """Yield slices over the rows of arrays ``[n, ...]``, in blocks of at most 32 MiB."""
    width = sum(int(np.prod(array.shape[1:])) for array in arrays)
    step = max(1, _NUMBERS_AT_ONCE // max(1, width))
    for start in range(0, len(arrays[0]), step):
        yield slice(start, start + step)


def labels_of(name: str, value: Any, rows: int) -> npt.NDArray[Any]:
    """Return one label for each row, as an ndarray ``[rows]`` of any type."""
    value = value.detach().cpu() if isinstance(value, Tensor) else unmasked(value, name)
    labels = np.asarray(value)
    if labels.shape != (rows,):
        raise ValueError(f"{name} must have shape ({rows},), one for each row, got {labels.shape}")
    return labels


def unit_rows(rows: Array) -> Array:
    """Return rows ``[n, d]`` divided by their norms; a row of zeros stays zero.

    Each row is divided by its largest entry first, so that squares neither overflow nor vanish.
    """
    largest = np.abs(rows).max(axis=1, keepdims=True)
    safe = rows / np.where(largest > 0, largest, 1.0)
    norms = np.linalg.norm(safe, axis=1, keepdims=True)
    unit: Array = safe / np.where(norms > 0, norms, 1.0)
    return unit
