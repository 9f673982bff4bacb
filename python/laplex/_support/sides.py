"""One-sided sums: which sources count for a target."""

from __future__ import annotations

SIDES = {"both": 0, "left": 1, "right": 2}
"""The sides by name, with their numbers in the core."""

BOTH, LEFT, RIGHT = SIDES.values()

TURNED = (BOTH, RIGHT, LEFT)
"""The side as the sources see it, by number: that of the transpose."""


def side_number(side: object) -> int:
    """Return the number of a side's name; refuse any other argument."""
    if not isinstance(side, str) or side not in SIDES:
        raise ValueError(f"side must be 'both', 'left' or 'right', got {side!r}")
    return SIDES[side]


def side_name(number: int) -> str:
    """Return the name of a side's number."""
    return tuple(SIDES)[number]
