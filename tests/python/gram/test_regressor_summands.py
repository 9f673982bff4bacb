"""`LaplaceGPRegressor.predict(term=)`, and values far from 1."""

from __future__ import annotations

import re
import warnings

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from sklearn.exceptions import NotFittedError

from laplex.gram import SHO, Celerite, LaplaceGPRegressor, Matern32, polynomial
from strategies import quick

EPSILON = np.finfo(np.float64).eps


def problem(n: int = 60, seed: int = 0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 10, n)
    return x[:, None], 3 + x + np.sin(3 * x) + 0.1 * rng.standard_normal(n)


@quick
@given(normalize=st.booleans(), seed=st.integers(0, 100))
def test_the_summands_add_up(normalize, seed):
    X, y = problem(seed=seed)
    kernel = SHO(sigma=1.0, rho=2.0, Q=3.0) + Matern32(3.0, 2.0)
    line = polynomial(1, 0.0, 10.0)
    model = LaplaceGPRegressor(
        kernel, noise=0.1, basis=line, prior=[10.0, 5.0], optimizer=None, normalize_y=normalize
    ).fit(X, y)
    points = np.linspace(-1, 11, 20)[:, None]
    total = model.predict(points)
    parts = [model.predict(points, term=each) for each in (0, 1, "basis")]
    # Condition numbers are below the sum of the variances over the noise, times n.
    tolerance = 60 * 17 / 0.1 * EPSILON * np.abs(y).max()
    shift = y.mean() if normalize else 0.0
    np.testing.assert_allclose(sum(parts) + shift, total, rtol=0, atol=tolerance)
    for number, term in enumerate(kernel):
        np.testing.assert_array_equal(model.predict(points, term=term), parts[number])
        np.testing.assert_array_equal(
            model.predict(points, term=model.kernel_[number]), parts[number]
        )


def test_a_summand_is_that_of_dense_matrices():
    X, y = problem()
    kernel = SHO(sigma=1.0, rho=2.0, Q=3.0) + Matern32(3.0, 2.0)
    model = LaplaceGPRegressor(kernel, noise=0.1, optimizer=None, normalize_y=True).fit(X, y)
    points, unit = np.linspace(-1, 11, 20), y.std()

    def covariance(term, one, two):
        return term.value(one[:, None] - two).numpy()

    x, part = X[:, 0], kernel[0]
    matrix = covariance(kernel, x, x) + 0.1 * np.eye(len(x))
    cross = covariance(part, points, x)
    mean, found = model.predict(points[:, None], return_cov=True, term=0)
    expected = cross @ np.linalg.solve(matrix, (y - y.mean()) / unit) * unit
    np.testing.assert_allclose(mean, expected, atol=1e-10)
    posterior = covariance(part, points, points) - cross @ np.linalg.solve(matrix, cross.T)
    np.testing.assert_allclose(found, posterior * unit**2, atol=1e-10)
    _, std = model.predict(points[:, None], return_std=True, term=0)
    np.testing.assert_allclose(std, np.sqrt(np.diagonal(found)), atol=1e-10)


def test_what_a_summand_refuses():
    X, y = problem()
    model = LaplaceGPRegressor("matern32", optimizer=None)
    with pytest.raises(NotFittedError):
        model.predict(X, term=0)
    model.fit(X, y)
    with pytest.raises(ValueError, match="include_noise=True is for f as a whole"):
        model.predict(X, return_std=True, include_noise=True, term=0)
    with pytest.raises(ValueError, match="term is not one of the kernel's: pass its number"):
        model.predict(X, term=Matern32(1.0))
    with pytest.raises(IndexError, match="term is 1, but there are 1 terms"):
        model.predict(X, term=1)
    with pytest.raises(ValueError, match="there is no basis"):
        model.predict(X, term="basis")


@pytest.mark.parametrize("exponent", [-600, 600])
def test_values_out_of_range_name_the_remedy(exponent):
    X, y = problem()
    far = y * 2.0**exponent
    message = re.escape("pass normalize_y=True, or y in other units")
    with pytest.raises(ValueError, match=f"^y has values of size .*{message}"):
        LaplaceGPRegressor("matern32").fit(X, far)
    model = LaplaceGPRegressor("matern32", optimizer=None, normalize_y=True)
    expected = model.fit(X, y).predict(X)  # a power of two changes no digit
    np.testing.assert_array_equal(model.fit(X, far).predict(X), expected * 2.0**exponent)


def test_an_indefinite_start_is_named_without_a_warning():
    X, y = problem()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(np.linalg.LinAlgError, match="term 0, Celerite\\(a=1, b=3, c=1, d=2\\)"):
            LaplaceGPRegressor(Celerite(1, 3, 1, 2), noise=0.1).fit(X, y)
