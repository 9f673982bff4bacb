"""Dense formulas of `laplex.order`, and drawn scores with ties and gaps."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import laplex

order = laplex.order
SCORE = st.one_of(
    st.integers(-3, 3).map(float),  # ties
    st.integers(-(2**12), 2**12).map(lambda k: k / 2**10),
    st.sampled_from((-1e4, 1e3, 2e3, 1e4)),  # gaps that no kernel crosses
)
LINES = st.lists(SCORE, min_size=1, max_size=24).map(
    lambda numbers: torch.tensor(numbers, dtype=torch.float64)
)
TAUS = st.sampled_from((1e-3, 0.1, 1.0, 30.0, 1e5))


def cdf(t: Tensor) -> Tensor:
    """L, with derivative 1/2 at 0."""
    tail = torch.exp(-t.abs()) / 2
    return torch.where(t < 0, tail, 1 - tail) + torch.where(t == 0, t / 2, 0.0)


def counts(b: Tensor, scores: Tensor, tau: float | Tensor) -> Tensor:
    """F(b): the smooth number of scores below b."""
    return cdf((b[..., :, None] - scores[..., None, :]) / tau).sum(-1)


def ranks(scores: Tensor, tau: float | Tensor) -> Tensor:
    return 0.5 + counts(scores, scores, tau)


def softsort_matrix(scores: Tensor, tau: float | Tensor) -> Tensor:
    in_order = scores.sort(dim=-1, stable=True).values
    return torch.softmax(-(in_order[..., :, None] - scores[..., None, :]).abs() / tau, -1)


def permutation_matrix(edges: Tensor, scores: Tensor, tau: float | Tensor) -> Tensor:
    """P of `soft_permute`, whose edges are the quantiles at 1, ..., n - 1."""
    inner = cdf((edges[:, None] - scores) / tau)
    ends = torch.zeros_like(scores)[None], torch.ones_like(scores)[None]
    return torch.cat((ends[0], inner, ends[1])).diff(dim=0)


def level_tolerance(scores: Tensor, tau: float) -> float:
    """How far F(b) may be from the level: b has eps of its size, and F a slope of n / (2 tau)."""
    n, eps = len(scores), torch.finfo(torch.float64).eps
    size = float(scores.abs().max()) + tau
    return n * (1e-13 + 4 * eps * size / tau)


def function_cases() -> dict[str, tuple[Any, tuple[Tensor, ...]]]:
    """Every function of all its tensor arguments, with scores apart and a batch of two lines."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    scores, values = normal(2, 5), normal(3, 2, 5)
    tau = torch.tensor([0.4, 1.5], dtype=torch.float64)
    levels = torch.tensor([0.3, 1.5, 2.0, 4.9], dtype=torch.float64)
    goals = normal(2, 5)
    return {
        "soft_rank": (order.soft_rank, (scores, tau)),
        "soft_sort": (order.soft_sort, (scores, tau)),
        "soft_quantile": (order.soft_quantile, (scores, levels, tau)),
        "soft_topk": (lambda s, t: order.soft_topk(s, 2.5, t), (scores, tau)),
        "softsort": (order.softsort, (values, scores, tau)),
        "soft_permute": (order.soft_permute, (values, scores, tau)),
        "spearman_loss": (lambda s, t: order.spearman_loss(s, goals, t), (scores, tau)),
    }
