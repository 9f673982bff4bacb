"""`matvec`: the operator as a differentiable function of torch tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from .autograd import primitive
from .call import TENSORS, TRAILING, Call, Scalar, call_of

_HALF = (torch.float16, torch.bfloat16)


def matvec(
    values: Tensor,
    targets: Tensor,
    sources: Tensor | None = None,
    *,
    lengthscale: Scalar = 1.0,
    frequency: Scalar = 0.0,
    target_phase: Tensor | None = None,
    source_phase: Tensor | None = None,
    real_part: bool = False,
) -> Tensor:
    r"""Multiply values by the Laplace-kernel matrix of targets and sources, in linear time.

    .. math::

        u_i = \sum_j e^{-(1/\ell - i\omega)\,|x_i - y_j|}\; e^{i(\theta_i - \phi_j)}\; v_j

    with targets x, sources y, lengthscale ell, frequency omega, target phases theta and source
    phases phi. With ``real_part=True`` the matrix is the real part of this one,
    exp(-d/ell) cos(theta_i - phi_j + omega d) at distance d.

    Differentiable in every tensor argument, in reverse and forward mode: four times in lengthscale
    and frequency together, without limit in the others (differentiate by those first: a backward
    pass through the fourth derivative by a lengthscale asks for a fifth). Works under
    ``torch.func``, ``torch.compile`` and autocast.

    Parameters
    ----------
    values : Tensor, shape ``[*b, m]``
        Vectors to multiply. Real or complex, of the anchors' precision; float16 and bfloat16 also
        go with float32 anchors.
    targets : Tensor, shape ``[*b, n]``
        float32 or float64, finite, in any order.
    sources : Tensor, shape ``[*b, m]``, optional
        Like the targets. When absent the targets are the sources too (and sorted once).
    lengthscale : float or Tensor, shape ``[*b]``
        Positive. As a float, or a float64 tensor, it is used in double precision whatever the
        anchors' dtype.
    frequency : float or Tensor, shape ``[*b]``
        Oscillation per unit of distance; the float 0 means a kernel without oscillation, a tensor
        always a complex one.
    target_phase, source_phase : Tensor, shapes ``[*b, n]`` and ``[*b, m]``, optional
        Carrier phases in radians, of the anchors' dtype.
    real_part
        Use the real part of the matrix: real values then give a real result.

    Leading dimensions ``*b`` broadcast against each other as in NumPy. Mind that lengthscale and
    frequency have leading dimensions only: one for each of H heads has shape ``[H]`` beside anchors
    ``[H, n]``, and values ``[B, 1, m]`` then give a result ``[B, H, n]``.

    Returns
    -------
    Tensor, shape ``[*b, n]``
        Complex when the values are complex, or when the kernel is (a phase, a frequency) and
        `real_part` is not set. Half-precision values are multiplied in float32 and the result
        rounded to their dtype; a complex result stays complex64, as there is no smaller type for
        both.

    Raises
    ------
    TypeError
        Integer or half-precision anchors, dtypes that do not fit together, arguments that are not
        tensors.
    ValueError
        Shapes that do not fit, tensors on different devices, NaN or infinite anchors, a lengthscale
        that is not positive and finite.
    NotImplementedError
        Tensors of another device than the CPU.

    Notes
    -----
    Accuracy: the error of every result entry is at most 1e-14 (float64) or 1e-6 (float32) times
    sum_j |K_ij| |v_j|, with |K_ij| = exp(-d/ell).

    Ties: at x_i = y_j the kernel has a kink. Derivatives use sign(0) = 0 there, as ``torch.abs``
    does: the mean of the one-sided derivatives. In the self case every target ties with itself.

    Derivatives in PyTorch's convention for complex numbers. NaN and infinity in values propagate.

    An implementation of the operator class of arXiv 2605.24584; the recurrence is that of celerite
    (arXiv 1703.09710).

    Examples
    --------
    >>> import torch, laplex
    >>> targets = torch.tensor([0.0, 1.0], dtype=torch.float64)
    >>> sources = torch.tensor([0.0, 2.0], dtype=torch.float64)
    >>> laplex.matvec(torch.ones(2, dtype=torch.float64), targets, sources)
    tensor([1.1353, 0.7358], dtype=torch.float64)
    """
    return product(
        call_of(
            values,
            targets,
            sources,
            lengthscale,
            frequency,
            target_phase,
            source_phase,
            real_part,
        )
    )


def product(call: Call) -> Tensor:
    """The result of `matvec`, whose values may be of half precision, or complex for a real part."""
    values = call.values
    if call.real_part and values.is_complex():
        return _of_both_parts(call)
    # Under float64 anchors they are refused, by the dtype they came with.
    if values.dtype in _HALF and call.targets.dtype is torch.float32:
        result = primitive(call.member(values.float(), 0, 0, call.real_part))
        return result if result.is_complex() else result.to(values.dtype)
    return primitive(call)


def _of_both_parts(call: Call) -> Tensor:
    """A real matrix times complex values: their parts become one more leading dimension."""
    values = call.values
    batch = max(
        tensor.dim() - last
        for tensor, last in zip(call[:TENSORS], TRAILING, strict=True)
        if tensor is not None
    )
    if values.numel() == 0:  # PyTorch can't go back through view_as_real there
        parts = torch.stack((values.real, values.imag))
    else:
        parts = torch.view_as_real(values.resolve_conj()).movedim(-1, 0)
    missing = batch - (values.dim() - 1)
    parts = parts.reshape(parts.shape[:1] + (1,) * missing + parts.shape[1:])
    result = primitive(call.member(parts, 0, 0, real_part=True))
    return torch.complex(result[0], result[1])
