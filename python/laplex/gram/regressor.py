"""`LaplaceGPRegressor`: an exact Gaussian process regressor with scikit-learn's interface."""

from __future__ import annotations

from math import pi
from numbers import Real
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import scipy.optimize
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ..torch.operator import LaplaceOperator
from .laplace_gram import LaplaceGram

Array = npt.NDArray[np.float64]


class LaplaceGPRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    r"""Exact Gaussian process regression on one feature, in O(n).

    .. math::

        y_i = f(x_i) + \varepsilon_i,\qquad
        \mathrm{Cov}(f(x), f(x')) = \sigma^2 e^{-|x - x'|/\ell} \cos(\omega (x - x')),\qquad
        \varepsilon_i \sim N(0, \text{noise})

    This is the model of scikit-learn's ``GaussianProcessRegressor`` with the kernel
    ``sigma2 * Matern(nu=0.5) + WhiteKernel(noise)``, for millions of points. Values of X may
    repeat.

    Parameters
    ----------
    lengthscale, variance, noise : float, optional
        The values of :math:`\ell`, :math:`\sigma^2` and the noise variance from which `fit`
        starts. By default, a tenth of the range of X, the mean square of y, and a tenth of that
        mean square.
    frequency : float, optional
        The value of :math:`\omega` from which `fit` starts, in radians per unit of X, positive.
        None stands for a kernel that does not oscillate.
    optimizer : {"lbfgs"} or None
        The method by which `fit` maximises the marginal likelihood: L-BFGS in the logarithms of the
        parameters, with exact gradients. None keeps the parameters as given.
    n_restarts : int
        The number of further starts, from random parameters within a factor of 30 of the first
        ones. Use restarts with a frequency, because the likelihood has a local maximum near every
        period that the data suggest.
    normalize_y : bool
        Shift and scale y to mean 0 and variance 1 before the fit. The parameters ``variance`` and
        ``noise`` and the likelihood then refer to the scaled values. If False, f has mean 0.
    random_state : int, RandomState or None
        The source of random numbers for the restarts.

    Attributes
    ----------
    lengthscale_, variance_, noise_, frequency_ : float
        The fitted parameters. The fitted period is ``2 * pi / frequency_``; ``frequency_`` is None
        if the kernel does not oscillate.
    theta_ : ndarray ``[3]`` or ``[4]``
        The logarithms of the fitted parameters, in that order.
    log_marginal_likelihood_value_ : float
        The log marginal likelihood of the fitted parameters.
    gram_ : LaplaceGram
        The covariance of the training values.
    X_train_, y_train_ : ndarray ``[n]``
        Copies of the data in ascending order of X, with y as normalised.
    n_features_in_ : int
        The number of features, 1.

    Examples
    --------
    >>> import numpy as np
    >>> from laplex.gram import LaplaceGPRegressor
    >>> x = np.linspace(0, 10, 200)
    >>> model = LaplaceGPRegressor(normalize_y=True).fit(x[:, None], np.sin(x))
    >>> model.predict([[5.02]]).round(2)
    array([-0.95])
    """

    def __init__(
        self,
        *,
        lengthscale: float | None = None,
        variance: float | None = None,
        noise: float | None = None,
        frequency: float | None = None,
        optimizer: Literal["lbfgs"] | None = "lbfgs",
        n_restarts: int = 0,
        normalize_y: bool = False,
        random_state: Any = None,
    ) -> None:
        self.lengthscale = lengthscale
        self.variance = variance
        self.noise = noise
        self.frequency = frequency
        self.optimizer = optimizer
        self.n_restarts = n_restarts
        self.normalize_y = normalize_y
        self.random_state = random_state

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike) -> LaplaceGPRegressor:
        """Fit the parameters to the training data.

        Parameters
        ----------
        X : array of shape ``[n, 1]``
            The points.
        y : array of shape ``[n]``
            The values at the points.

        Returns
        -------
        LaplaceGPRegressor
            The regressor itself.
        """
        rows, target = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        x, values = self._line(rows), np.asarray(target, np.float64)
        order = np.argsort(x, kind="stable")  # once, instead of at every step of the fit
        x, values = x[order], values[order]
        self._shift, self._unit = 0.0, 1.0
        if self.normalize_y:
            self._shift = float(values.mean())
            self._unit = float(values.std()) or 1.0
        self.X_train_, self.y_train_ = x, (values - self._shift) / self._unit
        theta, bounds = self._start()
        if self.optimizer == "lbfgs":
            theta = self._maximise(theta, bounds)
        elif self.optimizer is not None:
            raise ValueError(f"optimizer must be 'lbfgs' or None, got {self.optimizer!r}")
        self.theta_ = theta
        parameters = [float(value) for value in np.exp(theta)]
        self.lengthscale_, self.variance_, self.noise_, *rest = parameters
        self.frequency_ = rest[0] if rest else None
        self.gram_ = self._gram(torch.from_numpy(theta).exp())
        self.log_marginal_likelihood_value_ = self.log_marginal_likelihood()
        return self

    @overload
    def log_marginal_likelihood(
        self, theta: npt.ArrayLike | None = ..., eval_gradient: Literal[False] = ...
    ) -> float: ...

    @overload
    def log_marginal_likelihood(
        self, theta: npt.ArrayLike | None, eval_gradient: Literal[True]
    ) -> tuple[float, Array]: ...

    def log_marginal_likelihood(
        self, theta: npt.ArrayLike | None = None, eval_gradient: bool = False
    ) -> float | tuple[float, Array]:
        """Return the log marginal likelihood of the training data.

        Parameters
        ----------
        theta : array of shape ``[3]`` or ``[4]``, optional
            The logarithms of the parameters, in the order of ``theta_``. By default, ``theta_``.
        eval_gradient : bool
            Return the derivatives by theta as well.
        """
        if theta is None:
            check_is_fitted(self)
            theta = self.theta_
        leaf = torch.tensor(np.asarray(theta, np.float64), requires_grad=eval_gradient)
        value = self._gram(leaf.exp()).log_prob(torch.from_numpy(self.y_train_))
        if not eval_gradient:
            return float(value)
        (gradient,) = torch.autograd.grad(value, leaf)
        return float(value.detach()), gradient.numpy()

    def predict(
        self,
        X: npt.ArrayLike,
        return_std: bool = False,
        return_cov: bool = False,
        include_noise: bool = False,
    ) -> Any:
        """Predict f at new points, given the training values.

        Parameters
        ----------
        X : array of shape ``[m, 1]``
            The new points.
        return_std : bool
            Also return the standard deviations ``[m]``.
        return_cov : bool
            Also return the covariance ``[m, m]``, in O(m (n + m)).
        include_noise : bool
            Return the standard deviations or the covariance of new observations instead of those of
            f, as scikit-learn does with a ``WhiteKernel`` in its kernel. This adds the fitted noise
            variance, which widens a band for f to a band for new measurements.

        Returns
        -------
        ndarray ``[m]``, or a tuple of two arrays
            The expectation of f, with the standard deviations or the covariance if requested.
        """
        if return_std and return_cov:
            raise ValueError("pass either return_std=True or return_cov=True, not both")
        points = self._points(X)
        conditional = self.gram_.predict(points, torch.from_numpy(self.y_train_))
        mean = conditional.mean.numpy() * self._unit + self._shift
        noise = self.noise_ if include_noise else 0.0
        if return_std:
            return mean, np.sqrt(conditional.variance.numpy() + noise) * self._unit
        if return_cov:
            covariance = self._covariance(points) + noise * np.eye(len(mean))
            return mean, covariance * self._unit**2
        return mean

    def sample_y(
        self,
        X: npt.ArrayLike,
        n_samples: int = 1,
        random_state: Any = 0,
        include_noise: bool = False,
    ) -> Array:
        """Draw samples of f at new points, given the training values, in O(n + m) each.

        Parameters
        ----------
        X : array of shape ``[m, 1]``
            The new points.
        n_samples : int
            The number of samples.
        random_state : int, RandomState or None
            The source of random numbers.
        include_noise : bool
            Draw new observations instead of f.

        Returns
        -------
        ndarray ``[m, n_samples]``
            The samples.
        """
        random = check_random_state(random_state)
        generator = torch.Generator().manual_seed(int(random.randint(2**31)))
        # f has one value at equal points, so sampling both would need a singular matrix.
        points, inverse = np.unique(self._points(X).numpy(), return_inverse=True)
        conditional = self.gram_.predict(torch.from_numpy(points), torch.from_numpy(self.y_train_))
        samples = conditional.sample((n_samples,), generator=generator)[:, inverse]
        if include_noise:
            white = torch.randn(samples.shape, dtype=samples.dtype, generator=generator)
            samples = samples + self.noise_**0.5 * white
        moved: Array = samples.numpy().T * self._unit + self._shift
        return moved

    # --- inside -----------------------------------------------------------------------------------

    def _line(self, X: Array) -> Array:
        """The single feature ``[n]`` of X ``[n, 1]``."""
        if X.shape[1] != 1:
            raise ValueError(
                f"X has {X.shape[1]} features, but LaplaceGPRegressor takes exactly one: pass one "
                "of them, X[:, [k]], or use scikit-learn's GaussianProcessRegressor"
            )
        return np.array(X[:, 0])

    def _points(self, X: npt.ArrayLike) -> Tensor:
        """The points ``[m]`` at which to predict."""
        check_is_fitted(self)
        return torch.from_numpy(self._line(validate_data(self, X, dtype=np.float64, reset=False)))

    def _start(self) -> tuple[Array, Array]:
        """The logarithms of the initial parameters, and bounds ``[k, 2]`` for them."""
        span = float(np.ptp(self.X_train_)) or 1.0
        power = float(np.mean(self.y_train_**2)) or 1.0
        scales = {"lengthscale": span, "variance": power, "noise": power}
        fallback = {"lengthscale": 0.1 * span, "variance": power, "noise": 0.1 * power}
        if self.frequency is not None:
            scales["frequency"] = 2 * pi / span
        theta, bounds = [], []
        for name, scale in scales.items():
            given = getattr(self, name)
            if given is None:
                given = fallback[name]
            elif isinstance(given, bool) or not isinstance(given, Real):
                raise TypeError(f"{name} must be a float or None, got {type(given).__name__}")
            elif not 0 < float(given) < np.inf:
                raise ValueError(f"{name} must be positive and finite, got {given}")
            theta.append(np.log(float(given)))
            wide = (np.log(scale * 1e-8), np.log(scale * 1e8))
            bounds.append((min(wide[0], theta[-1]), max(wide[1], theta[-1])))
        return np.array(theta), np.array(bounds)

    def _maximise(self, theta: Array, bounds: Array) -> Array:
        random = check_random_state(self.random_state)
        starts = [theta]
        for _ in range(self.n_restarts):
            moved = theta + random.uniform(-np.log(30), np.log(30), theta.shape)
            starts.append(np.clip(moved, *bounds.T))

        def loss(theta: Array) -> tuple[float, Array]:
            try:
                value, gradient = self.log_marginal_likelihood(theta, eval_gradient=True)
            except np.linalg.LinAlgError:  # no density: noise too small for equal x
                return np.inf, np.zeros_like(theta)
            return -value, -gradient

        found = [
            scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
            for start in starts
        ]
        best: Array = min(found, key=lambda result: float(result.fun)).x
        return best

    def _gram(self, parameters: Tensor) -> LaplaceGram:
        lengthscale, variance, noise, *frequency = parameters
        return LaplaceGram(
            torch.from_numpy(self.X_train_),
            lengthscale=lengthscale,
            variance=variance,
            frequency=frequency[0] if frequency else 0.0,
            noise=noise,
        )

    def _covariance(self, points: Tensor) -> Array:
        """Covariance of f ``[m, m]``."""

        def prior(sources: Tensor) -> Tensor:
            kernel = LaplaceOperator(
                points,
                sources,
                lengthscale=self.lengthscale_,
                frequency=self.frequency_ or 0.0,
                real_part=True,
            )
            return self.variance_ * kernel.to_dense()

        cross = prior(self.gram_.anchors)
        covariance: Array = (prior(points) - cross @ self.gram_.solve(cross).mT).numpy()
        return covariance
