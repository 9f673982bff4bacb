"""Interventions: new values for some coordinates of embeddings, which leave all others alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .basis import Basis
from .masks import unmasked
from .settings import number

#: What `intervene` sets a coordinate to: a number, numbers for each row or each item of the leading
#: dimensions, or a function of the coordinates as a Tensor.
Value = Any


@dataclass(frozen=True)
class Change:
    """A new value for one coordinate.

    Attributes
    ----------
    axis : int
        The axis.
    label : str
        What the caller wrote, for messages.
    sign : int
        -1 if the value counts towards the negative end of the axis.
    value : float, Tensor or callable
        The new coordinate, or a function of the old one.
    """

    axis: int
    label: str
    sign: int
    value: float | Tensor | Callable[[Tensor], Any]


def checked_changes(values: object, names: object, axes: int) -> list[Change]:
    """Check what `intervene` was asked for, before any work.

    Parameters
    ----------
    values : mapping of int or str to Value
        The new values, by axis or by name.
    names : AxisNames or mapping of str to int, optional
        What the names in ``values`` mean.
    axes : int
        Number of axes.

    Returns
    -------
    list of Change
        One change for each axis.

    Raises
    ------
    TypeError, ValueError, IndexError
        If ``values`` is not a mapping, an axis or a value is of a wrong type, a number is not
        finite, or a name is not known or not clear.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"values must map axes to numbers, as in {{3: 0.0}}, got {values!r}")
    changes: dict[int, Change] = {}
    for key, value in values.items():
        axis, sign = _end(key, names) if isinstance(key, str) else (_axis(key), 1)
        if not 0 <= axis < axes:
            raise IndexError(f"axis {axis} is not one of 0..{axes - 1}")
        if axis in changes:
            raise ValueError(
                f"values must name each axis once, got axis {axis} as {changes[axis].label} and as "
                f"{key!r}"
            )
        changes[axis] = Change(axis, repr(key), sign, _checked_value(f"values[{key!r}]", value))
    return list(changes.values())


def changed(basis: Basis, centre: Tensor, z: Tensor, changes: list[Change]) -> Tensor:
    r"""Return embeddings with some coordinates changed.

    .. math:: z' = z + \sum_i (t_i - u_i \cdot (z - b))\, a_i

    With a frame, ``Basis.steps`` in place of the atoms.

    Parameters
    ----------
    basis : Basis
        The change of basis U.
    centre : Tensor [d]
        The centre b.
    z : Tensor [..., d]
        Embeddings of a floating type.
    changes : list of Change
        The new coordinates :math:`t_i`.

    Returns
    -------
    Tensor [..., d]
        The changed embeddings, in the type of z, with gradients.
    """
    if not changes:
        return z.clone()
    axes = [change.axis for change in changes]
    rows = (z.to(centre.dtype) - centre).reshape(-1, centre.shape[0])
    old = basis.coordinates(rows, axes).reshape(*z.shape[:-1], len(axes))
    new = [_new(change, old[..., place]) for place, change in enumerate(changes)]
    steps = (torch.stack(new, -1) - old).reshape(-1, len(axes)) @ basis.steps(axes)
    return z + steps.reshape(z.shape).to(z.dtype)


def _new(change: Change, old: Tensor) -> Tensor:
    old = change.sign * old
    value = change.value(old) if callable(change.value) else change.value
    if isinstance(value, Real):
        return torch.full_like(old, change.sign * float(value))
    try:
        new = (value if isinstance(value, Tensor) else torch.as_tensor(value)).to(old)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"the function values[{change.label}] must return a Tensor or a number, got {value!r}"
        ) from None
    # From the first dimension on, so that numbers for each item of a batch are never taken for
    # numbers for each token where there are as many tokens as items.
    fits = new.dim() <= old.dim() and all(
        one in (1, other) for one, other in zip(new.shape, old.shape, strict=False)
    )
    if not fits:
        hint = ": dimensions are matched from the first on" if old.dim() > 1 else ""
        raise ValueError(
            f"values[{change.label}] must be one number or fit the rows of z, "
            f"{list(old.shape)}, got shape {list(new.shape)}{hint}"
        )
    new = new.reshape([*new.shape, *[1] * (old.dim() - new.dim())])
    return change.sign * new.expand(old.shape)


def _checked_value(name: str, value: object) -> float | Tensor | Callable[[Tensor], Any]:
    if isinstance(value, Tensor) or callable(value):
        return value
    if isinstance(value, (Real, bool)):
        return number(name, value)
    found = np.asarray(unmasked(value, name))
    if found.dtype.kind not in "fiu":
        raise TypeError(
            f"{name} must be a number, numbers for each row, or a function of the coordinate, "
            f"got {value!r}"
        )
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite")
    return torch.as_tensor(found)


def _axis(axis: object) -> int:
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"axes must be integers or names, got {axis!r}")
    return int(axis)


def _end(word: str, names: Any) -> tuple[int, int]:
    """Return the axis of a name, and -1 if the name is that of its negative end, else 1."""
    if names is None:
        raise ValueError(f"values names an axis {word!r}, but names is missing: pass names")
    spelled = word.strip().casefold()
    found = {end for known, end in _ends(names) if known.strip().casefold() == spelled}
    if not found:
        known = sorted({name for name, _ in _ends(names)})
        listed = ", ".join(map(repr, known[:5])) + (", ..." if len(known) > 5 else "")
        raise ValueError(f"no axis is named {word!r}: the names are {listed or 'none'}")
    if len(found) > 1:
        listed = " and ".join(str(axis) for axis, _ in sorted(found))
        raise ValueError(f"{word!r} names the axes {listed}: pass the number of one of them")
    return found.pop()


def _ends(names: Any) -> Iterable[tuple[str, tuple[int, int]]]:
    if isinstance(names, Mapping):
        for word, axis in names.items():
            yield word, (_axis(axis), 1)
        return
    if not hasattr(names, "axes"):
        raise TypeError(
            "names must be the result of name_axes, or map names to axes, got "
            f"{type(names).__name__}"
        )
    for axis in names.axes:
        for end, sign in ((axis.positive, 1), (axis.negative, -1)):
            if end is not None:
                yield end.word, (axis.axis, sign)
