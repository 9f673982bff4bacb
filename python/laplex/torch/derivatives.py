"""Derivatives of the operator, expressed by the operator itself.

The primitive is the following family, where tau = |x_i - y_j| / lengthscale and K is the complex
kernel matrix:

    S(s, q)_i = sum_j sign(x_i - y_j)^s q(tau_ij) K_ij v_j,   parity s in {0, 1, 2}, q a polynomial

Parity 2 is the square of the sign: 1, but 0 at a tie. Kernels without a kink at 0 (Matern-3/2 and
-5/2) have the parities 3 and 4 in place of 1 and 0: there the square of the sign is 1 at ties too,
so that s+ = 4 for s = 3. With the convention sign(0) = 0 the family is closed under
differentiation. With s+ = 1, 2, 1 for s = 0, 1, 2,

    dS/dx_i         =  S(s+, q' - q) / lengthscale + i frequency S(s+, q)    (sources: the negative)
    dS/dlengthscale =  S(s, tau (q - q')) / lengthscale
    dS/dfrequency   =  i lengthscale S(s, tau q)
    dS/dtheta_i     =  i S(s, q)_i                                           (source phases: -i)

Parity 5 stands for the cumulative sum. Its weights are values of L, the CDF of the Laplace
distribution, which is exp(t) / 2 for t < 0 and 1 - exp(-t) / 2 otherwise:

    C_i = sum_j L((x_i - y_j) / lengthscale) v_j

It has no kink: its derivatives are members of the family, of which those by anchors count ties,

    dC/dx_i         =  S(0, 1/2) / lengthscale    (sources: the negative)
    dC/dlengthscale = -S(3, tau / 2) / lengthscale

and its transpose is sum(g) - C(g) from targets to sources, because L(-t) = 1 - L(t).

So ``vjp`` and ``jvp`` below are sums of a few calls of the primitive, and differentiating *them*
gives every higher derivative exactly. The lengthscale and frequency raise the degree of q by one.
The identity W = -(1/c) (sum_i x_i ... + sum_j y_j ...) would make them free in a first-order pass,
but that sum cancels: its terms grow with the range of the anchors, and its value does not.

Complex gradients follow PyTorch's Wirtinger convention: for a gradient g, dL = Re(conj(g) du).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._support.sum_family import (
    NEXT_PARITY,
    ODD,
    Polynomial,
    derivative,
    difference,
    times_distance,
)
from .call import CUMULATIVE, HALF, PLAIN, TENSORS, Call

Primitive = Callable[[Call], Tensor]
"""The operator, in the form that the caller wants to record."""


def vjp(
    primitive: Primitive,
    grad: Tensor,
    call: Call,
    needs: Sequence[bool],
    shapes: Sequence[Sequence[int]] | None = None,
) -> list[Tensor | None]:
    """Compute the gradients of Re <grad, S(parity, polynomial)> with respect to the seven tensors.

    Parameters
    ----------
    primitive
        The operator from which the formula is built.
    grad
        The gradient of the result, ``[*batch, n]``, of the result's dtype.
    call
        The call. If ``sources`` is None, the targets are also the sources, and their gradient is
        the sum over both roles.
    needs
        Which of the seven gradients to compute.
    shapes
        The seven shapes to which the gradients are summed; the default is those of the tensors.
        (Under vmap the gradient of a shared tensor has one dimension more than the tensor.)

    Returns
    -------
    list
        Seven tensors of those shapes and of the call's dtypes; those not needed are None.
    """
    values, _, sources, lengthscale, frequency, target_phase, source_phase = call[:TENSORS]
    if values.dtype in HALF:
        grad = grad if grad.is_complex() else grad.float()
        found = vjp(primitive, grad, call._replace(values=values.float()), needs, shapes)
        return [None if found[0] is None else found[0].to(values.dtype), *found[1:]]
    real_part, parity, polynomial = call.real_part, call.parity, tuple(call.polynomial)
    if shapes is None:
        shapes = [() if each is None else each.shape for each in call[:TENSORS]]
    result: list[Tensor | None] = [None] * TENSORS
    need_values, need_x, need_y, need_lengthscale, need_frequency, need_theta, need_phi = needs
    need_y = need_x if sources is None else need_y

    back = call.adjoint(grad)

    def forward(s: int, q: Polynomial) -> Tensor:
        return primitive(call.member(values, s, q))

    def adjoint(s: int, q: Polynomial, real_part: bool = False) -> Tensor:
        out = primitive(back.member(grad, s, q, real_part))
        if s == CUMULATIVE:
            return grad.sum(-1, keepdim=True) - out
        return -out if s in ODD else out  # because sign(x - y) is odd

    if need_values or need_phi:
        back_sum = adjoint(parity, polynomial, real_part and not need_phi)
        if need_values:
            total = back_sum if values.is_complex() else real(back_sum)
            result[0] = total.sum_to_size(shapes[0])
        if need_phi:
            assert source_phase is not None
            result[6] = imaginary_inner(back_sum, values).sum_to_size(shapes[6])
    if need_x:
        along = slope(forward, lengthscale, frequency, parity, polynomial)
        result[1] = inner(grad, along).sum_to_size(shapes[1])
    if need_y:
        along = slope(adjoint, lengthscale, back.frequency, parity, polynomial)
        total = inner(-along, values)
        if sources is None:
            assert result[1] is not None
            result[1] = result[1] + total.sum_to_size(shapes[1])
        else:
            result[2] = total.sum_to_size(shapes[2])
    stretched: dict[Polynomial, Tensor] = {}
    if need_lengthscale:
        its_parity, raised = _stretch(parity, polynomial)
        stretched[raised] = forward(its_parity, raised)
        total = inner(grad, stretched[raised]).sum(-1).to(lengthscale.dtype)
        result[3] = total.sum_to_size(shapes[3]) / lengthscale
    if need_frequency:
        assert frequency is not None
        raised = times_distance(polynomial)
        higher = stretched[raised] if raised in stretched else forward(parity, raised)
        total = imaginary_inner(grad, higher).sum(-1).to(frequency.dtype) * -lengthscale
        result[4] = total.sum_to_size(shapes[4]).to(frequency.dtype)
    if need_theta:
        assert target_phase is not None
        total = -imaginary_inner(grad, forward(parity, polynomial))
        result[5] = total.sum_to_size(shapes[5])
    return result


def jvp(primitive: Primitive, call: Call, tangents: Sequence[Tensor | None]) -> Tensor | None:
    """Differentiate S(parity, polynomial) along the seven tangents (None: held fixed)."""
    values, lengthscale, frequency = call.values, call.lengthscale, call.frequency
    parity, polynomial = call.parity, tuple(call.polynomial)
    d_values, d_x, d_y, d_lengthscale, d_frequency, d_theta, d_phi = tangents
    if values.dtype in HALF:
        tangents = [None if d_values is None else d_values.float(), *tangents[1:]]
        found = jvp(primitive, call._replace(values=values.float()), tangents)
        return found if found is None or found.is_complex() else found.to(values.dtype)
    if call.sources is None:
        d_y = d_x

    def along(v: Tensor, s: int, q: Polynomial) -> Tensor:
        return primitive(call.member(v, s, q))

    def forward(s: int, q: Polynomial) -> Tensor:
        return along(values, s, q)

    terms: list[Tensor] = []
    if d_values is not None:
        terms.append(along(d_values, parity, polynomial))
    if d_phi is not None:
        terms.append(-1j * along(d_phi * values, parity, polynomial))
    if d_x is not None:
        terms.append(d_x * slope(forward, lengthscale, frequency, parity, polynomial))
    if d_y is not None:
        moved = d_y * values

        def forward_moved(s: int, q: Polynomial) -> Tensor:
            return along(moved, s, q)

        terms.append(-slope(forward_moved, lengthscale, frequency, parity, polynomial))
    stretched: dict[Polynomial, Tensor] = {}
    if d_lengthscale is not None:
        its_parity, raised = _stretch(parity, polynomial)
        stretched[raised] = higher = forward(its_parity, raised)
        terms.append(as_factor(d_lengthscale / lengthscale, higher) * higher)
    if d_frequency is not None:
        raised = times_distance(polynomial)
        higher = stretched[raised] if raised in stretched else forward(parity, raised)
        terms.append(1j * as_factor(d_frequency * lengthscale, higher) * higher)
    if d_theta is not None:
        terms.append(1j * d_theta * forward(parity, polynomial))
    if not terms:
        return None
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return real(total) if call.real_part else total


def slope(
    primitive: Callable[[int, Polynomial], Tensor],
    lengthscale: Tensor,
    frequency: Tensor | None,
    parity: int,
    polynomial: Polynomial,
) -> Tensor:
    """dS/dx_i at every target i: S(s+, q' - q) / lengthscale + i frequency S(s+, q)."""
    if parity == CUMULATIVE:
        total = 0.5 * primitive(0, PLAIN)
    else:
        odd = NEXT_PARITY[parity]
        total = -primitive(odd, difference(polynomial, derivative(polynomial)))
    if frequency is not None:
        swing = -total if polynomial == PLAIN else primitive(odd, polynomial)
        total = total + 1j * as_factor(frequency * lengthscale, swing) * swing
    divisor = as_factor(lengthscale, total)
    if divisor.dtype is not lengthscale.dtype:  # in float32 a tiny one is 0, and 0 / 0 is NaN
        divisor = divisor.clamp_min(torch.finfo(divisor.dtype).tiny)
    return total / divisor


def _stretch(parity: int, polynomial: Polynomial) -> tuple[int, Polynomial]:
    """Return the sum that is lengthscale * dS/dlengthscale."""
    if parity == CUMULATIVE:
        return 3, (0.0, -0.5)  # t exp(-|t|) has a derivative at ties, which parity 1 leaves out
    return parity, times_distance(difference(polynomial, derivative(polynomial)))


def as_factor(scalar: Tensor, like: Tensor) -> Tensor:
    """Shape one scalar per head as a factor of ``like[..., n]``, without raising its precision."""
    return scalar.unsqueeze(-1).to(like.real.dtype if like.is_complex() else like.dtype)


def real(z: Tensor) -> Tensor:
    """Return the real part; a real tensor is returned as it is."""
    return z.real if z.is_complex() else z


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Compute Re(conj(a) b) entry by entry, for real and complex a and b."""
    if a.is_complex() and b.is_complex():
        return a.real * b.real + a.imag * b.imag
    return real(a) * real(b)


def imaginary_inner(a: Tensor, b: Tensor) -> Tensor:
    """Compute Im(conj(a) b) entry by entry; at least one of them must be complex."""
    if a.is_complex() and b.is_complex():
        return a.real * b.imag - a.imag * b.real
    return a * b.imag if b.is_complex() else -a.imag * b
