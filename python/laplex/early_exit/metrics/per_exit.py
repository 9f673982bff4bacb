"""One number for each exit, and their mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch import Tensor

from ..arrays import Array, like


class PerExit:
    """One number for each exit, NaN where it is undefined. NumPy treats it as the array `values`.

    Parameters
    ----------
    values : array or Tensor [exits]
        The numbers.

    Attributes
    ----------
    values : ndarray or Tensor [exits], float64
        The numbers: a Tensor, on the same device, if they were computed from Tensors.
    """

    def __init__(self, values: Any) -> None:
        self.values: Any = (
            values if isinstance(values, Tensor) else np.asarray(values, dtype=np.float64)
        )
        if self.values.ndim != 1 or not len(self.values):
            raise ValueError(f"values must be [exits], got shape {tuple(self.values.shape)}")

    @property
    def mean(self) -> Any:
        """Mean over the exits where the number is defined; NaN if there are none.

        A float, or a Tensor ``[]`` if `values` is a Tensor.
        """
        if isinstance(self.values, Tensor):
            return self.values.nanmean()
        defined = self.values[~np.isnan(self.values)]
        return float(defined.mean()) if len(defined) else float("nan")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        values = self.values.cpu().numpy() if isinstance(self.values, Tensor) else self.values
        return np.array(values, dtype=dtype) if copy else np.asarray(values, dtype=dtype)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[float]:
        return iter(self.values.tolist())

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]

    def __repr__(self) -> str:
        shown = ", ".join(f"{one:.4g}" for one in self)
        return f"PerExit([{shown}], mean={self.mean:.4g})"


def each_exit(given: Any, function: Callable[..., float], *arrays: Any) -> PerExit:
    """Apply a function to the part of each array ``[exits, ...]`` that belongs to one exit.

    The result is of the kind of the argument `given`; see `like`.
    """
    return PerExit(like(given, np.array([function(*parts) for parts in zip(*arrays, strict=True)])))


def single(given: Any, number: float) -> float | Tensor:
    """A number, or a Tensor ``[]`` on the same device if `given` is a Tensor."""
    found = like(given, np.array(number))
    return found if isinstance(found, Tensor) else number
