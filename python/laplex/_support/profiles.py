"""The shapes of kernels: a polynomial of the scaled distance times the Laplace kernel."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple


class Profile(NamedTuple):
    """A Matern kernel ``q(s) exp(-s)``, where ``s`` is ``root`` times the scaled distance."""

    number: int
    """The profile's number in the core."""
    root: float
    polynomial: tuple[float, ...]
    """The coefficients of q, for the powers 0, 1, ..."""
    parity: int
    """0, or 4 for a kernel without a kink at 0 (see the module `laplex.torch.derivatives`)."""


PROFILES = {
    "matern12": Profile(0, 1.0, (1.0,), 0),
    "matern32": Profile(1, sqrt(3.0), (1.0, 1.0), 4),
    "matern52": Profile(2, sqrt(5.0), (1.0, 1.0, 1.0 / 3.0), 4),
}


def profile_of(kernel: object) -> Profile:
    """Return the profile of a kernel's name; refuse any other argument."""
    if not isinstance(kernel, str) or kernel not in PROFILES:
        raise ValueError(f"kernel must be 'matern12', 'matern32' or 'matern52', got {kernel!r}")
    return PROFILES[kernel]
