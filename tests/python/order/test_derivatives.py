"""Derivatives of `laplex.order`: all functions by all tensors, twice, and under transforms."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import laplex
from order_cases import cdf, function_cases, ranks, softsort_matrix

order = laplex.order
CASES = function_cases()


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    function, given = CASES[name]
    tensors = [each.clone().requires_grad_() for each in given]
    assert gradcheck(function, tensors, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, tensors)


@pytest.mark.parametrize("name", CASES)
def test_transforms(name):
    function, given = CASES[name]
    position = next(i for i, each in enumerate(given) if each.shape == (2, 5))

    def loss(scores):
        arguments = [*given[:position], scores, *given[position + 1 :]]
        return function(*arguments).square().sum()

    scores = given[position]
    expected = torch.autograd.functional.hessian(loss, scores)
    tolerance = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(torch.func.hessian(loss)(scores), expected, **tolerance)
    reverse = torch.func.jacrev(torch.func.jacrev(loss))(scores)
    torch.testing.assert_close(reverse, expected, **tolerance)
    lines = torch.stack((scores, scores + 0.1 * torch.rand_like(scores)))
    mapped = torch.vmap(torch.func.grad(loss))(lines)
    for ours, line in zip(mapped, lines, strict=True):
        torch.testing.assert_close(ours, torch.func.grad(loss)(line), **tolerance)


@pytest.mark.parametrize("name", CASES)
def test_compilation(name):
    function, given = CASES[name]
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    found = []
    for which in (function, compiled):
        tensors = [each.clone().requires_grad_() for each in given]
        result = which(*tensors)
        weights = torch.linspace(0, 1, result.numel()).reshape(result.shape).double()
        found.append((result, *torch.autograd.grad((weights * result).sum(), tensors)))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_the_compiler_of_torch():
    scores = torch.randn(6, dtype=torch.float64)
    compiled = torch.compile(lambda s: order.soft_rank(s, 0.5), fullgraph=True)
    torch.testing.assert_close(compiled(scores), order.soft_rank(scores, 0.5))


def equal_and_apart():
    return torch.tensor([1.0, 0.0, 1.0, 1.0, 2.5, 0.0], dtype=torch.float64, requires_grad=True)


def test_derivatives_where_scores_are_equal():
    """L is smooth there: its derivative is 1/2, and second derivatives use sign(0) = 0."""
    scores = equal_and_apart()
    tau = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(6, dtype=torch.float64)
    both = []
    for function in (order.soft_rank, ranks):
        loss = (function(scores, tau) * weights).sum()
        first = torch.autograd.grad(loss, (scores, tau), create_graph=True)
        mixed = first[0].square().sum() + first[1].square()
        both.append((*first, *torch.autograd.grad(mixed, (scores, tau))))
    for ours, expected in zip(*both, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


def implicit(scores, level, tau):
    """The quantile by one Newton step from the solution, which has its first derivatives."""
    b = order.soft_quantile(scores.detach(), level.item(), tau.item())
    slope = (torch.exp(-(b - scores.detach()).abs() / tau.detach()) / (2 * tau.detach())).sum()
    return b - (cdf((b - scores) / tau).sum() - level) / slope


@pytest.mark.parametrize("level", [0.3, 1.0, 2.0, 3.5, 5.9])
def test_quantiles_of_equal_scores(level):
    scores = equal_and_apart()
    tau = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    levels = torch.tensor([level], dtype=torch.float64, requires_grad=True)
    found = order.soft_quantile(scores, levels, tau)
    ours = torch.autograd.grad(found.sum(), (scores, levels, tau))
    expected = torch.autograd.grad(implicit(scores, levels, tau).sum(), (scores, levels, tau))
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_softsort_of_equal_scores_has_the_gradient_of_its_formula():
    scores = equal_and_apart()
    values = torch.randn(6, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(6, dtype=torch.float64)
    results = order.softsort(values, scores, 0.7), values @ softsort_matrix(scores, 0.7).mT
    both = [torch.autograd.grad((y * weights).sum(), (values, scores)) for y in results]
    torch.testing.assert_close(both[0][0], both[1][0])
    # Which of equal scores is sorted first is a choice, so their gradients agree in sum.
    for group in ([0, 2, 3], [1, 5], [4]):
        ours, expected = (gradients[1][group].sum() for gradients in both)
        torch.testing.assert_close(ours, expected)


def test_quantiles_in_a_gap_that_no_kernel_crosses():
    """At a whole level both sides of the gap have half of the weight, however wide it is."""
    scores = torch.tensor([0.0, 0.5, 1e6, 1e6 + 0.25, 3e6], dtype=torch.float64, requires_grad=True)
    tau = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    found = order.soft_quantile(scores, 2.0, tau)
    left = torch.softmax(torch.tensor([-1.0, 0.0]).double(), 0)
    right = torch.softmax(torch.tensor([0.0, -0.5]).double(), 0)
    # e^{-(b - 0.5) / tau} (1 + e^-1) = e^{-(1e6 - b) / tau} (1 + e^{-1/2})
    sides = torch.log((1 + torch.exp(torch.tensor(-1.0))) / (1 + torch.exp(torch.tensor(-0.5))))
    torch.testing.assert_close(
        found.item(), (0.5 + 1e6) / 2 + 0.25 * float(sides), rtol=1e-14, atol=0
    )
    first = torch.autograd.grad(found, (scores, tau), create_graph=True)
    expected = torch.cat((left / 2, right / 2, torch.zeros(1)))
    torch.testing.assert_close(first[0], expected)

    def middle(scores, tau):
        return (
            scores[1]
            + scores[2]
            + tau * (1 + torch.exp((scores[0] - scores[1]) / tau)).log()
            - tau * (1 + torch.exp((scores[2] - scores[3]) / tau)).log()
        ) / 2

    second = torch.autograd.grad(first[0][0], (scores, tau), retain_graph=True)
    formula = torch.autograd.grad(middle(scores, tau), (scores, tau), create_graph=True)
    torch.testing.assert_close(first[1], formula[1], rtol=1e-8, atol=1e-8)
    for ours, theirs in zip(second, torch.autograd.grad(formula[0][0], (scores, tau)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
    shares = order.soft_topk(scores, 3, tau)
    assert shares.tolist() == [0, 0, 1, 1, 1]
    assert torch.autograd.grad(shares[0], scores)[0].tolist() == [0.0] * 5
