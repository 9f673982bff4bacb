"""`laplex.Plan.update`: whatever moves, the plan is the one that would be built anew."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import laplex
from exactness_cases import FORMS, kernel
from strategies import assert_same_bits, assert_same_plan


def assert_same_tables(plan: laplex.Plan, fresh: laplex.Plan) -> None:
    """Compare what plans of many anchors compute, without their dense matrices."""
    rng = np.random.default_rng(1)
    n, m = plan.shape
    v, g = rng.standard_normal(m).astype(plan.dtype), rng.standard_normal(n).astype(plan.dtype)
    assert_same_bits(plan.apply(v), fresh.apply(v))
    for one, other in zip(plan.vjp(v, g), fresh.vjp(v, g), strict=True):
        if one is not None:
            assert_same_bits(one, other)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("own", [False, True], ids=["two sides", "self"])
def test_steps_of_every_size(dtype: str, own: bool) -> None:
    """From steps in which no anchor passes another to steps that are to be sorted anew.

    There are enough anchors for several tasks of the repair, and ties, old and new.
    """
    rng = np.random.default_rng(0)
    n = 25_000
    x, y = (rng.random(n).round(5).astype(dtype) for _ in range(2))
    plan = laplex.Plan(x, None if own else y, lengthscale=0.1, num_threads=2)
    for places in (0.0, 0.1, 1.0, 3.0, 10.0, 1000.0):
        step = places / (n if own else 2 * n)
        x, y = ((z + step * rng.standard_normal(n)).round(6).astype(dtype) for z in (x, y))
        sides = (x,) if own else (x, y)
        plan.update(*sides)
        assert_same_tables(plan, laplex.Plan(*sides, lengthscale=0.1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_anchor_that_leaves_the_others(dtype: str) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 20_000)).astype(dtype)
    plan = laplex.Plan(x, y, lengthscale=0.1)
    for place in (-1e30, 0.5, 2.0):
        x[7] = place
        plan.update(x, y)
        assert_same_tables(plan, laplex.Plan(x, y, lengthscale=0.1))


def test_anchors_that_come_together() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 5000))
    plan = laplex.Plan(x, y)
    for digits in (3, 1, 0):  # a cell of one point holds more than others may
        x, y = x.round(digits), y.round(digits)
        plan.update(x, y)
        assert_same_tables(plan, laplex.Plan(x, y))
    x, y = rng.random((2, 5000))
    plan.update(x, y)
    assert_same_tables(plan, laplex.Plan(x, y))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("own", [False, True], ids=["two sides", "self"])
def test_a_lengthscale_alone_or_with_anchors(form: str, own: bool) -> None:
    k = kernel(
        form, "uniform", 90, 90 if own else 70, 0.3, "float64", np.random.default_rng(0), own
    )
    options: dict[str, Any] = dict(k.options())
    sides = (k.targets,) if own else (k.targets, k.sources)
    plan = laplex.Plan(*sides, **options)
    for lengthscale in (1e-4, 0.02, 1e3):  # the cells are others
        options["lengthscale"] = lengthscale
        plan.update(lengthscale=lengthscale)
        assert_same_plan(plan, laplex.Plan(*sides, **options))
        assert f"lengthscale={lengthscale})" in repr(plan)
        assert_same_plan(pickle.loads(pickle.dumps(plan)), plan)
    options["lengthscale"] = 0.5
    sides = tuple(z[::-1].copy() for z in sides)
    plan.update(*sides, lengthscale=0.5)
    assert_same_plan(plan, laplex.Plan(*sides, **options))


def test_a_lengthscale_for_each_head() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((3, 200)), np.sort(rng.random(100))
    plan = laplex.Plan(x, y, lengthscale=[0.1, 0.2, 0.3])
    plan.update(lengthscale=[0.4, 0.5, 0.6])
    assert_same_plan(plan, laplex.Plan(x, y, lengthscale=[0.4, 0.5, 0.6]))
    gradients = pickle.loads(pickle.dumps(plan)).vjp(np.ones(100), np.ones((3, 200)))
    assert gradients.lengthscale.shape == (3,)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({}, TypeError, "nothing to update"),
        ({"lengthscale": -1.0}, ValueError, "lengthscale must be positive"),
        ({"lengthscale": [1.0]}, ValueError, "was built with"),
        ({"sources": np.zeros(20)}, TypeError, "targets"),
        ({"targets": np.zeros(30)}, ValueError, "sources is None"),
        ({"targets": np.zeros(30), "sources": np.zeros(20), "lengthscale": 0.0}, ValueError, "pos"),
    ],
)
def test_refused_updates_change_nothing(
    changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random(30), rng.random(20)
    plan = laplex.Plan(x, y, lengthscale=0.3)
    with pytest.raises(error, match=words):
        plan.update(**changes)
    assert_same_plan(plan, laplex.Plan(x, y, lengthscale=0.3))
