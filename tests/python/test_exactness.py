"""The promise: errors within 1e-14 (float64) and 1e-6 (float32) of sum |K||v|, everywhere."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

import laplex
from exactness_cases import (
    ANCHORS,
    FORMS,
    PHASED,
    PROMISE,
    beside,
    deviation,
    error,
    kernel,
    moment_errors,
    values,
)
from reference import Kernel

LENGTHSCALES = (1e-6, 1e-2, 0.3, 1e2, 1e6)
both = pytest.mark.parametrize("dtype", ["float64", "float32"])
every_form = pytest.mark.parametrize("form", FORMS)


@both
@every_form
@pytest.mark.parametrize("is_complex", [False, True], ids=["real values", "complex values"])
def test_small_sizes(dtype: str, form: str, is_complex: bool) -> None:
    rng = np.random.default_rng(1)
    for n, m in itertools.product((0, 1, 2, 7, 1000), repeat=2):
        for kind in ANCHORS:
            lengthscale = LENGTHSCALES[rng.integers(len(LENGTHSCALES))]
            k = kernel(form, kind, n, m, lengthscale, dtype, rng)
            v = values(m, dtype, is_complex, rng)
            assert error(k, v, dtype) <= PROMISE[dtype], (n, m, kind, lengthscale)


@both
@every_form
def test_every_lengthscale(dtype: str, form: str) -> None:
    rng = np.random.default_rng(2)
    for kind in ANCHORS:
        for exponent in range(-6, 7):
            k = kernel(form, kind, 300, 500, 10.0**exponent, dtype, rng)
            assert error(k, values(500, dtype, False, rng), dtype) <= PROMISE[dtype], (
                kind,
                exponent,
            )


@both
@every_form
@pytest.mark.parametrize("kind", ["uniform", "coarse grid", "1e-30..1e30"])
def test_hundred_thousand(dtype: str, form: str, kind: str) -> None:
    rng = np.random.default_rng(3)
    k = kernel(form, kind, 100_000, 100_001, 0.05, dtype, rng)
    assert error(k, values(100_001, dtype, False, rng), dtype) <= PROMISE[dtype]


@both
@every_form
@pytest.mark.parametrize("shape", ["matern12", "matern32", "matern52"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_one_sided_sums(dtype: str, form: str, shape: str, side: str) -> None:
    """Relative to the sources on that side, also where the others are a million times as large."""
    rng = np.random.default_rng(9)
    for kind in ANCHORS:
        for n, m, lengthscale in ((7, 2, 0.3), (300, 500, 1e-3), (300, 500, 0.3), (300, 500, 1e6)):
            k = kernel(form, kind, n, m, lengthscale, dtype, rng, shape=shape)
            for adjoint in (False, True):
                v = values(n if adjoint else m, dtype, False, rng)
                where = k.targets if adjoint else k.sources
                v = np.where(where > np.median(where), v * v.dtype.type(1e6), v)
                found = error(replace(k, side=side), v, dtype, adjoint)
                assert found <= PROMISE[dtype], (kind, n, m, lengthscale, adjoint)


@pytest.mark.parametrize(("dtype", "form"), [("float64", "real"), ("float32", "cosine")])
def test_a_million(dtype: str, form: str) -> None:
    rng = np.random.default_rng(4)
    k = kernel(form, "uniform", 1_000_000, 999_999, 1.0, dtype, rng)
    assert error(k, np.abs(values(999_999, dtype, False, rng)), dtype) <= PROMISE[dtype]


@both
@pytest.mark.parametrize(("form", "is_complex"), [("real", False), (PHASED, True)])
@pytest.mark.parametrize("kind", ANCHORS)
def test_moments(dtype: str, form: str, is_complex: bool, kind: str) -> None:
    """Within the promise for the moment's own kernel, which vanishes towards the target."""
    rng = np.random.default_rng(8)
    for n, m, lengthscale in ((7, 2, 0.3), (300, 300, 1e-3), (300, 300, 0.3), (300, 300, 1e6)):
        k = kernel(form, kind, n, m, lengthscale, dtype, rng)
        for each in (k, beside(k, rng)) if n == m else (k,):
            for adjoint, hot in itertools.product((False, True), repeat=2):
                v = values(n if adjoint else m, dtype, is_complex, rng)
                if hot:
                    v[1:] = 0
                found = moment_errors(each, v, dtype, adjoint)
                assert max(found.values()) <= PROMISE[dtype], (lengthscale, adjoint, hot, found)


