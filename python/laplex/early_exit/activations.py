"""Outputs of modules: Tensors, or lists, tuples and dicts of Tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor


class Inputs(NamedTuple):
    """The arguments of one call of a backbone that takes several."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply `function` to each Tensor of a structure; None, numbers and strings stay.

    Raises
    ------
    TypeError
        If the structure holds anything but Tensors, lists, tuples, named tuples and mappings.
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
        f"an activation holds a {type(value).__name__}: attach exits at modules that return "
        "Tensors, or lists, tuples and dicts of Tensors"
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
    """The size of the first dimension, which all Tensors of a structure must share.

    Raises
    ------
    ValueError
        If there are no Tensors, or their sizes differ.
    """
    sizes = {len(tensor) if tensor.ndim else -1 for tensor in tensors_of(value)}
    if len(sizes) != 1 or -1 in sizes:
        raise ValueError(
            f"{name} must hold Tensors that share their first dimension, the batch, got "
            f"{[list(tensor.shape) for tensor in tensors_of(value)]}"
        )
    return sizes.pop()
