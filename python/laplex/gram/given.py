"""What callers give as numbers: integers, scalars, and columns in place of lines."""

from __future__ import annotations

from copy import deepcopy
from numbers import Real
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from .checks import as_tensor, checked_noise


def has_integers(value: object) -> TypeGuard[Tensor]:
    """Whether it is a tensor of integers or booleans."""
    return isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex())


def floats(name: str, value: object, dtype: torch.dtype = torch.float64) -> object:
    """A tensor of integers in floating point, as an array of integers is; all else as it is."""
    if not has_integers(value):
        return value
    return as_tensor(name, value.cpu().numpy(), integers=dtype).to(value.device)


def no_scalar(name: str, value: object) -> None:
    """Refuse a number in place of points ``[..., m]``."""
    if isinstance(value, Real) or getattr(value, "ndim", 1) == 0:
        number = value.item() if isinstance(value, (Tensor, np.ndarray, np.generic)) else value
        raise ValueError(f"{name} must have shape [..., m], got a number: pass [{number}]")


def noise_of(noise: object, anchors: Tensor) -> Tensor | None:
    """As `checked_noise`."""
    try:
        return checked_noise(noise, anchors)
    except ValueError as error:
        if "last dimension" not in str(error):
            raise
        raise ValueError(f"{error}{note_of_column(anchors)}") from None


def note_of_column(anchors: Tensor) -> str:
    """For a message: what anchors of shape [n, 1] are, which scikit-learn would take."""
    if anchors.dim() < 2 or anchors.shape[-1] != 1 or anchors.shape[-2] == 1:
        return ""
    n = anchors.shape[-2]
    return (
        f". The anchors have shape {list(anchors.shape)}, which is {n} matrices of one anchor "
        f"each: for one matrix of {n} anchors, pass anchors[..., 0]"
    )


def deep_copied(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """`copy.deepcopy`, also for a view of a leaf, such as the noise ``[1]`` of a parameter ``[]``.

    Copies of a leaf and of its views share memory, as the originals do.
    """
    leaf = tensor._base
    if tensor.is_leaf or leaf is None or not leaf.is_leaf:
        return deepcopy(tensor, memo)
    own = deepcopy(leaf, memo)
    return own.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
