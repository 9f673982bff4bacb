"""Checks of the arguments of `laplex.jax`, from shapes and dtypes alone, so also of traced ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from .._support.arguments import kernel_number


def array(name: str, value: object) -> Any:
    """Return a JAX or NumPy array of real or complex numbers as a JAX array."""
    if not isinstance(value, (jax.Array, np.ndarray, np.generic)):
        raise TypeError(
            f"{name} must be a JAX or NumPy array, got {type(value).__name__}: use jnp.asarray"
        )
    if isinstance(value, jax.Array):
        return value
    if value.dtype.kind not in "biufcV":  # V: also bfloat16
        raise TypeError(f"{name} has dtype {value.dtype}, but must have numbers")
    return jnp.asarray(value)


def vector(name: str, value: object, count: str, dtype: Any = None) -> Any:
    """Check an array ``[..., count]`` of float32 or float64, with the anchors' dtype if given."""
    checked = array(name, value)
    own = checked.dtype
    if own not in (np.float32, np.float64):
        raise TypeError(
            f"{name} has dtype {own}, but must be float32 or float64: pass "
            f"{name}.astype(jnp.float32)"
        )
    if dtype is not None and own != dtype:
        raise TypeError(
            f"{name} has dtype {own}, but the anchors have {dtype}: pass {name}.astype({dtype!s})"
        )
    if checked.ndim == 0:
        raise ValueError(
            f"{name} is a scalar, but must have shape [..., {count}]: pass {name}[None]"
        )
    return checked


def same_length(name: str, value: Any, size: int, remedy: str) -> None:
    """Check the last dimension of an array."""
    if value.shape[-1] != size:
        raise ValueError(
            f"{name} has {value.shape[-1]} entries in its last dimension, but must have {size}: "
            f"{remedy}"
        )


def is_number(value: object) -> TypeGuard[Real]:
    """Whether this is a real number of Python or NumPy, and no array."""
    return isinstance(value, Real) and not isinstance(value, bool)


def parameter(
    name: str, value: object, check: Callable[[str, float], object] = kernel_number
) -> Any:
    """Check a number, or an array of float32 or float64, and return it as an array.

    It is float64 where ``jax_enable_x64`` is set. ``check`` refuses numbers that are out of range.
    """
    if is_number(value):
        try:
            number = float(value)
        except OverflowError:
            raise ValueError(f"{name} must be finite, got an integer beyond any float") from None
        check(name, number)
        return jnp.asarray(number)
    if not isinstance(value, (jax.Array, np.ndarray)):
        raise TypeError(f"{name} must be a float or an array, got {type(value).__name__}")
    checked = array(name, value)
    if checked.dtype not in (np.float32, np.float64):
        raise TypeError(
            f"{name} has dtype {checked.dtype}, but must be a float, or an array of float32 or "
            f"float64: pass {name}.astype(jnp.float32)"
        )
    return checked


def aligned(arrays: dict[str, Any], trailing: Sequence[int]) -> list[Any]:
    """Give all arrays equally many leading dimensions, which must broadcast; None stays None."""
    ranks = [
        a.ndim - last if a is not None else 0
        for a, last in zip(arrays.values(), trailing, strict=True)
    ]
    rank = max(ranks)
    made = [
        a if a is None or own == rank else jnp.expand_dims(a, tuple(range(rank - own)))
        for a, own in zip(arrays.values(), ranks, strict=True)
    ]
    shapes = [a.shape[:rank] for a in made if a is not None]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError:
        given = ", ".join(f"{name} {a.shape}" for name, a in arrays.items() if a is not None)
        raise ValueError(
            f"leading dimensions do not broadcast: {given} (numbers per head have leading "
            "dimensions only; insert a dimension of size 1 where an argument is to be repeated)"
        ) from None
    return made
