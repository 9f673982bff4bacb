"""`laplex.order` against dense sums, at its limits, and on masks, batches and dtypes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import laplex
from order_cases import (
    LINES,
    TAUS,
    counts,
    level_tolerance,
    permutation_matrix,
    ranks,
    softsort_matrix,
)
from strategies import quick

order = laplex.order
INF = float("inf")


@quick
@given(LINES, TAUS)
def test_ranks(scores, tau):
    expected = ranks(scores, tau)
    found = order.soft_rank(scores, tau)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    n = len(scores)
    assert abs(float(found.sum()) - n * (n + 1) / 2) <= 1e-12 * n * n
    backwards = order.soft_rank(scores, tau, descending=True)
    torch.testing.assert_close(backwards, n + 1 - expected, rtol=1e-12, atol=1e-12)


@quick
@given(LINES, TAUS, st.data())
def test_quantiles_solve_their_equation(scores, tau, data):
    n = len(scores)
    shares = data.draw(st.lists(st.floats(1e-6, 1 - 1e-6), min_size=1, max_size=6))
    levels = torch.tensor([n * share for share in sorted(shares)], dtype=torch.float64)
    found = order.soft_quantile(scores, levels, tau)
    residual = counts(found, scores, tau) - levels
    assert float(residual.abs().max()) <= level_tolerance(scores, tau)
    assert bool((found.diff() >= 0).all())
    above = order.soft_quantile(scores, n - levels, tau, descending=True)
    residual = counts(above, scores, tau) - levels
    assert float(residual.abs().max()) <= level_tolerance(scores, tau)
    alone = order.soft_quantile(scores, float(levels[0]), tau)  # solved about another score
    close = 1e-14 * (float(scores.abs().max()) + tau) * n
    torch.testing.assert_close(alone, found[0], rtol=0, atol=close)


@quick
@given(LINES, TAUS)
def test_sorted_scores(scores, tau):
    found = order.soft_sort(scores, tau)
    middles = torch.arange(len(scores), dtype=torch.float64) + 0.5
    residual = counts(found, scores, tau) - middles
    assert float(residual.abs().max()) <= level_tolerance(scores, tau)
    backwards = order.soft_sort(scores, tau, descending=True)
    spread = float(scores.abs().max()) + 40 * tau
    torch.testing.assert_close(backwards, found.flip(-1), rtol=0, atol=1e-13 * spread)


@quick
@given(LINES.filter(lambda scores: len(scores) > 1), TAUS, st.floats(0.01, 0.99))
def test_selection(scores, tau, share):
    k = share * len(scores)
    found = order.soft_topk(scores, k, tau)
    tolerance = level_tolerance(scores, tau)
    assert abs(float(found.sum()) - k) <= tolerance
    threshold = order.soft_quantile(scores, k, tau, descending=True)
    inside = ((scores - threshold) / tau).clamp(-700, 700)
    expected = torch.where(inside < 0, inside.exp() / 2, 1 - (-inside).exp() / 2)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    smallest = order.soft_topk(scores, len(scores) - k, tau, largest=False)
    torch.testing.assert_close(smallest, 1 - found, rtol=0, atol=tolerance)


@quick
@given(LINES, TAUS, st.integers(0, 2**31))
def test_softsort(scores, tau, seed):
    values = torch.randn(3, len(scores), generator=torch.Generator().manual_seed(seed)).double()
    expected = values @ softsort_matrix(scores, tau).mT
    found = order.softsort(values, scores, tau)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * float(values.abs().max()))


@quick
@given(LINES, TAUS, st.integers(0, 2**31))
def test_permutations_are_doubly_stochastic(scores, tau, seed):
    n = len(scores)
    edges = scores[:0]
    if n > 1:
        edges = order.soft_quantile(scores, torch.arange(1, n), tau)
    matrix = permutation_matrix(edges, scores, tau)
    values = torch.randn(3, n, generator=torch.Generator().manual_seed(seed)).double()
    found = order.soft_permute(values, scores, tau)
    # The rows of the formula sum to 1 up to the rounding of the edges.
    close = 10 * level_tolerance(scores, tau)
    torch.testing.assert_close(found, values @ matrix.mT, rtol=0, atol=close)
    total = found.sum(-1)
    torch.testing.assert_close(total, values.sum(-1), rtol=0, atol=1e-13 * n * n)
    ours = order.soft_permute(torch.eye(n, dtype=torch.float64), scores, tau)
    one = torch.ones(n, dtype=torch.float64)
    torch.testing.assert_close(ours.sum(0), one, rtol=0, atol=1e-13 * n * n)
    torch.testing.assert_close(ours.sum(1), one, rtol=0, atol=1e-13 * n * n)
    assert float(ours.min()) >= -close
    same = order.soft_permute(torch.full((n,), 0.7, dtype=torch.float64), scores, tau)
    torch.testing.assert_close(same, 0.7 * one, rtol=1e-15, atol=0)


def apart(seed, n=50):
    """Scores at least 0.1 apart, in random order."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.randperm(n, generator=generator).double()
    return places + 0.8 * torch.rand(n, generator=generator).double()


