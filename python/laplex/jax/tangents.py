"""The derivative of the operator along tangents, expressed by the operator itself.

The formulas are those of the module `laplex.torch.derivatives`, in JAX. The reverse mode needs none
of its own: JAX transposes these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from .._support.sum_family import (
    NEXT_PARITY,
    Polynomial,
    check_degree,
    derivative,
    difference,
    times_distance,
)
from .form import Form

Sums = Callable[[Any, int, Polynomial, bool], Any]
"""The sum of these values with a parity, a polynomial, and whether by the real part of K."""


def tangent(sums: Sums, form: Form, arrays: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """Differentiate a sum along the tangents of its seven arrays; None for those held fixed."""
    values, _, _, lengthscale, frequency, *_ = arrays
    d_values, d_x, d_y, d_lengthscale, d_frequency, d_theta, d_phi = tangents
    ell = lengthscale / form.root
    parity, q = form.parity, form.polynomial
    if not form.present[1]:
        d_y = d_x

    def along(v: Any, s: int, p: Polynomial) -> Any:
        return sums(v, s, p, False)

    def slope(v: Any) -> Any:
        """dS/dx_i: S(s+, q' - q) / lengthscale + i frequency S(s+, q)."""
        odd = NEXT_PARITY[parity]
        total = -along(v, odd, difference(q, derivative(q)))
        if frequency is not None:
            swing = -total if q == (1.0,) else along(v, odd, q)
            total = total + 1j * as_factor(frequency * ell, swing) * swing
        return total / as_factor(ell, total)

    terms: list[Any] = []
    if d_values is not None:
        terms.append(sums(d_values, parity, q, form.real_part))
    if d_phi is not None:
        terms.append(-1j * along(d_phi * values, parity, q))
    if d_x is not None:
        terms.append(d_x * slope(values))
    if d_y is not None:
        terms.append(-slope(d_y * values))
    if d_lengthscale is not None or d_frequency is not None:
        check_degree(len(q))
    if d_lengthscale is not None:
        higher = along(values, parity, times_distance(difference(q, derivative(q))))
        terms.append(as_factor(d_lengthscale / lengthscale, higher) * higher)
    if d_frequency is not None:
        higher = along(values, parity, times_distance(q))
        terms.append(1j * as_factor(d_frequency * ell, higher) * higher)
    if d_theta is not None:
        terms.append(1j * d_theta * along(values, parity, q))
    return sum(term.real if form.real_part else term for term in terms)


def as_factor(scalar: Any, like: Any) -> Any:
    """Shape one scalar per head as a factor of ``like[..., n]``, of its precision."""
    return jnp.asarray(scalar, like.real.dtype)[..., None]
