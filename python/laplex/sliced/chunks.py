"""Loops over directions in chunks, whose memory does not grow with the number of directions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..torch.autograd import in_forward_mode, is_watched
from .arguments import Slices, projections_of

ANCHORS = {"cpu": 1 << 19, "cuda": 1 << 23}
"""How many projected points and results one chunk has: on the CPU, as many as caches hold."""


def means_of(
    slices: Slices, function: Callable[..., Tensor], each: int, *tensors: Tensor | None
) -> list[Tensor]:
    """Compute the mean by each rule of a function of the direction.

    Parameters
    ----------
    slices
        The rules.
    function
        Takes directions ``[H, d]``, their weights ``[H]`` and the tensors, and returns the weighted
        sum. What it computes is not kept for its derivatives, but computed again.
    each
        How many numbers there are for one direction.
    *tensors
        The other arguments.
    """
    is_cuda = slices.rules[0].directions.is_cuda
    is_compiling = torch.compiler.is_compiling()
    least = 1 if is_cuda or is_compiling else torch.get_num_threads()  # each takes a direction
    size = max(ANCHORS["cuda" if is_cuda else "cpu"] // max(each, 1), least)
    # Transforms and forward mode differentiate the loop itself.
    again = (
        torch.is_grad_enabled()
        and any(tensor is not None and tensor.requires_grad for tensor in tensors)
        and not (is_compiling or is_watched() or in_forward_mode())
    )
    means = []
    with torch.autocast("cuda" if is_cuda else "cpu", enabled=False):  # which would lose digits
        for rule in slices.rules:
            total: Tensor | None = None
            for part in zip(*(torch.split(one, size) for one in rule), strict=True):
                if again:
                    term = checkpoint(
                        function, *part, *tensors, use_reentrant=False, preserve_rng_state=False
                    )
                else:
                    term = function(*part, *tensors)
                total = term if total is None else total + term
            assert total is not None
            means.append(total)
    return means


def mean_and_error(
    slices: Slices, means: list[Tensor], amount: float | Tensor
) -> tuple[Tensor, Tensor]:
    """The mean by all rules, and its standard error from the spread of their means.

    The error contains the bound of that of f, times the sum of the absolute values it multiplies.
    """
    bound = slices.kernel.tolerance * amount
    if len(means) == 1:
        return means[0], torch.zeros_like(means[0].detach().real) + bound
    count = sum(len(rule.weights) for rule in slices.rules)
    shares = [len(rule.weights) / count for rule in slices.rules]
    weighted = [mean * share for mean, share in zip(means, shares, strict=True)]
    mean = sum(weighted[1:], start=weighted[0])
    with torch.no_grad():
        variance = torch.zeros_like(mean.real)
        for one, share in zip(means, shares, strict=True):
            variance += (one - mean).abs().square() * share
        return mean, (variance / (len(means) - 1)).sqrt() + bound


def mean_product(
    slices: Slices, values: Tensor, targets: Tensor, sources: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The mean over all directions of the products ``[*b, n]``, and its standard error."""

    def summed(
        directions: Tensor,
        weights: Tensor,
        values: Tensor,
        targets: Tensor,
        sources: Tensor | None,
    ) -> Tensor:
        lines = projections_of(targets, directions)
        others = None if sources is None else projections_of(sources, directions)
        products = slices.kernel.product(values, lines, others)
        return weights.to(products.dtype) @ products

    anchors = len(targets) + (0 if sources is None else len(sources))
    each = anchors * math.prod(values.shape[:-1])
    means = means_of(slices, summed, each, values, targets, sources)
    return mean_and_error(slices, means, values.detach().abs().sum(-1, keepdim=True))
