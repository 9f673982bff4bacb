"""`laplex.matvec`: the operator as a differentiable function of torch tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from .._support.profiles import profile_of
from .._support.sides import side_number
from . import cuda, sharded
from .autograd import primitive
from .call import HALF, PLAIN_TYPES, TENSORS, TRAILING, Call, Scalar, call_of


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
    kernel: str = "matern12",
    side: str = "both",
) -> Tensor:
    r"""Multiply values by the Laplace-kernel matrix of targets and sources, in linear time.

    .. math::

        u_i = \sum_j e^{-(1/\ell - i\omega)\,|x_i - y_j|}\; e^{i(\theta_i - \phi_j)}\; v_j

    Here :math:`x` are the targets, :math:`y` the sources, :math:`\ell` is the lengthscale and
    :math:`\omega` the frequency; :math:`\theta` and :math:`\phi` are the target and source phases.
    With ``real_part=True`` the matrix is the real part of this one,
    :math:`e^{-d/\ell} \cos(\theta_i - \phi_j + \omega d)` at distance :math:`d`.

    The result is differentiable with respect to every tensor argument, in reverse and forward mode.
    Lengthscale and frequency share a limit of four derivatives, in any combination (three with
    ``"matern32"``, two with ``"matern52"``); the other arguments have no limit. The function works
    under ``torch.func``, ``torch.compile`` and autocast.

    Parameters
    ----------
    values : Tensor, shape ``[*b, m]``
        The vectors to multiply, real or complex, of the anchors' precision. Float32 anchors also
        take float16 and bfloat16 values.
    targets : Tensor, shape ``[*b, n]``
        The targets :math:`x`: float32 or float64, finite, in any order.
    sources : Tensor, shape ``[*b, m]``, optional
        The sources :math:`y`, like the targets. If it is not given, the targets are also the
        sources, and are sorted once.
    lengthscale : float or Tensor, shape ``[*b]``
        The lengthscale, positive. A float or a float64 tensor is used in double precision,
        whatever the dtype of the anchors.
    frequency : float or Tensor, shape ``[*b]``
        The frequency in radians per unit of distance. The float 0 gives a kernel without
        oscillation; a tensor always gives a complex kernel.
    target_phase, source_phase : Tensor, shapes ``[*b, n]`` and ``[*b, m]``, optional
        Carrier phases in radians, of the anchors' dtype.
    real_part : bool
        Use the real part of the matrix, so that real values give a real result.
    kernel : {"matern12", "matern32", "matern52"}
        The shape of the kernel, a Matérn kernel of smoothness 1/2, 3/2 or 5/2. The first is the
        Laplace kernel of the formula. The others replace :math:`e^{-d/\ell}` by
        :math:`(1 + s)\,e^{-s}` with :math:`s = \sqrt{3}\,d/\ell`, and by
        :math:`(1 + s + s^2/3)\,e^{-s}` with :math:`s = \sqrt{5}\,d/\ell`.
    side : {"both", "left", "right"}
        The sources that count for each target: all of them, those at or below it
        (:math:`y_j \le x_i`), or those at or above it (:math:`y_j \ge x_i`). A source that is tied
        with a target counts on either side. The entries of the others are 0.

    Returns
    -------
    Tensor, shape ``[*b, n]``
        The product. It is complex if the values are complex, or if the kernel has phases or a
        frequency and ``real_part`` is False. Half-precision values are multiplied in float32 and
        the result is rounded to their dtype, except that a complex result stays complex64, because
        there is no smaller complex type for both half precisions.

    Raises
    ------
    TypeError
        If the anchors are integers or of half precision, dtypes do not match, or an argument is not
        a tensor.
    ValueError
        If shapes do not match, tensors are on different devices, anchors are NaN or infinite, or
        the lengthscale is not positive and finite.
    NotImplementedError
        If the tensors are on a device that this build does not support, or if lengthscale and
        frequency are differentiated more than four times in total.

    Notes
    -----
    **Batches.** The leading dimensions ``*b`` broadcast against each other as in NumPy. Lengthscale
    and frequency have leading dimensions only: for H heads with anchors ``[H, n]`` they have shape
    ``[H]``, and values ``[B, 1, m]`` then give a result ``[B, H, n]``. Heads may share anchors
    ``[n]``: with a lengthscale ``[H]`` these are sorted once on the CPU, not once per head.

    **Accuracy.** The error of every entry of the result is at most 1e-14 (float64) or 1e-6
    (float32) times :math:`\sum_j |K_{ij}| |v_j|`, where :math:`|K_{ij}|` is the kernel without
    phases and frequency, :math:`e^{-d/\ell}` for ``"matern12"``. A one-sided sum is as accurate
    relative to the sources on its side, however large the others are. NaN and infinity in the
    values propagate.

    **CUDA tensors** are multiplied on their GPU, on PyTorch's current stream. A lengthscale or
    frequency in a GPU's memory is checked only when its anchors are sorted; at other times a
    lengthscale that is not positive gives NaN. Half-precision values are read, and results written,
    without a copy in float32.

    **DTensors.** If one tensor argument is a DTensor, all are. The result is sharded in the leading
    dimension, rows or heads, in which an argument is; along the line, arguments are gathered.

    **Ties.** At :math:`x_i = y_j` the Laplace kernel has a kink. Derivatives use sign(0) = 0 there,
    as ``torch.abs`` does, which is the mean of the one-sided derivatives. In the self case every
    target is tied with itself. The other kernels have no kink, and their second derivatives there
    are the true ones.

    **One-sided sums.** The transpose of a matrix with ``side="left"`` is the one with
    ``side="right"`` whose targets are the sources. Derivatives are those of the entries: which
    sources count is held fixed, so the jump of a sum where a target passes a source is not
    differentiated. At a tie, the entry counts in the sum, and its derivatives are those of the
    two-sided kernel: 0 by the anchors of the Laplace kernel.

    **Higher derivatives.** Differentiate with respect to the other arguments before lengthscale and
    frequency: a backward pass through a fourth derivative with respect to the lengthscale needs a
    fifth. Complex gradients follow PyTorch's convention.

    This is the operator class of arXiv 2605.24584; the recurrence is that of celerite
    (arXiv 1703.09710).

    Examples
    --------
    >>> import torch, laplex
    >>> targets = torch.tensor([0.0, 1.0], dtype=torch.float64)
    >>> sources = torch.tensor([0.0, 2.0], dtype=torch.float64)
    >>> laplex.matvec(torch.ones(2, dtype=torch.float64), targets, sources)
    tensor([1.1353, 0.7358], dtype=torch.float64)
    """
    call = call_of(
        values,
        targets,
        sources,
        lengthscale,
        frequency,
        target_phase,
        source_phase,
        real_part,
        0 if side == "both" else side_number(side),
    )
    return product_with(call, kernel)


def product_with(call: Call, kernel: str) -> Tensor:
    """Multiply as `matvec` does by the kernel of this name."""
    if kernel == "matern12":
        return product(call)
    try:
        return product(call.with_profile(profile_of(kernel)))
    except ValueError:
        product(call)  # says the same of the lengthscale that was given, if that is what is wrong
        raise


def product(call: Call) -> Tensor:
    """Multiply as `matvec` does, also half-precision values, and complex ones by a real part."""
    values = call.values
    if not (type(values) in PLAIN_TYPES and type(call.targets) in PLAIN_TYPES) and any(
        sharded.is_distributed(tensor) for tensor in call[:TENSORS]
    ):
        return sharded.product(product, call)
    if call.real_part and values.is_complex():
        return _of_both_parts(call)
    # With float64 anchors the check of dtypes refuses half-precision values, which a GPU reads as
    # they are.
    is_half = values.dtype in HALF and call.targets.dtype is torch.float32
    if is_half and not cuda.takes(call.targets):
        result = primitive(call._replace(values=values.float()))
        return result if result.is_complex() else result.to(values.dtype)
    return primitive(call)


def _of_both_parts(call: Call) -> Tensor:
    """Multiply complex values by a real matrix: their parts form one more leading dimension."""
    values = call.values
    batch = max(
        tensor.dim() - last
        for tensor, last in zip(call[:TENSORS], TRAILING, strict=True)
        if tensor is not None
    )
    if values.numel() == 0:  # PyTorch cannot differentiate view_as_real of an empty tensor
        parts = torch.stack((values.real, values.imag))
    else:
        parts = torch.view_as_real(values.resolve_conj()).movedim(-1, 0)
    missing = batch - (values.dim() - 1)
    parts = parts.reshape(parts.shape[:1] + (1,) * missing + parts.shape[1:])
    result = primitive(call.member(parts, call.parity, call.polynomial, real_part=True))
    return torch.complex(result[0], result[1])
