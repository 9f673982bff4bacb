"""`matvec`: the operator as a differentiable function of torch tensors."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from .autograd import plain_product, primitive

Scalar = float | Tensor

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
    check_tensor("values", values)
    check_tensors(targets, sources, target_phase, source_phase)
    check_flag("real_part", real_part)
    real = target_phase is None and source_phase is None
    if real and type(lengthscale) is float and type(frequency) is float and frequency == 0.0:
        other = None if sources is targets else sources
        product = plain_product(values, targets, other, lengthscale)
        if product is not None:
            return product
    ell = as_scalar("lengthscale", lengthscale, targets)
    omega = as_frequency(frequency, targets)
    if sources is targets:
        sources = None
    real_part = real_part and not (omega is None and target_phase is None and source_phase is None)

    # Under float64 anchors they are refused, by the dtype they came with.
    half = values.dtype if values.dtype in _HALF and targets.dtype is torch.float32 else None
    if half is not None:
        values = values.float()
    # A real matrix acts on real and imaginary parts alike: they become one more leading dimension.
    split = real_part and values.is_complex()
    if split:
        batch = max(
            tensor.dim() - 1
            for tensor in (values, targets, sources, target_phase, source_phase)
            if tensor is not None
        )
        batch = max(batch, ell.dim(), 0 if omega is None else omega.dim())
        if values.numel() == 0:  # PyTorch can't go back through view_as_real there
            parts = torch.stack((values.real, values.imag))
        else:
            parts = torch.view_as_real(values.resolve_conj()).movedim(-1, 0)
        missing = batch - (values.dim() - 1)
        values = parts.reshape(parts.shape[:1] + (1,) * missing + parts.shape[1:])

    result = primitive(
        values,
        targets,
        sources,
        ell,
        omega,
        target_phase,
        source_phase,
        real_part,
        0,
        0,
    )
    if split:
        return torch.complex(result[0], result[1])
    if half is not None and not result.is_complex():
        return result.to(half)
    return result


def as_scalar(name: str, value: object, targets: Tensor) -> Tensor:
    """Return a tensor as it is, a number as double-precision 0-d: float32 would lose its digits."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a float or a torch tensor, got {type(value).__name__}")
    if not torch.compiler.is_compiling():  # which follows numbers that it does not know yet
        try:
            value = float(value)
        except OverflowError:
            raise ValueError(f"{name} must be finite, got an integer beyond any float") from None
    return torch.scalar_tensor(value, dtype=torch.float64, device=targets.device)  # type: ignore[arg-type]


def as_frequency(value: object, targets: Tensor) -> Tensor | None:
    """Return a frequency as a tensor; None, a kernel that does not oscillate, for the number 0."""
    if not isinstance(value, Tensor) and isinstance(value, Real) and value == 0:
        return None
    return as_scalar("frequency", value, targets)


def check_flag(name: str, value: object) -> None:
    """Refuse what is not True or False: a word would count as True."""
    if value is not True and value is not False:
        raise TypeError(f"{name} must be True or False, got {value!r}")


def check_tensors(
    targets: object, sources: object, target_phase: object, source_phase: object
) -> None:
    """Refuse lists and arrays with a sentence that names the argument."""
    check_tensor("targets", targets)
    if sources is not None:
        check_tensor("sources", sources)
    if target_phase is not None:
        check_tensor("target_phase", target_phase)
    if source_phase is not None:
        check_tensor("source_phase", source_phase)


def check_tensor(name: str, argument: object) -> None:
    """Refuse what is not a tensor."""
    if not isinstance(argument, Tensor):
        raise TypeError(
            f"{name} must be a torch tensor, got {type(argument).__name__}: use torch.as_tensor, "
            "or laplex.Plan for NumPy arrays"
        )
