"""`laplex.Plan` as an object: layouts, outputs, copies, and what it refuses."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import laplex
from exactness_cases import FORMS, kernel, values
from strategies import assert_same_bits, assert_same_plan


def plan_of(form: str = "real", n: int = 30, m: int = 20, dtype: str = "float64") -> laplex.Plan:
    k = kernel(form, "uniform", n, m, 0.3, dtype, np.random.default_rng(0))
    return laplex.Plan(k.targets, k.sources, **k.options())


# ------------------------------------------------------------------------------------- as an object


@pytest.mark.parametrize("form", FORMS)
def test_pickle_makes_the_same_plan(form: str) -> None:
    plan = plan_of(form)
    assert_same_plan(pickle.loads(pickle.dumps(plan)), plan)


class Named(laplex.Plan):
    """A plan with more to say."""


def test_pickle_keeps_the_class() -> None:
    assert type(pickle.loads(pickle.dumps(Named([0.0, 1.0])))) is Named


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("real", "real"),
        ("carrier", "carrier phases"),
        ("oscillating", "oscillating"),
        ("cosine", "cosine"),
    ],
)
def test_repr_and_attributes(form: str, name: str) -> None:
    plan = plan_of(form, dtype="float32")
    assert repr(plan) == (
        f"Plan(shape=(30, 20), dtype=float32, form={name!r}, targets x sources, lengthscale=0.3)"
    )
    assert (plan.shape, plan.dtype, plan.batch_shape) == ((30, 20), np.dtype("float32"), ())


def test_nbytes_counts_tables_and_the_memory_of_updates() -> None:
    plan = plan_of(n=1000, m=1000, dtype="float32")
    built = plan.nbytes
    # Per anchor an index, a position, two exponentials, a gap and two places: 24 bytes in float32.
    assert 2000 * 24 <= built <= 2000 * 24 * 1.2
    plan.apply(np.ones(1000, np.float32))
    assert plan.nbytes == built
    rng = np.random.default_rng(0)
    for _ in range(3):  # from the first update on, the memory of the next is kept
        plan.update(*rng.random((2, 1000)).astype(np.float32))
        assert 2 * built <= plan.nbytes <= 4 * built


def test_a_plan_keeps_nothing_of_the_caller() -> None:
    x, y, v = np.linspace(0, 1, 5), np.linspace(0, 1, 3), np.ones(3)
    plan = laplex.Plan(x, y)
    before = plan.apply(v)
    x += 1
    y -= 1
    assert_same_bits(plan.apply(v), before)
    assert_same_bits(pickle.loads(pickle.dumps(plan)).apply(v), before)


# ------------------------------------------------------------------------------ layouts and outputs


@pytest.mark.parametrize("form", FORMS)
def test_layouts_of_values(form: str) -> None:
    """Strided, transposed, broadcast, foreign byte order and read-only values: the same bits."""
    plan = plan_of(form)
    rng = np.random.default_rng(1)
    v = values(4 * 20, "float64", form != "cosine", rng).reshape(4, 20)
    expected = plan.apply(v)
    spaced = np.zeros((4, 40), v.dtype)
    spaced[:, ::2] = v
    read_only = v.copy()
    read_only.flags.writeable = False
    for same in (
        spaced[:, ::2],
        np.asfortranarray(v),
        v[:, ::-1][:, ::-1],
        v.astype(v.dtype.newbyteorder(">")),
        read_only,
    ):
        assert_same_bits(plan.apply(same), expected)
    repeated = np.broadcast_to(v[0], (3, 20))
    assert_same_bits(plan.apply(repeated), np.repeat(expected[:1], 3, axis=0))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["apply", "transpose", "adjoint"])
def test_out_receives_the_result(form: str, mode: str) -> None:
    plan = plan_of(form)
    method = getattr(plan, mode)
    v = np.random.default_rng(1).standard_normal((3, 20 if mode == "apply" else 30))
    expected = method(v)
    out = np.empty_like(expected)
    assert method(v, out=out) is out
    assert_same_bits(out, expected)


def test_half_precision_values() -> None:
    """Sums in float32 and above, the result rounded once; complex results stay complex64."""
    v = np.random.default_rng(1).standard_normal(20).astype(np.float16)
    for form in FORMS:
        plan = plan_of(form, dtype="float32")
        wide = plan.apply(v.astype(np.float32))
        if form in ("real", "cosine"):
            wide = wide.astype(np.float16)
        assert_same_bits(plan.apply(v), wide)
        out = np.empty_like(wide)
        assert plan.apply(v, out=out) is out
        assert_same_bits(out, wide)
        left, right = plan.half_sums(v)
        assert left.dtype == right.dtype == wide.dtype
        gradients = plan.vjp(v, plan.apply(v.astype(np.float32)))
        assert gradients.values.dtype == np.float16


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0)])
@pytest.mark.parametrize("form", FORMS)
def test_empty_sides(form: str, n: int, m: int) -> None:
    plan = plan_of(form, n, m)
    v = values(m, "float64", form == "carrier", np.random.default_rng(0))
    u = plan.apply(v)
    assert u.shape == (n,)
    assert (u == 0).all()
    gradients = plan.vjp(v, np.ones(n, u.dtype))
    assert gradients.values.shape == (m,)
    assert gradients.targets.shape == (n,)
    assert gradients.lengthscale == 0
    plan.update(np.zeros(n), np.zeros(m))
    if form != "cosine":
        assert plan.rank() == 0


# ----------------------------------------------------------------------------------------- refusals


def test_a_failed_update_changes_nothing() -> None:
    plan = plan_of()
    v = np.ones(20)
    before = plan.apply(v)
    for bad in (np.full(30, np.nan), np.zeros(29), np.zeros(30, "float32")):
        with pytest.raises((ValueError, TypeError)):
            plan.update(bad, np.zeros(20))
    assert_same_bits(plan.apply(v), before)
    assert_same_bits(pickle.loads(pickle.dumps(plan)).apply(v), before)


def test_out_that_does_not_fit_is_left_alone() -> None:
    plan = plan_of()
    read_only = np.full(30, 7.0)
    read_only.flags.writeable = False
    strided, short = np.full(60, 7.0)[::2], np.full(29, 7.0)
    for out in (read_only, strided, short, np.full(30, 7.0, "float32")):
        with pytest.raises(ValueError, match="out "):
            plan.apply(np.ones(20), out=out)
        assert (out == 7).all()
    square = laplex.Plan(np.linspace(0, 1, 5))
    v = np.ones(5)
    with pytest.raises(ValueError, match="out overlaps the input"):
        square.apply(v, out=v)
    assert (v == 1).all()
