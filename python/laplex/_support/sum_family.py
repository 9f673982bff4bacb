"""The family of sums that is closed under differentiation: parities and polynomials.

`laplex.torch.derivatives` has its formulas. A polynomial is the tuple of its coefficients of the
powers 0, 1, ..., without zeros at the end.
"""

from __future__ import annotations

from itertools import zip_longest

Polynomial = tuple[float, ...]

NEXT_PARITY = {0: 1, 1: 2, 2: 1, 3: 4, 4: 3}
"""The parity of the derivative by an anchor."""

ODD = (1, 3)

MAX_DEGREE = 4
"""The highest power of |x - y| in the core; a lengthscale or frequency derivative adds one."""


def derivative(q: Polynomial) -> Polynomial:
    """Return the derivative."""
    return tuple(power * each for power, each in enumerate(q))[1:]


def difference(a: Polynomial, b: Polynomial) -> Polynomial:
    """Return a - b."""
    result = [x - y for x, y in zip_longest(a, b, fillvalue=0.0)]
    while len(result) > 1 and result[-1] == 0.0:
        result.pop()
    return tuple(result)


def times_distance(q: Polynomial) -> Polynomial:
    """Return the product with the scaled distance."""
    return (0.0, *q)


def check_degree(degree: int) -> None:
    """Refuse powers of the distance that the core does not have."""
    if degree > MAX_DEGREE:
        raise NotImplementedError(
            f"lengthscale and frequency can be differentiated at most {MAX_DEGREE} times in total "
            "(3 times with matern32, twice with matern52): differentiate with respect to the other "
            "arguments first"
        )
