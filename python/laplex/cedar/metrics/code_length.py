"""The cost of a sparse code in bits, to compare dictionaries of different sizes."""

from __future__ import annotations

from math import fsum, log2

from laplex._support.arguments import integer


def code_bits(axes: int, k: int, value_bits: int = 32) -> float:
    r"""Return the number of bits that store a code with k nonzero entries.

    .. math:: \log_2 \binom{\text{axes}}{k} + k \cdot \text{value\_bits}

    The first term is the cost of the choice of entries, the smallest possible for any code of fixed
    length. The second term is the cost of their values, including the sign. A dictionary with more
    axes pays for the choice: at equal k it can say more, but it costs more bits. The embedding
    itself costs d times its bits.

    Parameters
    ----------
    axes : int
        Length of the code, at least 1.
    k : int
        Number of nonzero entries, from 0 to ``axes``.
    value_bits : int
        Number of bits of each value, at least 0; 32 for a float32.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        If an argument is not an integer or is out of range.
    """
    axes, k = integer("axes", axes), integer("k", k, 0)
    value_bits = integer("value_bits", value_bits, 0)
    if k > axes:
        raise ValueError(f"k must be at most axes, got k={k} of axes={axes}")
    chosen = min(k, axes - k)
    # All terms are positive; differences of log-gammas would lose digits where axes >> k.
    which = fsum(log2((axes - i) / (chosen - i)) for i in range(chosen))
    return which + k * value_bits
