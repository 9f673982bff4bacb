"""Number of entries that a code may have for a budget of bits."""

from __future__ import annotations

from ..metrics import code_bits

#: Bits of a stored value: a float32.
VALUE_BITS = 32


def bits_of(axes: int, k: int, indexed: bool = True) -> float:
    """Return the bits of a code with k of ``axes`` entries, without their choice if not indexed."""
    return code_bits(axes, k, VALUE_BITS) if indexed else float(k * VALUE_BITS)


def k_within(bits: float, axes: int, indexed: bool = True) -> int:
    """Return the largest k, up to ``axes``, whose codes cost at most ``bits``; it may be 0.

    One more entry adds 32 bits and changes the cost of the choice by log2((axes - k) / (k + 1)).
    This is above -32 for any number of axes that fits into memory, so the cost grows with k.
    """
    low, high = 0, axes
    while low < high:
        middle = (low + high + 1) // 2
        if bits_of(axes, middle, indexed) <= bits:
            low = middle
        else:
            high = middle - 1
    return low
