"""Options of `LaplaceGPRegressor`: noise of each point, bounds, fixed parameters, the prior."""

from __future__ import annotations

import pickle
import warnings

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel
from sklearn.model_selection import GridSearchCV, cross_val_score

from laplex.gram import SHO, Celerite, LaplaceGPRegressor, LaplaceGram, Rotation, Term
from laplex.gram.hyperparameters import KERNELS
from strategies import quick

START = {"lengthscale": 1.5, "variance": 2.0, "noise": 0.1}


def problem(n: int = 80, seed: int = 0):
    """Points, values and the standard deviations of their errors."""
    rng = np.random.default_rng(seed)
    x, errors = rng.uniform(0, 10, n), rng.uniform(0.05, 1, n)
    return x[:, None], np.sin(x) + errors * rng.standard_normal(n), errors


def theirs(alpha, *, noise: float = 0.1, nu: float = 0.5, **options):
    kernel = ConstantKernel(2.0) * Matern(1.5, nu=nu)
    if noise:
        kernel = kernel + WhiteKernel(noise)
    return GaussianProcessRegressor(kernel, alpha=alpha, **options)


# --- known noise ----------------------------------------------------------------------------------


def test_known_noise_of_each_point_is_sklearns():
    X, y, errors = problem()
    ours = LaplaceGPRegressor(**START, alpha=errors**2, optimizer=None).fit(X, y)
    other = theirs(errors**2, optimizer=None).fit(X, y)
    value, gradient = ours.log_marginal_likelihood(ours.theta_, eval_gradient=True)
    expected, slope = other.log_marginal_likelihood(other.kernel_.theta, eval_gradient=True)
    assert value == pytest.approx(expected, rel=1e-11)
    np.testing.assert_allclose(gradient, slope[[1, 0, 2]], rtol=1e-8, atol=1e-8)
    points = np.linspace(-1, 11, 30)[:, None]
    mean, std = ours.predict(points, return_std=True, include_noise=True)
    expected, spread = other.predict(points, return_std=True)
    np.testing.assert_allclose(mean, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(std, spread, rtol=1e-9)


def test_known_noise_has_the_units_of_the_values():
    """The likelihood of scaled values differs by the logarithm of the scale, n times."""
    X, y, errors = problem()
    plain = LaplaceGPRegressor(**START, alpha=errors**2, optimizer=None).fit(X, y - y.mean())
    unit = y.std()
    scaled = LaplaceGPRegressor(
        lengthscale=1.5,
        variance=2.0 / unit**2,
        noise=0.1 / unit**2,
        alpha=errors**2,
        optimizer=None,
        normalize_y=True,
    ).fit(X, y)
    assert scaled.log_marginal_likelihood_value_ - len(y) * np.log(unit) == pytest.approx(
        plain.log_marginal_likelihood_value_, rel=1e-11
    )
    mean, std = scaled.predict(X, return_std=True)
    expected, spread = plain.predict(X, return_std=True)
    np.testing.assert_allclose(mean - y.mean(), expected, atol=1e-9)
    np.testing.assert_allclose(std, spread, atol=1e-9)


def test_known_noise_in_fit_is_that_of_the_constructor():
    X, y, errors = problem()
    one = LaplaceGPRegressor(alpha=errors**2).fit(X, y)
    two = LaplaceGPRegressor().fit(X, y, alpha=errors**2)
    np.testing.assert_array_equal(one.predict(X), two.predict(X))
    assert two.get_params()["alpha"] == 0.0
    scores = cross_val_score(LaplaceGPRegressor(), X, y, params={"alpha": errors**2})
    assert scores.shape == (5,)
    number = LaplaceGPRegressor(alpha=0.05).fit(X, y)
    row = LaplaceGPRegressor(alpha=np.full(len(y), 0.05)).fit(X, y)
    np.testing.assert_allclose(row.theta_, number.theta_, atol=1e-4)


def test_known_noise_explains_what_the_fit_need_not():
    """Values with the right error bars leave no noise to fit; without them, all is noise."""
    X, y, errors = problem(2000)
    with pytest.warns(ConvergenceWarning, match="the fitted noise is at its lower bound"):
        known = LaplaceGPRegressor(alpha=errors**2, bounds={"noise": (1e-3, 1.0)}).fit(X, y)
    unknown = LaplaceGPRegressor().fit(X, y)
    assert known.noise_ == pytest.approx(1e-3)
    assert unknown.noise_ == pytest.approx(np.mean(errors**2), rel=0.2)
    error = [np.mean((one.predict(X) - np.sin(X[:, 0])) ** 2) for one in (known, unknown)]
    assert error[0] < error[1]


# --- no noise -------------------------------------------------------------------------------------


def test_without_noise_it_interpolates():
    X, y, _ = problem(40)
    model = LaplaceGPRegressor(noise=0, normalize_y=True).fit(X, y)
    assert model.noise_ == 0
    assert model.theta_names_ == ("lengthscale", "variance")
    mean, std = model.predict(X, return_std=True)
    np.testing.assert_allclose(mean, y, rtol=0, atol=1e-12 * np.abs(y).max())
    assert std.max() < 1e-6  # the root of a rounding error
    held = LaplaceGPRegressor(**{**START, "noise": 0.0}, optimizer=None).fit(X, y)
    other = theirs(1e-13, noise=0, optimizer=None).fit(X, y)
    assert held.log_marginal_likelihood_value_ == pytest.approx(
        other.log_marginal_likelihood_value_, rel=1e-8
    )


def test_without_noise_points_must_differ():
    X, y = [[0.0], [3.0], [3.0]], [0.0, 1.0, 1.0]
    with pytest.raises(ValueError, match=r"X has the value 3 more than once.*noise=None"):
        LaplaceGPRegressor(noise=0).fit(X, y)
    with pytest.raises(ValueError, match="X has the value 3 more than once"):
        LaplaceGPRegressor(noise=0, alpha=[1.0, 0.0, 0.0]).fit(X, y)
    model = LaplaceGPRegressor(noise=0, alpha=[0.0, 0.5, 0.0], optimizer=None).fit(X, y)
    np.testing.assert_allclose(model.predict(X), y, atol=1e-12)


# --- parameters -----------------------------------------------------------------------------------


def test_fixed_parameters_stay():
    X, y, _ = problem()
    model = LaplaceGPRegressor(**START, fixed=["lengthscale", "noise"]).fit(X, y)
    assert (model.lengthscale_, model.noise_) == (1.5, 0.1)
    assert model.theta_names_ == ("variance",)
    other = GaussianProcessRegressor(
        ConstantKernel(2.0) * Matern(1.5, "fixed", nu=0.5) + WhiteKernel(0.1, "fixed"), alpha=0
    ).fit(X, y)
    assert model.log_marginal_likelihood_value_ == pytest.approx(
        other.log_marginal_likelihood_value_, rel=1e-7
    )
    every = LaplaceGPRegressor(**START, fixed=["lengthscale", "variance", "noise"]).fit(X, y)
    assert every.parameters_ == START
    value, gradient = every.log_marginal_likelihood([], eval_gradient=True)
    assert gradient.shape == (0,)
    assert value == every.log_marginal_likelihood_value_
    one = LaplaceGPRegressor(noise=0.1, fixed="noise").fit(X, y)
    assert one.noise_ == 0.1


def test_bounds_hold_and_warn():
    X, y, _ = problem()
    free = LaplaceGPRegressor().fit(X, y)
    low = free.lengthscale_ * 2
    with pytest.warns(ConvergenceWarning, match=r"the fitted lengthscale is at its lower bound"):
        model = LaplaceGPRegressor(bounds={"lengthscale": (low, 100 * low)}).fit(X, y)
    assert model.lengthscale_ == pytest.approx(low)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LaplaceGPRegressor(bounds={"lengthscale": (low / 10, low)}).fit(X, y)
        kept = LaplaceGPRegressor(lengthscale=low, bounds={"lengthscale": (low, low)}).fit(X, y)
    assert kept.lengthscale_ == pytest.approx(low)


def test_a_sum_of_terms():
    X, y, _ = problem(200)
    terms = [Term(5.0), Term(lengthscale=1.0, variance=0.5, frequency=1.0)]
    model = LaplaceGPRegressor(terms, fixed=["0.variance"], bounds={"lengthscale": (0.1, 1e3)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    assert list(model.parameters_) == [
        "0.lengthscale",
        "0.variance",
        "1.lengthscale",
        "1.variance",
        "1.frequency",
        "noise",
    ]
    assert model.parameters_["0.variance"] == 1.0
    assert not hasattr(model, "lengthscale_")
    gram = LaplaceGram(X[:, 0], terms=model.kernel_, noise=model.noise_)
    assert float(gram.log_prob(y)) == pytest.approx(model.log_marginal_likelihood_value_, rel=1e-11)
    mean, covariance = model.predict(X[:5], return_cov=True)
    std = model.predict(X[:5], return_std=True)[1]
    np.testing.assert_allclose(covariance.diagonal() ** 0.5, std, rtol=1e-6)
    np.testing.assert_allclose(model.predict(X[:5]), mean)


@quick
@given(st.lists(st.floats(-2, 2), min_size=5, max_size=5), st.integers(0, 100))
def test_gradients_are_differences(shifts, seed):
    X, y, errors = problem(15, seed)
    terms = [Term(5.0), Term(lengthscale=1.0, variance=0.5, frequency=1.0)]
    model = LaplaceGPRegressor(terms, alpha=errors**2, fixed="0.variance", optimizer=None).fit(X, y)
    theta = model.theta_ + shifts
    gradient = model.log_marginal_likelihood(theta, eval_gradient=True)[1]
    step = 1e-5
    for k, slope in enumerate(gradient):
        moved = step * np.eye(len(theta))[k]
        up, down = (model.log_marginal_likelihood(theta + sign * moved) for sign in (1, -1))
        # The third derivative times step^2, and the rounding of the values over the step.
        scale = 1 + abs(up) + np.abs(gradient).max()
        assert (up - down) / (2 * step) == pytest.approx(slope, abs=1e-7 * scale)


@pytest.mark.parametrize("nu", [1.5, 2.5])
def test_a_smooth_kernel_is_sklearns(nu):
    X, y, errors = problem()
    name = f"matern{2 * nu:.0f}2"
    ours = LaplaceGPRegressor(name, **START, alpha=errors**2, optimizer=None).fit(X, y)
    other = theirs(errors**2, nu=nu, optimizer=None).fit(X, y)
    value, gradient = ours.log_marginal_likelihood(ours.theta_, eval_gradient=True)
    expected, slope = other.log_marginal_likelihood(other.kernel_.theta, eval_gradient=True)
    assert value == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(gradient, slope[[1, 0, 2]], rtol=1e-7, atol=1e-7)
    points = np.linspace(-1, 11, 30)[:, None]
    mean, covariance = ours.predict(points, return_cov=True, include_noise=True)
    expected, spread = other.predict(points, return_cov=True)
    np.testing.assert_allclose(mean, expected, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(covariance, spread, rtol=1e-8, atol=1e-8)


def oscillating(n: int = 400):
    """Values of an oscillator, which is a Celerite term with b d = a c."""
    x = np.sort(np.random.default_rng(0).uniform(0, 60, n))
    gram = LaplaceGram(x, terms=SHO(sigma=1.0, rho=4.0, Q=3.0), noise=0.01)
    return x[:, None], gram.sample(generator=torch.Generator().manual_seed(0)).numpy()


@pytest.mark.filterwarnings("ignore:the fitted:sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_named_kernel_improves_on_its_start(kernel):
    X, y = oscillating(100)
    start = LaplaceGPRegressor(kernel, optimizer=None).fit(X, y)
    model = LaplaceGPRegressor(kernel).fit(X, y)
    assert model.log_marginal_likelihood_value_ > start.log_marginal_likelihood_value_ + 1
    assert model.parameters_.keys() == start.parameters_.keys()
    prior = LaplaceGPRegressor(kernel)
    assert prior.predict(X[:3], return_std=True)[1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "kernel",
    [SHO(sigma=1.0, rho=4.0, Q=3.0), Celerite(1.0, 0.15, 0.25, 1.5), Rotation(1.0, 4.0, 2, 1, 0.1)],
)
def test_an_oscillation_is_fitted(kernel):
    X, y = oscillating()
    start = LaplaceGPRegressor(kernel, noise=0.01, optimizer=None).fit(X, y)
    model = LaplaceGPRegressor(
        kernel, noise=0.01, bounds={"f": (1e-3, 1)} if "f" in vars(kernel) else None
    )
    model.fit(X, y)
    assert model.log_marginal_likelihood_value_ > start.log_marginal_likelihood_value_
    assert model.kernel_[0].indefinite() is None
    period = {"SHO": "rho", "Rotation": "period"}.get(type(kernel).__name__)
    if period:
        assert model.parameters_[period] == pytest.approx(4.0, rel=0.1)


def test_celerites_general_term_ends_where_it_is_an_oscillator():
    X, y = oscillating()
    found = LaplaceGPRegressor(Celerite(1.0, 0.15, 0.25, 1.5), noise=0.01).fit(X, y)
    oscillator = LaplaceGPRegressor(SHO(sigma=1.0, rho=4.0, Q=3.0), noise=0.01).fit(X, y)
    likelihood = oscillator.log_marginal_likelihood_value_
    assert found.log_marginal_likelihood_value_ > likelihood - 0.01  # the oscillator is one of them
    term = found.kernel_[0]
    assert term.b * term.d <= term.a * term.c * (1 + 1e-12)
    with pytest.raises(ValueError, match="bounds cannot hold for b: fit keeps"):
        LaplaceGPRegressor("celerite", bounds={"b": (0.1, 1.0)}).fit(X, y)
    with pytest.raises(ValueError, match="kernel='sho' has no variance"):
        LaplaceGPRegressor("sho", variance=1.0).fit(X, y)


def test_gradients_of_a_celerite_term_are_differences():
    X, y = oscillating(30)
    model = LaplaceGPRegressor(Celerite(1.0, 0.1, 0.3, 1.5), optimizer=None).fit(X, y)
    assert model.theta_names_ == ("a", "b", "c", "d", "noise")
    gradient = model.log_marginal_likelihood(model.theta_, eval_gradient=True)[1]
    for k, slope in enumerate(gradient):
        moved = 1e-5 * np.eye(5)[k]
        up, down = (model.log_marginal_likelihood(model.theta_ + s * moved) for s in (1, -1))
        assert (up - down) / 2e-5 == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_a_fit_goes_back_from_where_there_is_no_density():
    """A sum with a negative amplitude, which is positive definite near the start only."""
    X, y, _ = problem()
    kernel = Celerite(-0.2, 0.0, 2.0, 0.0) + Term(3.0)
    held = LaplaceGPRegressor(kernel, noise=0.05, optimizer=None).fit(X, y)
    model = LaplaceGPRegressor(kernel, noise=0.05, bounds={"noise": (1e-4, 1.0)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    assert model.parameters_["0.a"] < 0
    assert model.log_marginal_likelihood_value_ > held.log_marginal_likelihood_value_ + 1


def test_frequencies_keep_their_sign_and_zeros_stay():
    X, y, _ = problem()
    model = LaplaceGPRegressor(Term(1.0, 1.0, -1.0), optimizer=None).fit(X, y)
    assert model.frequency_ == -1.0
    assert "frequency" not in LaplaceGPRegressor(Term(1.0), optimizer=None).fit(X, y).parameters_


# --- a trend --------------------------------------------------------------------------------------


def constant(points):
    return torch.ones_like(points)


def line(points):
    return points


def test_a_trend_is_sklearns_dot_product():
    X, y, errors = problem()
    y = y + 3 - X[:, 0]
    ours = LaplaceGPRegressor(
        **START, basis=[constant, line], prior=np.array([4.0, 1.0]), alpha=errors**2, optimizer=None
    ).fit(X, y)
    kernel = ConstantKernel(2.0) * Matern(1.5, nu=0.5) + WhiteKernel(0.1) + DotProduct(2.0)
    other = GaussianProcessRegressor(kernel, alpha=errors**2, optimizer=None).fit(X, y)
    assert ours.log_marginal_likelihood_value_ == pytest.approx(
        other.log_marginal_likelihood_value_, rel=1e-10
    )
    points = np.linspace(-5, 20, 30)[:, None]
    mean, std = ours.predict(points, return_std=True, include_noise=True)
    expected, spread = other.predict(points, return_std=True)
    np.testing.assert_allclose(mean, expected, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(std, spread, rtol=1e-8)
    prior = LaplaceGPRegressor(**START, basis=[constant, line], prior=np.array([4.0, 1.0]))
    unfitted = GaussianProcessRegressor(ConstantKernel(2.0) * Matern(1.5, nu=0.5) + DotProduct(2.0))
    np.testing.assert_allclose(
        prior.predict(points, return_cov=True)[1], unfitted.predict(points, return_cov=True)[1]
    )


def test_an_improper_trend_is_continued_and_ignored():
    """Data plus a line have the same restricted likelihood, and a prediction plus the line."""
    X, y, _ = problem()
    model = LaplaceGPRegressor(basis=[constant, line]).fit(X, y)
    moved = LaplaceGPRegressor(basis=[constant, line]).fit(X, y + 20 - 3 * X[:, 0])
    np.testing.assert_allclose(moved.theta_, model.theta_, atol=1e-2)
    points = np.linspace(-50, 60, 12)[:, None]
    held = clone(model).set_params(**model.parameters_, optimizer=None).fit(X, y)
    shifted = clone(held).fit(X, y + 20 - 3 * X[:, 0])
    np.testing.assert_allclose(
        shifted.predict(points), held.predict(points) + 20 - 3 * points[:, 0], rtol=1e-9, atol=1e-9
    )
    with pytest.raises(ValueError, match="improper prior"):
        LaplaceGPRegressor(basis=constant).sample_y(points)
    with pytest.raises(TypeError, match="basis must be a function of the points"):
        LaplaceGPRegressor(basis=np.ones(len(X))).fit(X, y)


# --- the prior ------------------------------------------------------------------------------------


def test_the_prior_is_sklearns():
    points = np.array([[0.0], [2.0], [0.5], [2.0]])
    ours = LaplaceGPRegressor(**START)
    mean, std = ours.predict(points, return_std=True)
    covariance = ours.predict(points, return_cov=True)[1]
    other = theirs(0, noise=0)
    expected, spread = other.predict(points, return_std=True)
    np.testing.assert_array_equal(mean, expected)
    np.testing.assert_allclose(std, spread, rtol=1e-14)
    np.testing.assert_allclose(covariance, other.predict(points, return_cov=True)[1], rtol=1e-14)
    noisy = ours.predict(points, return_cov=True, include_noise=True)[1]
    np.testing.assert_allclose(noisy, covariance + 0.1 * np.eye(4), rtol=1e-14)
    np.testing.assert_allclose(
        ours.predict(points, return_std=True, include_noise=True)[1], np.sqrt(std**2 + 0.1)
    )
    assert LaplaceGPRegressor().predict(points, return_std=True)[1].tolist() == [1.0] * 4


@pytest.mark.parametrize("noisy", [False, True])
def test_samples_of_the_prior_have_its_moments(noisy):
    points = np.array([[0.0], [2.0], [0.5]])
    ours = LaplaceGPRegressor(**START)
    covariance = ours.predict(points, return_cov=True, include_noise=noisy)[1]
    samples = ours.sample_y(points, 20_000, include_noise=noisy)
    error = np.linalg.norm(np.cov(samples) - covariance) / np.linalg.norm(covariance)
    assert error < 0.05  # five standard errors of a covariance of 20,000 samples
    twice = ours.sample_y(np.vstack([points, points]), 3)
    np.testing.assert_array_equal(twice[:3], twice[3:])  # one function


def test_a_fit_ends_the_prior():
    X, y, _ = problem()
    model = LaplaceGPRegressor(kernel=[Term(2.0), Term(3.0)], optimizer=None)
    before = model.predict(X, return_std=True)[1]
    assert np.all(model.fit(X, y).predict(X, return_std=True)[1] < before)


# --- an estimator among estimators ----------------------------------------------------------------


def test_clone_pickle_and_search():
    X, y, errors = problem()
    model = LaplaceGPRegressor(
        [Term(5.0), Term(1.0, frequency=1.0)],
        alpha=0.1,
        bounds={"noise": (1e-6, 10.0)},
        fixed=("1.variance",),
        optimizer=None,
    )
    again = clone(model)
    assert again.get_params().keys() == model.get_params().keys()
    fitted = again.fit(X, y)
    copied = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copied.predict(X), fitted.predict(X))
    fresh = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(fresh.predict(X, return_std=True)[1], 2**0.5, rtol=1e-15)
    search = GridSearchCV(
        LaplaceGPRegressor(noise=0.1, optimizer=None),
        {"kernel": ["laplace", Term(2.0)], "fixed": [(), ("noise",)]},
        cv=3,
    ).fit(X, y, alpha=errors**2)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.set_params(kernel="matern12").fit(X, y).noise_ == 0.1


def test_what_it_refuses():
    X, y, errors = problem(20)
    for options, error, message in (
        ({"kernel": "rbf"}, ValueError, "kernel must be one of 'laplace', 'matern12'"),
        (
            {"kernel": 3},
            TypeError,
            "kernel must be .* or several of them, got 3",
        ),
        ({"kernel": Term(1.0), "lengthscale": 2.0}, ValueError, "lengthscale belongs to a kernel"),
        ({"kernel": Term(-1.0)}, ValueError, "lengthscale must be positive and finite, got -1"),
        ({"kernel": Term(np.ones(3))}, ValueError, r"kernel has a lengthscale of shape \[3\]"),
        ({"kernel": Term(scale=np.ones(20))}, ValueError, "kernel has a scale of shape"),
        ({"lengthscale": float("nan")}, ValueError, "lengthscale must be positive and finite"),
        ({"noise": np.inf}, ValueError, "noise must be finite and not negative, got inf"),
        ({"alpha": -1.0}, ValueError, "alpha must hold finite variances"),
        ({"alpha": "small"}, ValueError, "alpha must hold finite variances"),
        ({"bounds": [(1, 2)]}, TypeError, "bounds must be a dict of names"),
        ({"n_restarts": -1}, ValueError, "n_restarts must be at least 0, got -1"),
        ({"alpha": errors[:5]}, ValueError, r"one for each of the 20 values, got shape \[5\]"),
        ({"fixed": "length"}, ValueError, "fixed has the name 'length', but the parameters are"),
        ({"bounds": {"scale": (1, 2)}}, ValueError, "bounds has the name 'scale'"),
        ({"bounds": {"noise": (2, 1)}}, ValueError, "0 < low <= high"),
        ({"bounds": {"noise": (0, 1)}}, ValueError, "0 < low <= high"),
        ({"bounds": {"noise": "fixed"}}, TypeError, r"name it in fixed="),
        ({"noise": 3.0, "bounds": {"noise": (1, 2)}}, ValueError, "noise starts at 3, outside"),
    ):
        with pytest.raises(error, match=message):
            LaplaceGPRegressor(**options).fit(X, y)
    with pytest.raises(ValueError, match=r"theta must have shape \[3\].*lengthscale, variance"):
        LaplaceGPRegressor().fit(X, y).log_marginal_likelihood([0.0])
