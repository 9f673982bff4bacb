"""The one check of masked arrays: NumPy drops a mask in silence, with the values under it."""

from __future__ import annotations

from typing import Any

import numpy as np


def unmasked(X: Any, name: str) -> Any:
    """Return X; a masked array without its mask.

    Raises
    ------
    ValueError
        If X, or an entry of nested lists in it, has masked values.
    """
    if _has_masked(X):
        raise ValueError(
            f"{name} has masked values: pass the rows without any, as in "
            f"np.ma.compress_rows({name}), or {name}.filled(value)"
        )
    return X.data if isinstance(X, np.ma.MaskedArray) else X


def _has_masked(X: Any) -> bool:
    if isinstance(X, np.ma.MaskedArray):
        return bool(np.ma.getmaskarray(X).any())
    return isinstance(X, (list, tuple)) and any(map(_has_masked, X))
