"""What modules put out: Tensors, or lists, tuples and dicts of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same structure with `function` of each Tensor; None and numbers stay.

    Raises
    ------
    TypeError
        For a structure that is none of Tensor, list, tuple, named tuple or mapping.
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        copied = {key: map_tensors(function, one) for key, one in value.items()}
        kind: Any = type(value)
        if kind is dict:
            return copied
        if all(isinstance(key, str) for key in copied):
            return kind(**copied)  # ModelOutput of transformers
        same: Any = copy.copy(value)
        same.update(copied)
        return same
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(function, one) for one in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(function, one) for one in value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"an activation holds a {type(value).__name__}: exits work at modules that put out "
        "Tensors, or lists, tuples and dicts of them"
    )


def tensors_of(value: Any) -> list[Tensor]:
    """The Tensors in a structure, in order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(note, value)
    return found


def batch_of(value: Any, name: str) -> int:
    """The first dimension, which all Tensors of a structure share.

    Raises
    ------
    ValueError
        There are no Tensors, or they disagree.
    """
    sizes = {len(tensor) if tensor.ndim else -1 for tensor in tensors_of(value)}
    if len(sizes) != 1 or -1 in sizes:
        raise ValueError(
            f"{name} must hold Tensors that share their first dimension, the batch, got "
            f"{[list(tensor.shape) for tensor in tensors_of(value)]}"
        )
    return sizes.pop()
