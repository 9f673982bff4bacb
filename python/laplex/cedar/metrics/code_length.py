"""What a sparse code costs in bits, so that dictionaries of different sizes can be compared."""

from __future__ import annotations

from math import fsum, log2

from laplex._support.arguments import integer


def code_bits(axes: int, k: int, value_bits: int = 32) -> float:
    r"""Bits that store a code with k non-zero entries out of `axes`.

    .. math:: \log_2 \binom{\text{axes}}{k} + k \cdot \text{value\_bits}

    The first term says which entries, at the best any code of fixed length could; the second their
    values, sign included. A dictionary with more axes pays for the choice: at equal k it says more,
    at more bits. The embedding itself costs d times its bits.

    Parameters
    ----------
    axes
        Length of the code, at least 1.
    k
        Non-zero entries, from 0 to `axes`; codes with fewer cost no more.
    value_bits
        Of each value, at least 0; 32 for a float32.

    Raises
    ------
    TypeError, ValueError
        Where these are not whole numbers, or out of range.
    """
    axes, k = integer("axes", axes), integer("k", k, 0)
    value_bits = integer("value_bits", value_bits, 0)
    if k > axes:
        raise ValueError(f"k must be at most axes, got k={k} of axes={axes}")
    chosen = min(k, axes - k)
    # Terms that are all positive: differences of log-gammas would lose bits where axes >> k.
    which = fsum(log2((axes - i) / (chosen - i)) for i in range(chosen))
    return which + k * value_bits
