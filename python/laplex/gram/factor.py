"""The factor A = L D L^T of a covariance on a line, as differentiable functions of torch tensors.

`Factor` holds the compiled core's factorisation of ``B`` matrices

    A[i, j] = sum_k H[i, k] H[j, k] exp(-|t_i - t_j| / lengthscale_k) + noise_i [i = j]

with anchors t ``[B, n]``, lengthscale ``[B, J]``, loadings H ``[B, n, J]``, noise ``[B, n]``, all
float64, L unit lower triangular in the sorted order, D diagonal; vectors are ``[B, R, n]``. The
functions take the four tensors besides, for autograd, and have first and second derivatives. All
derivatives of the factor are those of <a, L b> + <w, log D> (`_Vjp`), and theirs in turn come from
the same code in dual numbers.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from .. import _core
from ..torch.cuda import takes

if TYPE_CHECKING:
    from .cuda_factor import CudaFactor

    AnyFactor: TypeAlias = "Factor | CudaFactor"

#: anchors, lengthscale, loadings, noise
Parameters = tuple[Tensor, Tensor, Tensor, Tensor]


class Side(IntEnum):
    """Which matrix `product` multiplies with."""

    LOWER = 0
    LOWER_INVERSE = 1
    UPPER = 2
    UPPER_INVERSE = 3


class Factor:
    """A factorisation that was computed, without derivatives.

    Parameters
    ----------
    parameters
        Contiguous float64 tensors on the CPU, see the module. A noise of infinity marks a point
        that was not observed.
    ties_backwards
        Take equal anchors against their numbers.

    Raises
    ------
    ValueError
        NaN or infinite anchors or loadings, a lengthscale that is not positive, negative noise.
    numpy.linalg.LinAlgError
        A singular matrix.
    """

    def __init__(self, parameters: Parameters, *, ties_backwards: bool = False) -> None:
        anchors, lengthscale, loadings, noise = (tensor.detach() for tensor in parameters)
        self.batch, self.n, self.width = loadings.shape
        self.core = _core.Gram(
            self.batch,
            self.n,
            self.width,
            anchors.data_ptr(),
            lengthscale.data_ptr(),
            loadings.data_ptr(),
            noise.data_ptr(),
            ties_backwards,
            torch.get_num_threads(),
        )

    def order(self) -> Tensor:
        """The numbers of the anchors in ascending order, int64 ``[B, n]``."""
        order = torch.empty(self.batch, self.n, dtype=torch.int64)
        self.core.order(order.data_ptr())
        return order

    def apply(self, side: Side, values: Tensor, *, scaled: bool = False) -> Tensor:
        """L, L^-1, L^T or L^-T times values, or with `scaled` the same of L D^1/2."""
        values = self._rows(values)
        out = torch.empty_like(values)
        self.core.apply(
            int(side),
            scaled,
            values.data_ptr(),
            out.data_ptr(),
            values.shape[1],
            torch.get_num_threads(),
        )
        return out

    def solve(self, values: Tensor) -> Tensor:
        """A^-1 times values."""
        values = self._rows(values)
        out = torch.empty_like(values)
        self.core.solve(values.data_ptr(), out.data_ptr(), values.shape[1], torch.get_num_threads())
        return out

    def log_prob(self, values: Tensor) -> Tensor:
        """Log density of N(0, A) at each row ``[B, R]``."""
        values = self._rows(values)
        out = torch.empty(values.shape[:-1], dtype=torch.float64)
        self.core.log_prob(
            values.data_ptr(), out.data_ptr(), values.shape[1], torch.get_num_threads()
        )
        return out

    @property
    def has_ties(self) -> bool:
        """Whether anchors of a matrix coincide."""
        return self.core.has_ties

    def vjp(self, a: Tensor | None, b: Tensor | None, w: Tensor | None) -> Parameters:
        """Gradients of <a, L b> + <w, log D> by the parameters; None stands for 0."""
        a, b, w = (None if each is None else plain(each) for each in (a, b, w))
        out = self._empty_parameters()
        self.core.vjp(
            _address(a),
            _address(b),
            0 if a is None else a.shape[1],
            _address(w),
            *_four(out),
            0,
            torch.get_num_threads(),
        )
        return out

    def vjp_tangent(
        self, a: Tensor | None, b: Tensor | None, w: Tensor | None, tangents: Parameters
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Parameters]:
        """Derivatives by a, b, w and the parameters of <tangents, vjp(a, b, w)>."""
        a, b, w = (None if each is None else plain(each) for each in (a, b, w))
        along = tuple(plain(tangent) for tangent in tangents)
        d_a, d_b, d_w = (None if each is None else torch.empty_like(each) for each in (a, b, w))
        out = self._empty_parameters()
        self.core.vjp_tangent(
            _address(a),
            _address(b),
            0 if a is None else a.shape[1],
            _address(w),
            *_four(along),
            *_four(out),
            _address(d_a),
            _address(d_b),
            _address(d_w),
            torch.get_num_threads(),
        )
        return d_a, d_b, d_w, out

    def _rows(self, values: Tensor) -> Tensor:
        assert values.dim() == 3
        assert values.shape[::2] == (self.batch, self.n)
        return plain(values)

    def _empty_parameters(self) -> Parameters:
        batch, n, width = self.batch, self.n, self.width
        anchors, lengthscale, loadings, noise = (
            torch.empty(shape, dtype=torch.float64)
            for shape in ((batch, n), (batch, width), (batch, n, width), (batch, n))
        )
        return anchors, lengthscale, loadings, noise

    def log_variances(self) -> Tensor:
        """Log D ``[B, n]``."""
        out = torch.empty(self.batch, self.n, dtype=torch.float64)
        self.core.log_variances(out.data_ptr())
        return out

    def logdet(self) -> Tensor:
        """Log det A ``[B]``."""
        out = torch.empty(self.batch, dtype=torch.float64)
        self.core.logdet(out.data_ptr())
        return out


def plain(tensor: Tensor) -> Tensor:
    """Its numbers as they lie in memory: contiguous, and no view that negates."""
    return tensor.resolve_neg().contiguous()


def factorise(parameters: Parameters, *, ties_backwards: bool = False) -> AnyFactor:
    """Factorise where the parameters are."""
    if takes(parameters[0]):
        from .cuda_factor import CudaFactor

        return CudaFactor(parameters, ties_backwards=ties_backwards)
    return Factor(parameters, ties_backwards=ties_backwards)


def product(factor: AnyFactor, side: Side, values: Tensor, parameters: Parameters) -> Tensor:
    """L, L^-1, L^T or L^-T times values ``[B, R, n]``."""
    result: Tensor = _Product.apply(factor, side, values, *parameters)  # type: ignore[no-untyped-call]
    return result


def log_variances(factor: AnyFactor, parameters: Parameters) -> Tensor:
    """Log D ``[B, n]``, whose sum is log det A."""
    result: Tensor = _LogVariances.apply(factor, *parameters)  # type: ignore[no-untyped-call]
    return result


def innovations(factor: AnyFactor, values: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """L^-1 values and log D: all that a likelihood needs, with one reverse pass for both."""
    result: tuple[Tensor, Tensor] = _Innovations.apply(factor, values, *parameters)  # type: ignore[no-untyped-call]
    return result


def unobserved_variances(factor: AnyFactor, parameters: Parameters) -> Tensor:
    """Derivative of log det A by noise, or at points with infinite noise by its inverse ``[B, n]``.

    The second is the variance of H state at that point, given the observed ones: log det gains
    log(1 + b var) from an observation of precision b.
    """
    gradients = _Vjp.apply(factor, None, None, torch.ones_like(parameters[3]), *parameters)  # type: ignore[no-untyped-call]
    result: Tensor = gradients[3]
    return result


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, factor: AnyFactor, side: Side, values: Tensor, *parameters: Tensor
    ) -> Tensor:
        out = factor.apply(side, values)
        ctx.factor, ctx.side = factor, side
        ctx.save_for_backward(values, out, *parameters)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        values, out, *parameters = ctx.saved_tensors
        dual = {
            Side.LOWER: Side.UPPER,
            Side.LOWER_INVERSE: Side.UPPER_INVERSE,
            Side.UPPER: Side.LOWER,
            Side.UPPER_INVERSE: Side.LOWER_INVERSE,
        }[ctx.side]
        passed = product(ctx.factor, dual, grad, tuple(parameters))
        if not any(ctx.needs_input_grad[3:]):
            return (None, None, passed, None, None, None, None)
        # <grad, d out> as +-<a, dL b>:
        a, b, sign = {
            Side.LOWER: (grad, values, 1.0),
            Side.LOWER_INVERSE: (passed, out, -1.0),
            Side.UPPER: (values, grad, 1.0),
            Side.UPPER_INVERSE: (out, passed, -1.0),
        }[ctx.side]
        return (None, None, passed, *_Vjp.apply(ctx.factor, sign * a, b, None, *parameters))  # type: ignore[no-untyped-call]


class _LogVariances(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, factor: AnyFactor, *parameters: Tensor) -> Tensor:
        ctx.factor = factor
        ctx.save_for_backward(*parameters)
        return factor.log_variances()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *_Vjp.apply(ctx.factor, None, None, grads[0], *ctx.saved_tensors))  # type: ignore[no-untyped-call]


class _Innovations(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, factor: AnyFactor, values: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        out = factor.apply(Side.LOWER_INVERSE, values)
        ctx.factor = factor
        ctx.save_for_backward(out, *parameters)
        return out, factor.log_variances()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        out, *parameters = ctx.saved_tensors
        passed = product(ctx.factor, Side.UPPER_INVERSE, grads[0], tuple(parameters))
        if not any(ctx.needs_input_grad[2:]):
            return (None, passed, None, None, None, None)
        return (None, passed, *_Vjp.apply(ctx.factor, -passed, out, grads[1], *parameters))  # type: ignore[no-untyped-call]


class _Vjp(torch.autograd.Function):
    """Gradients of <a, L b> + <w, log D> by the parameters; None stands for a, b or w of 0."""

    @staticmethod
    def forward(
        ctx: Any,
        factor: AnyFactor,
        a: Tensor | None,
        b: Tensor | None,
        w: Tensor | None,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.factor = factor
        ctx.save_for_backward(a, b, w, *parameters)
        return factor.vjp(a, b, w)

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *_VjpTangent.apply(ctx.factor, *ctx.saved_tensors, *tangents))  # type: ignore[no-untyped-call]


class _VjpTangent(torch.autograd.Function):
    """The derivative of `_Vjp`: gradients by a, b, w and the parameters of <tangents, _Vjp>."""

    @staticmethod
    def forward(
        ctx: Any,
        factor: AnyFactor,
        a: Tensor | None,
        b: Tensor | None,
        w: Tensor | None,
        *parameters_and_tangents: Tensor,
    ) -> tuple[Tensor | None, ...]:
        anchors, lengthscale, loadings, noise = parameters_and_tangents[4:]
        along = (anchors, lengthscale, loadings, noise)
        *by_inputs, by_parameters = factor.vjp_tangent(a, b, w, along)
        return (*by_inputs, *by_parameters)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        raise NotImplementedError(
            "covariances on a line have first and second derivatives, and conditional variances "
            "first ones: this is one more"
        )


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _four(tensors: tuple[Tensor, ...]) -> tuple[int, int, int, int]:
    anchors, lengthscale, loadings, noise = tensors
    return anchors.data_ptr(), lengthscale.data_ptr(), loadings.data_ptr(), noise.data_ptr()
