"""`laplex.sliced.mmd` and `kde`: dense formulas over the same directions, limits, derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from laplex.sliced import kde, mmd
from sliced_cases import DIMENSIONS, KERNELS, D, dense, distances, draw, kernel_at, unit_vectors
from strategies import quick

close = torch.testing.assert_close
pytestmark = pytest.mark.usefixtures("one_thread")


def dense_mmd(within_x, within_y, between, a, b, unbiased):
    a, b = a / a.sum(), b / b.sum()
    if not unbiased:
        return a @ within_x @ a + b @ within_y @ b - 2 * a @ between @ b
    pairs_x = a[:, None] * a * (1 - torch.eye(len(a), dtype=D))
    pairs_y = b[:, None] * b * (1 - torch.eye(len(b), dtype=D))
    return (
        (pairs_x * within_x).sum() / pairs_x.sum()
        + (pairs_y * within_y).sum() / pairs_y.sum()
        - 2 * a @ between @ b
    )


@quick
@given(
    kind=st.sampled_from(KERNELS),
    d=st.sampled_from(DIMENSIONS),
    n=st.integers(2, 8),
    m=st.integers(2, 8),
    unbiased=st.booleans(),
    weighted=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_discrepancies_are_those_of_dense_sums(kind, d, n, m, unbiased, weighted, seed):
    x, y = draw(n, d, seed=seed), draw(m, d, seed=seed + 1)
    directions = unit_vectors(5, kind, d, seed)
    a, b = torch.ones(n, dtype=D), torch.ones(m, dtype=D)
    weights = {}
    if weighted:
        a, b = draw(n, seed=seed + 2).abs() + 0.1, draw(m, seed=seed + 3).abs() + 0.1
        weights = {"x_weights": a, "y_weights": b}
    options = {"kernel": kind, "lengthscale": 1.5, "directions": directions}
    found = mmd(x, y, unbiased=unbiased, **weights, **options)
    matrices = (dense(kind, *pair, directions, 1.5) for pair in ((x, x), (y, y), (x, y)))
    expected = dense_mmd(*matrices, a, b, unbiased)
    # Means of numbers up to 10, with weights of pairs that an unbiased mean multiplies by up to 10;
    # the amplitudes of fits add up to at most 150.
    close(found, expected, rtol=0, atol=1e-12 * (150 if d in (2, 12) else 10))
    value, error = mmd(x, y, unbiased=unbiased, **weights, **options, return_error=True)
    close(value, found, rtol=1e-12, atol=1e-11)
    assert error >= 0


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_many_directions_approach_the_discrepancy(kind, unbiased, d):
    x, y = draw(40, d), draw(30, d, seed=1) + 0.5
    matrices = (kernel_at(kind, distances(*pair)) for pair in ((x, x), (y, y), (x, y)))
    exact = dense_mmd(*matrices, torch.ones(40, dtype=D), torch.ones(30, dtype=D), unbiased)
    count = 512 if d == 2 else 8000  # angles of the plane converge fast, and one by one
    found, error = mmd(x, y, kernel=kind, unbiased=unbiased, projections=count, return_error=True)
    assert (found - exact).abs() < 4 * error + 2e-5  # the errors of a fit, of pairs of three kinds
    assert error < 1e-3


def test_two_halves_of_a_sample_are_close_and_shifted_ones_are_not():
    x, y = draw(2000, 5), draw(2000, 5, seed=1)
    assert mmd(x, y).abs() < 2e-3  # 1/n is 5e-4
    assert mmd(x, y + 1) > 0.05
    assert mmd(x, x.clone(), unbiased=False).abs() < 1e-13


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("unbiased", [False, True])
def test_derivatives_of_discrepancies(kind, unbiased):
    x, y = draw(4, 3).requires_grad_(), draw(3, 3, seed=1).requires_grad_()
    a, b = draw(4, seed=2).abs().requires_grad_(), draw(3, seed=3).abs().requires_grad_()
    lengthscale = torch.tensor(1.3, dtype=D, requires_grad=True)

    def value(x, y, a, b, lengthscale):
        return mmd(
            x,
            y,
            unbiased=unbiased,
            x_weights=a,
            y_weights=b,
            lengthscale=lengthscale,
            kernel=kind,
            projections=4,
        )

    assert gradcheck(value, (x, y, a, b, lengthscale))
    assert gradgradcheck(value, (x, y, a, b, lengthscale))


@pytest.mark.parametrize("kind", ["laplace", "matern32"])
@pytest.mark.parametrize("d", [1, 2, 3, 6])
def test_densities_are_those_of_dense_sums(kind, d):
    points, queries, weights = draw(20, d), draw(7, d, seed=1), draw(20, seed=2).abs()
    directions = unit_vectors(5, kind, d)
    lengthscale = torch.full((d,), 0.8, dtype=D)
    found, error = kde(
        points,
        queries,
        lengthscale=lengthscale,
        weights=weights,
        kernel=kind,
        directions=directions,
        return_error=True,
    )
    matrix = dense(kind, queries, points, directions, 0.8)
    scale = 0.8 / (math.sqrt(3) if kind == "matern32" else 1)
    sphere = 2 * math.pi ** (d / 2) / math.gamma(d / 2)
    integral = math.gamma(d) + (math.gamma(d + 1) if kind == "matern32" else 0)
    height = 1 / (sphere * integral * scale**d)
    close(found, matrix @ (weights / weights.sum()) * height, rtol=0, atol=1e-11 * height)
    assert error.shape == found.shape
    plain = kde(points, lengthscale=0.8, kernel=kind, directions=directions)
    own = dense(kind, points, points, directions, 0.8).mean(1) * height
    close(plain, own, rtol=0, atol=1e-11 * height)


@pytest.mark.parametrize("kind", ["laplace", "matern32"])
def test_a_density_in_the_plane_integrates_to_one(kind):
    points = draw(30, 2)
    axis = torch.arange(-10, 10, 0.25, dtype=D) + 0.125
    grid = torch.cartesian_prod(axis, axis)
    density = kde(points, grid, lengthscale=0.6, kernel=kind, projections=64)
    # The square leaves out less than 1e-4; midpoints err by about a tenth of a cell at each tip.
    assert float(density.sum() * 0.0625) == pytest.approx(1, abs=0.02)


def test_only_ratios_of_weights_count():
    x, y = draw(5, 3), draw(4, 3, seed=1)
    weights = torch.arange(1.0, 6.0, dtype=D)
    for unbiased in (False, True):
        expected = mmd(x, y, x_weights=weights, unbiased=unbiased)
        for factor in (2.0**1020, 2.0**-1000):  # whose sum or square would not be a number
            close(mmd(x, y, x_weights=weights * factor, unbiased=unbiased), expected)
    expected = kde(x, weights=weights, lengthscale=1.0)
    close(kde(x, weights=weights * 2.0**1020, lengthscale=1.0), expected)


def test_derivatives_of_densities():
    points, queries = draw(4, 3).requires_grad_(), draw(3, 3, seed=1).requires_grad_()
    weights = draw(4, seed=2).abs().requires_grad_()
    lengthscale = torch.tensor(1.3, dtype=D, requires_grad=True)

    def density(points, queries, weights, lengthscale):
        return kde(points, queries, weights=weights, lengthscale=lengthscale, projections=4)

    assert gradcheck(density, (points, queries, weights, lengthscale))
    assert gradgradcheck(density, (points, queries, weights, lengthscale))


X = torch.zeros(3, 2)
V = torch.zeros(3)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: mmd(X[:1], X), ValueError, "x must have at least 2 points, got 1: pass unbiased"),
        (lambda: mmd(X, X[:0]), ValueError, "y must have at least 2 points, got 0"),
        (lambda: mmd(X, X.double()), TypeError, "y has dtype torch.float64, but x has"),
        (lambda: mmd(X, X, unbiased="no"), TypeError, "unbiased must be True or False"),
        (lambda: mmd(X, X, x_weights=X), ValueError, r"x_weights must have shape \[3\]"),
        (
            lambda: mmd(X, X, x_weights=torch.tensor([1.0, -1.0, 1.0])),
            ValueError,
            "x_weights must be at least 0 and finite",
        ),
        (lambda: mmd(X, X, y_weights=V / 0), ValueError, "y_weights must be at least 0 and finite"),
        (lambda: mmd(X, X, x_weights=V), ValueError, "x_weights must have an entry above 0"),
        (
            lambda: mmd(X, X, y_weights=torch.tensor([0.0, 1.0, 0.0])),
            ValueError,
            "y_weights must have two entries of some size",
        ),
        (
            lambda: kde(X, weights=V, lengthscale=1.0),
            ValueError,
            "must have an entry above",
        ),
        (lambda: kde(X, lengthscale=1e-30), ValueError, "exceeds the range of torch.float32"),
        (
            lambda: kde(X, lengthscale=torch.tensor(1e-30)),
            ValueError,
            "exceeds the range of torch.float32",
        ),
        (lambda: kde(X[:0], lengthscale=1.0), ValueError, "points must have at least 1 point"),
        (lambda: kde(X, lengthscale=1.0, kernel="energy"), ValueError, "kernel must be one of"),
        (lambda: kde(X, weights=[1.0], lengthscale=1.0), TypeError, "weights must be a torch"),
        (lambda: kde(X, X[:, :1], lengthscale=1.0), ValueError, "queries has points of 1"),
    ],
)
def test_bad_arguments_are_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
