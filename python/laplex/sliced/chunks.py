"""Loops over directions in chunks, whose memory does not grow with the number of directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..torch.autograd import in_forward_mode, is_watched
from .arguments import Slices, projections_of

ANCHORS = {"cpu": 1 << 18, "cuda": 1 << 23}
"""How many projected points and results one chunk has: on the CPU, as many as caches hold."""


def over_chunks(
    function: Callable[..., Tensor], directions: Tensor, each: int, *tensors: Tensor | None
) -> Iterator[Tensor]:
    """Apply a function to the directions, chunk by chunk.

    Parameters
    ----------
    function
        Takes directions ``[H, d]`` and the tensors. What it computes is not kept for its
        derivatives, but computed again.
    directions
        The directions ``[P, d]``.
    each
        How many numbers there are for one direction.
    *tensors
        The other arguments.
    """
    most = ANCHORS["cuda" if directions.is_cuda else "cpu"]
    size = max(most // max(each, 1), 1 if directions.is_cuda else torch.get_num_threads())
    # Transforms and forward mode differentiate the loop itself.
    again = (
        torch.is_grad_enabled()
        and any(tensor is not None and tensor.requires_grad for tensor in tensors)
        and not (torch.compiler.is_compiling() or is_watched() or in_forward_mode())
    )
    for chunk in torch.split(directions, size):
        if again:
            part: Tensor = checkpoint(
                function, chunk, *tensors, use_reentrant=False, preserve_rng_state=False
            )
            yield part
        else:
            yield function(chunk, *tensors)


def group_means(
    slices: Slices, function: Callable[..., Tensor], each: int, *tensors: Tensor | None
) -> list[Tensor]:
    """The mean over the directions of each group of what a function sums over directions."""
    means = []
    with torch.autocast(slices.groups[0].device.type, enabled=False):  # which would lose digits
        for group in slices.groups:
            total = None
            for part in over_chunks(function, group, each, *tensors):
                total = part if total is None else total + part
            assert total is not None
            means.append(total / len(group))
    return means


def mean_and_error(slices: Slices, means: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The mean over all directions, and its standard error from the spread of the groups' means."""
    if len(means) == 1:
        return means[0], torch.zeros_like(means[0].detach().real)
    count = sum(len(group) for group in slices.groups)
    shares = [len(group) / count for group in slices.groups]
    weighted = [mean * share for mean, share in zip(means, shares, strict=True)]
    mean = sum(weighted[1:], start=weighted[0])
    with torch.no_grad():
        variance = torch.zeros_like(mean.real)
        for one, share in zip(means, shares, strict=True):
            variance += (one - mean).abs().square() * share
        return mean, (variance / (len(means) - 1)).sqrt()


def mean_product(
    slices: Slices, values: Tensor, targets: Tensor, sources: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The mean over all directions of the products ``[*b, n]``, and its standard error."""

    def summed(
        directions: Tensor, values: Tensor, targets: Tensor, sources: Tensor | None
    ) -> Tensor:
        lines = projections_of(targets, directions)
        others = None if sources is None else projections_of(sources, directions)
        return slices.kernel.product(values, lines, others).sum(-2)

    anchors = len(targets) + (0 if sources is None else len(sources))
    each = anchors * math.prod(values.shape[:-1])
    means = group_means(slices, summed, each, values, targets, sources)
    return mean_and_error(slices, means)
