"""`laplex.logmatvec`: the ``logsumexp`` of all pairs, with its derivatives, wherever they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

import laplex
from strategies import quick

pytestmark = pytest.mark.usefixtures("seeded")

SIDES = ("both", "left", "right")
INF = math.inf


def dense(log_values, targets, sources=None, *, lengthscale=1.0, side="both"):
    """By the formula, in double precision; ``abs`` has derivative 0 at 0."""
    sources = targets if sources is None else sources
    difference = targets[..., :, None].double() - sources[..., None, :].double()
    ell = torch.as_tensor(lengthscale, dtype=torch.float64)[..., None, None]
    exponents = log_values[..., None, :].double() - difference.abs() / ell
    if side != "both":
        counts = difference >= 0 if side == "left" else difference <= 0
        exponents = exponents.masked_fill(~counts, -INF)
    return exponents.logsumexp(-1)


def scale(log_values, targets, sources, lengthscale):
    """The largest number among exponents that are not -inf."""
    distance = (targets[..., :, None] - sources[..., None, :]).abs().amax() / lengthscale
    finite = log_values[log_values > -INF]
    return float(distance + (finite.abs().amax() if finite.numel() else 0.0)) + 1.0


@quick
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(0, 40),
    m=st.integers(1, 40),
    spread=st.sampled_from([1e-300, 1e-8, 1.0, 1e4, 1e12, 1e290]),
    size=st.sampled_from([0.0, 1.0, 1e3, 1e200]),
    offset=st.sampled_from([0.0, 1e10]),
    tied=st.booleans(),
    absent=st.booleans(),
    self_case=st.booleans(),
    differentiated=st.booleans(),
    side=st.sampled_from(SIDES),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_values_are_those_of_the_formula(
    seed, n, m, spread, size, offset, tied, absent, self_case, differentiated, side, dtype
):
    if dtype is torch.float32:
        spread, size = min(spread, 1e30), min(size, 1e30)
    rng = np.random.default_rng(seed)
    x, y = (rng.standard_normal(count) * spread + offset for count in (n, m))
    if tied:
        x, y = x.round(), y.round()
    w = rng.standard_normal(n if self_case else m) * size
    if absent:
        w[rng.random(len(w)) < 0.7] = -INF
    x, y, w = (torch.tensor(each).to(dtype) for each in (x, y, w))
    if self_case:
        if not n:
            return
        y = x
    w.requires_grad_(differentiated)
    found = laplex.logmatvec(w, x, None if self_case else y, lengthscale=0.7, side=side).detach()
    w = w.detach()
    exact = dense(w, x, y, lengthscale=0.7, side=side)
    assert found.dtype is dtype
    assert bool((found.isneginf() == exact.isneginf()).all())
    there = exact > -INF
    # A result adds 12 logarithms on its way through the scan, which round to the largest exponent.
    bound = 20 * 2**-53 * scale(w.double(), x.double(), y.double(), 0.7) if n else 0.0
    bound = bound + float(torch.finfo(dtype).eps) * exact[there].abs()
    assert bool(((found.double() - exact)[there].abs() <= bound).all())


def test_a_density_far_from_all_points_is_that_of_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(0)
    points, ell = rng.standard_normal(300), 0.3
    places = np.array([-400 * 0.3, -1.0, 0.0, 2.0, 400 * 0.3, 1e5])
    kde = neighbors.KernelDensity(kernel="exponential", bandwidth=ell, rtol=1e-12)
    expected = kde.fit(points[:, None]).score_samples(places[:, None])
    values = torch.full((300,), -math.log(2 * 300 * ell), dtype=torch.float64)
    found = laplex.logmatvec(values, torch.tensor(places), torch.tensor(points), lengthscale=ell)
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def draw(n=5, m=4, *, ties=False, batch=()):
    """Anchors and values of moderate size, and a lengthscale, all with gradients."""
    anchors = torch.randperm(n + m).double() + 0.5 * torch.rand(*batch, n + m, dtype=torch.float64)
    if ties:
        anchors = torch.randint(0, 3, (*batch, n + m)).double()
    tensors = (
        torch.randn(*batch, m, dtype=torch.float64),
        anchors[..., :n].clone(),
        anchors[..., n:].clone(),
        torch.rand(batch, dtype=torch.float64) + 0.5,
    )
    return [each.requires_grad_() for each in tensors]


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("side", SIDES)
def test_derivatives(side, batch):
    tensors = draw(batch=batch)
    if side != "both":  # -inf has no finite differences: a source at either end reaches all
        ends = torch.tensor([-1.0, 20.0], dtype=torch.float64).expand(*batch, 2)
        tensors[2] = torch.cat((tensors[2].detach()[..., 2:], ends), -1).requires_grad_()

    def call(w, x, y, ell):
        return laplex.logmatvec(w, x, y, lengthscale=ell, side=side)

    assert gradcheck(call, tensors)
    assert gradgradcheck(call, tensors)


@pytest.mark.parametrize("self_case", [False, True], ids=["two sets", "self"])
@pytest.mark.parametrize("side", SIDES)
def test_first_and_second_derivatives_at_ties_and_of_absent_values(side, self_case):
    tensors = draw(7, 7, ties=True)
    values = tensors[0].detach()
    values[::3] = -INF
    tensors[0] = values.requires_grad_()
    found = []
    for function in (laplex.logmatvec, dense):
        w, x, y, ell = tensors
        inputs = [w, x, ell] if self_case else tensors
        u = function(w, x, None if self_case else y, lengthscale=ell, side=side)
        loss = u[u > -INF].square().sum()
        first = torch.autograd.grad(loss, inputs, create_graph=True)
        # The formula's own derivatives by a value of -inf are NaN.
        known = w > -INF
        mixed = sum(each.square().sum() for each in first[1:]) + first[0][known].square().sum()
        second = torch.autograd.grad(mixed, inputs)
        assert function is dense or all(bool(each.isfinite().all()) for each in (*first, *second))
        found.append(
            [
                each[known] if k % len(inputs) == 0 else each
                for k, each in enumerate((*first, *second))
            ]
        )
    for ours, formula in zip(*found, strict=True):
        if bool(formula.isfinite().all()):
            torch.testing.assert_close(ours, formula, rtol=1e-10, atol=1e-10)


def test_what_no_value_reaches_is_minus_infinity_with_derivatives_of_zero():
    w = torch.full((3,), -INF, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    for values, targets, sources, side in (
        (w, x, None, "both"),
        (torch.zeros(2, dtype=torch.float64), x, x[1:] + 5, "left"),
        (w[:0], x, x[:0], "both"),
    ):
        u = laplex.logmatvec(values, targets, sources, side=side)
        assert bool(u.isneginf().all())
        if u.requires_grad:
            (slope,) = torch.autograd.grad(u.sum(), x, allow_unused=True)
            assert slope is None or bool((slope == 0).all())


@pytest.mark.parametrize("side", SIDES)
def test_far_derivatives_are_finite(side):
    x = torch.tensor([-1e6, 0.0, 1e6], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([-2e6, -3.0, 3.0, 2e6], dtype=torch.float64, requires_grad=True)
    w = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    u = laplex.logmatvec(w, x, y, lengthscale=1e-3, side=side)
    first = torch.autograd.grad(u.sum(), (w, x, y), create_graph=True)
    second = torch.autograd.grad(sum(each.square().sum() for each in first), (w, x, y))
    assert all(bool(each.isfinite().all()) for each in (*first, *second))
    # Each target has one nearest source, except 0 in between.
    torch.testing.assert_close(first[1].abs()[[0, 2]], torch.full((2,), 1e3, dtype=torch.float64))


def test_transforms_and_compilation():
    w, x, y, _ = (each.detach() for each in draw(6, 5, batch=(3,)))
    together = laplex.logmatvec(w, x, y, lengthscale=0.3)
    mapped = torch.vmap(lambda *each: laplex.logmatvec(*each, lengthscale=0.3))(w, x, y)
    # Four scans of up to three steps, each rounded to the largest exponent.
    torch.testing.assert_close(mapped, together, rtol=0, atol=20 * 2**-53 * scale(w, x, y, 0.3))

    def loss(function, ell):
        return function(w[0], x[0], y[0], lengthscale=ell).square().sum()

    ell = torch.tensor(0.3, dtype=torch.float64)
    for transform in (torch.func.grad, torch.func.hessian, torch.func.jacfwd):
        ours = transform(lambda ell: loss(laplex.logmatvec, ell))(ell)
        torch.testing.assert_close(ours, transform(lambda ell: loss(dense, ell))(ell))
    compiled = torch.compile(lambda w: laplex.logmatvec(w, x, y, lengthscale=0.3), fullgraph=True)
    torch.testing.assert_close(compiled(w), together)


def test_heads_share_anchors():
    w, x, y, _ = (each.detach() for each in draw())
    ell = torch.tensor([0.3, 2.0], dtype=torch.float64)
    found = laplex.logmatvec(w, x, y, lengthscale=ell)
    torch.testing.assert_close(found, dense(w, x, y, lengthscale=ell))
    assert laplex.logmatvec(w.expand(4, 1, -1), x, y, lengthscale=ell).shape == (4, 2, 5)


X = torch.arange(3.0)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "log_values must be a torch tensor", lambda: laplex.logmatvec([0.0], X)),
        (TypeError, "log_values has dtype", lambda: laplex.logmatvec(X + 0j, X)),
        (TypeError, "^log_values has .*float64", lambda: laplex.logmatvec(X.double(), X)),
        (TypeError, "^log_values has dtype torch.int64", lambda: laplex.logmatvec(X.long(), X)),
        (TypeError, "^log_values has the layout", lambda: laplex.logmatvec(X.to_sparse(), X)),
        (ValueError, "^log_values has 2 entries", lambda: laplex.logmatvec(X[:2], X)),
        (ValueError, "^log_values is a 0-d", lambda: laplex.logmatvec(X[0], X)),
        (
            ValueError,
            "do not broadcast: log_values \\(3, 3\\)",
            lambda: laplex.logmatvec(X.expand(3, 3), X.expand(2, 3)),
        ),
        (ValueError, "finite or -inf", lambda: laplex.logmatvec(X * INF, X)),
        (ValueError, "targets must be finite", lambda: laplex.logmatvec(X, X * INF)),
        (ValueError, "sources must be finite", lambda: laplex.logmatvec(X, X, X * math.nan)),
        (ValueError, "lengthscale must be pos", lambda: laplex.logmatvec(X, X, lengthscale=-1.0)),
        (ValueError, "side must be 'both'", lambda: laplex.logmatvec(X, X, side="up")),
    ],
)
def test_refuses(error, message, call):
    with pytest.raises(error, match=message):
        call()
