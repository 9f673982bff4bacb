"""`LaplaceGPRegressor` against scikit-learn's own, and as an estimator among estimators."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from laplex.gram import LaplaceGPRegressor


def problem(n: int = 300, seed: int = 0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 10, n)
    return x[:, None], np.sin(x) + 0.3 * rng.standard_normal(n)


def theirs(**options):
    wide = (1e-8, 1e8)
    kernel = ConstantKernel(1.0, wide) * Matern(1.0, wide, nu=0.5) + WhiteKernel(0.1, wide)
    return GaussianProcessRegressor(kernel, alpha=0, **options)


def in_our_order(theta):
    """Theta of sklearn's kernel: variance, lengthscale, noise. Ours: lengthscale first."""
    return np.asarray(theta)[[1, 0, 2]]


START = {"lengthscale": 1.0, "variance": 1.0, "noise": 0.1}


@pytest.mark.parametrize("normalize_y", [False, True])
def test_likelihood_and_gradient_are_sklearns(normalize_y):
    X, y = problem()
    y = 5 + 3 * y
    ours = LaplaceGPRegressor(**START, optimizer=None, normalize_y=normalize_y).fit(X, y)
    other = theirs(optimizer=None, normalize_y=normalize_y).fit(X, y)
    for theta in ([0.0, 0.0, np.log(0.1)], [1.0, -0.5, -2.0], [-2.0, 1.0, 0.5]):
        value, gradient = ours.log_marginal_likelihood(in_our_order(theta), eval_gradient=True)
        expected, slope = other.log_marginal_likelihood(np.array(theta), eval_gradient=True)
        assert value == pytest.approx(expected, rel=1e-11)
        np.testing.assert_allclose(gradient, in_our_order(slope), rtol=1e-8, atol=1e-8)
    assert ours.log_marginal_likelihood() == ours.log_marginal_likelihood_value_
    assert ours.log_marginal_likelihood_value_ == pytest.approx(
        other.log_marginal_likelihood_value_, rel=1e-11
    )


