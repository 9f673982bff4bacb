"""`spearman_loss`, `SoftPermutation`, and what `laplex.order` refuses."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import laplex

order = laplex.order
T = torch.tensor([0.0, 1.0, 2.0])


def test_spearman_is_the_rank_correlation_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    predictions = torch.randperm(40, generator=generator).double()
    targets = torch.randperm(40, generator=generator).double()
    expected = stats.spearmanr(predictions.numpy(), targets.numpy()).statistic
    loss = order.spearman_loss(predictions, targets, 1e-3)
    assert float(loss) == pytest.approx(1 - expected, rel=1e-12)
    assert float(order.spearman_loss(predictions, predictions, 1e-3)) == pytest.approx(0, abs=1e-15)
    assert float(order.spearman_loss(predictions, -predictions, 1e-3)) == pytest.approx(2)
    whole = order.spearman_loss(predictions, targets.long(), 0.5)
    torch.testing.assert_close(whole, order.spearman_loss(predictions, targets, 0.5))


def test_spearman_compares_integers_as_such():
    targets = torch.tensor([2**60, 2**60 + 1, 2**60 + 2])  # equal in float64
    assert float(order.spearman_loss(T, targets, 1e-3)) == pytest.approx(0, abs=1e-6)
    assert float(order.spearman_loss(-T, targets, 1e-3)) == pytest.approx(2)
    either = torch.tensor([False, True, True])
    expected = order.spearman_loss(T, either.float(), 0.5)
    torch.testing.assert_close(order.spearman_loss(T, either, 0.5), expected)
    for dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64):
        largest = torch.tensor([0, 1, 2**64 - 1], dtype=torch.uint64).to(dtype)
        assert float(order.spearman_loss(T[:3].sort().values, largest, 1e-9)) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_tangents_of_spearman_have_its_dtype(dtype):
    predictions, targets = torch.randn(8).to(dtype), torch.randn(8).to(dtype)

    def loss(scores):
        return order.spearman_loss(scores, targets, 0.1)

    value, tangent = torch.func.jvp(loss, (predictions,), (predictions,))
    assert value.dtype is tangent.dtype is dtype
    gradient = torch.func.grad(lambda scores: loss(scores).square())
    _, tangent = torch.func.jvp(gradient, (predictions,), (predictions,))
    assert tangent.dtype is dtype


def test_numbers_of_numpy():
    two = np.int64(2)
    torch.testing.assert_close(order.soft_topk(T, two), order.soft_topk(T, 2))
    torch.testing.assert_close(order.topk_mask(T, two), order.topk_mask(T, 2))
    level = order.soft_quantile(T, np.float32(1.5), np.float32(0.5))
    torch.testing.assert_close(level, order.soft_quantile(T, 1.5, 0.5))


def test_spearman_of_equal_predictions_has_a_gradient():
    predictions = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([3.0, 1, 4, 1, 5, 9], dtype=torch.float64)
    loss = order.spearman_loss(predictions, targets, 0.5)
    ranks = order.soft_rank(targets, hard=True)
    assert loss.item() == pytest.approx(6 * float((ranks - 3.5).square().sum()) / (6 * 35))
    (gradient,) = torch.autograd.grad(loss, predictions)
    assert bool(gradient.isfinite().all())
    assert gradient.argmin() == targets.argmax()  # a step down raises the prediction of the largest


def test_a_linear_model_learns_an_order():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60, 3, generator=generator)
    targets = (features @ torch.tensor([1.0, -2.0, 0.5])).exp()
    weights = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.Adam([weights], lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        order.spearman_loss(features @ weights, targets, 0.3).backward()
        optimiser.step()
    assert float(order.spearman_loss((features @ weights).detach(), targets, 1e-4)) < 0.01


@pytest.mark.parametrize(("method", "share"), [("softsort", 0.2), ("permute", 0.01)])
def test_a_permutation_is_learned(method, share):
    wanted = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    curve = torch.linspace(-1, 1, 8)
    values = torch.empty(8).scatter(0, wanted, curve)  # values[wanted] is the curve
    permutation = order.SoftPermutation(8, 1.0, method=method)
    optimiser = torch.optim.Adam(permutation.parameters(), lr=0.1)
    start, steps = permutation.tau, 100
    for step in range(steps):
        permutation.tau = start * 0.02 ** (step / steps)
        optimiser.zero_grad()
        (permutation(values) - curve).square().mean().backward()
        optimiser.step()
    found = values[permutation.order()]
    assert float((found - curve).square().mean()) < share * float((values - curve).square().mean())
    permutation.hard = True
    torch.testing.assert_close(permutation(values).detach(), found)


def test_permutations_are_modules():
    permutation = order.SoftPermutation(5)
    assert repr(permutation) == "SoftPermutation(5, tau=0.8, method='softsort')"
    assert permutation.order().tolist() == [0, 1, 2, 3, 4]
    assert list(permutation.state_dict()) == ["scores"]
    given = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    other = order.SoftPermutation(3, 0.5, method="permute", hard=True, scores=given)
    assert repr(other) == "SoftPermutation(3, tau=0.5, method='permute', hard=True)"
    assert other.scores is not given
    assert other.order().tolist() == [1, 2, 0]
    for again in (pickle.loads(pickle.dumps(other)), copy.deepcopy(other)):
        assert repr(again) == repr(other)
        torch.testing.assert_close(again.scores, other.scores)
    again = order.SoftPermutation(3, dtype=torch.float64)
    again.load_state_dict(other.state_dict())
    assert again.order().tolist() == [1, 2, 0]
    assert order.SoftPermutation(1).tau == 1.0
    assert order.SoftPermutation(4, device="meta").tau == 1.0
    other.tau = torch.nn.Parameter(torch.tensor(0.25))
    assert repr(other).startswith("SoftPermutation(3, tau=0.25")
    assert order.SoftPermutation(3, scores=torch.zeros(3)).tau == 1.0
    compiled = torch.compile(permutation, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(torch.eye(5)), permutation(torch.eye(5)))
    assert permutation.to(torch.float64).scores.dtype is torch.float64


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: order.soft_rank(T.long()), TypeError, r"pass scores\.float\(\)"),
        (lambda: order.soft_rank(T * float("nan")), ValueError, "scores has entries that are NaN"),
        (lambda: order.soft_sort(T[:0]), ValueError, "without entries along dim=-1"),
        (lambda: order.soft_sort(T, dim=2), IndexError, "dim=2 is out of range"),
        (lambda: order.soft_sort(T, 5e-324), ValueError, "tau must be at least 1e-.* got"),
        (
            lambda: order.soft_sort(T, torch.tensor(1e-310, dtype=torch.float64)),
            ValueError,
            "tau must be at least 1e-.* but",
        ),
        (lambda: order.soft_sort(T, dim=None), TypeError, "dim must be an integer, got None"),
        (lambda: order.soft_sort(T, dim=True), TypeError, "dim must be an integer, got True"),
        (lambda: order.soft_sort(T, dim=1.0), TypeError, r"dim must be an integer, got 1\.0"),
        (lambda: order.soft_sort(T.to(torch.float8_e5m2)), TypeError, "scores has dtype"),
        (lambda: order.soft_sort(T.to_sparse()), TypeError, r"pass scores\.to_dense\(\)"),
        (lambda: order.soft_rank(T.half().expand(1, 3).repeat(1, 30000)), ValueError, "the rank"),
        (lambda: order.soft_topk(T, torch.tensor(2)), TypeError, r"pass int\(k\)"),
        (lambda: order.topk_mask(T, True), TypeError, "k must be a whole number"),
        (lambda: order.soft_quantile(T, [1.0]), TypeError, "pass several as a tensor"),
        (lambda: order.soft_sort(T, True), TypeError, "tau must be a number"),
        (lambda: order.soft_sort(T, torch.tensor(1)), TypeError, "tau has dtype"),
        (lambda: order.soft_sort(T.expand(3, 3), torch.ones(2)), ValueError, "tau has shape"),
        (lambda: order.soft_sort(T, torch.tensor(-1.0)), ValueError, "tau must be positive"),
        (lambda: order.soft_sort(T, descending=1), TypeError, "descending must be True or False"),
        (lambda: order.soft_topk(T, 0), ValueError, "k must lie strictly between 0 and n = 3"),
        (lambda: order.soft_topk(T, 3.0), ValueError, "k must lie strictly between 0 and n = 3"),
        (lambda: order.soft_topk(T, "2"), TypeError, "k must be a number"),
        (lambda: order.soft_topk(T, 2, largest=None), TypeError, "largest must be True or False"),
        (lambda: order.topk_mask(T, 3), ValueError, "k must lie strictly between 0 and n = 3"),
        (lambda: order.topk_mask(T, 1.5), TypeError, "k must be a whole number"),
        (lambda: order.soft_quantile(T, 3), ValueError, "levels must lie strictly between 0 and n"),
        (lambda: order.soft_quantile(T, T), ValueError, "but some do not"),
        (lambda: order.soft_quantile(T, T[1]), ValueError, r"pass levels\[None\]"),
        (lambda: order.soft_quantile(T, T + 1j), TypeError, "levels has dtype"),
        (
            lambda: order.soft_quantile(T.expand(2, 3), T[1:2].expand(3, 1)),
            ValueError,
            "levels has shape",
        ),
        (lambda: order.softsort(T[:2], T), ValueError, "values has shape"),
        (lambda: order.softsort(T.long(), T), TypeError, r"pass values\.float\(\)"),
        (lambda: order.softsort(None, T), TypeError, "values must be a torch tensor"),
        (
            lambda: order.softsort(T.expand(2, 3), T.expand(4, 3)),
            ValueError,
            "leading dimensions do not broadcast",
        ),
        (lambda: order.soft_permute(T, T[:2]), ValueError, "values has shape"),
        (lambda: order.soft_rank(T, T.to("meta")[0]), ValueError, "tau is on meta"),
        (lambda: order.spearman_loss(T, T[:2]), ValueError, "targets has shape"),
        (lambda: order.spearman_loss(T, [1, 2, 3]), TypeError, "targets must be a torch tensor"),
        (lambda: order.spearman_loss(T, T + 1j), TypeError, "targets has dtype"),
        (lambda: order.spearman_loss(T.long(), T), TypeError, "predictions has dtype"),
        (lambda: order.spearman_loss(T, T * float("nan")), ValueError, "targets has entries"),
        (lambda: order.spearman_loss(T, T, reduction="max"), ValueError, "reduction must be"),
        (lambda: order.SoftPermutation(0), ValueError, "n must be at least 1"),
        (lambda: order.SoftPermutation(3, 0.0), ValueError, "tau must be positive"),
        (lambda: order.SoftPermutation(3, method="sort"), ValueError, "method must be one of"),
        (lambda: order.SoftPermutation(3, hard=1), TypeError, "hard must be True or False"),
        (lambda: order.SoftPermutation(3, dtype=torch.int64), TypeError, "dtype must be floating"),
        (lambda: order.SoftPermutation(3, scores=T / 0), ValueError, "scores must be finite"),
        (lambda: order.SoftPermutation(3, scores=T[:2]), ValueError, r"must have shape \(3,\)"),
        (lambda: order.SoftPermutation(3, scores=T.long()), TypeError, r"scores\.float\(\)"),
    ],
)
def test_refusals(call, error, match):
    with pytest.raises(error, match=match):
        call()
