"""Matérn kernels of `laplex.matvec` and `laplex.LaplaceOperator`: the dense formula, derivatives
to second order, transforms, and the other doors."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import laplex
from torch_cases import NAMES, case

pytestmark = pytest.mark.usefixtures("seeded")

KERNELS = ("matern32", "matern52")
FORMS = ("real", "carrier", "oscillating", "cosine")


def dense(values, *given, real_part=False, kernel="matern32"):
    """K v by the formula; ``abs`` has derivative 0 at 0, which is the convention for ties."""
    targets, sources, lengthscale, frequency, theta, phi = given
    sources = targets if sources is None else sources
    distance = (targets[..., :, None] - sources[..., None, :]).abs()
    root = {"matern32": 3.0, "matern52": 5.0}[kernel] ** 0.5
    s = root * distance / lengthscale[..., None, None]
    matrix = (1 + s + (s * s / 3 if kernel == "matern52" else 0)) * torch.exp(-s)
    angle = None if frequency is None else frequency[..., None, None] * distance
    if theta is not None:
        angle = theta[..., :, None] - phi[..., None, :] + (0 if angle is None else angle)
    if angle is not None:
        turned = matrix * torch.exp(1j * angle)
        matrix = turned.real if real_part else turned
    dtype = torch.promote_types(matrix.dtype, values.dtype)
    return (matrix.to(dtype) @ values.to(dtype)[..., None])[..., 0]


def function(which, inputs, real_part, kernel):
    """The operator or the formula as a function of the tensors that are there."""
    there = [k for k, each in enumerate(inputs) if each is not None]

    def call(*tensors):
        full = [None] * len(inputs)
        for k, tensor in zip(there, tensors, strict=True):
            full[k] = tensor
        if which is dense:
            return dense(*full, real_part=real_part, kernel=kernel)
        named = dict(zip(NAMES[3:], full[3:], strict=True))
        named = {name: each for name, each in named.items() if each is not None}
        return laplex.matvec(*full[:3], **named, real_part=real_part, kernel=kernel)

    return call, [inputs[k] for k in there]


@pytest.mark.parametrize("self_case", [False, True], ids=["two-sided", "self"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("form", FORMS)
def test_values_and_gradients_are_those_of_the_formula(form, kernel, self_case):
    for ties in (False, True):
        for complex_values in (False, True):
            options = {"complex_values": complex_values, "self_case": self_case, "ties": ties}
            inputs, real_part = case(form, n=7, m=6, **options)
            results = []
            for which in (laplex.matvec, dense):
                call, tensors = function(which, inputs, real_part, kernel)
                result = call(*tensors)
                weights = torch.linspace(0.5, 2, result.numel(), dtype=result.dtype)
                gradients = torch.autograd.grad((weights.conj() * result).sum().real, tensors)
                results.append((result, *gradients))
            for ours, formula in zip(*results, strict=True):
                torch.testing.assert_close(ours, formula, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("form", FORMS)
def test_derivatives(form, kernel):
    inputs, real_part = case(form, n=4, m=3, complex_values=form == "carrier")
    call, tensors = function(laplex.matvec, inputs, real_part, kernel)
    assert gradcheck(call, tensors, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(call, tensors)


@pytest.mark.parametrize("kernel", KERNELS)
def test_heads_and_rows(kernel):
    inputs, real_part = case("real", n=3, m=2, batch=(2,), values_batch=(4, 1))
    call, tensors = function(laplex.matvec, inputs, real_part, kernel)
    assert gradcheck(call, tensors)
    torch.testing.assert_close(call(*tensors), function(dense, inputs, False, kernel)[0](*tensors))


@pytest.mark.parametrize("kernel", KERNELS)
def test_transforms_and_compilation(kernel):
    x, y = torch.rand(6, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    v = torch.randn(3, 5, dtype=torch.float64)
    together = laplex.matvec(v, x, y, lengthscale=0.3, kernel=kernel)
    mapped = torch.vmap(lambda one: laplex.matvec(one, x, y, lengthscale=0.3, kernel=kernel))(v)
    torch.testing.assert_close(mapped, together, rtol=0, atol=0)

    def loss(ell):
        return laplex.matvec(v[0], x, y, lengthscale=ell, kernel=kernel).square().sum()

    ell = torch.tensor(0.3, dtype=torch.float64)
    step = 1e-5
    slope = (loss(ell + step) - loss(ell - step)) / (2 * step)
    torch.testing.assert_close(torch.func.grad(loss)(ell), slope, rtol=1e-6, atol=1e-8)
    curve = torch.func.grad(torch.func.grad(loss))(ell)
    turn = (torch.func.grad(loss)(ell + step) - torch.func.grad(loss)(ell - step)) / (2 * step)
    torch.testing.assert_close(curve, turn, rtol=1e-6, atol=1e-8)
    compiled = torch.compile(
        lambda v: laplex.matvec(v, x, y, lengthscale=0.3, kernel=kernel), fullgraph=True
    )
    torch.testing.assert_close(compiled(v), together, rtol=0, atol=0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_operator_its_relatives_and_plans(kernel):
    x, y = torch.rand(6, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    operator = laplex.LaplaceOperator(x, y, lengthscale=0.3, kernel=kernel)
    assert f"kernel='{kernel}'" in repr(operator)
    matrix = operator.to_dense()
    eye = torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(operator @ eye, matrix, rtol=0, atol=1e-14)
    torch.testing.assert_close(operator.T.to_dense(), matrix.mT)
    torch.testing.assert_close(operator.H @ torch.eye(6, dtype=torch.float64), matrix.mT)
    assert operator.to(torch.float32).kernel == kernel
    torch.testing.assert_close(torch.as_tensor(operator.to_scipy() @ np.eye(5)), matrix)
    plan = operator.to_plan()
    np.testing.assert_allclose(plan.to_dense(), matrix, atol=1e-15)
    again = pickle.loads(pickle.dumps(plan))
    assert repr(again) == repr(plan)
    assert kernel in repr(plan)
    np.testing.assert_array_equal(again.apply(np.arange(5.0)), plan.apply(np.arange(5.0)))
    with pytest.raises(ValueError, match="matern12"):
        plan.rank()
    with pytest.raises(ValueError, match="rank of a matrix with kernel"):
        operator.rank()
    pytest.importorskip("linear_operator")
    wrapped = operator.to_linear_operator()
    torch.testing.assert_close(wrapped.to_dense(), matrix)


@pytest.mark.parametrize("kernel", KERNELS)
def test_half_precision_values(kernel):
    x, v = torch.rand(9), torch.randn(9)
    result = laplex.matvec(v.bfloat16(), x, kernel=kernel)
    assert result.dtype is torch.bfloat16
    torch.testing.assert_close(
        result.float(), laplex.matvec(v, x, kernel=kernel), rtol=0.05, atol=0.05
    )


@pytest.mark.parametrize("kernel", ["matern", "Matern32", None, 1.5])
def test_refuses_other_names(kernel):
    x = torch.rand(3)
    for call in (
        lambda: laplex.matvec(x, x, kernel=kernel),
        lambda: laplex.LaplaceOperator(x, kernel=kernel),
        lambda: laplex.Plan(x.numpy(), kernel=kernel),
    ):
        with pytest.raises(ValueError, match="kernel must be 'matern12', 'matern32' or 'matern52'"):
            call()


def test_limits_of_differentiation_count_the_kernel_s_powers():
    x = torch.rand(4, dtype=torch.float64)
    ell = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    value = laplex.matvec(x, x, lengthscale=ell, kernel="matern52").sum()
    for _ in range(2):
        (value,) = torch.autograd.grad(value, ell, create_graph=True)
    with pytest.raises(NotImplementedError, match="twice with matern52"):
        torch.autograd.grad(value, ell)


@pytest.mark.parametrize("fused", [False, True], ids=["recorded", "core"])
@pytest.mark.parametrize(("kernel", "curvature"), [("matern32", -3.0), ("matern52", -5.0 / 3.0)])
def test_second_derivatives_at_a_tie_are_those_of_a_smooth_kernel(kernel, curvature, fused):
    """k''(0) is -3/ell^2 and -5/(3 ell^2): there is no kink for a convention to settle."""
    ell = 0.7
    x = torch.tensor([0.25, 2.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0.25], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    u = laplex.matvec(one, x, y, lengthscale=ell, kernel=kernel)
    (slope,) = torch.autograd.grad(u[0], x, create_graph=True)
    assert slope[0] == 0
    by_x, by_y = torch.autograd.grad(slope[0], (x, y), create_graph=not fused)
    torch.testing.assert_close(by_x[0].item(), curvature / ell**2, rtol=1e-12, atol=0)
    torch.testing.assert_close(by_y[0].item(), -curvature / ell**2, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_smallest_lengthscales_are_those_of_the_laplace_kernel(kernel):
    x = torch.tensor([0.0, 2e-308, 1.0], dtype=torch.float64)
    v = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    for number in (2.23e-308, 4e-308):
        for ell in (number, torch.tensor(number, dtype=torch.float64)):
            found = laplex.matvec(v, x, lengthscale=ell, kernel=kernel)
            plan = laplex.Plan(x.numpy(), lengthscale=number, kernel=kernel)
            np.testing.assert_allclose(found, plan.apply(v.numpy()), rtol=1e-14)
            assert found[0] > 1.5
            assert found[2] == 4
    with pytest.raises(ValueError, match=r"must be at least 2\.23e-308"):
        laplex.matvec(v, x, lengthscale=2e-308, kernel=kernel)


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_are_those_of_the_lengthscale_at_the_time_of_the_product(kernel):
    """As of any quotient in PyTorch: what is written into it later does not reach the product."""
    x, v = torch.rand(9, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    ell = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(laplex.matvec(v, x, lengthscale=ell, kernel=kernel).sum(), ell)
    value = laplex.matvec(v, x, lengthscale=ell, kernel=kernel).sum()
    with torch.no_grad():
        ell.mul_(3)
    assert torch.equal(*torch.autograd.grad(value, ell), *expected)
    fresh = laplex.matvec(v, x, lengthscale=1.5, kernel=kernel)
    assert torch.equal(laplex.matvec(v, x, lengthscale=ell, kernel=kernel), fresh)


def test_errors_name_the_lengthscale_that_was_given():
    x = torch.arange(3.0)
    for call in (
        lambda: laplex.matvec(x, x, lengthscale=-3.0, kernel="matern52"),
        lambda: laplex.LaplaceOperator(x, lengthscale=-3.0, kernel="matern52") @ x,
        lambda: laplex.Plan(x.numpy(), lengthscale=-3.0, kernel="matern52"),
    ):
        with pytest.raises(ValueError, match="lengthscale must be positive and finite, got -3"):
            call()
