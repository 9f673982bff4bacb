"""`LaplaceKernel`: a GPyTorch kernel whose exact Gaussian processes cost O(n) in one dimension.

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
    """GPyTorch's exact predictions with a lazy covariance, in O(n).

    Where GPyTorch forms the matrix between test and training points, this class returns a
    ``LaplaceConditionalLinearOperator``. With ``gpytorch.settings.detach_test_caches``, which is on
    by default, variances have derivatives by the test points and none by the parameters. With a NaN
    policy other than ``"ignore"``, GPyTorch computes everything itself.
    """

    @cached_property
    def _train(self) -> LinearOperator:
        """The covariance of the training values, with noise."""
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
        """Return the covariance of the process at test points, given the training values."""
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
        """Return mean and covariance at test points; small problems do not become dense."""
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
        """Return a strategy with more training values, computed anew because that costs O(n)."""
        likelihood = self.likelihood.get_fantasy_likelihood(**kwargs)
        return type(self)(full_inputs, full_output, full_targets, likelihood)


def _frequency_of(kernel: LaplaceKernel) -> Tensor | None:
    return kernel.frequency


def _set_frequency(kernel: LaplaceKernel, value: float | Tensor) -> None:
    kernel.frequency = value


class LaplaceKernel(Kernel):  # type: ignore[misc]
    r"""The Matern-1/2 (Ornstein-Uhlenbeck) kernel of one-dimensional inputs, for GPyTorch.

    .. math::

        k(x, x') = e^{-|x - x'|/\ell} \cos(\omega (x - x'))

    With this kernel, GPyTorch's own classes train exact Gaussian processes, predict and sample in
    O(n) time and memory. The kernel may stand alone, in a ``ScaleKernel``, or in a
    `LaplaceSumKernel` of these.

    Parameters
    ----------
    oscillates : bool
        Learn a frequency :math:`\omega`. If False, the frequency is 0.
    frequency_prior : gpytorch.priors.Prior, optional
        Prior of the frequency.
    frequency_constraint : gpytorch.constraints.Interval, optional
        Constraint of the frequency. By default, the frequency is positive.
    **kwargs
        Arguments of ``gpytorch.kernels.Kernel``: ``batch_shape``, ``active_dims``,
        ``lengthscale_prior`` and ``lengthscale_constraint``.

    Attributes
    ----------
    lengthscale : Tensor ``[*b, 1, 1]``
        The lengthscale :math:`\ell`, in units of the inputs.
    frequency : Tensor ``[*b, 1, 1]`` or None
        The frequency :math:`\omega`, in radians per unit of the inputs. None if
        ``oscillates=False``.
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
        """The frequency ``[*b, 1, 1]``, or None if the kernel does not oscillate."""
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
        """Return the covariance of inputs ``[*b, n, 1]`` and ``[*b, m, 1]``.

        See ``gpytorch.kernels.Kernel`` for the arguments.
        """
        if x1.shape[-1] != 1 or last_dim_is_batch:
            raise ValueError(
                f"LaplaceKernel takes one-dimensional inputs, got {x1.shape[-1]} columns: choose "
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
        """Return the strategy with which ``gpytorch.models.ExactGP`` predicts."""
        return LaplacePredictionStrategy(*arguments)


class LaplaceSumKernel(AdditiveKernel):  # type: ignore[misc]
    """A sum of `LaplaceKernel` objects whose predictions cost O(n).

    Each summand may stand in a ``ScaleKernel``. GPyTorch's own ``+`` of kernels also trains in
    O(n), but predicts variances by conjugate gradients.

    Parameters
    ----------
    *kernels
        The summands.
    """

    def prediction_strategy(self, *arguments: Any) -> LaplacePredictionStrategy:
        """Return the strategy with which ``gpytorch.models.ExactGP`` predicts."""
        return LaplacePredictionStrategy(*arguments)
