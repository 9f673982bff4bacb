"""Matrices of samples: their means taken off, and what in them is rounding."""

from __future__ import annotations

import numpy as np

from ..arrays import Array


def centred(rows: Array) -> Array:
    """Rows [n, d] less their mean; exactly 0 in columns that do not vary."""
    # The sum of n equal numbers, over n, need not be that number.
    shifted = rows - rows[0]
    found: Array = shifted - shifted.mean(axis=0)
    return found


def rounding_error(rows: Array, epsilon: float) -> float:
    """What the largest singular value of rows that are equal but for rounding can be.

    By experience: layers on equal inputs in batches of several sizes reach about 1 times the
    relative error `epsilon` of their numbers times the norm of all; this is 4 times.
    """
    return 4 * epsilon * float(np.linalg.norm(rows))
