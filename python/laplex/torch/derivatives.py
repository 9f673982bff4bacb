"""Derivatives of the operator, expressed by the operator itself.

The primitive is the following family, where tau = |x_i - y_j| / lengthscale and K is the complex
kernel matrix:

    S(s, p)_i = sum_j sign(x_i - y_j)^s tau_ij^p K_ij v_j,   parity s in {0, 1, 2}, moment p >= 0,

Parity 2 is the square of the sign: 1, but 0 at a tie. With the convention sign(0) = 0 the family
is closed under differentiation. With c' = 1 - i frequency lengthscale, and s+ = 1, 2, 1 for
s = 0, 1, 2,

    dS/dx_i         =  (p S(s+, p-1) - c' S(s+, p)) / lengthscale        (sources: the negative)
    dS/dlengthscale =  (S(s, p+1) - p S(s, p)) / lengthscale
    dS/dfrequency   =  i lengthscale S(s, p+1)
    dS/dtheta_i     =  i S(s, p)_i                                       (source phases: -i)

So ``vjp`` and ``jvp`` below are sums of a few calls of the primitive, and differentiating *them*
gives every higher derivative exactly. The lengthscale and frequency use the moment S(s, p+1). The
identity W = -(1/c) (sum_i x_i ... + sum_j y_j ...) would make them free in a first-order pass, but
that sum cancels: its terms grow with the range of the anchors, and its value does not.

Complex gradients follow PyTorch's Wirtinger convention: for a gradient g, dL = Re(conj(g) du).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .call import TENSORS, Call

NEXT_PARITY = {0: 1, 1: 2, 2: 1}

Primitive = Callable[[Call], Tensor]
"""The operator, in the form that the caller wants to record."""


def vjp(
    primitive: Primitive,
    grad: Tensor,
    call: Call,
    needs: Sequence[bool],
    shapes: Sequence[Sequence[int]] | None = None,
) -> list[Tensor | None]:
    """Compute the gradients of Re <grad, S(parity, moment)> with respect to the seven tensors.

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
    real_part, parity, moment = call.real_part, call.parity, call.moment
    if shapes is None:
        shapes = [() if each is None else each.shape for each in call[:TENSORS]]
    result: list[Tensor | None] = [None] * TENSORS
    need_values, need_x, need_y, need_lengthscale, need_frequency, need_theta, need_phi = needs
    need_y = need_x if sources is None else need_y

    back = call.adjoint(grad)

    def forward(s: int, p: int) -> Tensor:
        return primitive(call.member(values, s, p))

    def adjoint(s: int, p: int, real_part: bool = False) -> Tensor:
        out = primitive(back.member(grad, s, p, real_part))
        return -out if s == 1 else out  # because sign(x - y) is odd

    if need_values or need_phi:
        back_sum = adjoint(parity, moment, real_part and not need_phi)
        if need_values:
            total = back_sum if values.is_complex() else real(back_sum)
            result[0] = total.sum_to_size(shapes[0])
        if need_phi:
            assert source_phase is not None
            result[6] = imaginary_inner(back_sum, values).sum_to_size(shapes[6])
    if need_x:
        along = slope(forward, lengthscale, frequency, parity, moment)
        result[1] = inner(grad, along).sum_to_size(shapes[1])
    if need_y:
        along = slope(adjoint, lengthscale, back.frequency, parity, moment)
        total = inner(-along, values)
        if sources is None:
            assert result[1] is not None
            result[1] = result[1] + total.sum_to_size(shapes[1])
        else:
            result[2] = total.sum_to_size(shapes[2])
    if need_lengthscale or need_frequency:
        higher = forward(parity, moment + 1)
        if need_lengthscale:
            total = inner(grad, higher)
            if moment:
                total = total - moment * inner(grad, forward(parity, moment))
            total = total.sum(-1).to(lengthscale.dtype)
            result[3] = total.sum_to_size(shapes[3]) / lengthscale
        if need_frequency:
            assert frequency is not None
            total = imaginary_inner(grad, higher).sum(-1).to(frequency.dtype) * -lengthscale
            result[4] = total.sum_to_size(shapes[4]).to(frequency.dtype)
    if need_theta:
        assert target_phase is not None
        total = -imaginary_inner(grad, forward(parity, moment))
        result[5] = total.sum_to_size(shapes[5])
    return result


def jvp(primitive: Primitive, call: Call, tangents: Sequence[Tensor | None]) -> Tensor | None:
    """Differentiate S(parity, moment) along the seven tangents (None for a tensor held fixed)."""
    values, lengthscale, frequency = call.values, call.lengthscale, call.frequency
    parity, moment = call.parity, call.moment
    d_values, d_x, d_y, d_lengthscale, d_frequency, d_theta, d_phi = tangents
    if call.sources is None:
        d_y = d_x

    def along(v: Tensor, s: int, p: int) -> Tensor:
        return primitive(call.member(v, s, p))

    def forward(s: int, p: int) -> Tensor:
        return along(values, s, p)

    terms: list[Tensor] = []
    if d_values is not None:
        terms.append(along(d_values, parity, moment))
    if d_phi is not None:
        terms.append(-1j * along(d_phi * values, parity, moment))
    if d_x is not None:
        terms.append(d_x * slope(forward, lengthscale, frequency, parity, moment))
    if d_y is not None:
        moved = d_y * values

        def forward_moved(s: int, p: int) -> Tensor:
            return along(moved, s, p)

        terms.append(-slope(forward_moved, lengthscale, frequency, parity, moment))
    if d_lengthscale is not None or d_frequency is not None:
        higher = forward(parity, moment + 1)
        if d_lengthscale is not None:
            total = higher - moment * forward(parity, moment) if moment else higher
            terms.append(as_factor(d_lengthscale / lengthscale, higher) * total)
        if d_frequency is not None:
            terms.append(1j * as_factor(d_frequency * lengthscale, higher) * higher)
    if d_theta is not None:
        terms.append(1j * d_theta * forward(parity, moment))
    if not terms:
        return None
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return real(total) if call.real_part else total


def slope(
    primitive: Callable[[int, int], Tensor],
    lengthscale: Tensor,
    frequency: Tensor | None,
    parity: int,
    moment: int,
) -> Tensor:
    """dS/dx_i at every target i: (p S(s+, p-1) - c' S(s+, p)) / lengthscale."""
    odd = NEXT_PARITY[parity]
    total = primitive(odd, moment)
    if frequency is not None:
        turn = as_factor(frequency * lengthscale, total)
        total = total - 1j * turn * total
    if moment:
        total = total - moment * primitive(odd, moment - 1)
    divisor = as_factor(lengthscale, total)
    if divisor.dtype is not lengthscale.dtype:  # in float32 a tiny one is 0, and 0 / 0 is NaN
        divisor = divisor.clamp_min(torch.finfo(divisor.dtype).tiny)
    return -total / divisor


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
