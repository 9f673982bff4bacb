"""The factor A = L D L^T of covariances on a line, as differentiable functions of torch tensors.

`Gram` holds the compiled core's factorisation of the `Covariance` of ``B`` matrices. Vectors have
shape ``[B, R, n]``. The functions also take the tensors of the covariance, for autograd, and have
first and second derivatives. All derivatives of the factor are those of <a, L b> + <w, log D>
(`_Vjp`); their derivatives come from the same code in dual numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from math import log, pi
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._support import core
from ..torch import cuda as cuda_execution
from .cpu import CpuBackend
from .cuda import CudaBackend


class Covariance(NamedTuple):
    """The parameters of the matrices that are factorised, or derivatives by these parameters.

        A[i, j] = sum_b h_b(i) A_b(t_i - t_j) P_b h_b(j) + noise_i [i = j],    t_i >= t_j

    A is the covariance of a sum of independent linear processes. Each has a block b of 1, 2 or 3
    columns of H, which observe its state. A_b(d) is the transition of the state across a gap d,
    and P_b its stationary covariance. A block of size 1 is an Ornstein-Uhlenbeck process, A P =
    weight exp(-d / lengthscale); one of size 2 is a damped oscillator with the damping rate 1 /
    lengthscale_j and the undamped frequency 1 / lengthscale_{j+1}; one of size 3 is a Matern-5/2
    process of the rate 1 / lengthscale_j. See `laplex::Covariance` of the C++ library.

    All are contiguous float64 tensors on one device.

    Attributes
    ----------
    anchors : Tensor ``[B, n]``
        t, in any order.
    lengthscale : Tensor ``[B, J]``
    loadings : Tensor ``[B, n, J]``
        H.
    noise : Tensor ``[B, n]``
        Variances. Infinity marks a point that was not observed.
    weights : Tensor ``[B, J]`` or None
        The weights of the processes, of any sign. None, for blocks of size 1 alone, stands for 1.
    blocks : tuple of int
        The sizes of the blocks, in the order of the columns. Empty if all have size 1.
    """

    anchors: Tensor
    lengthscale: Tensor
    loadings: Tensor
    noise: Tensor
    weights: Tensor | None = None
    blocks: tuple[int, ...] = ()

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """All but the blocks."""
        return self[:5]

    def map(self, function: Callable[[Tensor], Tensor]) -> Covariance:
        """Apply a function to each of the tensors."""
        anchors, lengthscale, loadings, noise = map(function, self[:4])
        weights = None if self.weights is None else function(self.weights)
        return Covariance(anchors, lengthscale, loadings, noise, weights, self.blocks)


#: Derivatives by all tensors of a covariance.
_ALL = (True, True, True, True, True)


class Factor(IntEnum):
    """The matrix by which `product` multiplies."""

    LOWER = 0
    LOWER_INVERSE = 1
    UPPER = 2
    UPPER_INVERSE = 3

    @property
    def transpose(self) -> Factor:
        """The transposed matrix: lower becomes upper and upper becomes lower."""
        return Factor(self ^ 2)


class Gram:
    """A computed factorisation, without derivatives.

    L is unit lower triangular in the sorted order of the anchors, and D is diagonal.

    Parameters
    ----------
    covariance
        The parameters of the matrices.
    ties_backwards
        Sort equal anchors in descending order of their indices.
    backend
        The backend that computes. By default, that of the tensors' device.

    Raises
    ------
    ValueError
        If anchors, loadings or weights are NaN or infinite, a lengthscale is not positive, noise
        is negative, the blocks do not add up to the columns, or there are more columns than the
        backend supports.
    numpy.linalg.LinAlgError
        If a matrix is singular.
    RuntimeError
        If the stream of a GPU is being captured into a graph.
    """

    def __init__(
        self,
        covariance: Covariance,
        *,
        ties_backwards: bool = False,
        backend: type[CpuBackend | CudaBackend] | None = None,
    ) -> None:
        self.batch, self.n, self.width = covariance.loadings.shape
        self.device = covariance.anchors.device
        if backend is None:
            on_gpu = cuda_execution.takes(covariance.anchors)
            backend = CudaBackend if on_gpu else CpuBackend
        sizes = (self.batch, self.n, self.width)
        self._weighted = covariance.weights is not None
        arrays = core.CovarianceGradients(*_addresses(*covariance.tensors))
        given = core.Covariance(ties_backwards, *sizes, *arrays, covariance.blocks)
        self.backend = backend(given, self.device)

    @property
    def has_ties(self) -> bool:
        """Whether any anchors of a matrix coincide."""
        return self.backend.core.has_ties

    def order(self) -> Tensor:
        """The indices of the anchors in ascending order, int64 ``[B, n]``."""
        out = self._empty(self.batch, self.n, dtype=torch.int64)
        self.backend.call("order", out.data_ptr())
        return out

    def apply(self, factor: Factor, values: Tensor, *, scaled: bool = False) -> Tensor:
        """Multiply L, L^-1, L^T or L^-T by values; with `scaled`, use L D^1/2 in place of L."""
        values = self._rows(values)
        out, rows = torch.empty_like(values), values.shape[1]
        self.backend.call("apply", int(factor), scaled, *_addresses(values, out), rows, rows=rows)
        return out

    def solve(self, values: Tensor) -> Tensor:
        """Multiply A^-1 by values."""
        values = self._rows(values)
        out, rows = torch.empty_like(values), values.shape[1]
        self.backend.call("solve", *_addresses(values, out), rows, rows=rows)
        return out

    def log_prob(self, values: Tensor) -> Tensor:
        """Log density of N(0, A) at each row ``[B, R]``."""
        values = self._rows(values)
        out, rows = values.new_empty(values.shape[:-1]), values.shape[1]
        self.backend.call("log_prob", *_addresses(values, out), rows, rows=rows)
        return out

    def log_variances(self) -> Tensor:
        """Log D ``[B, n]``."""
        out = self._empty(self.batch, self.n)
        self.backend.call("log_variances", out.data_ptr())
        return out

    def logdet(self) -> Tensor:
        """Log det A ``[B]``."""
        out = self._empty(self.batch)
        self.backend.call("logdet", out.data_ptr())
        return out

    def vjp(
        self,
        a: Tensor | None,
        b: Tensor | None,
        w: Tensor | None,
        needs: Sequence[bool] = _ALL,
    ) -> list[Tensor | None]:
        """Gradients of <a, L b> + <w, log D> by the covariance; None stands for 0.

        Only the gradients that `needs` marks are computed; the others are None.
        """
        a, b, w = (None if each is None else plain(each) for each in (a, b, w))
        rows = 0 if a is None else a.shape[1]
        out = self._empty_covariance(needs)
        (weights,), gradients = _addresses(w), core.CovarianceGradients(*_addresses(*out))
        self.backend.call(
            "vjp", *_addresses(a, b), rows, weights, gradients, 0, rows=rows, derivatives=1
        )
        return out

    def vjp_tangent(
        self, a: Tensor | None, b: Tensor | None, w: Tensor | None, along: Covariance
    ) -> list[Tensor | None]:
        """Derivatives by a, b, w and the covariance of <along, vjp(a, b, w)>."""
        a, b, w = (None if each is None else plain(each) for each in (a, b, w))
        tangent = [None if each is None else plain(each) for each in along.tensors]
        rows = 0 if a is None else a.shape[1]
        d_a, d_b, d_w = (None if each is None else torch.empty_like(each) for each in (a, b, w))
        out = self._empty_covariance(_ALL)
        (weights,), direction = _addresses(w), core.CovarianceGradients(*_addresses(*tangent))
        gradients = core.CovarianceGradients(*_addresses(*out))
        self.backend.call(
            "vjp_tangent",
            *_addresses(a, b),
            rows,
            weights,
            direction,
            gradients,
            *_addresses(d_a, d_b, d_w),
            rows=rows,
            derivatives=2,
        )
        return [d_a, d_b, d_w, *out]

    def _rows(self, values: Tensor) -> Tensor:
        assert values.dim() == 3
        assert values.shape[::2] == (self.batch, self.n)
        return plain(values)

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def _empty_covariance(self, needs: Sequence[bool]) -> list[Tensor | None]:
        batch, n, width = self.batch, self.n, self.width
        shapes = ((batch, n), (batch, width), (batch, n, width), (batch, n), (batch, width))
        needs = (*needs[:4], needs[4] and self._weighted)
        return [
            self._empty(*shape) if needed else None
            for shape, needed in zip(shapes, needs, strict=True)
        ]


def plain(tensor: Tensor) -> Tensor:
    """The tensor in contiguous memory, with pending negations resolved."""
    if tensor.is_contiguous() and not tensor.is_neg():
        return tensor
    return tensor.resolve_neg().contiguous()


def _addresses(*tensors: Tensor | None) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


# --- differentiable functions ---------------------------------------------------------------------


def product(gram: Gram, factor: Factor, values: Tensor, covariance: Covariance) -> Tensor:
    """Multiply L, L^-1, L^T or L^-T by values ``[B, R, n]``."""
    if not torch.is_grad_enabled():  # in a first derivative: a Function costs more than the product
        return gram.apply(factor, values)
    result: Tensor = _Product.apply(gram, factor, values, *covariance.tensors)  # type: ignore[no-untyped-call]
    return result


def log_variances(gram: Gram, covariance: Covariance) -> Tensor:
    """Log D ``[B, n]``, whose sum is log det A."""
    result: Tensor = _Innovations.apply(gram, None, *covariance.tensors)[1]  # type: ignore[no-untyped-call]
    return result


def innovations(gram: Gram, values: Tensor, covariance: Covariance) -> tuple[Tensor, Tensor]:
    """L^-1 times values, and log D, for a likelihood; one reverse pass serves both."""
    result: tuple[Tensor, Tensor] = _Innovations.apply(gram, values, *covariance.tensors)  # type: ignore[no-untyped-call]
    return result


def log_prob(gram: Gram, values: Tensor, covariance: Covariance) -> Tensor:
    """Log density of N(0, A) at each row ``[B, R]``, as a single autograd node."""
    if gram.has_ties:  # the mean of both orders, whose derivatives autograd sums in one pass
        return log_density(*innovations(gram, values, covariance))
    result: Tensor = _LogProb.apply(gram, values, *covariance.tensors)  # type: ignore[no-untyped-call]
    return result


def log_density(whitened: Tensor, logs: Tensor) -> Tensor:
    """Log density ``[B, R]``, given L^-1 values and log D."""
    return _density(whitened, logs, torch.exp(-logs))


def _density(whitened: Tensor, logs: Tensor, precision: Tensor) -> Tensor:
    square = whitened.square() * precision[:, None]
    constant = whitened.shape[-1] * log(2 * pi)
    return -0.5 * (square.sum(-1) + logs.sum(-1, keepdim=True) + constant)


def _row_sum(rows: Tensor) -> Tensor:
    """Sum ``[B, R, n]`` over R."""
    return rows[:, 0] if rows.shape[1] == 1 else rows.sum(1)


def unobserved_variances(
    gram: Gram, covariance: Covariance, counts: Tensor | None = None
) -> Tensor:
    """Derivatives ``[B, n]`` of log det A by noise, or by its inverse where noise is infinite.

    The latter is the variance of the process at that point, given the observed points, because an
    observation of precision b adds log(1 + b var) to log det A.

    With `counts` ``[B, n]``, it is the derivative of the sum of counts log D. If these are 1 at
    the points that were not observed and 0 at all others, nothing counts that comes after a point,
    and its variance is that given the observed points before it.
    """
    counts = torch.ones_like(covariance.noise) if counts is None else counts
    needs = (False, False, False, True, False)
    by_noise = _vjp(gram, None, None, counts, covariance.tensors, needs)[3]
    assert by_noise is not None
    return by_noise


def _vjp(
    gram: Gram,
    a: Tensor | None,
    b: Tensor | None,
    w: Tensor | None,
    covariance: Sequence[Tensor | None],
    needs: Sequence[bool] = _ALL,
) -> Sequence[Tensor | None]:
    """See `Gram.vjp`."""
    if not torch.is_grad_enabled():
        return gram.vjp(a, b, w, needs)
    result: Sequence[Tensor] = _Vjp.apply(gram, a, b, w, *covariance)  # type: ignore[no-untyped-call]
    return result


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gram: Gram, factor: Factor, values: Tensor, *covariance: Tensor | None
    ) -> Tensor:
        out = gram.apply(factor, values)
        ctx.gram, ctx.factor = gram, factor
        ctx.save_for_backward(values, out, *covariance)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        values, out, *covariance = ctx.saved_tensors
        passed = product(ctx.gram, ctx.factor.transpose, grad, Covariance(*covariance))
        needs = ctx.needs_input_grad[3:]
        if not any(needs):
            return (None, None, passed, *(None for _ in needs))
        # <grad, d out> as +-<a, dL b>:
        a, b, sign = {
            Factor.LOWER: (grad, values, 1.0),
            Factor.LOWER_INVERSE: (passed, out, -1.0),
            Factor.UPPER: (values, grad, 1.0),
            Factor.UPPER_INVERSE: (out, passed, -1.0),
        }[ctx.factor]
        return (None, None, passed, *_vjp(ctx.gram, sign * a, b, None, covariance, needs))


class _Innovations(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gram: Gram, values: Tensor | None, *covariance: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        out = None if values is None else gram.apply(Factor.LOWER_INVERSE, values)
        ctx.gram = gram
        ctx.save_for_backward(out, *covariance)
        return out, gram.log_variances()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        out, *covariance = ctx.saved_tensors
        passed = minus = None
        if out is not None:
            passed = product(ctx.gram, Factor.UPPER_INVERSE, grads[0], Covariance(*covariance))
            minus = -passed
        needs = ctx.needs_input_grad[2:]
        if not any(needs):
            return (None, passed, *(None for _ in needs))
        return (None, passed, *_vjp(ctx.gram, minus, out, grads[1], covariance, needs))


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gram: Gram, values: Tensor, *covariance: Tensor | None) -> Tensor:
        whitened, logs = gram.apply(Factor.LOWER_INVERSE, values), gram.log_variances()
        precision = torch.exp(-logs)
        ctx.gram = gram
        ctx.save_for_backward(values, *covariance, whitened, precision)
        return _density(whitened, logs, precision)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, whitened, precision = ctx.saved_tensors
        (grad,) = grads
        if torch.is_grad_enabled():  # for derivatives of these derivatives
            # Views, since one of them may be a function of another one.
            inputs = [None if each is None else each.view_as(each) for each in inputs]
            values, *covariance = inputs
            density = log_density(*innovations(ctx.gram, values, Covariance(*covariance)))
            needs = [each is not None and each.requires_grad for each in inputs]
            needed = [each for each, need in zip(inputs, needs, strict=True) if need]
            found = iter(torch.autograd.grad(density, needed, grad, create_graph=True))
            return (None, *(next(found) if need else None for need in needs))
        # By -2 log p = sum of whitened^2 / D + log D; halves are exact.
        grad = grad[..., None]
        a = ctx.gram.apply(Factor.UPPER_INVERSE, grad * precision[:, None] * whitened)
        by_values = -a if ctx.needs_input_grad[1] else None
        needs = ctx.needs_input_grad[2:]
        if not any(needs):
            return (None, by_values, *(None for _ in needs))
        by_logs = (_row_sum(grad * whitened.square()) * precision - _row_sum(grad)).mul_(0.5)
        return (None, by_values, *ctx.gram.vjp(a, whitened, by_logs, needs))


class _Vjp(torch.autograd.Function):
    """Gradients of <a, L b> + <w, log D> by the covariance; None stands for a, b or w of 0."""

    @staticmethod
    def forward(ctx: Any, gram: Gram, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.gram = gram
        ctx.save_for_backward(*tensors)
        a, b, w, *_ = tensors
        return tuple(gram.vjp(a, b, w))

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *_VjpTangent.apply(ctx.gram, *ctx.saved_tensors, *tangents))  # type: ignore[no-untyped-call]


class _VjpTangent(torch.autograd.Function):
    """The derivative of `_Vjp`: gradients by a, b, w and the covariance of <tangents, _Vjp>."""

    @staticmethod
    def forward(ctx: Any, gram: Gram, *tensors: Any) -> tuple[Tensor | None, ...]:
        a, b, w, *covariance_and_tangents = tensors
        return tuple(gram.vjp_tangent(a, b, w, Covariance(*covariance_and_tangents[5:])))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        raise NotImplementedError(
            "LaplaceGram has first and second derivatives, and only first derivatives of "
            "conditional variances: a higher derivative was requested"
        )