@pytest.mark.parametrize("frequency", [0.0, 40.0])
@pytest.mark.parametrize("lengthscale", [2.0, 0.05, 0.0015])
def test_one_value_far_away(frequency: float, lengthscale: float) -> None:
    """One-hot values show the drift of products of decays: each entry is relative to itself."""
    grid = np.linspace(0.0, 1.0, 200_000)
    v = np.zeros(grid.size)
    v[0] = 1.0
    k = Kernel(grid, grid, lengthscale, frequency)
    u = laplex.Plan(grid, lengthscale=lengthscale, frequency=frequency).apply(v)
    exact = k.apply(v)
    normal = np.abs(exact) > 1e-290
    assert np.max(np.abs(u - exact)[normal] / np.abs(exact)[normal]) <= 1e-14


@pytest.mark.parametrize(("size", "tries"), [(10_000, 40), (100_000, 4)])
def test_one_value_at_many_rates(size: int, tries: int) -> None:
    """On a regular grid the decays of a level all have one rounding error, which adds up."""
    rng = np.random.default_rng(7)
    grid = np.arange(size, dtype=np.float64)
    draws = [
        (hot, size * 10 ** rng.uniform(-1.5, 1), 10 ** rng.uniform(-1, 3) / size)
        for hot in rng.choice([0, size // 2, size - 1], tries)
    ]
    draws.append((0, 1.9942217967859452 * size, 29.726569351165344 / size))  # the worst of many
    for hot, lengthscale, frequency in draws:
        v = np.zeros(size)
        v[hot] = 1.0
        k = Kernel(grid, grid, lengthscale, frequency)
        u = laplex.Plan(grid, lengthscale=lengthscale, frequency=frequency).apply(v)
        modulus = np.exp(-np.abs(grid - hot) / lengthscale)
        assert np.max(np.abs(u - k.apply(v)) / modulus) <= 1e-14, (hot, lengthscale, frequency)


def test_large_angles() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.random(3000), rng.random(3000)
    huge = rng.uniform(-1e6, 1e6, 3000)
    k = Kernel(x, y, 1.0, 1e6, huge, -huge)
    assert error(k, values(3000, "float64", True, rng), "float64") <= 1e-14


def test_transpose_and_adjoint() -> None:
    rng = np.random.default_rng(6)
    for form in FORMS:
        k = kernel(form, "normal^5", 2000, 3000, 0.1, "float64", rng)
        plan = laplex.Plan(k.targets, k.sources, **k.options())
        u = values(2000, "float64", form != "cosine", rng)
        back = k.adjoint()
        scale, largest = back.scale(u), float(np.abs(u).sum())
        for got, exact in (
            (plan.adjoint(u), back.apply(u)),
            (plan.transpose(u), np.conj(back.apply(np.conj(u)))),
        ):
            assert deviation(got, exact, scale, "float64", largest) <= 1e-14


@both
def test_no_nan_where_the_dense_result_has_none(dtype: str) -> None:
    """Gaps beyond any exponent, denormal and largest anchors, tiny and huge lengthscales."""
    info = np.finfo(dtype)
    z = np.array([-info.max, -1, -info.tiny, -info.smallest_subnormal, 0, info.tiny, 1, info.max])
    z = z.astype(dtype)
    for lengthscale in (float(info.tiny), 1e-300, 1e-30, 1.0, float(info.max), 1e300):
        for frequency in (0.0, 1e3):
            plan = laplex.Plan(z, z[::-1].copy(), lengthscale=lengthscale, frequency=frequency)
            u = plan.apply(np.ones(z.size, dtype))
            finite_angles = frequency == 0.0 or lengthscale < 1e30
            if finite_angles:
                assert np.isfinite(u).all(), (lengthscale, frequency)


def test_distances_beyond_the_largest_double() -> None:
    x, y, frequency = np.array([-1e308, 0.0]), np.array([1e308]), 3e-308
    for form in ({}, {"frequency": frequency}):
        u = laplex.Plan(x, y, lengthscale=1e308, **form).apply(np.ones(1))
        tau = np.array([2.0, 1.0])
        exact = np.exp(-tau) * np.exp(1j * 3 * tau) if form else np.exp(-tau)
        assert np.max(np.abs(u - exact)) <= 1e-15


def test_values_that_are_not_finite_propagate() -> None:
    plan = laplex.Plan(np.linspace(0, 1, 50), lengthscale=0.5)
    for bad in (np.nan, np.inf):
        v = np.ones(50)
        v[20] = bad
        assert not np.isfinite(plan.apply(v)).any()
