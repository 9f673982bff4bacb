"""How many entries a code may have for the bits that another one costs."""

from __future__ import annotations

from ..metrics import code_bits

#: Of a stored value: a float32.
VALUE_BITS = 32


def bits_of(axes: int, k: int, indexed: bool = True) -> float:
    """Bits of a code with k of `axes` entries; without the choice of entries if not `indexed`."""
    return code_bits(axes, k, VALUE_BITS) if indexed else float(k * VALUE_BITS)


def k_within(bits: float, axes: int, indexed: bool = True) -> int:
    """The largest k, up to `axes`, whose codes cost no more than `bits`; 0 where one entry does.

    One more entry adds 32 bits and changes the choice's by log2((axes - k) / (k + 1)), which is
    above -32 for any number of axes that fits a memory: the cost grows with k.
    """
    low, high = 0, axes
    while low < high:
        middle = (low + high + 1) // 2
        if bits_of(axes, middle, indexed) <= bits:
            low = middle
        else:
            high = middle - 1
    return low
