"""Matrices of samples: subtract their means, and bound their rounding errors."""

from __future__ import annotations

import numpy as np

from ..arrays import Array


def centred(rows: Array) -> Array:
    """Rows [n, d] minus their mean; exactly 0 in columns that do not vary."""
    # The sum of n equal numbers, divided by n, may differ from that number.
    shifted = rows - rows[0]
    found: Array = shifted - shifted.mean(axis=0)
    return found


def rounding_error(rows: Array, epsilon: float) -> float:
    """An upper bound for the largest singular value of rows that differ only by rounding.

    The bound is empirical. Layers with equal inputs in batches of several sizes reach about 1 times
    the relative error `epsilon` of their numbers times the norm of all; the bound is 4 times that.
    """
    return 4 * epsilon * float(np.linalg.norm(rows))
