"""Checks of the arrays and tensors that the offline functions accept."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array: TypeAlias = NDArray[np.float64]
Booleans: TypeAlias = NDArray[np.bool_]
Integers: TypeAlias = NDArray[np.int64]


def as_numpy(name: str, value: Any) -> NDArray[Any]:
    """Convert an array, a tensor, or a sequence of either to a NumPy array of numbers or booleans.

    Tensors may be on any device and may require a gradient. A sequence, such as the tuple of logits
    that a `MultiExitModel` returns, is stacked.

    Raises
    ------
    TypeError
        If it holds anything but real numbers and booleans.
    ValueError
        If the entries of a sequence differ in shape.
    """
    if value is None:
        raise TypeError(f"{name} must hold real numbers, got None")
    if isinstance(value, (list, tuple)) and any(isinstance(one, Tensor) for one in value):
        parts = [as_numpy(name, one) for one in value]
        if any(part.shape != parts[0].shape for part in parts):
            raise ValueError(
                f"{name} must have entries of one shape, got {[part.shape for part in parts]}"
            )
        return np.stack(parts)
    if isinstance(value, Tensor):
        value = value.detach().cpu().resolve_conj().resolve_neg()
        if value.is_floating_point():
            value = value.double()  # NumPy has no bfloat16
    try:
        found = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} must have entries of one shape") from None
    if found.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got {found.dtype}")
    return found


def like(given: Any, found: NDArray[Any]) -> Any:
    """A result of the kind of an argument: a Tensor on its device, or the array itself.

    A sequence of Tensors counts as a Tensor.
    """
    first = given[0] if isinstance(given, (list, tuple)) and given else given
    if not isinstance(first, Tensor):
        return found
    if first.device.type == "mps" and found.dtype == np.float64:  # which has no float64
        found = found.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(found)).to(first.device)


def as_numbers(name: str, value: Any, ndim: int, axes: str) -> Array:
    """Convert to a float64 array, checked: finite, not empty, of a given number of dimensions.

    Parameters
    ----------
    name : str
        Name of the argument, for messages.
    value : array, Tensor or sequence
    ndim : int
    axes : str
        Names of the dimensions, for messages: ``"[exits, samples]"``.

    Raises
    ------
    TypeError, ValueError
        If the check fails.
    """
    return finite(name, value, ndim, axes).astype(np.float64, copy=False)


def finite(name: str, value: Any, ndim: int, axes: str) -> NDArray[Any]:
    """Check as `as_numbers` does, but keep the type, and hold no copy of an array.

    Raises
    ------
    TypeError, ValueError
        If the check fails.
    """
    found = as_numpy(name, value)
    _check_shape(name, found, ndim, axes)
    with np.errstate(invalid="ignore"):
        ends = found.min(), found.max()  # NaN is both
    if not np.isfinite(ends).all():
        raise ValueError(
            f"{name} must be finite, got {_first(~np.isfinite(found), found)}: remove those "
            "samples, or clip the values"
        )
    return found


def as_logits(name: str, value: Any) -> Array:
    """Logits of every exit, ndarray [exits, samples, classes] in float64.

    Raises
    ------
    TypeError, ValueError
        If they are not three-dimensional, empty, or not finite.
    """
    return as_numbers(name, value, 3, "[exits, samples, classes]")


def as_labels(name: str, value: Any, count: int, classes: int) -> Integers:
    """Labels, ndarray [count] in int64, each in [0, classes).

    Raises
    ------
    TypeError, ValueError
        If they are not integers, not `count` of them, or out of range.
    """
    found = as_numpy(name, value)
    if found.dtype.kind not in "iu":
        raise TypeError(
            f"{name} must be whole numbers, the indices of classes, got {found.dtype}: convert "
            "them with .astype(int)"
        )
    if found.shape != (count,):
        raise ValueError(
            f"{name} must have shape ({count},), one for each sample, got {found.shape}"
        )
    out = (found < 0) | (found >= classes)
    if out.any():
        raise ValueError(
            f"{name} must be in [0, {classes}), as logits have {classes} classes, got "
            f"{_first(out, found)}"
        )
    return found.astype(np.int64)


def as_scores(name: str, value: Any) -> Array:
    """Scores of every exit, higher is more confident, ndarray [exits, samples] in float64.

    Raises
    ------
    TypeError, ValueError
        If they are not two-dimensional, empty, or not finite.
    """
    return as_numbers(name, value, 2, "[exits, samples]")


def as_correct(name: str, value: Any, ndim: int = 2) -> Booleans:
    """Whether each exit classifies each sample correctly, ndarray [exits, samples] of bool.

    Parameters
    ----------
    name : str
    value : array, Tensor or sequence
        Booleans, or numbers that are all 0 or 1.
    ndim : int
        2, or 1 for ``[samples]``.

    Raises
    ------
    TypeError, ValueError
        If there are other numbers, the shape is wrong, or the array is empty.
    """
    found = as_numpy(name, value)
    _check_shape(name, found, ndim, "[exits, samples]" if ndim == 2 else "[samples]")
    if found.dtype.kind != "b":
        out = (found != 0) & (found != 1)
        if out.any():
            raise ValueError(
                f"{name} must be true or false, or 1 or 0, got {_first(out, found)}: pass "
                "predictions == labels"
            )
    return found.astype(np.bool_)


def same_shape(first: str, a: NDArray[Any], second: str, b: NDArray[Any]) -> None:
    """Check that two arrays have the same shape.

    Raises
    ------
    ValueError
        If they do not.
    """
    if a.shape != b.shape:
        raise ValueError(
            f"{first} and {second} must have the same shape, got {a.shape} and {b.shape}"
        )


def correctness(logits: Array, labels: Integers) -> Booleans:
    """Whether the largest logit (the first of equal ones) is that of the label: [exits, samples].

    Parameters
    ----------
    logits : ndarray [exits, samples, classes]
    labels : ndarray [samples]
    """
    right: Booleans = logits.argmax(-1) == labels
    return right


def _check_shape(name: str, found: NDArray[Any], ndim: int, axes: str) -> None:
    if found.ndim != ndim:
        raise ValueError(f"{name} must be {axes}, got shape {found.shape}")
    if 0 in found.shape:
        raise ValueError(f"{name} is empty: shape {found.shape}")


def _first(where: Booleans, found: NDArray[Any]) -> str:
    if not found.ndim:
        return str(found)
    place = tuple(int(i) for i in np.argwhere(where)[0])
    return f"{found[place]} at index {place[0] if len(place) == 1 else place}"
