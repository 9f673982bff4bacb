"""`LaplaceKernel`: with it an exact Gaussian process in one dimension costs GPyTorch O(n).

Importing this module needs GPyTorch.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from gpytorch import settings
from gpytorch.constraints import Interval, Positive
from gpytorch.kernels import AdditiveKernel, Kernel
from gpytorch.models.exact_prediction_strategies import DefaultPredictionStrategy
from gpytorch.priors import Prior
from linear_operator import LinearOperator
from linear_operator.operators import ZeroLinearOperator
from torch import Tensor

from ..torch.linear_operator import LaplaceLinearOperator
from ..torch.operator import LaplaceOperator
from .gaussian import Gaussian
from .laplace_gram import LaplaceGram
from .linear_operator import LaplaceConditionalLinearOperator, LaplaceGramLinearOperator
from .parameters import shared


class LaplacePredictionStrategy(DefaultPredictionStrategy):  # type: ignore[misc]
    """GPyTorch's exact predictions, their covariance lazy and in O(n).

    Where GPyTorch forms the matrix between test and training points, this returns a
    `LaplaceConditionalLinearOperator`. With `gpytorch.settings.detach_test_caches`, which is on by
    default, variances carry derivatives to test points and not to parameters. A NaN policy other
    than ``"ignore"`` leaves everything to GPyTorch.
    """

    @cached_property
    def _train(self) -> LinearOperator:
        """Covariance of the training values, with noise."""
        return self.lik_train_train_covar.evaluate_kernel()

    def _mean_cache(self, nan_policy: str) -> Tensor:
        if nan_policy != "ignore" or not isinstance(self._train, LaplaceGramLinearOperator):
            weights: Tensor = super()._mean_cache(nan_policy)
            return weights
        if "mean" not in self.__dict__:
            offset = self.train_labels - self.train_prior_dist.loc
            solution = self._train.solve(offset[..., None])[..., 0]
            self.mean = solution.detach() if settings.detach_test_caches.on() else solution
        return self.mean

    def exact_predictive_covar(
        self, test_test_covar: LinearOperator, test_train_covar: LinearOperator
    ) -> LinearOperator:
        """Covariance of the process at test points, given the training values."""
        ours = isinstance(test_test_covar, LaplaceGramLinearOperator) and isinstance(
            self._train, LaplaceGramLinearOperator
        )
        if not ours or settings.observation_nan_policy.value() != "ignore":
            return super().exact_predictive_covar(test_test_covar, test_train_covar)
        if settings.skip_posterior_variances.on():
            return ZeroLinearOperator(*test_test_covar.size())
        train = self._train.detach() if settings.detach_test_caches.on() else self._train
        whole = Gaussian(train.gram.parameters.extended(test_test_covar.gram.anchors))
        return LaplaceConditionalLinearOperator(
            LaplaceGramLinearOperator.of(whole), observed=train.shape[-1]
        )

    def exact_prediction(
        self, test_mean: Tensor, test_test_covar: Any, test_train_covar: Any
    ) -> tuple[Tensor, Any]:
        """Mean and covariance at test points; small problems are not made dense."""
        return (
            self.exact_predictive_mean(test_mean, test_train_covar),
            self.exact_predictive_covar(test_test_covar, test_train_covar),
        )

    def get_fantasy_strategy(
        self,
        inputs: Any,
        targets: Tensor,
        full_inputs: Any,
        full_targets: Tensor,
        full_output: Any,
        **kwargs: Any,
    ) -> LaplacePredictionStrategy:
        """With more training values: anew, since that costs O(n)."""
        likelihood = self.likelihood.get_fantasy_likelihood(**kwargs)
        return type(self)(full_inputs, full_output, full_targets, likelihood)


def _frequency_of(kernel: LaplaceKernel) -> Tensor | None:
    return kernel.frequency


def _set_frequency(kernel: LaplaceKernel, value: float | Tensor) -> None:
    kernel.frequency = value


class LaplaceKernel(Kernel):  # type: ignore[misc]
    r"""The kernel of the Ornstein-Uhlenbeck process, Matern-1/2, of one-dimensional inputs.

    .. math::

        k(x, x') = e^{-|x - x'|/\ell} \cos(\omega (x - x'))

    An exact GP with it trains, predicts and samples in O(n) time and memory with GPyTorch's own
    classes, alone, in a `ScaleKernel`, or in a `LaplaceSumKernel` of such.

    Parameters
    ----------
    oscillates
        Whether there is a frequency omega to learn. Without, it is 0.
    frequency_prior, frequency_constraint
        As GPyTorch's kernels have them; the frequency is positive by default.
    **kwargs
        As for `gpytorch.kernels.Kernel`: ``batch_shape``, ``active_dims``, ``lengthscale_prior``,
        ``lengthscale_constraint``.

    Attributes
    ----------
    lengthscale : Tensor ``[*b, 1, 1]``
    frequency : Tensor ``[*b, 1, 1]`` or None
        Radians per unit of the inputs.
    """

    has_lengthscale = True
    is_stationary = True

    def __init__(
        self,
        *,
        oscillates: bool = False,
        frequency_prior: Prior | None = None,
        frequency_constraint: Interval | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.oscillates = oscillates
        if not oscillates:
            return
        raw = torch.nn.Parameter(torch.zeros(*self.batch_shape, 1, 1))
        self.register_parameter("raw_frequency", raw)
        self.register_constraint("raw_frequency", frequency_constraint or Positive())
        if frequency_prior is not None:
            self.register_prior("frequency_prior", frequency_prior, _frequency_of, _set_frequency)

    @property
    def frequency(self) -> Tensor | None:
        """Omega ``[*b, 1, 1]``."""
        if not self.oscillates:
            return None
        frequency: Tensor = self.raw_frequency_constraint.transform(self.raw_frequency)
        return frequency

    @frequency.setter
    def frequency(self, value: float | Tensor) -> None:
        if not self.oscillates:
            raise AttributeError("the kernel has no frequency: build it with oscillates=True")
        value = torch.as_tensor(value).to(self.raw_frequency)
        self.initialize(raw_frequency=self.raw_frequency_constraint.inverse_transform(value))

    def forward(
        self,
        x1: Tensor,
        x2: Tensor,
        diag: bool = False,
        last_dim_is_batch: bool = False,
        **params: Any,
    ) -> Tensor | LinearOperator:
        """Covariances of inputs ``[*b, n, 1]`` and ``[*b, m, 1]``, see GPyTorch's `Kernel`."""
        if x1.shape[-1] != 1 or last_dim_is_batch:
            raise ValueError(
                f"LaplaceKernel is of one-dimensional inputs, got {x1.shape[-1]} columns: choose "
                "one with active_dims=[k]"
            )
        one, two = x1[..., 0], x2[..., 0]
        lengthscale, frequency = self.lengthscale[..., 0, 0], self.frequency
        if frequency is not None:
            frequency = frequency[..., 0, 0]
        if diag:
            decay = torch.exp(-(one - two).abs() / lengthscale[..., None])
            if frequency is None:
                return decay
            return decay * torch.cos(frequency[..., None] * (one - two))
        options: dict[str, Any] = {"lengthscale": lengthscale}
        if frequency is not None:
            options["frequency"] = frequency
        if one is two or (one.shape == two.shape and torch.equal(one, two)):
            return LaplaceGramLinearOperator.of(LaplaceGram(shared(one, two), **options))
        return LaplaceLinearOperator.of(LaplaceOperator(one, two, real_part=True, **options))

    def prediction_strategy(self, *arguments: Any) -> LaplacePredictionStrategy:
        """How `gpytorch.models.ExactGP` predicts with this kernel."""
        return LaplacePredictionStrategy(*arguments)


class LaplaceSumKernel(AdditiveKernel):  # type: ignore[misc]
    """A sum of `LaplaceKernel`, each in a `ScaleKernel` or not, whose predictions are in O(n) too.

    GPyTorch's ``+`` of kernels trains in O(n), but predicts variances by conjugate gradients.
    """

    def prediction_strategy(self, *arguments: Any) -> LaplacePredictionStrategy:
        """How `gpytorch.models.ExactGP` predicts with this kernel."""
        return LaplacePredictionStrategy(*arguments)
