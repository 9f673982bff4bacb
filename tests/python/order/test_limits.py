"""`laplex.order` where lines are in order, temperatures tiny, scores huge, or tangents zero."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import laplex
from laplex import _core
from order_cases import function_cases

order = laplex.order
INF = float("inf")
TINY = (1e-10, 1e-14, 1e-20, 1e-60)
"""Temperatures from where those of the scores' roundings begin."""


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64, requires_grad=True)


CASES = function_cases()
LONG = laplex.torch.sorting.LONG


@pytest.mark.parametrize("scores", [torch.arange(LONG), torch.ones(LONG)], ids=["rising", "equal"])
def test_long_lines_that_are_in_order(scores):
    scores = scores.double().requires_grad_()
    mixed = torch.randperm(LONG)
    for function in (order.soft_sort, lambda s: order.soft_permute(s.detach().cos(), s)):
        in_order, sorted_anew = function(scores), function(scores[mixed])
        if scores[0] < scores[-1] or function is order.soft_sort:
            torch.testing.assert_close(in_order, sorted_anew, rtol=1e-10, atol=1e-10)
        assert bool(torch.autograd.grad(in_order.sum(), scores)[0].isfinite().all())
    torch.testing.assert_close(
        order.soft_sort(scores, 0.1, descending=True), -order.soft_sort(-scores, 0.1)
    )
    assert order.SoftPermutation(LONG)(torch.ones(LONG)).shape == (LONG,)


def test_orders_of_the_core():
    ascending = torch.arange(9.0)
    in_order = _core.Order(ascending.data_ptr(), False, 9, None, 1)
    moved = torch.zeros(9)
    in_order.to_sorted(ascending.data_ptr(), moved.data_ptr(), 1, 4, 1)
    assert in_order.as_given
    assert torch.equal(moved, ascending)
    with pytest.raises(ValueError, match="no address"):
        in_order.to_given(0, moved.data_ptr(), 1, 4, 1)


@pytest.mark.parametrize("name", CASES)
def test_reverse_over_forward_mode(name):
    function, given = CASES[name]
    position = next(i for i, each in enumerate(given) if each.shape == (2, 5))
    weights = torch.linspace(-1, 1, function(*given).numel(), dtype=torch.float64)

    def loss(scores):
        result = function(*given[:position], scores, *given[position + 1 :])
        return (result.flatten() * weights).sum()  # with a constant cotangent

    scores = given[position]
    expected = hessian(loss)(scores)
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(jacrev(jacfwd(loss))(scores), expected, **close)
    torch.testing.assert_close(jacfwd(jacfwd(loss))(scores), expected, **close)
    along = grad(lambda s: jvp(loss, (s,), (scores,))[1])
    torch.testing.assert_close(along(scores), (expected * scores).sum((-2, -1)), **close)
    mapped = vmap(along)(torch.stack((scores, scores)))
    torch.testing.assert_close(mapped[1], along(scores), **close)


def test_zero_tensors_are_read_as_zeros():
    def zeros(*shape):
        return torch._efficientzerotensor(shape)

    anchors = torch.randn(LONG)
    assert not laplex.matvec(zeros(LONG), anchors).any()
    assert not order.softsort(zeros(LONG), anchors).any()
    torch.testing.assert_close(laplex.matvec(torch.ones(5), zeros(5)), torch.full((5,), 5.0))
    torch.testing.assert_close(order.soft_rank(zeros(5)), torch.full((5,), 3.0))
    for size in (5, LONG):
        torch.testing.assert_close(order.soft_sort(zeros(size)), order.soft_sort(torch.zeros(size)))


@pytest.mark.parametrize("tau", TINY)
def test_equal_scores_at_tiny_temperatures(tau):
    """They share what is left for them, however small the temperature is beside the scores."""
    close = {"rtol": 1e-13, "atol": 1e-13}
    shares = order.soft_topk(double(0.3, 0.3, 0.3, 0.3), 1, tau)
    torch.testing.assert_close(shares, torch.full_like(shares, 0.25), **close)
    shares = order.soft_topk(double(0.1, 0.2, 0.3, 0.4), 1.3, tau)
    torch.testing.assert_close(shares.detach(), double(0, 0, 0.3, 1).detach(), **close)
    shares = order.soft_topk(double(1e9, 2e9, -INF, -INF), 2.5, tau)
    torch.testing.assert_close(shares.detach(), double(1, 1, 0.25, 0.25).detach(), **close)
    values, scores = torch.tensor([1.0, 2, 3, 4]).double(), double(0.3, 0.3, 0.3, 1)
    for function in (order.soft_permute, order.softsort):
        found = function(values, scores, tau)
        torch.testing.assert_close(found.detach(), double(2, 2, 2, 4).detach(), **close)
    (gradient,) = torch.autograd.grad(found.sum(), scores)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("offset", [0.0, 2.0**31, -(2.0**40)])