@pytest.mark.parametrize("descending", [False, True])
def test_low_temperature_is_the_sort_of_torch(descending):
    scores = apart(0)
    values = torch.randn(3, 50, dtype=torch.float64)
    expected, index = scores.sort(descending=descending)
    position = torch.empty_like(scores).scatter(0, index, torch.arange(1.0, 51.0).double())
    # At 0.1 / tau = 1000 every exponential is 0, but for those of the sorted scores themselves.
    for options in ({"tau": 1e-4}, {"tau": 5.0, "hard": True}):
        options["descending"] = descending
        torch.testing.assert_close(order.soft_rank(scores, **options), position)
        torch.testing.assert_close(order.soft_sort(scores, **options), expected)
        torch.testing.assert_close(order.softsort(values, scores, **options), values[:, index])
        torch.testing.assert_close(order.soft_permute(values, scores, **options), values[:, index])
        levels = torch.tensor([0.5, 3.0, 49.5])
        middle = torch.stack((expected[0], (expected[2] + expected[3]) / 2, expected[49]))
        torch.testing.assert_close(order.soft_quantile(scores, levels, **options), middle)
    top = torch.zeros_like(scores).scatter(0, scores.topk(7, largest=descending).indices, 1.0)
    for hard, tau in ((False, 1e-4), (True, 5.0)):
        found = order.soft_topk(scores, 7, tau, largest=descending, hard=hard)
        torch.testing.assert_close(found, top)
    torch.testing.assert_close(order.topk_mask(scores, 7, largest=descending), top)


