"""`laplex.jax.log_prob`: the log density of a Gaussian process on a line, with its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.interpreters import ad

from .._support.arguments import not_negative, positive
from .arguments import aligned, is_number, parameter, same_length, vector
from .form import leading
from .primitive import core_call, is_zero, map_by_leading_dimensions, primitive

_TRAILING = (1, 1, 0, 0, 0, 1)


def log_prob(
    values: Array,
    anchors: Array,
    *,
    lengthscale: Array | float = 1.0,
    variance: Array | float = 1.0,
    frequency: Array | float = 0.0,
    noise: Array | float = 0.0,
) -> Array:
    r"""Return the log density of values under a Gaussian process on a line, in linear time.

    .. math::

        \log N(v \mid 0, A), \qquad
        A_{ij} = \sigma^2\, e^{-|x_i - x_j|/\ell} \cos\bigl(\omega (x_i - x_j)\bigr)
                 + \mathrm{noise}_i\, [i = j]

    It is `laplex.gram.LaplaceGram.log_prob` for one term, as a function of JAX arrays.

    Parameters
    ----------
    values : Array, shape ``[*b, n]``
        The values v: float32 or float64. Subtract a mean yourself.
    anchors : Array, shape ``[*b, n]``
        The anchors x, of the dtype of the values, finite, in any order.
    lengthscale : float or Array, shape ``[*b]``
        The lengthscale, positive, in units of the anchors.
    variance : float or Array, shape ``[*b]``
        The variance of the process, positive.
    frequency : float or Array, shape ``[*b]``
        The frequency, in radians per unit of the anchors. The float 0 is the Ornstein-Uhlenbeck
        process.
    noise : float or Array, shape ``[*b, n]`` or ``[*b, 1]``
        The variance of independent noise, not negative; one number for all anchors, or one for
        each.

    Returns
    -------
    Array, shape ``[*b]``
        The log densities in nats, of the dtype of the values. The leading dimensions of all
        arguments broadcast.

    Raises
    ------
    TypeError
        If an argument is not an array, or dtypes do not match.
    ValueError
        If shapes do not match, or a Python number is out of range.
    NotImplementedError
        If the arrays are not on the CPU, or a second derivative is requested.
    jax.errors.JaxRuntimeError or ValueError
        If numbers in arrays are out of range, such as a negative variance, or a matrix is singular.
        This is known only when XLA computes, which may be after this function has returned.

    Notes
    -----
    The function works under ``jax.jit``, ``jax.vmap``, ``jax.grad`` and ``jax.jvp``, with first
    derivatives with respect to all arguments. One pass of the core gives the density with all
    gradients. It computes in double precision, also for float32.

    Every row of a batch is a process of its own. For many vectors of values at the same anchors,
    second derivatives, sums of terms, Matern kernels and predictions use `laplex.gram`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, laplex.jax
    >>> x, v = jnp.float32([0.0, 1.0, 3.0]), jnp.float32([0.3, -0.2, 1.0])
    >>> def density(lengthscale):
    ...     return laplex.jax.log_prob(v, x, lengthscale=lengthscale, noise=0.1)
    >>> round(float(density(2.0)), 4), round(float(jax.grad(density)(2.0)), 4)
    (-3.3581, 0.0374)
    """
    v = vector("values", values, "n")
    x = vector("anchors", anchors, "n")
    if x.dtype != v.dtype:
        raise TypeError(
            f"anchors has dtype {x.dtype}, but values has {v.dtype}: pass "
            f"anchors.astype({v.dtype!s})"
        )
    n = v.shape[-1]
    same_length("anchors", x, n, "pass one anchor per value")
    still = is_number(frequency) and frequency == 0
    silent = is_number(noise) and noise == 0
    variances = None if silent else parameter("noise", noise, not_negative)
    if variances is not None:
        variances = variances[None] if variances.ndim == 0 else variances
        if variances.shape[-1] != 1:
            same_length("noise", variances, n, "pass one variance per anchor, or shape [*b, 1]")
    given = {
        "values": v,
        "anchors": x,
        "lengthscale": parameter("lengthscale", lengthscale),
        "variance": parameter("variance", variance, positive),
        "frequency": None if still else parameter("frequency", frequency),
        "noise": variances,
    }
    arrays = aligned(given, _TRAILING)
    present = tuple(each is not None for each in arrays)
    own = [each for each in arrays if each is not None]
    result: Array = density_p.bind(*own, present=present, needs=(False,) * len(own))[0]
    return result


def _density(*own: Any, present: Sequence[bool], needs: Sequence[bool]) -> list[Any]:
    """Return the log densities ``[*b]`` and the gradients that are needed, each with the batch."""
    rest = iter(own)
    given = [next(rest) if each else None for each in present]
    trailing = [last for last, each in zip(_TRAILING, present, strict=True) if each]
    batch = leading(own, trailing)
    n, dtype = own[0].shape[-1], own[0].dtype
    bits = [bool(flag) for flag in _filled(needs, present)]
    ends = [each.shape[each.ndim - last :] for each, last in zip(own, trailing, strict=True)]
    flat = [
        jnp.broadcast_to(each, (*batch, *end)).reshape(prod(batch), *end)
        for each, end in zip(own, ends, strict=True)
    ]
    if n == 0 or 0 in batch:
        results = [jnp.zeros(batch, dtype)]
        return results + [
            jnp.zeros((*batch, *end), each.dtype)
            for each, end, need in zip(own, ends, needs, strict=True)
            if need
        ]
    shapes = [(flat[0].shape[:1], dtype)]
    shapes += [(each.shape, each.dtype) for each, need in zip(flat, needs, strict=True) if need]
    optional = (given[4] is not None) + 2 * (given[5] is not None)
    wanted = sum(1 << k for k, bit in enumerate(bits) if bit)
    found = core_call("laplex_log_density", shapes, flat, [optional, 0, 0, 0, wanted])
    return [each.reshape(*batch, *each.shape[1:]) for each in found]


def _filled(needs: Sequence[bool], present: Sequence[bool]) -> list[bool]:
    rest = iter(needs)
    return [each and next(rest) for each in present]


density_p = primitive("laplex_log_density", _density, ("present", "needs"), multiple_results=True)
map_by_leading_dimensions(density_p)


def _density_jvp(
    primals: Sequence[Any],
    tangents: Sequence[Any],
    *,
    present: tuple[bool, ...],
    needs: tuple[bool, ...],
) -> tuple[list[Any], list[Any]]:
    if any(needs):
        raise NotImplementedError(
            "laplex.jax.log_prob has no second derivatives: use laplex.gram.LaplaceGram, which has "
            "them for torch tensors"
        )
    moved = tuple(not is_zero(each) for each in tangents)
    value, *gradients = density_p.bind(*primals, present=present, needs=moved)
    trailing = [last for last, each in zip(_TRAILING, present, strict=True) if each]
    own = [(t, last) for t, last, its in zip(tangents, trailing, moved, strict=True) if its]
    along: Any = 0.0
    for gradient, (tangent, last) in zip(gradients, own, strict=True):
        product = gradient * tangent
        along = along + (product.sum(-1) if last else product).astype(value.dtype)
    return [value], [along]


ad.primitive_jvps[density_p] = _density_jvp