def test_results_do_not_depend_on_the_origin(offset):
    """Differences of these scores are exact, so the results lose nothing beside an offset."""
    near = torch.tensor([0.0, 10, 20, 51, 10, 700]).double() / 1024
    values = torch.tensor([3.0, 1, 4, 1, 5, 9]).double()
    found = []
    for place in (0.0, offset):
        scores = (near + place).requires_grad_()
        results = (
            order.soft_topk(scores, 1.3, 0.01),
            order.soft_permute(values, scores, 0.01),
            order.softsort(values, scores, 0.01),
            order.soft_rank(scores, 0.01),
        )
        weighted = sum((each * values).sum() for each in results)
        by_quantile = torch.autograd.grad(order.soft_quantile(scores, 2.2, 0.01), scores)[0]
        found.append((*results, *torch.autograd.grad(weighted, scores), by_quantile))
    assert float(found[1][0].detach().sum()) == pytest.approx(1.3, abs=1e-14)
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("tau", TINY)
def test_gradients_of_quantiles_at_tiny_temperatures(tau):
    scores = double(0.1, 0.2, 0.5, 0.37)
    temperature = torch.tensor(tau, dtype=torch.float64, requires_grad=True)
    middle = order.soft_quantile(scores, 2.0, temperature)
    by_scores, by_tau = torch.autograd.grad(middle, (scores, temperature))
    torch.testing.assert_close(by_scores, torch.tensor([0, 0.5, 0, 0.5]).double())
    assert abs(float(by_tau)) < 1e-10
    in_order = order.soft_sort(scores, temperature)
    jacobian = [torch.autograd.grad(each, scores, retain_graph=True)[0] for each in in_order]
    permutation = torch.eye(4, dtype=torch.float64)[[0, 1, 3, 2]]
    torch.testing.assert_close(torch.stack(jacobian), permutation)
    values = torch.tensor([1.0, 2, 3, 4]).double()
    permuted = order.soft_permute(values, scores, temperature)
    (gradient,) = torch.autograd.grad(permuted.square().sum(), scores)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))
    masked = double(1.0, 2.0, 3.0, -INF, -INF)
    (gradient,) = torch.autograd.grad(order.soft_quantile(masked, 3.0, tau), masked)
    assert gradient.tolist() == pytest.approx([0.5, 0.5, 0, 0, 0])


def test_the_largest_numbers_of_a_dtype_beside_infinities():
    """Both are usual masks."""
    for dtype in (torch.float32, torch.float64):
        least = torch.finfo(dtype).min
        scores = torch.tensor([1.0, 2.0, least, -INF], dtype=dtype)
        expected = order.soft_topk(torch.tensor([1.0, 2.0, -INF, -INF], dtype=dtype), 1)
        torch.testing.assert_close(order.soft_topk(scores, 1), expected)
        assert order.soft_rank(scores, 1e-3)[:2].tolist() == [3, 4]
        assert order.soft_rank(-scores, 1e-3)[:2].tolist() == [2, 1]
        assert order.soft_sort(scores, 1e-3)[0] == -INF or order.soft_sort(scores, 1e-3)[0] == least
    assert order.soft_rank(torch.tensor([3e38, INF, 1.0])).tolist() == [2, 3, 1]
    huge = torch.tensor([1.7e308, -1.7e308, 1.0], dtype=torch.float64)
    assert order.soft_quantile(huge, 1.5, 0.1, hard=True) == 1
    assert order.soft_sort(huge, 0.1)[1] == pytest.approx(1)
    assert order.soft_quantile(huge[:2], 1.0, hard=True) == 0


def test_derivatives_by_the_least_temperature():
    scores, tau = double(0.1, 0.2, 0.5, 0.2), double(1e-100)
    for loss in (
        order.soft_topk(scores, 1.5, tau[0]).square().sum(),
        order.soft_rank(scores, tau[0]).square().sum(),
        order.soft_sort(scores, tau[0]).square().sum(),
    ):
        first = torch.autograd.grad(loss, (scores, tau), create_graph=True)
        second = torch.autograd.grad(first[1].sum(), tau)
        assert all(bool(each.isfinite().all()) for each in (*first, *second))
