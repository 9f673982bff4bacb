"""`LaplaceGPRegressor`: an exact Gaussian process regressor with scikit-learn's interface."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from math import sqrt
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import scipy.optimize
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from .hyperparameters import Hyperparameters, known_noise, started
from .laplace_gram import LaplaceGram
from .terms import BaseTerm
from .terms.base import LARGEST, SMALLEST

Array = npt.NDArray[np.float64]


class LaplaceGPRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    r"""Exact Gaussian process regression on one feature, in O(n).

    .. math::

        y_i = f(x_i) + \varepsilon_i,\qquad
        \mathrm{Cov}(f(x), f(x')) = \sum_t k_t(|x - x'|),\qquad
        \varepsilon_i \sim N(0, \text{noise} + \text{alpha}_i)

    The default kernel is :math:`\sigma^2 e^{-|x - x'|/\ell} \cos(\omega (x - x'))`; without a
    frequency, the model is that of scikit-learn's ``GaussianProcessRegressor`` with the kernel
    ``sigma2 * Matern(nu=0.5) + WhiteKernel(noise)``, for millions of points. Values of X may
    repeat.

    Parameters
    ----------
    kernel : str, term, or sum or sequence of terms
        The kernel: ``"laplace"`` (or ``"matern12"``), ``"matern32"``, ``"matern52"``, ``"sho"``,
        ``"rotation"`` or ``"celerite"``; or a term of `laplex.gram` or a sum of them, whose numbers
        are the values from which `fit` starts.
    lengthscale, variance : float, optional
        The values of :math:`\ell` and :math:`\sigma^2` from which `fit` starts, for a kernel that
        is named and has such parameters. By default, a tenth of the range of X and the mean square
        of y.
    noise : float, optional
        The noise variance from which `fit` starts, by default a tenth of the mean square of y. It
        stays 0 if it is 0: the process then passes through every value that has no `alpha`.
    frequency : float, optional
        The value of :math:`\omega` from which `fit` starts, in radians per unit of X. None stands
        for a kernel that does not oscillate.
    alpha : float or array ``[n]``
        The known variance of the noise of each value, in units of y squared (also with
        ``normalize_y``, unlike in scikit-learn), which is added to `noise`. Variances of each value
        that cross validation has to split can be passed to `fit` instead.
    bounds : dict of str to (float, float), optional
        The smallest and the largest value of parameters in `fit`, by name; see Notes. By default,
        a parameter may change by a factor of 1e8 either way.
    fixed : str or sequence of str
        The names of parameters that `fit` leaves as they are.
    basis : function or sequence of functions, optional
        Known functions of the points, such as a trend, which are added to f with unknown
        coefficients; see `laplex.gram.LaplaceGram`. They take a float64 tensor ``[n]``, and return
        one of shape ``[n]`` or ``[n, p]``.
    prior : float or array ``[p]``, optional
        The prior variances of the coefficients. By default infinite: `fit` then maximises the
        restricted likelihood, which does not depend on the coefficients.
    optimizer : {"lbfgs"} or None
        The method by which `fit` maximises the marginal likelihood: L-BFGS in the logarithms of the
        parameters, with exact gradients. None keeps the parameters as given.
    n_restarts : int
        The number of further starts, from random parameters within a factor of 30 of the first
        ones. Use restarts with a frequency, because the likelihood has a local maximum near every
        period that the data suggest.
    normalize_y : bool
        Shift and scale y to mean 0 and variance 1 before the fit. The parameters of the kernel,
        ``noise`` and the likelihood then refer to the scaled values. If False, f has mean 0.
    random_state : int, RandomState or None
        The source of random numbers for the restarts.

    Attributes
    ----------
    parameters_ : dict of str to float
        The fitted parameters by name, those of the kernel first and ``"noise"`` last.
    lengthscale_, variance_, frequency_, noise_ : float
        The fitted parameters of these names; all but ``noise_`` are for a kernel of one term that
        has them. The fitted period is ``2 * pi / frequency_``; ``frequency_`` is None if the kernel
        does not oscillate.
    kernel_ : tuple of terms
        The terms with their fitted parameters.
    theta_ : ndarray ``[k]``
        The logarithms of the parameters that were free, in the order of ``theta_names_``.
    theta_names_ : tuple of str
        Their names.
    log_marginal_likelihood_value_ : float
        The log marginal likelihood of the fitted parameters.
    gram_ : LaplaceGram
        The covariance of the training values.
    X_train_, y_train_ : ndarray ``[n]``
        Copies of the data in ascending order of X, with y as normalised.
    alpha_ : float or ndarray ``[n]``
        The known noise variances in the order of ``X_train_``, scaled like ``y_train_``.
    n_features_in_ : int
        The number of features, 1.

    Notes
    -----
    The parameters of a kernel of one term have the names of its arguments, such as
    ``"lengthscale"``. In a sum, the number of the term comes first, as in ``"0.lengthscale"``, and
    ``bounds`` and ``fixed`` also take ``"lengthscale"`` for that of every term. The noise is
    ``"noise"``. A parameter keeps its sign, since its logarithm is optimised, and one that starts
    at 0 stays 0. A `Celerite` term that is positive semidefinite at the start stays so: the entry
    of ``theta_`` for b is the logarithm of ``b d / (a c)`` times the value of ``a c / d`` at the
    start.

    `fit` warns (``ConvergenceWarning``) if a parameter ends at a bound or L-BFGS stops early.

    Before `fit`, predictions and samples are those of the prior. What is not given is then
    lengthscale 1, variance 1 and noise 0.1.

    Examples
    --------
    >>> import numpy as np
    >>> from laplex.gram import LaplaceGPRegressor
    >>> x = np.linspace(0, 10, 200)
    >>> y = np.sin(x) + 0.1 * np.random.default_rng(0).standard_normal(200)
    >>> model = LaplaceGPRegressor(normalize_y=True).fit(x[:, None], y)
    >>> model.predict([[5.02]]).round(1)
    array([-1.])
    """

    def __init__(
        self,
        kernel: str | BaseTerm | Sequence[BaseTerm] = "laplace",
        *,
        lengthscale: float | None = None,
        variance: float | None = None,
        noise: float | None = None,
        frequency: float | None = None,
        alpha: float | npt.ArrayLike = 0.0,
        bounds: Mapping[str, Sequence[float]] | None = None,
        fixed: str | Collection[str] = (),
        basis: Any = None,
        prior: Any = None,
        optimizer: Literal["lbfgs"] | None = "lbfgs",
        n_restarts: int = 0,
        normalize_y: bool = False,
        random_state: Any = None,
    ) -> None:
        self.kernel = kernel
        self.lengthscale = lengthscale
        self.variance = variance
        self.noise = noise
        self.frequency = frequency
        self.alpha = alpha
        self.bounds = bounds
        self.fixed = fixed
        self.basis = basis
        self.prior = prior
        self.optimizer = optimizer
        self.n_restarts = n_restarts
        self.normalize_y = normalize_y
        self.random_state = random_state

    def fit(
        self, X: npt.ArrayLike, y: npt.ArrayLike, alpha: float | npt.ArrayLike | None = None
    ) -> LaplaceGPRegressor:
        """Fit the parameters to the training data.

        Parameters
        ----------
        X : array of shape ``[n, 1]``
            The points.
        y : array of shape ``[n]``
            The values at the points.
        alpha : float or array ``[n]``, optional
            The known noise variances, in place of those of the constructor. Cross validation splits
            them with the rows: ``cross_val_score(model, X, y, params={"alpha": alpha})``.

        Returns
        -------
        LaplaceGPRegressor
            The regressor itself.
        """
        rows, target = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        x, values = self._line(rows), np.asarray(target, np.float64)
        if self.n_restarts < 0:
            raise ValueError(f"n_restarts must be at least 0, got {self.n_restarts}")
        if hasattr(self.basis, "__array__"):
            raise TypeError(
                "basis must be a function of the points or several of them, so that the regressor "
                "can predict, got a matrix: use laplex.gram.LaplaceGram"
            )
        if self.optimizer not in ("lbfgs", None):
            raise ValueError(f"optimizer must be 'lbfgs' or None, got {self.optimizer!r}")
        known = known_noise(self.alpha if alpha is None else alpha, len(x))
        order = np.argsort(x, kind="stable")  # once, instead of at every step of the fit
        x, values = x[order], values[order]
        self._shift, self._unit = 0.0, 1.0
        if self.normalize_y:
            # Scaled by a power of two, so that no square leaves the range of a float.
            size = 2.0 ** (np.frexp(np.abs(values).max())[1] - 1.0)
            self._shift = float((values / size).mean() * size)
            self._unit = float((values / size).std() * size) or 1.0
        self.X_train_, self.y_train_ = x, (values - self._shift) / self._unit
        self.alpha_ = (known if known.ndim == 0 else known[order]) / self._unit / self._unit
        span, power = float(np.ptp(x)) or 1.0, self._power()
        self._hyperparameters = self._start(0.1 * span, power)
        self._check_distinct()
        theta = self._hyperparameters.theta()
        if self.optimizer is not None and len(theta):
            theta = self._maximise(theta)
        self.theta_, self.theta_names_ = theta, self._hyperparameters.free
        self.parameters_ = self._hyperparameters.numbers(theta)
        self.kernel_ = tuple(self._hyperparameters.made(theta))
        self.noise_ = self.parameters_["noise"]
        for name in ("lengthscale", "variance", "frequency"):
            self.__dict__.pop(f"{name}_", None)  # of a kernel that was fitted before
            if len(self.kernel_) == 1 and hasattr(self.kernel_[0], name):
                setattr(self, f"{name}_", self.parameters_.get(name))
        self.gram_ = self._gram(torch.from_numpy(theta))
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
        theta : array of shape ``[k]``, optional
            The logarithms of the free parameters, in the order of ``theta_names_``. By default,
            ``theta_``.
        eval_gradient : bool
            Return the derivatives by theta as well.
        """
        check_is_fitted(self, "_hyperparameters")
        given = np.array(self.theta_ if theta is None else theta, np.float64)
        free = self._hyperparameters.free
        if given.shape != (len(free),):
            raise ValueError(
                f"theta must have shape [{len(free)}], one logarithm for each of "
                f"{', '.join(free) or 'no free parameters'}; got shape {list(given.shape)}"
            )
        leaf = torch.from_numpy(given).requires_grad_(eval_gradient)
        value = self._gram(leaf).log_prob(torch.from_numpy(self.y_train_))
        if not eval_gradient:
            return float(value)
        (gradient,) = torch.autograd.grad(value, leaf) if len(free) else (leaf,)
        return float(value.detach()), gradient.detach().numpy()

    def predict(
        self,
        X: npt.ArrayLike,
        return_std: bool = False,
        return_cov: bool = False,
        include_noise: bool = False,
        term: int | BaseTerm | Literal["basis"] | None = None,
    ) -> Any:
        """Predict f at new points, given the training values; before `fit`, by the prior.

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
        term : int or term or "basis", optional
            Predict one summand of f in place of f, given the same values: a term of the kernel, or
            its number in ``kernel_``, or the trend. The expectations of all of them add up to that
            of f; with ``normalize_y``, the mean of y has to be added.

        Returns
        -------
        ndarray ``[m]``, or a tuple of two arrays
            The expectation of f, with the standard deviations or the covariance if requested.
        """
        if return_std and return_cov:
            raise ValueError("pass either return_std=True or return_cov=True, not both")
        shown = self._summand(term, include_noise)
        points = self._points(X)
        if not hasattr(self, "gram_"):
            prior, noise = self._prior(points)
            mean, noise = np.zeros(len(points)), noise if include_noise else 0.0
            if return_cov:
                return mean, prior.to_dense().numpy() + noise * np.eye(len(points))
            return (mean, np.sqrt(prior.diagonal().numpy() + noise)) if return_std else mean
        conditional = self.gram_.predict(points, torch.from_numpy(self.y_train_), term=shown)
        mean = conditional.mean.numpy() * self._unit + (self._shift if shown is None else 0.0)
        noise = self.noise_ if include_noise else 0.0
        if return_std:
            return mean, np.sqrt(conditional.variance.numpy() + noise) * self._unit
        if return_cov:
            covariance = conditional.covariance.numpy() + noise * np.eye(len(mean))
            return mean, covariance * self._unit**2
        return mean

    def sample_y(
        self,
        X: npt.ArrayLike,
        n_samples: int = 1,
        random_state: Any = 0,
        include_noise: bool = False,
    ) -> Array:
        """Draw samples of f at new points, in O(n + m) each; before `fit`, from the prior.

        Parameters
        ----------
        X : array of shape ``[m, 1]``
            The new points.
        n_samples : int
            The number of samples.
        random_state : int, RandomState or None
            The source of random numbers.
        include_noise : bool
            Draw new observations instead of f, with the noise variance ``noise_``.

        Returns
        -------
        ndarray ``[m, n_samples]``
            The samples.
        """
        random = check_random_state(random_state)
        generator = torch.Generator().manual_seed(int(random.randint(2**31)))
        # f has one value at equal points, so sampling both would need a singular matrix.
        points, inverse = np.unique(self._points(X).numpy(), return_inverse=True)
        places, fitted = torch.from_numpy(points), hasattr(self, "gram_")
        if fitted:
            conditional = self.gram_.predict(places, torch.from_numpy(self.y_train_))
            samples, noise = conditional.sample((n_samples,), generator=generator), self.noise_
        else:
            prior, noise = self._prior(places)
            samples = prior.sample((n_samples,), generator=generator)
        samples = samples[:, inverse]
        if include_noise:
            white = torch.randn(samples.shape, dtype=samples.dtype, generator=generator)
            samples = samples + noise**0.5 * white
        drawn: Array = samples.numpy().T
        return drawn * self._unit + self._shift if fitted else drawn

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
        return torch.from_numpy(self._line(validate_data(self, X, dtype=np.float64, reset=False)))

    def _summand(self, term: object, include_noise: bool) -> Any:
        """The number of a term of the kernel, or what else `laplex.gram.LaplaceGram` takes."""
        if term is None:
            return None
        check_is_fitted(self, "gram_")
        if include_noise:
            raise ValueError("include_noise=True is for f as a whole: a term has no noise")
        if isinstance(term, BaseTerm):
            for known in (self.kernel_, self._hyperparameters.terms):
                found = [number for number, each in enumerate(known) if each is term]
                if len(found) == 1:
                    return found[0]
            raise ValueError("term is not one of the kernel's: pass its number in kernel_")
        return term

    def _start(self, length: float, power: float) -> Hyperparameters:
        """The parameters from which `fit` starts, for data of a length and a mean square."""
        return started(
            self.kernel,
            length,
            power,
            given={name: getattr(self, name) for name in ("lengthscale", "variance", "frequency")},
            noise=self.noise,
            bounds=self.bounds,
            fixed=self.fixed,
        )

    def _power(self) -> float:
        """The mean square of the training values, or 1 if all are 0."""
        largest = float(np.abs(self.y_train_).max())
        if not largest:
            return 1.0
        if not sqrt(SMALLEST) <= largest <= sqrt(LARGEST):
            raise ValueError(
                f"y has values of size {largest:.3g}, whose squares are out of the range of the "
                f"kernel's variances, {SMALLEST:g} to {LARGEST:g}: pass normalize_y=True, or y in "
                "other units"
            )
        return float(np.mean(self.y_train_**2))

    def _check_distinct(self) -> None:
        """Raise an error if equal points without noise make the covariance singular."""
        if self._hyperparameters.start["noise"]:
            return
        exact = np.broadcast_to(self.alpha_ == 0, self.X_train_.shape)
        places = self.X_train_[exact]
        again = places[1:][np.diff(places) == 0]
        if len(again):
            raise ValueError(
                f"X has the value {again[0]:g} more than once, where neither noise nor alpha "
                "explains different values: pass noise=None, or alpha, or the mean of equal points"
            )

    def _maximise(self, theta: Array) -> Array:
        random, bounds = check_random_state(self.random_state), self._hyperparameters.log_bounds()
        starts = [theta]
        for _ in range(self.n_restarts):
            moved = theta + random.uniform(-np.log(30), np.log(30), theta.shape)
            starts.append(np.clip(moved, *bounds.T))

        worst = np.inf

        def loss(theta: Array) -> tuple[float, Array]:
            nonlocal worst
            try:
                value, gradient = self.log_marginal_likelihood(theta, eval_gradient=True)
            except np.linalg.LinAlgError:  # no density, such as noise too small for equal x
                value, gradient = np.nan, theta
            if not np.isfinite(value) or not np.isfinite(gradient).all():
                return worst, np.zeros_like(theta)  # finite, so that the line search goes back
            if worst == np.inf:
                worst = 10 * abs(value) + 10 * len(self.y_train_)
            return -value, -gradient

        found = [
            scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
            for start in starts
        ]
        best: Any = min(found, key=lambda result: float(result.fun))
        for name, side, limit in self._hyperparameters.at_bounds(best.x):
            warnings.warn(
                f"the fitted {name} is at its {side} bound {limit:.3g}: move it with "
                f"bounds={{{name!r}: (low, high)}}, or keep the parameter with fixed=[{name!r}]",
                ConvergenceWarning,
                stacklevel=3,
            )
        if best.status == 1 or (best.status and not best.nit):
            warnings.warn(
                f"L-BFGS stopped after {best.nit} steps: start from other values, or use "
                "normalize_y=True",
                ConvergenceWarning,
                stacklevel=3,
            )
        fitted: Array = best.x
        return fitted

    def _gram(self, theta: Tensor) -> LaplaceGram:
        terms, noise = self._hyperparameters.model(theta)
        total = noise + torch.from_numpy(np.atleast_1d(self.alpha_))
        return LaplaceGram(
            torch.from_numpy(self.X_train_),
            terms=terms,
            noise=total,
            basis=self.basis,
            prior=self.prior,
        )

    def _prior(self, points: Tensor) -> tuple[LaplaceGram, float]:
        """The covariance of f before `fit`, and the noise variance of observations."""
        prior = self._start(1.0, 1.0)
        made = LaplaceGram(points, terms=prior.terms, basis=self.basis, prior=self.prior)
        return made, prior.start["noise"]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False  # predictions before `fit` are those of the prior
        return tags
