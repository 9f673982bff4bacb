"""TEMPORARY: dense cumulative sums and quantiles until the core has them."""

from __future__ import annotations

import torch

from .. import _core

NATIVE = hasattr(_core.Plan, "quantiles")


def cdf(t):
    e = torch.exp(-t.abs()) / 2
    return torch.where(t < 0, e, 1 - e)


def quantiles(s, levels, ell):
    low = s[..., :1] - 800 * ell[..., None]
    high = s[..., -1:] + 800 * ell[..., None]
    low, high = low + 0 * levels, high + 0 * levels
    for _ in range(200):
        mid = (low + high) / 2
        below = cdf((mid[..., None] - s[..., None, :]) / ell[..., None, None]).sum(-1) < levels
        low, high = torch.where(below, mid, low), torch.where(below, high, mid)
    return ((low + high) / 2).contiguous()
