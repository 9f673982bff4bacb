"""Tables as text."""

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
    """A table as text.

    Parameters
    ----------
    head, body
        Its columns' names, and its rows.
    left
        Columns to the left; all others go to the right.
    rule
        What is between head and body: a line under each column, one under all of them, or none.
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
    """A number in a table, or a dash where there is none."""
    return "-" if math.isnan(value) else f"{value:{form}}"
