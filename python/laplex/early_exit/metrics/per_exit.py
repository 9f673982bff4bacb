"""One number for each exit, and their mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..arrays import Array


class PerExit:
    """One number for each exit, NaN where it is undefined. NumPy treats it as the array `values`.

    Parameters
    ----------
    values : array [exits]
        The numbers.

    Attributes
    ----------
    values : ndarray [exits], float64
        The numbers.
    """

    def __init__(self, values: Any) -> None:
        self.values: Array = np.asarray(values, dtype=np.float64)
        if self.values.ndim != 1 or not len(self.values):
            raise ValueError(f"values must be [exits], got shape {self.values.shape}")

    @property
    def mean(self) -> float:
        """Mean over the exits where the number is defined; NaN if there are none."""
        defined = self.values[~np.isnan(self.values)]
        return float(defined.mean()) if len(defined) else float("nan")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.values, dtype=dtype) if copy else np.asarray(self.values, dtype=dtype)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[float]:
        return iter(self.values.tolist())

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]

    def __repr__(self) -> str:
        shown = ", ".join(f"{one:.4g}" for one in self.values)
        return f"PerExit([{shown}], mean={self.mean:.4g})"


def each_exit(function: Callable[..., float], *arrays: Any) -> PerExit:
    """Apply a function to the part of each array ``[exits, ...]`` that belongs to one exit."""
    return PerExit([function(*parts) for parts in zip(*arrays, strict=True)])
