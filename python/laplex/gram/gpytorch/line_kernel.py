"""`LineKernel`: what the kernels of one-dimensional inputs have in common."""

from __future__ import annotations

from typing import Any

import torch
from gpytorch.kernels import Kernel
from linear_operator import LinearOperator
from torch import Tensor

from ..checks import broadcast
from ..laplace_gram import LaplaceGram
from ..linear_operator import LaplaceBlockLinearOperator, LaplaceGramLinearOperator
from ..parameters import shared
from ..terms import BaseTerm
from .prediction import LaplacePredictionStrategy


class LineKernel(Kernel):  # type: ignore[misc]
    """A kernel of one-dimensional inputs that is a term of a `LaplaceGram`."""

    is_stationary = True

    def _set_lengthscale(self, value: float | Tensor) -> None:
        if self.has_lengthscale:
            self._set("lengthscale", value)
        else:
            super()._set_lengthscale(value)  # an error

    def _set(self, name: str, value: float | Tensor, *, signed: bool = False) -> None:
        """Set the parameter of a name by its raw parameter."""
        constraint = getattr(self, f"raw_{name}_constraint")
        number = self._number(name, value) if signed else self._positive(name, value)
        inner = constraint.inverse_transform(number)
        # At a bound of the constraint, the raw parameter would be infinite.
        if not (bool(inner.isfinite().all()) and constraint.check(number)):
            raise ValueError(
                f"{type(self).__name__}.{name} must be inside its constraint {constraint}, got "
                f"{value}: pass another {name}_constraint= to the kernel, if that is meant"
            )
        self.initialize(**{f"raw_{name}": inner})

    def _positive(self, name: str, value: float | Tensor) -> Tensor:
        number = self._number(name, value)
        if not bool((number.isfinite() & (number > 0)).all()):
            raise ValueError(
                f"{type(self).__name__}.{name} must be positive and finite, got {value}"
            )
        return number

    def _number(self, name: str, value: float | Tensor) -> Tensor:
        """A tensor like the parameters of the kernel."""
        like = next(self.parameters())
        try:
            return torch.as_tensor(value, dtype=like.dtype, device=like.device)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"{type(self).__name__}.{name} must be a number or a tensor, got {value!r}"
            ) from None

    def term(self) -> BaseTerm:
        """The term, with parameters of shape ``[*b]``.

        :meta private:
        """
        raise NotImplementedError

    def forward(
        self,
        x1: Tensor,
        x2: Tensor,
        diag: bool = False,
        last_dim_is_batch: bool = False,
        **params: Any,
    ) -> Tensor | LinearOperator:
        """Return the covariance of inputs ``[*b, n, 1]`` and ``[*b, m, 1]``.

        See ``gpytorch.kernels.Kernel`` for the arguments.
        """
        term = self.term()
        if last_dim_is_batch:
            x1, x2 = x1.mT[..., None], x2.mT[..., None]
            term = term.map(lambda _, number: number[..., None])
        if x1.shape[-1] != 1:
            raise ValueError(
                f"{type(self).__name__} takes one-dimensional inputs, got {x1.shape[-1]} columns: "
                "choose one with active_dims=[k]"
            )
        one, two = x1[..., 0], x2[..., 0]
        if diag:
            return term.value(one - two)
        if one is two or (one.shape == two.shape and torch.equal(one, two)):
            return self._square(shared(one, two), term)
        return self._cross(one, two, term)

    def _square(self, points: Tensor, term: BaseTerm) -> LaplaceGramLinearOperator:
        return LaplaceGramLinearOperator.of(LaplaceGram(points, terms=[term]))

    def _cross(self, one: Tensor, two: Tensor, term: BaseTerm) -> LinearOperator:
        batch = broadcast(one.shape[:-1], two.shape[:-1])
        both = torch.cat([each.expand(*batch, -1) for each in (one, two)], -1)
        return LaplaceBlockLinearOperator(self._square(both, term), first=one.shape[-1])

    def prediction_strategy(self, *arguments: Any) -> LaplacePredictionStrategy:
        """Return the strategy with which ``gpytorch.models.ExactGP`` predicts."""
        return LaplacePredictionStrategy(*arguments)
