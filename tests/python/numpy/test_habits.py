"""What users of NumPy and SciPy expect of a matrix: integers, ``@``, asarray, linear operators."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

import laplex
from exactness_cases import FORMS, PROMISE, kernel
from laplex.adapters import to_scipy
from laplex.numpy.checks import MAX_ARRAY_ENTRIES
from strategies import quick

EPSILON = np.finfo(np.float64).eps


def plan_of(form: str = "real", n: int = 9, m: int = 7, dtype: str = "float64") -> laplex.Plan:
    k = kernel(form, "uniform", n, m, 0.3, dtype, np.random.default_rng(0))
    return laplex.Plan(k.targets, k.sources, **k.options())


def assert_product(
    found: np.ndarray, plan: laplex.Plan, left: np.ndarray, right: np.ndarray
) -> None:
    """The product of two dense matrices, one of them the plan's.

    Both are off by what the library promises of a product, and NumPy's by as many epsilon as there
    are entries in a sum, times the sums of moduli.
    """
    expected = left @ right
    assert found.shape == expected.shape
    bound = np.abs(left) @ np.abs(right)
    allowed = 2 * PROMISE[plan.dtype.name] + max(plan.shape[-2:]) * np.finfo(plan.dtype).eps
    assert np.all(np.abs(found - expected) <= allowed * bound)


# ---------------------------------------------------------------------------------------- integers


@pytest.mark.parametrize("integer", [np.int8, np.uint16, np.int32, np.int64, np.uint64, bool])
def test_integers_are_floats(integer: Any) -> None:
    x, y = np.array([1, 0, 1, 1]).astype(integer), np.array([0, 1]).astype(integer)
    plan = laplex.Plan(x, y, target_phase=x, source_phase=y)
    same = laplex.Plan(
        *(a.astype(float) for a in (x, y)), target_phase=x * 1.0, source_phase=y * 1.0
    )
    assert plan.dtype == np.float64
    assert np.array_equal(plan.to_dense(), same.to_dense())
    assert np.array_equal(plan.apply(y), same.apply(y.astype(float)))
    moved = np.array([0, 0, 1, 0]).astype(integer)
    plan.update(moved, y)
    same.update(moved.astype(float), y.astype(float))
    assert np.array_equal(plan.adjoint(x), same.adjoint(x.astype(float)))
    gradients = plan.vjp(y, np.array([1, 2, 3, 4]) + 0j)
    assert gradients.values.dtype == np.float64
    assert np.array_equal(
        laplex.Plan(np.arange(10)).to_dense(), laplex.Plan(np.arange(10.0)).to_dense()
    )


def test_integers_take_the_precision_of_the_floats() -> None:
    whole, single = np.arange(4), np.linspace(0, 1, 3, dtype=np.float32)
    assert laplex.Plan(whole, single).dtype == np.float32
    assert laplex.Plan(single, whole).dtype == np.float32
    assert laplex.Plan(whole, whole, source_phase=np.zeros(4, np.float32)).dtype == np.float32
    assert laplex.Plan(whole, whole).dtype == np.float64
    assert laplex.Plan(whole, single).apply([1, 2, 3]).dtype == np.float32
    with pytest.raises(TypeError, match="sources is float32 but targets are float64"):
        laplex.Plan(np.linspace(0, 1, 3), single, target_phase=[1, 2, 3])


@pytest.mark.parametrize(("dtype", "most"), [(np.float64, 2**53), (np.float32, 2**24)])
def test_integers_that_a_float_would_round_are_refused(dtype: Any, most: int) -> None:
    for sign in (1, -1):
        x = sign * np.array([most, most - 1])
        dense = laplex.Plan(x, np.zeros(1, dtype) + most).to_dense()
        assert dense.shape == (2, 1)
        message = f"targets has the integer {sign * (most + 1)}, but {np.dtype(dtype)} is exact"
        with pytest.raises(ValueError, match=message):
            laplex.Plan(x + sign, np.zeros(1, dtype))
    least = np.iinfo(np.int64).min
    with pytest.raises(ValueError, match=r"subtract an origin, such as sources - sources\.min\(\)"):
        laplex.Plan([0], [least])
    # As values they are rounded, as everything that is multiplied is.
    assert laplex.Plan([0]).apply([least]) == float(least)


@pytest.mark.parametrize(
    "anchors", [np.zeros(2, np.float16), np.zeros(2, complex), np.array(["a"]), [2**70]]
)
def test_other_types_stay_refused(anchors: Any) -> None:
    with pytest.raises(TypeError, match="targets"):
        laplex.Plan(anchors)
    with pytest.raises(TypeError, match="sources"):
        laplex.Plan(np.arange(3), anchors)


# ----------------------------------------------------------------------------------------- products

shapes = st.lists(st.sampled_from([1, 2, 3]), max_size=3).map(tuple)


@pytest.mark.parametrize("form", FORMS)
def test_products_are_those_of_the_dense_matrix(form: str) -> None:
    plan, rng = plan_of(form), np.random.default_rng(1)
    dense = plan.to_dense()
    for cast in (np.float64, np.complex128):
        for shape in ((7,), (7, 1), (7, 4), (2, 7, 4), (7, 0)):
            v = rng.normal(size=shape).astype(cast)
            assert_product(plan @ v, plan, dense, v)
        for shape in ((9,), (1, 9), (4, 9), (2, 4, 9), (0, 9)):
            u = rng.normal(size=shape).astype(cast)
            assert_product(u @ plan, plan, u, dense)
    assert_product(plan @ list(range(7)), plan, dense, np.arange(7.0))
    assert_product(list(range(9)) @ plan, plan, np.arange(9.0), dense)


@quick
@given(batch=shapes, lead=shapes, columns=st.integers(0, 3))
def test_products_broadcast_as_in_numpy(
    batch: tuple[int, ...], lead: tuple[int, ...], columns: int
):
    rng = np.random.default_rng(0)
    plan = laplex.Plan(rng.normal(size=(*batch, 5)), rng.normal(size=(*batch, 4)))
    dense = plan.to_dense()
    v, u = rng.normal(size=(*lead, 4, columns)), rng.normal(size=(*lead, columns, 5))
    try:
        np.broadcast_shapes(batch, lead)
    except ValueError:
        for product in (lambda: plan @ v, lambda: u @ plan):
            with pytest.raises(ValueError, match="leading dimensions do not broadcast"):
                product()
        return
    assert_product(plan @ v, plan, dense, v)
    assert_product(u @ plan, plan, u, dense)
    assert_product(plan @ np.ones(4), plan, dense, np.ones(4))
    assert_product(np.ones(5) @ plan, plan, np.ones(5), dense)


def test_products_that_do_not_fit() -> None:
    plan = plan_of()
    with pytest.raises(ValueError, match=r"v has shape \[6\] but the last dimension must be 7"):
        plan @ np.ones(6)
    with pytest.raises(
        ValueError, match=r"before the last must be 7, the number of sources: apply"
    ):
        plan @ np.ones((3, 6))
    with pytest.raises(ValueError, match=r"u has shape \[7\] but the last dimension must be 9"):
        np.ones(7) @ plan
    with pytest.raises(ValueError, match="got a scalar"):
        plan @ 3
    with pytest.raises(TypeError, match="v has dtype float32 but the plan is float64"):
        plan @ np.ones(7, np.float32)
    for refused in (lambda: plan @ plan, lambda: plan * 2, lambda: np.ones(7) * plan):
        with pytest.raises(TypeError, match="unsupported operand"):
            refused()
    with pytest.raises(TypeError, match="does not support ufuncs"):
        np.exp(plan)


# ------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("form", FORMS)
def test_as_an_array_it_is_the_dense_matrix(form: str) -> None:
    plan = plan_of(form)
    array = np.asarray(plan)
    assert array.dtype == plan.to_dense().dtype
    assert np.array_equal(array, plan.to_dense())
    assert (plan.ndim, plan.size, np.shape(plan)) == (2, 63, (9, 7))
    assert np.array(plan, dtype=np.complex64).dtype == np.complex64
    heads = laplex.Plan(np.arange(6).reshape(2, 3))
    assert np.array_equal(np.asarray(heads), heads.to_dense())
    assert np.linalg.norm(plan) == np.linalg.norm(plan.to_dense())


def test_a_large_matrix_does_not_become_an_array_unasked() -> None:
    side = int(MAX_ARRAY_ENTRIES**0.5)
    plan = laplex.Plan(np.arange(side), np.arange(side + 1))
    for call in (np.asarray, np.array, lambda each: np.dot(each, np.ones(side + 1))):
        with pytest.raises(
            MemoryError, match=r"implicit conversion.* multiply with plan @ v or plan.apply"
        ):
            call(plan)
    with pytest.raises(ValueError, match="leave out copy=False"):
        laplex.Plan([1, 2]).__array__(copy=False)  # as NumPy 2 calls it


def test_operators_of_torch_are_arrays_too() -> None:
    x = torch.linspace(0, 1, 4, dtype=torch.float64)
    operator = laplex.LaplaceOperator(x, x[:3], frequency=2.0)
    assert np.array_equal(np.asarray(operator), operator.to_dense().numpy())
    assert np.asarray(operator, dtype=np.complex64).dtype == np.complex64
    u, us = torch.ones(4, dtype=torch.float64), torch.ones(2, 4, dtype=torch.float64)
    for each in (u, us):
        torch.testing.assert_close(
            each @ operator, each.to(operator.dtype) @ operator.to_dense(), rtol=0, atol=8 * EPSILON
        )
    for product in (lambda: operator @ np.ones(3), lambda: np.ones(4) @ operator):
        with pytest.raises(TypeError, match="multiplies torch tensors, got a NumPy array"):
            product()
    with pytest.raises(ValueError, match="leave out copy=False"):
        operator.__array__(copy=False)
    with pytest.raises(
        RuntimeError, match="requires gradients cannot be converted to a NumPy array"
    ):
        np.asarray(laplex.LaplaceOperator(x.clone().requires_grad_()))
    many = torch.arange(MAX_ARRAY_ENTRIES // 1000 + 1)
    with pytest.raises(MemoryError, match="multiply with operator @ v"):
        np.asarray(laplex.LaplaceOperator(many.double(), many[:1000].double()))


# -------------------------------------------------------------------------------------------- SciPy


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", ["real", "cosine"])
def test_a_plan_is_what_scipy_asks_for(form: str, dtype: str) -> None:
    plan, rng = plan_of(form, dtype=dtype), np.random.default_rng(0)
    linear, dense = scipy.sparse.linalg.aslinearoperator(plan), plan.to_dense()
    assert (linear.shape, linear.dtype) == (plan.shape, plan.dtype)
    for shape in ((7,), (7, 1), (7, 3)):
        v = rng.normal(size=shape).astype(dtype)
        assert_product(linear @ v, plan, dense, v)
    for shape in ((9,), (9, 1), (9, 3)):
        u = rng.normal(size=shape).astype(dtype)
        assert_product(linear.T @ u, plan, dense.T, u)
        assert_product(linear.H @ u, plan, dense.T, u)
    assert (linear @ np.arange(7)).dtype == plan.dtype  # what it multiplies takes its precision


@pytest.mark.parametrize("form", ["carrier", "oscillating"])
def test_scipy_does_not_take_a_complex_plan_for_a_real_one(form: str) -> None:
    with pytest.raises(TypeError, match=r"use laplex.adapters.to_scipy\(plan\)"):
        scipy.sparse.linalg.aslinearoperator(plan_of(form))


@pytest.mark.parametrize("form", FORMS)
def test_adapters_can_be_pickled_and_copied(form: str) -> None:
    plan, v = plan_of(form), np.arange(7.0)
    linear = to_scipy(plan)
    for again in (pickle.loads(pickle.dumps(linear)), copy.deepcopy(linear), copy.copy(linear)):
        assert isinstance(again, scipy.sparse.linalg.LinearOperator)
        assert (again.shape, again.dtype) == (linear.shape, linear.dtype)
        assert np.array_equal(again @ v, plan.apply(v))
        assert np.array_equal(again.H @ np.ones(9), plan.adjoint(np.ones(9)))
    assert np.array_equal(pickle.loads(pickle.dumps(2 * linear)) @ v, 2 * plan.apply(v))


@pytest.mark.parametrize("wrap", [scipy.sparse.linalg.aslinearoperator, to_scipy])
def test_solvers_of_scipy(wrap: Any) -> None:
    """A covariance of 60 points, a fifth of a lengthscale apart: its condition number is about 100.

    Solvers are asked for 1e-10; what they find is off by that times the condition number.
    """
    plan = laplex.Plan(np.arange(60), lengthscale=5)
    dense, linear, b = plan.to_dense(), wrap(plan), np.cos(np.arange(60))
    assert np.linalg.cond(dense) < 200
    exact = np.linalg.solve(dense, b)
    for solver in (scipy.sparse.linalg.cg, scipy.sparse.linalg.gmres):
        found, status = solver(linear, b, rtol=1e-10, maxiter=1000)
        assert status == 0
        assert np.linalg.norm(found - exact) < 200 * 1e-10 * np.linalg.norm(exact)
    start = np.ones(60)
    largest = scipy.sparse.linalg.eigsh(linear, k=3, v0=start, return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(largest), np.linalg.eigvalsh(dense)[-3:], rtol=1e-10)
    values = scipy.sparse.linalg.svds(linear, k=3, v0=start, return_singular_vectors=False)
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(dense)[-3:], rtol=1e-10)


def test_a_complex_plan_in_solvers_of_scipy() -> None:
    phase = np.linspace(0, 3, 20)
    plan = laplex.Plan(np.arange(20), target_phase=phase, source_phase=phase)
    largest = scipy.sparse.linalg.eigsh(
        to_scipy(plan), k=2, v0=np.ones(20, complex), return_eigenvectors=False
    )
    np.testing.assert_allclose(
        np.sort(largest), np.linalg.eigvalsh(plan.to_dense())[-2:], rtol=1e-10
    )
