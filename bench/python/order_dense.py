"""The definitions of laplex.order as dense sums, which take n x n numbers."""

from __future__ import annotations

import torch
from torch import Tensor


def laplace_cdf(t: Tensor) -> Tensor:
    """The CDF of the standard Laplace distribution, with its slope of 1/2 at 0."""
    return torch.where(t < 0, torch.exp(t.clamp(max=0)) / 2, 1 - torch.exp(-t.clamp(min=0)) / 2)


def rank(scores: Tensor, tau: float) -> Tensor:
    return laplace_cdf((scores[..., :, None] - scores[..., None, :]) / tau).sum(-1) + 0.5


def quantile(scores: Tensor, levels: Tensor, tau: float) -> Tensor:
    """By bisection, and one step of Newton's method for the last digits and the derivatives."""
    given = scores.detach()
    low = given.amin(-1, keepdim=True) - 50 * tau
    high = given.amax(-1, keepdim=True) + 50 * tau
    low, high = (each.expand(*given.shape[:-1], len(levels)).clone() for each in (low, high))
    for _ in range(60):
        middle = (low + high) / 2
        below = laplace_cdf((middle[..., :, None] - given[..., None, :]) / tau).sum(-1) < levels
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    at = (low + high)[..., :, None] / 2
    slope = torch.exp(-(at - given[..., None, :]).abs() / tau).sum(-1) / (2 * tau)
    excess = laplace_cdf((at - scores[..., None, :]) / tau).sum(-1) - levels
    return at[..., 0] - excess / slope


def sort(scores: Tensor, tau: float) -> Tensor:
    levels = torch.arange(scores.shape[-1], dtype=scores.dtype) + 0.5
    return quantile(scores, levels, tau)


def topk(scores: Tensor, k: float, tau: float) -> Tensor:
    level = torch.tensor([scores.shape[-1] - k], dtype=scores.dtype)
    return laplace_cdf((scores - quantile(scores, level, tau)) / tau)


def softsort(values: Tensor, scores: Tensor, tau: float) -> Tensor:
    in_order = scores.sort(-1).values
    distances = (in_order[..., :, None] - scores[..., None, :]).abs()
    return times_values(torch.softmax(-distances / tau, -1), values)


def permute(values: Tensor, scores: Tensor, tau: float, edges: Tensor | None = None) -> Tensor:
    """The edges are the quantiles at 1, 2, ..., n - 1, which are found if not given."""
    if edges is None:
        levels = torch.arange(1, scores.shape[-1], dtype=scores.dtype)
        edges = quantile(scores, levels, tau)
    below = laplace_cdf((edges[..., :, None] - scores[..., None, :]) / tau)
    zero = torch.zeros_like(below[..., :1, :])
    matrix = torch.cat((zero, below, zero + 1), -2).diff(dim=-2)
    return times_values(matrix, values)


def times_values(matrix: Tensor, values: Tensor) -> Tensor:
    """Matrices `[*b, n, n]` times values `[c, *b, n]`."""
    return (matrix @ values.movedim(0, -1)).movedim(-1, 0)
