"""Tables in plain text."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from typing import Literal


def aligned(
    head: Sequence[str],
    body: Sequence[Sequence[str]],
    *,
    left: Container[int] = (0,),
    rule: Literal["broken", "whole", "none"] = "broken",
) -> str:
    """Format a table as text.

    Parameters
    ----------
    head, body
        The names of the columns, and the rows.
    left
        The columns to align to the left; all others are aligned to the right.
    rule
        The line between head and body: one under each column, one under all of them, or none.
    """
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *body)
    ]
    if rule != "none":
        dashes = ["-" * width for width in widths]
        lines.insert(1, "  ".join(dashes) if rule == "broken" else "-" * len(lines[0]))
    return "\n".join(lines)


def cell(value: float, form: str = ".4f") -> str:
    """Format a number for a table; NaN becomes a dash."""
    return "-" if math.isnan(value) else f"{value:{form}}"
