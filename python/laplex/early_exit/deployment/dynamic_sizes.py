"""Which sizes of the inputs of an exported model may vary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .runner import leaves

#: Inputs of text models, as tokenizers name them, whose dimension 1 is the tokens.
_TOKENS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


def dynamic_sizes(example: Any, dynamic: Any) -> list[dict[int, str]]:
    """The names of the dynamic sizes of each Tensor of the example, by axis.

    Parameters
    ----------
    example : Tensor, or nested lists, tuples and mappings of Tensors
    dynamic : nested mapping or None
        As for `export`.

    Returns
    -------
    list of dict
        In the order of the Tensors.

    Raises
    ------
    TypeError, ValueError
        If `dynamic` does not fit the example.
    """
    given = leaves(example)
    if dynamic is None:
        named = {
            place: {1: "tokens"}
            for place, tensor in given.items()
            if place in [f"[{name!r}]" for name in _TOKENS] and tensor.ndim > 1
        }
        alike = {given[place].shape[1] for place in named}
        return [named.get(place, {}) if len(alike) == 1 else {} for place in given]
    asked = _by_place(dynamic)
    known = ", ".join(f"example{place}" for place in given)
    sizes: dict[str, int] = {}
    for place, axes in asked.items():
        where = f"dynamic{place}"
        if place not in given:
            raise ValueError(f"{where} is for no input: the inputs are {known}")
        shape = given[place].shape
        for axis, name in axes.items():
            if not 0 < axis < len(shape):
                raise ValueError(
                    f"{where} must name axes from 1 to {len(shape) - 1}, got {axis}: axis 0 is the "
                    "batch, which is always dynamic"
                )
            if not name.isidentifier() or name == "batch":
                raise ValueError(
                    f"{where} must give axis {axis} a name other than 'batch', such as 'tokens', "
                    f"got {name!r}"
                )
            if sizes.setdefault(name, shape[axis]) != shape[axis]:
                raise ValueError(
                    f"dynamic gives the name {name!r} to sizes that differ in the example, "
                    f"{sizes[name]} and {shape[axis]}: give them different names"
                )
            if shape[axis] < 2:
                raise ValueError(
                    f"example{place} has size 1 along the dynamic axis {axis}, with which it would "
                    "become a constant: pass an example with at least 2"
                )
    return [asked.get(place, {}) for place in given]


def _by_place(dynamic: Any, place: str = "") -> dict[str, dict[int, str]]:
    if not isinstance(dynamic, Mapping):
        raise TypeError(
            "dynamic must map axes to names, such as {1: 'tokens'}, or the names of inputs to such "
            f"mappings, got {dynamic!r}"
        )
    if all(isinstance(key, int) and isinstance(name, str) for key, name in dynamic.items()):
        return {place: dict(dynamic)} if dynamic else {}
    found = {}
    for key, value in dynamic.items():
        found.update(_by_place(value, f"{place}[{key!r}]"))
    return found
