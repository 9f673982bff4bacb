"""Inputs and outputs of modules: Tensors, or lists, tuples, mappings and dataclasses of Tensors."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor


class Inputs(NamedTuple):
    """The arguments of one call of a backbone that takes several, such as ``Inputs((ids, mask))``.

    Attributes
    ----------
    args : tuple
        Positional arguments.
    kwargs : mapping
        Arguments by keyword.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = MappingProxyType({})


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Apply `function` to each Tensor of a structure; None, numbers and strings stay.

    Raises
    ------
    TypeError
        If the structure holds anything but Tensors, lists, tuples, named tuples, mappings and
        dataclasses.
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        copied = {key: map_tensors(function, one) for key, one in value.items()}
        kind: Any = type(value)
        if kind in (dict, MappingProxyType):
            return copied
        if hasattr(kind, "__dataclass_fields__"):
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
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [one.name for one in dataclasses.fields(value) if one.init]
        found = {name: map_tensors(function, getattr(value, name)) for name in names}
        return dataclasses.replace(value, **found)
    raise TypeError(
        f"an activation holds a {type(value).__name__}: attach exits at modules that return "
        "Tensors, or lists, tuples, dicts and dataclasses of Tensors"
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
    """The number of samples of a batch: the size of the first dimension of its Tensors.

    Tensors without dimensions, and Tensors with one row beside others with more, are shared by all
    samples.

    Raises
    ------
    ValueError
        If there are no Tensors, or their sizes differ.
    """
    try:
        tensors = tensors_of(value)
    except TypeError:
        raise TypeError(
            f"{name} must hold Tensors, alone or in lists, tuples, dicts and dataclasses, got "
            f"{_other(value)}: convert arrays with torch.from_numpy"
        ) from None
    sizes = {len(tensor) for tensor in tensors if tensor.ndim}
    if len(sizes) > 1:
        sizes.discard(1)
    if len(sizes) != 1:
        raise ValueError(
            f"{name} must hold Tensors that share their first dimension, the batch, got "
            f"{[list(tensor.shape) for tensor in tensors]}: give what all samples share a first "
            "dimension of 1, or make it a buffer of the backbone"
        )
    return sizes.pop()


def _other(value: Any) -> str:
    """The type of the first thing in a structure that is none of what `map_tensors` takes."""
    parts = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, (Mapping, list, tuple)):
        for one in parts:
            try:
                map_tensors(lambda tensor: tensor, one)
            except TypeError:
                return _other(one)
    return type(value).__name__


def rows_of(value: Any, rows: Any, batch: int) -> Any:
    """Select some samples of a batch.

    Parameters
    ----------
    value : Tensor, or nested
    rows : slice, Tensor [batch] of bool, or Tensor of int64
        The samples.
    batch : int
        Number of samples in `value`. Tensors with another number of rows are shared by all samples,
        and stay as they are.
    """

    def cut(tensor: Tensor) -> Tensor:
        if tensor.ndim == 0 or len(tensor) != batch:
            return tensor
        found: Tensor = tensor[rows.to(tensor.device) if isinstance(rows, Tensor) else rows]
        return found

    return map_tensors(cut, value)


def first_rows(x: Any, count: int, name: str) -> Any:
    """The first samples of inputs; `name` is that of the argument, for messages."""
    return rows_of(x, slice(count), batch_of(x, name))


def main_tensor(activation: Any) -> Tensor:
    """The Tensor of an activation that heads read.

    Of a list, which holds one entry for each scale, it is that of the last entry; of a tuple, such
    as the hidden states and the attention of a layer, that of the first; of a mapping or dataclass,
    ``last_hidden_state``, or that of the first entry.

    Raises
    ------
    TypeError
        If there is no Tensor.
    """
    value = activation
    while not isinstance(value, Tensor):
        value = getattr(value, "last_hidden_state", value)
        if isinstance(value, Tensor):
            break
        if dataclasses.is_dataclass(value) and not isinstance(value, (type, Mapping)):
            value = [getattr(value, one.name) for one in dataclasses.fields(value)][:1]
        elif isinstance(value, Mapping):
            value = next(iter(value.values()), None)
        elif isinstance(value, (list, tuple)) and value:
            value = value[-1 if isinstance(value, list) else 0]
        else:
            raise TypeError(
                f"an activation is a {type(activation).__name__} without a Tensor that heads could "
                "read: attach exits at modules that return Tensors, or give the exit a head of "
                "your own"
            )
    if value.is_nested:
        raise TypeError(
            "an activation is a nested Tensor, which heads cannot read: build the backbone's "
            "nn.TransformerEncoder with enable_nested_tensor=False"
        )
    return value