@pytest.mark.parametrize("normalize_y", [False, True])
def test_optimum_and_predictions_are_sklearns(normalize_y):
    X, y = problem()
    y = 5 + 3 * y
    ours = LaplaceGPRegressor(**START, normalize_y=normalize_y).fit(X, y)
    other = theirs(normalize_y=normalize_y).fit(X, y)
    assert ours.log_marginal_likelihood_value_ == pytest.approx(
        other.log_marginal_likelihood_value_, rel=1e-7
    )
    # L-BFGS stops at its own tolerance, where the likelihood is flat.
    np.testing.assert_allclose(ours.theta_, in_our_order(other.kernel_.theta), atol=2e-2)
    other.set_params(kernel=other.kernel_, optimizer=None).fit(X, y)
    ours.set_params(
        **dict(zip(START, np.exp(in_our_order(other.kernel_.theta)), strict=True)), optimizer=None
    ).fit(X, y)
    points = np.linspace(-2, 12, 50)[:, None]
    points[3] = X[5]
    mean, std = ours.predict(points, return_std=True, include_noise=True)
    expected, spread = other.predict(points, return_std=True)
    np.testing.assert_allclose(mean, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(std, spread, rtol=1e-9, atol=1e-9)
    _, covariance = ours.predict(points, return_cov=True, include_noise=True)
    np.testing.assert_allclose(covariance, other.predict(points, return_cov=True)[1], atol=1e-9)
    np.testing.assert_allclose(ours.predict(points), mean, rtol=0, atol=1e-12)
    assert ours.score(X, y) == pytest.approx(other.score(X, y), abs=1e-9)


def test_samples_have_the_predicted_moments():
    X, y = problem(60)
    model = LaplaceGPRegressor(normalize_y=True).fit(X, y)
    points = np.linspace(0, 12, 8)[:, None]
    for noisy in (False, True):
        mean, covariance = model.predict(points, return_cov=True, include_noise=noisy)
        samples = model.sample_y(points, 20_000, random_state=1, include_noise=noisy)
        assert samples.shape == (8, 20_000)
        scale = np.sqrt(covariance.diagonal() / 20_000)
        assert np.all(np.abs(samples.mean(1) - mean) < 5 * scale)
        error = np.linalg.norm(np.cov(samples) - covariance) / np.linalg.norm(covariance)
        assert error < 0.05
    np.testing.assert_array_equal(model.sample_y(points, 2), model.sample_y(points, 2))
    twice = model.sample_y(np.vstack([points[::-1], points]), 2)
    np.testing.assert_array_equal(twice[:8], twice[:7:-1])  # one function


def test_an_oscillation_is_found():
    """Data of the model itself: the fit's likelihood is that of the truth, or higher."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0, 40, 800))
    truth = np.log([5.0, 2.0, 3.0, 0.05])
    model = LaplaceGPRegressor(
        lengthscale=5.0, variance=2.0, noise=0.05, frequency=3.0, optimizer=None
    ).fit(x[:, None], rng.standard_normal(800))
    import torch

    y = model.gram_.sample(generator=torch.Generator().manual_seed(0)).numpy()
    fitted = LaplaceGPRegressor(frequency=2.0, n_restarts=4, random_state=0).fit(x[:, None], y)
    assert fitted.log_marginal_likelihood_value_ >= fitted.log_marginal_likelihood(truth)
    assert fitted.frequency_ == pytest.approx(3.0, rel=0.1)
    assert fitted.noise_ == pytest.approx(0.05, rel=0.3)
    _, covariance = fitted.predict([[1.0], [1.5]], return_cov=True)
    _, std = fitted.predict([[1.0], [1.5]], return_std=True)
    np.testing.assert_allclose(covariance.diagonal() ** 0.5, std, rtol=1e-8)


def test_restarts_never_make_it_worse():
    X, y = problem(100)
    bad = {"lengthscale": 1e-3, "variance": 1.0, "noise": 1.0}
    once = LaplaceGPRegressor(**bad).fit(X, y)
    often = LaplaceGPRegressor(**bad, n_restarts=5, random_state=0).fit(X, y)
    assert often.log_marginal_likelihood_value_ >= once.log_marginal_likelihood_value_


@pytest.mark.filterwarnings("ignore:the fitted:sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("X", "y"),
    [
        ([[1.0], [1.0], [1.0], [2.0], [2.0]], [0.1, 0.2, 0.3, 1.0, 1.1]),  # equal x
        ([[1.0], [1.0]], [2.0, 2.0]),  # and equal y
        ([[3.0]], [2.0]),  # a single point
        ([[0.0], [1e-300], [1e300]], [0.0, 0.0, 0.0]),  # nothing to explain, wide gaps
    ],
)
def test_degenerate_data(X, y):
    model = LaplaceGPRegressor(normalize_y=True).fit(X, y)
    mean, std = model.predict(X, return_std=True)
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
    assert np.isfinite(model.log_marginal_likelihood_value_)


def test_a_large_one():
    X, y = problem(100_000)
    model = LaplaceGPRegressor().fit(X, y)
    assert model.noise_ == pytest.approx(0.09, rel=0.05)
    mean, std = model.predict(X, return_std=True)
    assert np.sqrt(np.mean((mean - np.sin(X[:, 0])) ** 2)) < 0.03
    assert std.shape == (100_000,)


def test_what_it_refuses():
    X, y = problem(20)
    with pytest.raises(ValueError, match=r"X has 2 features.*X\[:, \[k\]\]"):
        LaplaceGPRegressor().fit(np.hstack([X, X]), y)
    with pytest.raises(NotFittedError):
        LaplaceGPRegressor().log_marginal_likelihood()
    with pytest.raises(ValueError, match="either return_std=True or return_cov=True"):
        LaplaceGPRegressor().fit(X, y).predict(X, return_std=True, return_cov=True)
    with pytest.raises(ValueError, match="noise must be finite and not negative, got -1"):
        LaplaceGPRegressor(noise=-1.0).fit(X, y)
    with pytest.raises(TypeError, match="lengthscale must be a float or None, got str"):
        LaplaceGPRegressor(lengthscale="1").fit(X, y)
    with pytest.raises(ValueError, match="optimizer must be 'lbfgs' or None"):
        LaplaceGPRegressor(optimizer="adam").fit(X, y)


def test_among_estimators():
    X, y = problem(200)
    model = LaplaceGPRegressor(normalize_y=True)
    assert cross_val_score(clone(model), X, y).min() > 0.6
    fitted = pickle.loads(pickle.dumps(model.fit(X, y)))
    np.testing.assert_array_equal(fitted.predict(X[:5]), model.predict(X[:5]))


# --- scikit-learn's own checks --------------------------------------------------------------------

# Most of them fit tables of several columns, which a process on a line has no use for. So all are
# run on a regressor that takes the first column. On the estimator itself, those that pass such
# tables must fail, for that reason alone.
REFUSES_COLUMNS = dict.fromkeys(
    (
        "check_dict_unchanged",
        "check_dont_overwrite_parameters",
        "check_dtype_object",
        "check_estimators_dtypes",
        "check_estimators_fit_returns_self",
        "check_estimators_nan_inf",
        "check_estimators_overwrite_params",
        "check_estimators_pickle",
        "check_f_contiguous_array_estimator",
        "check_fit2d_1sample",
        "check_fit2d_predict1d",
        "check_fit_check_is_fitted",
        "check_fit_idempotent",
        "check_fit_score_takes_y",
        "check_methods_sample_order_invariance",
        "check_methods_subset_invariance",
        "check_n_features_in",
        "check_n_features_in_after_fitting",
        "check_pipeline_consistency",
        "check_positive_only_tag_during_fit",
        "check_readonly_memmap_input",
        "check_regressor_data_not_an_array",
        "check_regressors_int",
        "check_regressors_no_decision_function",
        "check_regressors_train",
        "check_supervised_y_2d",
    ),
    "it fits a table of several columns",
)


class FirstColumn(LaplaceGPRegressor):
    """A regressor for tables, by their first column."""

    def _line(self, X):
        return super()._line(X[:, :1])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # the checks' targets depend on ten columns
        return tags


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore:the fitted:sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks([FirstColumn()])
def test_sklearns_checks(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore:the fitted:sklearn.exceptions.ConvergenceWarning")
def test_sklearns_checks_fail_by_the_number_of_columns_alone():
    results = check_estimator(
        LaplaceGPRegressor(), expected_failed_checks=REFUSES_COLUMNS, on_fail="raise"
    )
    failed = {one["check_name"]: one for one in results if one["status"] == "xfail"}
    assert failed.keys() <= REFUSES_COLUMNS.keys()
    for result in failed.values():
        chain = []
        error = result["exception"]
        while error is not None:
            chain.append(str(error))
            error = error.__cause__ or error.__context__
        assert any("takes exactly one" in message for message in chain), result
