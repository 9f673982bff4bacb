"""`laplex.jax.matvec`: the operator as a function of JAX arrays."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from .._support.profiles import profile_of
from .._support.sides import side_number
from .arguments import aligned, array, is_number, parameter, same_length, vector
from .form import TRAILING, Form
from .product import product


def matvec(
    values: Array,
    targets: Array,
    sources: Array | None = None,
    *,
    lengthscale: Array | float = 1.0,
    frequency: Array | float = 0.0,
    target_phase: Array | None = None,
    source_phase: Array | None = None,
    real_part: bool = False,
    kernel: str = "matern12",
    side: str = "both",
) -> Array:
    r"""Multiply values by the Laplace-kernel matrix of targets and sources, in linear time.

    .. math::

        u_i = \sum_j e^{-(1/\ell - i\omega)\,|x_i - y_j|}\; e^{i(\theta_i - \phi_j)}\; v_j

    Arguments and result are those of `laplex.matvec`, which describes them, as arrays of JAX or
    NumPy on the CPU.

    Parameters
    ----------
    values : Array, shape ``[*b, m]``
        The vectors v to multiply, real or complex, of the anchors' precision.
    targets : Array, shape ``[*b, n]``
        The targets x: float32 or float64, finite, in any order.
    sources : Array, shape ``[*b, m]``, optional
        The sources y, like the targets. If it is not given, the targets are also the sources.
    lengthscale : float or Array, shape ``[*b]``
        The lengthscale, positive. JAX rounds a Python float to float32 unless ``jax_enable_x64``
        is set.
    frequency : float or Array, shape ``[*b]``
        The frequency in radians per unit of distance. The float 0 gives a kernel without
        oscillation; an array always gives a complex kernel.
    target_phase, source_phase : Array, shapes ``[*b, n]`` and ``[*b, m]``, optional
        Carrier phases in radians, of the anchors' dtype.
    real_part : bool
        Use the real part of the matrix, so that real values give a real result.
    kernel : {"matern12", "matern32", "matern52"}
        The shape of the kernel.
    side : {"both", "left", "right"}
        The sources that count for each target: all, those at or below it, those at or above it.

    Returns
    -------
    Array, shape ``[*b, n]``
        The product. It is complex if the values are complex, or if the kernel has phases or a
        frequency and ``real_part`` is False.

    Raises
    ------
    TypeError
        If an argument is not an array, or dtypes do not match.
    ValueError
        If shapes do not match, or a lengthscale or frequency that is a Python number is out of
        range.
    NotImplementedError
        If the arrays are not on the CPU, or if lengthscale and frequency are differentiated more
        than four times in total.
    jax.errors.JaxRuntimeError or ValueError
        If anchors or phases are NaN or infinite, or a lengthscale in an array is not positive. What
        is in arrays is known only when XLA computes, which may be after this function has
        returned.

    Notes
    -----
    **Transformations.** The function works under ``jax.jit``, ``jax.vmap``, ``jax.grad``,
    ``jax.jvp`` and their combinations. Derivatives are exact and with respect to every array; a
    reverse pass is one call of the core. Ties and higher derivatives are as in `laplex.matvec`.

    **Heads and rows.** Leading dimensions broadcast. What ``jax.vmap`` maps becomes one more of
    them: if only values are mapped, they share their anchors, which are sorted once.

    **Plans.** The order of the anchors is kept in `laplex.plan_cache`, and found again by the
    anchors' content, also from inside a compiled loop.

    **Accuracy.** As for `laplex.matvec`, whose bits these are.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, laplex.jax
    >>> x, y = jnp.float32([0.5, 1.5]), jnp.float32([0.0, 2.0])
    >>> print(laplex.jax.matvec(jnp.ones_like(y), x, y))
    [0.82966083 0.82966083]
    >>> print(jax.grad(lambda x: laplex.jax.matvec(jnp.ones_like(y), x, y).sum())(x))
    [-0.3834005  0.3834005]
    """
    x = vector("targets", targets, "n")
    y = None if sources is None or sources is targets else vector("sources", sources, "m", x.dtype)
    v = array("values", values)
    m = (x if y is None else y).shape[-1]
    if v.dtype not in (x.dtype, jnp.result_type(x.dtype, jnp.complex64)):
        raise TypeError(
            f"values has dtype {v.dtype}, but the anchors have {x.dtype}: pass "
            f"values.astype({x.dtype!s})"
        )
    if v.ndim == 0:
        raise ValueError("values is a scalar, but must have shape [..., m]: pass values[None]")
    same_length("values", v, m, "pass one value per source")
    still = is_number(frequency) and frequency == 0
    theta, phi = (
        None if phase is None else vector(name, phase, count, x.dtype)
        for name, phase, count in (
            ("target_phase", target_phase, "n"),
            ("source_phase", source_phase, "m"),
        )
    )
    for name, phase, size in (("target_phase", theta, x.shape[-1]), ("source_phase", phi, m)):
        if phase is not None:
            same_length(name, phase, size, "pass one phase per anchor")
    if not isinstance(real_part, bool):
        raise TypeError(f"real_part must be True or False, got {real_part!r}")
    profile = profile_of(kernel)
    given = {
        "values": v,
        "targets": x,
        "sources": y,
        "lengthscale": parameter("lengthscale", lengthscale),
        "frequency": None if still else parameter("frequency", frequency),
        "target_phase": theta,
        "source_phase": phi,
    }
    arrays = aligned(given, TRAILING)
    present = tuple(each is not None for each in arrays[1:])
    form = Form(
        present,
        real_part and any(present[3:]),
        profile.parity,
        profile.polynomial,
        side_number(side),
        profile.root,
    )
    own = [each for each in arrays[1:] if each is not None]
    v = arrays[0]
    if form.real_part and jnp.iscomplexobj(v):
        real: Any = product(form, v.real, own)
        return real + 1j * product(form, v.imag, own)
    result: Array = product(form, v, own)
    return result
