"""Cumulative sums and quantiles, from which `laplex.order` is made, as operators of torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from laplex.torch.cumulative import cumulative_sum
from laplex.torch.quantiles import sorted_quantiles
from order_cases import LINES, TAUS, cdf
from strategies import quick

pytestmark = pytest.mark.usefixtures("seeded")
PROMISE = {torch.float32: 1e-6, torch.float64: 1e-14}


def dense(values, targets, sources, lengthscale):
    t = (targets[..., :, None] - sources[..., None, :]) / lengthscale[..., None, None]
    return (cdf(t) @ values[..., None])[..., 0]


def draw(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@quick
@given(LINES, LINES, TAUS, st.sampled_from(tuple(PROMISE)), st.integers(0, 2**31))
def test_sums_keep_their_promise(targets, sources, tau, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, len(sources), generator=generator).to(dtype)
    given = values, targets.to(dtype), sources.to(dtype)
    found = cumulative_sum(*given, lengthscale=tau)
    ell = torch.tensor(tau, dtype=torch.float64)
    widened = [each.double() for each in given]
    expected = dense(*widened, ell)
    scale = dense(widened[0].abs(), *widened[1:], ell)
    # The reference rounds t = d / tau, and what is far to the right has a weight of exp(-|t|) / 2.
    t = (widened[1][:, None] - widened[2]) / tau
    weights = cdf(t) * (1 + t.clamp_max(0).abs())
    rounding = torch.finfo(torch.float64).eps * (weights @ widened[0].abs()[..., None])[..., 0]
    tolerance = (PROMISE[dtype] + 1e-14) * scale + rounding + torch.finfo(dtype).tiny
    assert bool(((found - expected).abs() <= tolerance).all())
    ours = cumulative_sum(values[:, :1].expand(2, len(targets)), given[1], lengthscale=tau)
    again = cumulative_sum(
        values[:, :1].expand(2, len(targets)), given[1], given[1].clone(), lengthscale=tau
    )
    torch.testing.assert_close(ours, again, rtol=2 * PROMISE[dtype], atol=0)


@pytest.mark.parametrize("self_case", [False, True], ids=["two sets", "self"])
def test_derivatives(self_case):
    values, targets, sources = draw(3, 2, 4), draw(2, 4), draw(2, 4)
    tau = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    tensors = (values, targets, tau) if self_case else (values, targets, tau, sources)

    def function(values, targets, tau, sources=None):
        return cumulative_sum(values, targets, sources, lengthscale=tau)

    assert gradcheck(function, tensors, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [5, 700])
def test_derivatives_at_ties(n, dtype):
    """In the core's own pass, and where a graph is recorded through them."""
    targets, sources = ((torch.randint(0, 4, (size,)) / 2).to(dtype) for size in (n, n + 2))
    given = [torch.randn(n + 2).to(dtype), targets, sources, torch.tensor(0.7).double()]
    weights = torch.randn(n).to(dtype)
    found = []
    for which, create_graph in ((0, False), (0, True), (1, False)):
        tensors = [each.clone().requires_grad_() for each in given]
        if which:
            result = dense(*[each.double() for each in tensors])
        else:
            result = cumulative_sum(*tensors[:3], lengthscale=tensors[3])
        loss = (result * weights).sum()
        found.append(torch.autograd.grad(loss, tensors, create_graph=create_graph))
    tolerance = (1e-5 if dtype is torch.float32 else 1e-12) * n
    for ours in found[:2]:
        for one, expected in zip(ours, found[2], strict=True):
            torch.testing.assert_close(one.detach(), expected, rtol=0, atol=tolerance)


def test_what_the_kernel_must_be():
    from laplex.torch.autograd import primitive
    from laplex.torch.call import CUMULATIVE, Call

    x, ell = torch.rand(3), torch.ones(())
    for wrong in (
        {"frequency": ell},
        {"side": 1},
        {"polynomial": (0.0, 1.0)},
        {"values": x + 0j},
        {"source_phase": x},
    ):
        call = Call(x, x, None, ell, None, None, None, parity=CUMULATIVE)._replace(**wrong)
        with pytest.raises(ValueError, match=r"a cumulative sum .* takes real values"):
            primitive(call)


def test_quantiles_of_heads_levels_and_lengthscales():
    scores = torch.randn(3, 5, dtype=torch.float64).sort(dim=-1).values.requires_grad_()
    levels = (5 * torch.rand(2, 3, 4, dtype=torch.float64)).requires_grad_()
    tau = torch.rand(3, dtype=torch.float64).requires_grad_()
    tensors = scores, levels, tau
    assert gradcheck(
        sorted_quantiles,
        tensors,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )
    assert gradgradcheck(sorted_quantiles, tensors)
    alone = sorted_quantiles(scores[1], levels[1, 1], tau[1])
    torch.testing.assert_close(sorted_quantiles(*tensors)[1, 1], alone, rtol=1e-15, atol=0)
    fake = sorted_quantiles(*[each.detach().to("meta") for each in tensors])
    assert fake.shape == (2, 3, 4)


def test_third_derivatives_of_quantiles():
    scores = torch.tensor([0.0, 0.3, 1.1], dtype=torch.float64)

    def median(s):
        level = torch.tensor([1.4], dtype=torch.float64)
        return sorted_quantiles(s, level, torch.tensor(0.6, dtype=torch.float64))[0]

    third = torch.func.jacrev(torch.func.hessian(median))(scores)
    step = 1e-4
    for k in range(3):
        move = torch.zeros(3, dtype=torch.float64)
        move[k] = step
        above, below = (torch.func.hessian(median)(scores + sign * move) for sign in (1, -1))
        torch.testing.assert_close(third[..., k], (above - below) / (2 * step), rtol=0, atol=1e-5)
    assert torch.autograd.gradcheck(torch.func.hessian(median), scores.requires_grad_())
