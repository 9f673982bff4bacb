"""Heads that share their anchors: one order, and the bits of a plan with a copy per head."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import laplex
from strategies import Case, assert_same_bits, cases, fingerprint, quick

#: Heads with cells of one point, of a few anchors, and of all of them.
SCALES = np.array([1e-3, 1.0, 30.0])


def of_heads(case: Case, repeats: int | None) -> laplex.Plan:
    """The case with a lengthscale, a frequency and phases per head, and its anchors repeated."""

    def anchors(side: np.ndarray | None) -> np.ndarray | None:
        return side if side is None or repeats is None else np.tile(side, (repeats, 1))

    def phases(phase: np.ndarray | None) -> np.ndarray | None:
        return None if phase is None else np.stack([phase, -phase, 2 * phase])

    options = dict(case.options)
    options["lengthscale"] = options["lengthscale"] * SCALES
    options["frequency"] = options["frequency"] * np.array([0.0, 1.0, -0.5])
    for name in ("target_phase", "source_phase"):
        options[name] = phases(options[name])
    return laplex.Plan(anchors(case.targets), anchors(case.sources), **options)


def assert_same_as_repeated(shared: laplex.Plan, repeated: laplex.Plan) -> None:
    for one, other in zip(everything(shared), everything(repeated), strict=True):
        if one is not None and other is not None and one.shape != other.shape:
            other = other.sum(axis=0)  # the gradient by anchors: of the shared ones the sum
        assert_same_bits(one, other)


def everything(plan: laplex.Plan) -> Iterator[np.ndarray | None]:
    yield from fingerprint(plan)
    try:
        yield np.asarray(plan.rank())
    except ValueError:  # the cosine form and the Matern kernels have no such rule
        yield None


@quick
@given(cases(), st.data())
def test_the_bits_are_those_of_repeated_anchors(case: Case, data: st.DataObject) -> None:
    shared, repeated = of_heads(case, None), of_heads(case, len(SCALES))
    assert_same_as_repeated(shared, repeated)
    assert_same_as_repeated(pickle.loads(pickle.dumps(shared)), repeated)
    # Some anchors exchange their places, or all move to new ones; then a lengthscale changes alone.
    rng = np.random.default_rng(case.seed)
    moves = data.draw(st.sampled_from([0.0, 1e-3, 10.0]))
    sides = [side for side in (case.targets, case.sources) if side is not None]
    moved = [(side + moves * rng.standard_normal(side.shape)).astype(side.dtype) for side in sides]
    shared.update(*moved)
    repeated.update(*(np.tile(side, (len(SCALES), 1)) for side in moved))
    assert_same_as_repeated(shared, repeated)
    for change in ({}, {"targets": sides[0], "sources": sides[1] if len(sides) == 2 else None}):
        ell = case.options["lengthscale"] * rng.uniform(0.5, 2, len(SCALES))
        shared.update(**change, lengthscale=ell)
        tiled = {k: None if s is None else np.tile(s, (len(SCALES), 1)) for k, s in change.items()}
        repeated.update(**tiled, lengthscale=ell)
        assert_same_as_repeated(shared, repeated)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("own", [False, True], ids=["two sides", "self"])
def test_many_anchors_and_threads(own: bool, threads: int) -> None:
    """Several tasks for each step of the sort, of its repair, and of the cut into cells."""
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 40_000)).round(5)
    sides = [x] if own else [x, y]
    options = {"lengthscale": [1e-4, 0.01, 1.0, 100.0], "num_threads": threads}
    shared = laplex.Plan(*sides, **options)
    repeated = laplex.Plan(*(np.tile(side, (4, 1)) for side in sides), **options)
    assert shared.nbytes < 0.8 * repeated.nbytes
    v = rng.standard_normal((4, x.size))
    for step in (0.0, 1e-5, 1.0):
        sides = [side + step * rng.standard_normal(side.size) for side in sides]
        shared.update(*sides)
        repeated.update(*(np.tile(side, (4, 1)) for side in sides))
        assert_same_bits(shared.apply(v), repeated.apply(v))
        one, other = shared.vjp(v, v), repeated.vjp(v, v)
        assert_same_bits(one.targets, other.targets.sum(axis=0))
        assert_same_bits(one.lengthscale, other.lengthscale)


def test_batches_that_do_and_do_not_share() -> None:
    rng = np.random.default_rng(0)
    x, y, v = rng.random(5), rng.random(4), rng.standard_normal((2, 3, 4))
    ell = rng.uniform(0.1, 1, (2, 3))
    expected = laplex.Plan(np.tile(x, (2, 3, 1)), np.tile(y, (2, 3, 1)), lengthscale=ell).apply(v)
    for targets, sources in (
        (x, y),
        (x[None, None], y),
        (np.tile(x, (3, 1)), y),  # one side alone
        (x, np.tile(y, (2, 1, 1))),  # shared along one dimension alone
    ):
        plan = laplex.Plan(targets, sources, lengthscale=ell)
        for each in (plan, pickle.loads(pickle.dumps(plan))):
            assert_same_bits(each.apply(v), expected)
            gradients = each.vjp(v, expected)
            assert gradients.targets.shape == targets.shape
            assert gradients.sources.shape == sources.shape
        assert repr(plan).startswith("Plan(shape=(2, 3, 5, 4)")


def test_no_heads_and_no_anchors() -> None:
    assert laplex.Plan([0.0, 1.0], lengthscale=np.ones(0)).apply(np.ones((0, 2))).shape == (0, 2)
    plan = laplex.Plan(np.ones(0), [1.0], lengthscale=[1.0, 2.0])
    assert plan.apply(np.ones((2, 1))).shape == (2, 0)
    assert plan.transpose(np.ones((2, 0))).tolist() == [[0.0], [0.0]]


def test_errors_name_the_shared_anchors() -> None:
    ell = [1.0, 2.0]
    with pytest.raises(ValueError, match=r"^targets must be finite, but entry 1 is NaN"):
        laplex.Plan([0.0, np.nan], lengthscale=ell)
    plan = laplex.Plan([0.0, 1.0], lengthscale=ell)
    before = plan.to_dense()
    with pytest.raises(ValueError, match=r"targets has shape \[2, 2\].* built with \[2\]"):
        plan.update(np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"^targets must be finite, but entry 0 is"):
        plan.update([np.inf, 0.0])
    with pytest.raises(ValueError, match=r"lengthscale .*head 1"):
        plan.update(lengthscale=[1.0, 0.0])
    assert_same_bits(plan.to_dense(), before)
