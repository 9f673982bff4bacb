"""How tables and numbers are written on the pages of measurements."""

from __future__ import annotations

import math

import numpy as np


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def power(n: float) -> str:
    """A size, as a power of ten if it is one."""
    exponent = round(math.log10(n))
    return f"10^{exponent}" if 10**exponent == n else f"{n:,}"


def seconds(value: float | None) -> str:
    """A time in a unit that suits it."""
    if value is None:
        return ""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * scale >= 1:
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e6:.2g} us"


def slope(points: dict[int, float]) -> float:
    """The exponent of n, by least squares in logarithms."""
    return float(np.polyfit(np.log(list(points)), np.log(list(points.values())), 1)[0])
