"""`LaplacePredictionStrategy`: GPyTorch's exact predictions in O(n)."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from gpytorch import settings
from gpytorch.models.exact_prediction_strategies import DefaultPredictionStrategy
from linear_operator import LinearOperator
from linear_operator.operators import ZeroLinearOperator
from torch import Tensor

from ..linear_operator import LaplaceConditionalLinearOperator, LaplaceGramLinearOperator


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

    def exact_prediction(
        self, test_mean: Tensor, test_test_covar: Any, test_train_covar: Any
    ) -> tuple[Tensor, Any]:
        """Return mean and covariance at test points, given the training values."""
        whole = self._whole(test_test_covar)
        if whole is None:
            prediction: tuple[Tensor, Any] = super().exact_prediction(
                test_mean, test_test_covar, test_train_covar
            )
            return prediction
        mean = self.exact_predictive_mean(test_mean, test_train_covar)
        if settings.skip_posterior_variances.on():
            return mean, ZeroLinearOperator(*test_test_covar.size())
        return mean, LaplaceConditionalLinearOperator(whole, observed=self._train.shape[-1])

    def _whole(self, test_test_covar: Any) -> LaplaceGramLinearOperator | None:
        """The covariance of training values and test points, if it has exact algebra."""
        ours = isinstance(test_test_covar, LaplaceGramLinearOperator) and isinstance(
            self._train, LaplaceGramLinearOperator
        )
        if not ours or settings.observation_nan_policy.value() != "ignore":
            return None
        train = self._train.detach() if settings.detach_test_caches.on() else self._train
        whole: LaplaceGramLinearOperator | None = train.joined(test_test_covar)
        return whole

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
