"""`laplex.order` where lines are in order, temperatures tiny, scores huge, or tangents zero."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import laplex
from laplex import _core
from order_cases import function_cases

order = laplex.order
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
