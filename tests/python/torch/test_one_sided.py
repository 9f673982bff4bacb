"""One-sided sums of `laplex.matvec`, `laplex.LaplaceOperator` and `laplex.Plan`: the masked dense
formula, derivatives to second order, transforms, and the other doors."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

import laplex
from laplex._support.profiles import PROFILES
from strategies import quick
from torch_cases import NAMES, case

pytestmark = pytest.mark.usefixtures("seeded")

KERNELS = tuple(PROFILES)
SIDES = ("left", "right")
FORMS = ("real", "carrier", "oscillating", "cosine")
OTHER = {"left": "right", "right": "left", "both": "both"}


def dense(values, *given, real_part=False, kernel="matern12", side="left"):
    """K v by the formula, with a mask that is not differentiated; ``abs`` has derivative 0 at 0."""
    targets, sources, lengthscale, frequency, theta, phi = given
    sources = targets if sources is None else sources
    difference = targets[..., :, None] - sources[..., None, :]
    distance = difference.abs()
    profile = PROFILES[kernel]
    s = profile.root * distance / lengthscale[..., None, None]
    matrix = sum(c * s**power for power, c in enumerate(profile.polynomial)) * torch.exp(-s)
    counts = difference >= 0 if side == "left" else difference <= 0
    matrix = matrix * (counts if side != "both" else 1.0)
    angle = None if frequency is None else frequency[..., None, None] * distance
    if theta is not None:
        angle = theta[..., :, None] - phi[..., None, :] + (0 if angle is None else angle)
    if angle is not None:
        turned = matrix * torch.exp(1j * angle)
        matrix = turned.real if real_part else turned
    dtype = torch.promote_types(matrix.dtype, values.dtype)
    return (matrix.to(dtype) @ values.to(dtype)[..., None])[..., 0]


def function(which, inputs, real_part, **options):
    """The operator or the formula as a function of the tensors that are there."""
    there = [k for k, each in enumerate(inputs) if each is not None]

    def call(*tensors):
        full = [None] * len(inputs)
        for k, tensor in zip(there, tensors, strict=True):
            full[k] = tensor
        if which is dense:
            return dense(*full, real_part=real_part, **options)
        named = dict(zip(NAMES[3:], full[3:], strict=True))
        named = {name: each for name, each in named.items() if each is not None}
        return laplex.matvec(*full[:3], **named, real_part=real_part, **options)

    return call, [inputs[k] for k in there]


def with_gradients(which, inputs, real_part, needs=None, **options):
    """The product and the gradients of a weighted sum of its entries."""
    call, tensors = function(which, inputs, real_part, **options)
    result = call(*tensors)
    weights = torch.linspace(0.5, 2, result.numel(), dtype=result.dtype).reshape(result.shape)
    wanted = tensors if needs is None else [tensors[k] for k in needs]
    return result, *torch.autograd.grad((weights.conj() * result).sum().real, wanted)


@quick
@given(
    side=st.sampled_from(SIDES),
    kernel=st.sampled_from(KERNELS),
    form=st.sampled_from(FORMS),
    n=st.integers(1, 40),
    m=st.integers(1, 40),
    options=st.fixed_dictionaries(
        {
            "ties": st.booleans(),
            "complex_values": st.booleans(),
            "self_case": st.booleans(),
            "values_batch": st.sampled_from([(), (1,), (9,)]),
            "seed": st.integers(0, 2**20),
        }
    ),
)
def test_values_and_gradients_are_those_of_the_formula(side, kernel, form, n, m, options):
    inputs, real_part = case(form, n=n, m=m, **options)
    pairs = zip(
        *(
            with_gradients(which, inputs, real_part, kernel=kernel, side=side)
            for which in (laplex.matvec, dense)
        ),
        strict=True,
    )
    for ours, formula in pairs:
        # Some 10 sums of at most 360 products of numbers of the size of 10.
        torch.testing.assert_close(ours, formula, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("needs", [[0], [1], [2], [3], [0, 3], [1, 2]])
def test_any_gradients_may_be_asked_for(side, needs):
    for ties in (False, True):
        inputs, _ = case("real", n=30, m=20, ties=ties)
        ours = with_gradients(laplex.matvec, inputs, False, needs, side=side)
        formula = with_gradients(dense, inputs, False, needs, side=side)
        for one, other in zip(ours, formula, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("form", FORMS)
def test_derivatives(form, kernel, side):
    inputs, real_part = case(form, n=4, m=3, complex_values=form == "carrier")
    call, tensors = function(laplex.matvec, inputs, real_part, kernel=kernel, side=side)
    assert gradcheck(call, tensors, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(call, tensors)


@pytest.mark.parametrize("self_case", [False, True], ids=["two sets", "self"])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_second_derivatives_at_ties(kernel, side, self_case):
    """In the core's own pass (real, Laplace) and in the composite formula; 0 by the Laplace
    kernel's anchors, and those of a smooth kernel otherwise."""
    inputs, _ = case("real", n=6, m=5, ties=True, self_case=self_case)
    found = []
    for which in (laplex.matvec, dense):
        call, tensors = function(which, inputs, False, kernel=kernel, side=side)
        loss = call(*tensors).square().sum()
        gradients = torch.autograd.grad(loss, tensors, create_graph=True)
        mixed = sum((gradient.square()).sum() for gradient in gradients)
        found.append(torch.autograd.grad(mixed, tensors))
    for name, ours, formula in zip(NAMES, *found, strict=False):
        if kernel != "matern12" and name in ("targets", "sources"):
            continue  # abs() has no curvature at 0, where these kernels have
        torch.testing.assert_close(ours, formula, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kernel", "curvature"), [("matern32", -3.0), ("matern52", -5.0 / 3.0)])
@pytest.mark.parametrize("fused", [False, True], ids=["recorded", "core"])
@pytest.mark.parametrize("side", SIDES)
def test_second_derivatives_at_a_tie_are_those_of_a_smooth_kernel(kernel, curvature, fused, side):
    ell = 0.7
    x = torch.tensor([0.25, 2.0], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0.25], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    u = laplex.matvec(one, x, y, lengthscale=ell, kernel=kernel, side=side)
    (slope,) = torch.autograd.grad(u[0], x, create_graph=True)
    assert slope[0] == 0
    by_x, by_y = torch.autograd.grad(slope[0], (x, y), create_graph=not fused)
    torch.testing.assert_close(by_x[0].item(), curvature / ell**2, rtol=1e-12, atol=0)
    torch.testing.assert_close(by_y[0].item(), -curvature / ell**2, rtol=1e-12, atol=0)


@pytest.mark.parametrize("side", SIDES)
def test_heads_rows_and_shared_anchors(side):
    inputs, _ = case("real", n=3, m=2, batch=(2,), values_batch=(4, 1))
    call, tensors = function(laplex.matvec, inputs, False, side=side)
    assert gradcheck(call, tensors)
    expected = function(dense, inputs, False, side=side)[0](*tensors)
    torch.testing.assert_close(call(*tensors), expected)
    x = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    ell = torch.tensor([0.5, 2.0], dtype=torch.float64)
    together = laplex.matvec(x, x, lengthscale=ell, side=side)
    for head in range(2):
        alone = laplex.matvec(x, x, lengthscale=ell[head], side=side)
        torch.testing.assert_close(together[head], alone, rtol=0, atol=0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("side", SIDES)
def test_transforms_and_compilation(kernel, side):
    options = {"lengthscale": 0.3, "kernel": kernel, "side": side}
    x, y = torch.rand(6, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    v = torch.randn(3, 5, dtype=torch.float64)
    together = laplex.matvec(v, x, y, **options)
    mapped = torch.vmap(lambda one: laplex.matvec(one, x, y, **options))(v)
    torch.testing.assert_close(mapped, together, rtol=0, atol=0)

    def loss(x):
        return laplex.matvec(v[0], x, y, **options).square().sum()

    def formula(x):
        ell = torch.tensor(0.3, dtype=torch.float64)
        return dense(v[0], x, y, ell, None, None, None, kernel=kernel, side=side).square().sum()

    torch.testing.assert_close(torch.func.grad(loss)(x), torch.func.grad(formula)(x))
    torch.testing.assert_close(torch.func.hessian(loss)(x), torch.func.hessian(formula)(x))
    compiled = torch.compile(lambda x, v: laplex.matvec(v, x, y, **options), fullgraph=True)
    torch.testing.assert_close(compiled(x, v), together, rtol=0, atol=0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("side", SIDES)
def test_the_operator_its_relatives_and_plans(kernel, side):
    x = torch.tensor([0.0, 0.5, 0.5, 2.0], dtype=torch.float64)
    y = torch.tensor([0.5, -1.0, 3.0], dtype=torch.float64)
    operator = laplex.LaplaceOperator(x, y, lengthscale=0.3, kernel=kernel, side=side)
    assert f"side='{side}'" in repr(operator)
    matrix = operator.to_dense()
    below = y <= x[:, None] if side == "left" else y >= x[:, None]
    assert bool(((matrix != 0) == below).all())
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(operator @ eye, matrix, rtol=0, atol=1e-14)
    assert operator.T.side == operator.H.side == OTHER[side]
    torch.testing.assert_close(operator.T.to_dense(), matrix.mT)
    torch.testing.assert_close(operator.H @ torch.eye(4, dtype=torch.float64), matrix.mT)
    assert operator.to(torch.float32).side == side
    torch.testing.assert_close(torch.as_tensor(operator.to_scipy() @ np.eye(3)), matrix)
    adjoint = operator.to_scipy().H @ np.eye(4)
    torch.testing.assert_close(torch.as_tensor(adjoint), matrix.mT)
    plan = operator.to_plan()
    np.testing.assert_allclose(plan.to_dense(), matrix, atol=1e-15)
    again = pickle.loads(pickle.dumps(plan))
    assert repr(again) == repr(plan)
    assert side in repr(plan)
    np.testing.assert_array_equal(again.apply(np.arange(3.0)), plan.apply(np.arange(3.0)))
    for rank in (plan.rank, operator.rank):
        with pytest.raises(ValueError, match="rank"):
            rank()
    with pytest.raises(ValueError, match="half_sums needs a plan with side both"):
        plan.half_sums(np.arange(3.0))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("side", SIDES)
def test_linear_operator(kernel, side):
    pytest.importorskip("linear_operator")
    x = torch.tensor([0.0, 0.5, 0.5, 2.0], dtype=torch.float64)
    y = torch.tensor([0.5, -1.0, 3.0], dtype=torch.float64)
    operator = laplex.LaplaceOperator(x, y, kernel=kernel, side=side)
    wrapped, matrix = operator.to_linear_operator(), operator.to_dense()
    torch.testing.assert_close(wrapped.to_dense(), matrix)
    torch.testing.assert_close(wrapped.mT @ torch.eye(4, dtype=torch.float64), matrix.mT)
    torch.testing.assert_close(wrapped[1:, :2].to_dense(), matrix[1:, :2])
    rows, columns = torch.tensor([0, 3]), torch.tensor([1, 2])
    torch.testing.assert_close(wrapped[rows, columns], matrix[rows, columns])


def test_half_precision_values():
    x, v = torch.rand(9), torch.randn(9)
    result = laplex.matvec(v.bfloat16(), x, side="left")
    assert result.dtype is torch.bfloat16
    expected = laplex.matvec(v, x, side="left")
    torch.testing.assert_close(result.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("side", ["Left", "causal", None, 1, True])
def test_refuses_other_names(side):
    x = torch.rand(3)
    for call in (
        lambda: laplex.matvec(x, x, side=side),
        lambda: laplex.LaplaceOperator(x, side=side),
        lambda: laplex.Plan(x.numpy(), side=side),
    ):
        with pytest.raises(
            ValueError, match=f"side must be 'both', 'left' or 'right', got {side!r}"
        ):
            call()


def test_the_registered_operator_refuses_other_numbers():
    x = torch.rand(3)
    ell = torch.ones(())
    with pytest.raises(ValueError, match="side must be 0"):
        torch.ops.laplex.matvec(x, x, None, ell, None, None, None, False, 0, [1.0], 3)


@pytest.mark.parametrize("side", SIDES)
def test_what_lies_on_the_other_side_leaves_the_bits_alone(side):
    """Also infinities there, as a filter of a stream must not see the future."""
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        y = np.sort(rng.uniform(0, 100, 700)).astype(dtype)
        x, v = y[200:500:7], rng.standard_normal(700).astype(dtype)
        plan = laplex.Plan(x, y, side=side)
        before = plan.apply(v)
        beyond = y > x[-1] if side == "left" else y < x[0]
        for other in (1e30, np.inf, np.nan):
            np.testing.assert_array_equal(plan.apply(np.where(beyond, dtype(other), v)), before)


def test_exponentially_weighted_means_are_those_of_pandas():
    """``ewm(halflife=, times=).mean()``: products with values and with ones."""
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(1)
    seconds = np.sort(rng.integers(0, 10**5, 500))
    values = rng.standard_normal(500)
    frame = pandas.Series(values)
    halflife = 3600
    times = pandas.to_datetime(seconds, unit="s")
    expected = frame.ewm(halflife=pandas.Timedelta(seconds=halflife), times=times).mean()
    apart = np.unique(seconds, return_index=True)[1]
    last = np.append(apart[1:], len(seconds)) - 1  # at a tie pandas takes one row after another
    t = torch.tensor(seconds, dtype=torch.float64)
    rows = torch.stack((torch.tensor(values), torch.ones(500, dtype=torch.float64)))
    sums, weights = laplex.matvec(rows, t, lengthscale=halflife / np.log(2), side="left")
    np.testing.assert_allclose((sums / weights)[last], expected.to_numpy()[last], rtol=1e-10)
