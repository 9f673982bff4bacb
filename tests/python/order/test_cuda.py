"""`laplex.order` and its cumulative sums on a GPU, or on the emulation of its kernels.

Skipped without a device, unless LAPLEX_REQUIRE_GPU=1; see torch/test_cuda.py.
"""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

import laplex
from laplex import _core
from laplex.torch.cumulative import cumulative_sum
from order_cases import cdf, counts, level_tolerance, permutation_matrix, ranks, softsort_matrix

EMULATED = os.environ.get("LAPLEX_EMULATED_CUDA") == "1"
HAS_GPU = _core.has_cuda and not EMULATED and torch.cuda.is_available()
DEVICE = "cpu" if EMULATED else "cuda"

pytestmark = pytest.mark.skipif(
    not (EMULATED or HAS_GPU or os.environ.get("LAPLEX_REQUIRE_GPU") == "1"),
    reason="no GPU, or a build without CUDA",
)
order = laplex.order


def drawn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Multiples of 1/8, so that some are equal."""
    generator = torch.Generator().manual_seed(sum(shape))
    numbers = torch.randint(-16, 16, shape, generator=generator) / 8
    return numbers.to(DEVICE, dtype).requires_grad_()


def assert_same_derivatives(ours: Tensor, dense: Tensor, inputs: list[Tensor]) -> None:
    """Compare values, first derivatives, and first derivatives of these."""
    found = []
    for result in (ours, dense):
        weights = torch.linspace(-1, 1, result.numel(), dtype=result.dtype, device=DEVICE)
        loss = (result.flatten() * weights).sum()
        first = torch.autograd.grad(loss, inputs, create_graph=True)
        second = torch.autograd.grad(sum(each.square().sum() for each in first), inputs)
        found.append((result, *first, *second))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("n", "m"), [(6, 9), (700, 500)])
def test_cumulative_sums(n, m):
    values, targets, sources = drawn(3, 2, m), drawn(2, n), drawn(2, m)
    lengthscale = torch.tensor([0.5, 2.0], dtype=torch.float64, device=DEVICE, requires_grad=True)
    given = [values, targets, sources, lengthscale]
    t = (targets[:, :, None] - sources[:, None, :]) / lengthscale[:, None, None]
    dense = (cdf(t) @ values[..., None])[..., 0]
    ours = cumulative_sum(values, targets, sources, lengthscale=lengthscale)
    assert_same_derivatives(ours, dense, given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_cumulative_sums_in_lower_precision(dtype):
    values, targets = drawn(2, 40, dtype=dtype), drawn(40, dtype=torch.float32)
    wide = values.detach().double()
    weights = cdf(targets.detach().double()[:, None] - targets.detach().double())
    result = cumulative_sum(values, targets, lengthscale=1.0)
    assert result.dtype is dtype
    rounding = 1e-6 + (0 if dtype is torch.float32 else torch.finfo(dtype).eps)
    allowed = rounding * (wide.abs() @ weights.mT)
    assert ((result.double() - wide @ weights.mT).abs() <= allowed).all()


def test_ranks_and_sorts_are_those_of_dense_matrices():
    scores, values = drawn(24), drawn(24)
    tau = torch.tensor(0.7, dtype=torch.float64, device=DEVICE, requires_grad=True)
    assert_same_derivatives(order.soft_rank(scores, tau), ranks(scores, tau), [scores, tau])
    torch.testing.assert_close(
        order.softsort(values, scores, tau), values @ softsort_matrix(scores, tau).mT
    )
    edges = order.soft_quantile(scores, torch.arange(1.0, 24, device=DEVICE), tau)
    matrix = permutation_matrix(edges, scores, tau)
    torch.testing.assert_close(order.soft_permute(values, scores, tau), values @ matrix.mT)


def test_quantiles_reach_their_levels():
    scores = drawn(3, 300)
    tau = 0.25
    found = order.soft_sort(scores, tau)
    levels = torch.arange(300, dtype=torch.float64, device=DEVICE) + 0.5
    assert (found.diff(dim=-1) >= -1e-14).all()  # up to roundings
    places, given = found.detach(), scores.detach()
    tolerance = level_tolerance(given.flatten(), tau)
    assert ((counts(places, given, tau) - levels).abs() <= tolerance).all()
    gradient = torch.autograd.grad(found.sum(), scores)[0]
    kernel = torch.exp(-(places[..., :, None] - given[..., None, :]).abs() / tau)
    torch.testing.assert_close(gradient, (kernel / kernel.sum(-1, keepdim=True)).sum(-2))