def test_hard_results_have_the_soft_derivatives():
    scores = apart(1, 9).requires_grad_()
    values = torch.randn(9, dtype=torch.float64)
    for function in (
        lambda **hard: order.soft_rank(scores, 0.7, **hard),
        lambda **hard: order.soft_sort(scores, 0.7, **hard),
        lambda **hard: order.soft_quantile(scores, 2.3, 0.7, **hard),
        lambda **hard: order.soft_topk(scores, 4, 0.7, **hard),
        lambda **hard: order.softsort(values, scores, 0.7, **hard),
        lambda **hard: order.soft_permute(values, scores, 0.7, **hard),
    ):
        soft, hard = function(), function(hard=True)
        weights = torch.randn_like(soft)
        ours, expected = (torch.autograd.grad((weights * y).sum(), scores)[0] for y in (hard, soft))
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    soft = order.soft_topk(scores, 4, 0.7)
    mask = order.topk_mask(scores, 4, 0.7)
    assert sorted(mask.tolist()) == [0.0] * 5 + [1.0] * 4
    weights = torch.randn_like(soft)
    ours, expected = (torch.autograd.grad((weights * y).sum(), scores)[0] for y in (mask, soft))
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_high_temperature_forgets_the_order():
    scores = torch.randn(8, dtype=torch.float64)
    values = torch.randn(2, 8, dtype=torch.float64)
    tau, close = 1e7, {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(order.soft_rank(scores, tau), torch.full_like(scores, 4.5), **close)
    shares = order.soft_topk(scores, 2.0, tau)
    torch.testing.assert_close(shares, torch.full_like(scores, 0.25), **close)
    mean = values.mean(-1, keepdim=True).expand(2, 8)
    torch.testing.assert_close(order.softsort(values, scores, tau), mean, **close)
    torch.testing.assert_close(order.soft_permute(values, scores, tau), mean, **close)
    # All scores are in one place as seen from there: b = mean - tau log(2 - 2 level / n), or so.
    middle = order.soft_quantile(scores, 4.0, tau)
    torch.testing.assert_close(middle, scores.median() * 0 + middle, **close)
    assert scores.min() <= middle <= scores.max()


def test_equal_scores_share_what_is_theirs():
    scores = torch.tensor([2.0, 1.0, 2.0, 3.0, 2.0], dtype=torch.float64)
    for options in ({"tau": 1e-3}, {"hard": True}):
        found = order.soft_rank(scores, **options)
        torch.testing.assert_close(found, torch.tensor([3.0, 1, 3, 5, 3], dtype=torch.float64))
        found = order.soft_topk(scores, 2, **options)
        third = 1 / 3
        expected = torch.tensor([third, 0, third, 1, third], dtype=torch.float64)
        torch.testing.assert_close(found, expected)
    assert order.soft_topk(scores, 1.5, hard=True).tolist() == pytest.approx(
        [1 / 6, 0, 1 / 6, 1, 1 / 6]
    )
    values = torch.arange(5.0, dtype=torch.float64)
    found = order.softsort(values, scores, hard=True)
    assert found.tolist() == [1, 0, 2, 4, 3]
    assert order.soft_permute(values, scores, hard=True).tolist() == [1, 0, 2, 4, 3]
    assert float(order.topk_mask(scores, 2).sum()) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinite_scores_are_the_limit_of_far_ones(dtype):
    scores = torch.tensor([0.3, -INF, 1.0, INF, -INF, 0.4], dtype=dtype, requires_grad=True)
    limit = torch.tensor([0.3, -1e6, 1.0, 1e6, -1e6, 0.4], dtype=dtype, requires_grad=True)
    values = torch.randn(2, 6).to(dtype)
    for function in (
        lambda s: order.soft_rank(s, 0.5),
        lambda s: order.soft_rank(s, 0.5, descending=True),
        lambda s: order.soft_topk(s, 2, 0.5),
        lambda s: order.soft_topk(s, 5, 0.5),
        lambda s: order.softsort(values, s, 0.5),
        lambda s: order.soft_permute(values, s, 0.5),
        lambda s: order.soft_permute(values, s, 0.5, descending=True),
        lambda s: order.soft_sort(s, 0.5)[2:5],
    ):
        found, expected = function(scores), function(limit)
        torch.testing.assert_close(found, expected)
        weights = torch.randn_like(found)
        (ours,) = torch.autograd.grad((found * weights).sum(), scores)
        (theirs,) = torch.autograd.grad((expected * weights).sum(), limit)
        finite = scores.isfinite()
        torch.testing.assert_close(ours[finite], theirs[finite])
        assert bool(ours.isfinite().all())
    in_order = order.soft_sort(scores, 0.5)
    assert in_order[:2].tolist() == [-INF, -INF]
    assert in_order[5] == INF
    backwards = order.soft_sort(scores, 0.5, descending=True)
    torch.testing.assert_close(backwards, in_order.flip(-1))
    (gradient,) = torch.autograd.grad(in_order[2:5].sum(), scores)
    assert float(gradient.sum()) == pytest.approx(3)
    assert order.soft_rank(torch.full((3,), INF)).tolist() == pytest.approx([2, 2, 2])


def test_infinite_scores_under_vmap_and_compilation():
    scores = torch.tensor([[0.3, -INF, 1.0], [0.1, 0.2, INF]], dtype=torch.float64)
    expected = order.soft_rank(scores, 0.5)
    torch.testing.assert_close(torch.vmap(lambda s: order.soft_rank(s, 0.5))(scores), expected)
    compiled = torch.compile(lambda s: order.soft_rank(s, 0.5), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(scores), expected)


def test_dimensions_batches_and_temperatures_of_lines():
    scores, values = torch.randn(4, 6, 3).double(), torch.randn(4, 6, 3).double()
    tau = torch.rand(4, 3).double() + 0.1
    lines, own = scores.movedim(1, -1), values.movedim(1, -1)
    for dim in (1, -2):
        for ours, line in (
            (order.soft_rank(scores, tau, dim=dim), order.soft_rank(lines, tau)),
            (order.soft_sort(scores, tau, dim=dim), order.soft_sort(lines, tau)),
            (order.soft_topk(scores, 2, tau, dim=dim), order.soft_topk(lines, 2, tau)),
            (order.topk_mask(scores, 2, tau, dim=dim), order.topk_mask(lines, 2, tau)),
            (order.softsort(values, scores, tau, dim=dim), order.softsort(own, lines, tau)),
            (order.soft_permute(values, scores, tau, dim=dim), order.soft_permute(own, lines, tau)),
            (
                order.soft_quantile(scores, torch.tensor([0.5, 3.0]), tau, dim=dim),
                order.soft_quantile(lines, torch.tensor([0.5, 3.0]), tau),
            ),
        ):
            torch.testing.assert_close(ours, line.movedim(-1, 1), rtol=0, atol=0)
        median = order.soft_quantile(scores, 3, tau, dim=dim)
        assert median.shape == (4, 3)
        loss = order.spearman_loss(scores, values, tau, dim=dim, reduction="none")
        assert loss.shape == (4, 3)
        alone = order.spearman_loss(lines[1, 2], own[1, 2], float(tau[1, 2]))
        torch.testing.assert_close(loss[1, 2], alone)
        mean = order.spearman_loss(scores, values, tau, dim=dim)
        torch.testing.assert_close(mean, loss.mean())
    several = torch.randn(2, 4, 3, 6).double()
    together = order.soft_permute(several, lines, tau)
    torch.testing.assert_close(together[1], order.soft_permute(several[1], lines, tau))
    one = order.softsort(torch.eye(6).double(), lines[0, 0], 0.3)  # channels without a batch
    assert one.shape == (6, 6)


def test_leading_dimensions_are_broadcast():
    scores, tau = torch.randn(4, dtype=torch.float64), torch.tensor([0.5, 1.0, 2.0]).double()
    for function in (order.soft_rank, order.soft_sort, lambda s, t: order.soft_topk(s, 2, t)):
        torch.testing.assert_close(function(scores, tau)[1], function(scores, 1.0))
    for function in (order.softsort, order.soft_permute):
        for shape in ((4,), (3, 4), (2, 1, 4), (2, 3, 4)):
            values = torch.randn(shape, dtype=torch.float64)
            found = function(values, scores, tau)
            expected = torch.broadcast_to(values, found.shape)[..., 1, :]
            torch.testing.assert_close(found[..., 1, :], function(expected, scores, 1.0))
        lines = torch.stack((scores, -scores))
        found = function(values[0, 0], lines, 1.0)
        torch.testing.assert_close(found[1], function(values[0, 0], -scores, 1.0))
        assert function(torch.empty(0, 4).double(), scores, tau[0]).shape == (0, 4)


def test_empty_batches_and_single_scores():
    none = torch.empty(0, 5)
    assert order.soft_rank(none).shape == (0, 5)
    assert order.soft_sort(none).shape == (0, 5)
    assert order.soft_topk(none, 2).shape == (0, 5)
    assert order.softsort(none, none).shape == (0, 5)
    assert order.soft_permute(none, none).shape == (0, 5)
    one = torch.tensor([0.7])
    assert order.soft_rank(one).tolist() == [1.0]
    assert order.soft_sort(one).tolist() == pytest.approx([0.7])
    assert order.soft_permute(one, one).tolist() == pytest.approx([0.7])
    assert order.softsort(one, one).tolist() == pytest.approx([0.7])
    assert order.spearman_loss(one, one) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    scores = torch.randn(40).to(dtype).requires_grad_()
    values = torch.randn(3, 40).to(dtype)
    for function in (
        lambda s, v: order.soft_rank(s, 0.3),
        lambda s, v: order.soft_sort(s, 0.3),
        lambda s, v: order.soft_topk(s, 5, 0.3),
        lambda s, v: order.softsort(v, s, 0.3),
        lambda s, v: order.soft_permute(v, s, 0.3),
        lambda s, v: order.spearman_loss(s, v[0], 0.3),
    ):
        found, expected = function(scores, values), function(scores.float(), values.float())
        assert found.dtype is dtype
        torch.testing.assert_close(found, expected.to(dtype), rtol=0, atol=0)
        (gradient,) = torch.autograd.grad(found.sum(), scores, allow_unused=True)
        assert gradient.dtype is dtype


def test_float32_scores_keep_their_digits_at_low_temperatures():
    """The gaps between quantiles are 1e-7 of the scores here, so they are solved in float64."""
    generator = torch.Generator().manual_seed(0)
    scores = 1 + 1e-3 * torch.rand(1000, generator=generator)
    values = torch.rand(1000, generator=generator)
    found = order.soft_permute(values, scores, 1e-6)
    expected = order.soft_permute(values.double(), scores.double(), 1e-6)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
    shares = order.soft_topk(scores, 300, 1e-6)
    expected = order.soft_topk(scores.double(), 300, 1e-6)
    torch.testing.assert_close(shares.double(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_long_lines_are_sorted_by_the_core(dtype):
    n = laplex.torch.sorting.LONG
    scores = (torch.randint(0, n, (n,)) / 64).to(dtype).requires_grad_()
    values = torch.randn(2, n, dtype=dtype, requires_grad=True)
    tau = torch.tensor(0.3, dtype=torch.float64)

    def all_of(scores, values, **options):
        return torch.cat(
            (
                order.softsort(values, scores, tau, **options),
                order.soft_permute(values, scores, tau, **options),
                order.soft_sort(scores, tau, **options)[None],
                order.soft_rank(scores, tau, **options)[None] / n,
            )
        )

    batch = torch.stack((scores, scores - 1))  # of which torch sorts the lines
    for options in ({}, {"descending": True}, {"hard": True}):
        ours = all_of(scores, values, **options)
        rows = torch.stack((values, values), 1)
        expected = torch.cat(
            (
                order.softsort(rows, batch, tau, **options)[:, 0],
                order.soft_permute(rows, batch, tau, **options)[:, 0],
                order.soft_sort(batch, tau, **options)[:1],
                order.soft_rank(batch, tau, **options)[:1] / n,
            )
        )
        scale = 1e-4 if dtype is torch.float32 else 1e-11
        torch.testing.assert_close(ours, expected, rtol=0, atol=scale)
        weights = torch.randn_like(ours)
        found = torch.autograd.grad((ours * weights).sum(), (scores, values))
        theirs = torch.autograd.grad((expected * weights).sum(), (scores, values))
        for one, other in zip(found, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=100 * scale)
