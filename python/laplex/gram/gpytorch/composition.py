"""GPyTorch's sums and products of kernels, with exact algebra where one of ours is inside.

GPyTorch adds and multiplies the operators of its kernels from left to right, and solves sums of
operators of its own by conjugate gradients. Importing this package therefore changes three classes
of GPyTorch. In ``AdditiveKernel`` and ``ProductKernel``, where a `LineKernel` is among the kernels,
its operator comes first, because it knows how to take in the others. So it does in elementwise
products of lazy matrices, ``kernel(x).mul(tasks(i))``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import reduce, wraps
from itertools import combinations_with_replacement
from math import factorial, prod
from typing import Any

import torch
from gpytorch import settings
from gpytorch.kernels import (
    AdditiveKernel,
    ConstantKernel,
    Kernel,
    PolynomialKernel,
    ProductKernel,
    ScaleKernel,
)
from gpytorch.lazy import LazyEvaluatedKernelTensor
from linear_operator import LinearOperator, to_linear_operator
from linear_operator.operators import RootLinearOperator
from torch import Tensor

from ...torch.elementwise import DenseProducts
from ..checks import broadcast
from ..linear_operator import LaplaceBlockLinearOperator, LaplaceGramLinearOperator
from ..linear_operator.low_rank import MOST_COLUMNS, products, root_of
from .line_kernel import LineKernel
from .prediction import LaplacePredictionStrategy


class LaplaceSumKernel(AdditiveKernel):  # type: ignore[misc]
    """A sum of kernels, which is what ``+`` of kernels makes too.

    Parameters
    ----------
    *kernels
        The summands.
    """


def install() -> None:
    """Teach GPyTorch's sums and products about our kernels, once."""
    for kind in (AdditiveKernel, ProductKernel):
        if not hasattr(kind.forward, "laplex"):
            kind.forward = _forward(kind.forward)
            kind.prediction_strategy = _prediction_strategy(kind.prediction_strategy)
    lazy = LazyEvaluatedKernelTensor
    if not hasattr(lazy._mul_matrix, "laplex"):
        lazy._mul_matrix = _mul_matrix(lazy._mul_matrix)


def _has_ours(kernel: Kernel) -> bool:
    return any(isinstance(each, LineKernel) for each in kernel.modules())


def _forward(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def forward(self: Kernel, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Any:
        if diag or not _has_ours(self):
            return original(self, x1, x2, diag=diag, **params)
        with settings.lazily_evaluate_kernels(False):
            if x1.shape == x2.shape and torch.equal(x1, x2):
                return _combined(self, x1, params)
            batch = broadcast(x1.shape[:-2], x2.shape[:-2])
            both = torch.cat([each.expand(*batch, *each.shape[-2:]) for each in (x1, x2)], -2)
            # Two inputs tell the kind, so that no matrix of all inputs is made in vain.
            few = _combined(self, both[..., :2, :], params)
            if isinstance(few, LaplaceGramLinearOperator):
                whole = _combined(self, both, params)
                if isinstance(whole, LaplaceGramLinearOperator):
                    return LaplaceBlockLinearOperator(whole, first=x1.shape[-2])
            return original(self, x1, x2, **params)

    forward.laplex = True  # type: ignore[attr-defined]
    return forward


def _mul_matrix(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def mul_matrix(self: LinearOperator, other: LinearOperator) -> LinearOperator:
        one, two = _ours_first([self.evaluate_kernel(), other.evaluate_kernel()])
        return one._mul_matrix(two) if isinstance(one, DenseProducts) else original(self, other)

    mul_matrix.laplex = True  # type: ignore[attr-defined]
    return mul_matrix


def _ours_first(operators: list[LinearOperator]) -> list[LinearOperator]:
    """Those with exact algebra, then those with exact products, and then the others."""
    kinds = (LaplaceGramLinearOperator, DenseProducts, object)
    return sorted(
        operators,
        key=lambda each: next(i for i, kind in enumerate(kinds) if isinstance(each, kind)),
    )


def _prediction_strategy(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def prediction_strategy(self: Kernel, *arguments: Any, **named: Any) -> Any:
        kind = LaplacePredictionStrategy if _has_ours(self) else None
        return kind(*arguments, **named) if kind else original(self, *arguments, **named)

    return prediction_strategy


def _combined(kernel: Kernel, x: Tensor, params: dict[str, Any]) -> LinearOperator:
    """The operator of a sum or a product at points ``[*b, n, d]``, of which ours come first."""
    operators = _ours_first([_operator(each, x, params) for each in kernel.kernels])
    if isinstance(kernel, ProductKernel):
        roots = [root_of(each) for each in operators]
        known = [each for each in roots if each is not None]
        if len(known) == len(roots):
            return RootLinearOperator(reduce(products, known))
        return reduce(lambda one, two: one.mul(two), operators)
    return reduce(lambda one, two: one + two, operators)


def _operator(kernel: Kernel, x: Tensor, params: dict[str, Any]) -> LinearOperator:
    """The operator of a kernel at points ``[*b, n, d]``."""
    if kernel.active_dims is not None:
        x = x.index_select(-1, kernel.active_dims)
    return _evaluated(kernel, x, params)


def _evaluated(kernel: Kernel, x: Tensor, params: dict[str, Any]) -> LinearOperator:
    if isinstance(kernel, ScaleKernel):
        scale = kernel.outputscale
        if params.get("last_dim_is_batch"):
            scale = scale[..., None]
        return _evaluated(kernel.base_kernel, x, params).mul(scale[..., None, None])
    if isinstance(kernel, (AdditiveKernel, ProductKernel)):
        return _combined(kernel, x, params)
    if type(kernel) is ConstantKernel and bool((kernel.constant >= 0).all()):
        return RootLinearOperator(_constant_root(kernel, x, **params))
    if type(kernel) is PolynomialKernel:
        root = _polynomial_root(kernel, x, **params)
        if root is not None:
            return RootLinearOperator(root)
    return to_linear_operator(kernel.forward(x, x, **params))


def _constant_root(
    kernel: ConstantKernel, x: Tensor, last_dim_is_batch: bool = False, **_: Any
) -> Tensor:
    """A column of equal numbers; derivatives of the kernel's own matrix cost O(n^2)."""
    root: Tensor = kernel.constant.to(x).sqrt()[..., None]
    if last_dim_is_batch:
        x, root = x.mT[..., None], root[..., None]
    return root * torch.ones_like(x[..., :1])


def _polynomial_root(
    kernel: PolynomialKernel, x: Tensor, last_dim_is_batch: bool = False, **_: Any
) -> Tensor | None:
    """The monomials of ``(x^T x' + c)^p``, by the multinomial theorem; None if they are many."""
    offset, power = kernel.offset[..., None], kernel.power
    if last_dim_is_batch:
        x, offset = x.mT[..., None], offset[..., None]
    if power != int(power) or power < 1:
        return None
    ones = torch.ones_like(x[..., :1])
    root = torch.sqrt(offset)
    factors = [*x.unbind(-1), (ones * root)[..., 0]]
    chosen = list(combinations_with_replacement(range(len(factors)), int(power)))
    if len(chosen) > MOST_COLUMNS:
        return None
    columns = []
    for indices in chosen:
        repeated = prod(factorial(each) for each in Counter(indices).values())
        weight = (factorial(int(power)) / repeated) ** 0.5
        columns.append(weight * prod(factors[index] for index in indices))
    shape = broadcast(*(each.shape for each in columns))
    return torch.stack([each.expand(shape) for each in columns], -1)
