"""The initial anchors of a layer, on the interval [-1, 1]."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

InitialAnchors: TypeAlias = Literal["interlaced", "random"]


def initial_anchors(
    kind: InitialAnchors,
    heads: int,
    num_targets: int,
    num_sources: int,
    *,
    targets_at_ends: bool = False,
) -> tuple[Tensor, Tensor]:
    """Draw the initial anchors of every head from torch's global generator, on the CPU.

    Parameters
    ----------
    kind : {"interlaced", "random"}
        With ``"interlaced"``, the anchors lie on one regular grid of ``num_targets + num_sources``
        points. The members of the smaller set are spread evenly among those of the larger, so each
        has a neighbour of its own and every head has rank ``min(num_targets, num_sources)``. A
        random permutation for each head assigns targets and sources to their places, because heads
        with the same order would be redundant. With ``"random"``, the anchors are independent and
        uniform. They lose rank: a third of it if the sets have the same size.
    heads, num_targets, num_sources : int
        The number of heads, and of targets and sources per head.
    targets_at_ends : bool
        Place no source beyond the outermost targets, if there are fewer targets than sources.

    Returns
    -------
    targets, sources : Tensor ``[heads, num_targets]``, Tensor ``[heads, num_sources]``
        The anchors in float64.

    Notes
    -----
    The rank of K(x, y) is the largest number of disjoint neighbouring (target, source) pairs in the
    merged order: on average 0.665 min(n, m) for random anchors with n = m, 0.858 with n = m / 2.
    """
    if kind == "random":
        targets = torch.rand(heads, num_targets, dtype=torch.float64, device="cpu")
        sources = torch.rand(heads, num_sources, dtype=torch.float64, device="cpu")
        return 2 * targets - 1, 2 * sources - 1
    target_places, source_places = interlaced_places(num_targets, num_sources, targets_at_ends)
    total = num_targets + num_sources

    def shuffled(places: Tensor) -> Tensor:
        orders = [torch.randperm(len(places), device="cpu") for _ in range(heads)]
        return (2 * places[torch.stack(orders)] + 1) / total - 1

    return shuffled(target_places), shuffled(source_places)


def interlaced_places(
    num_targets: int, num_sources: int, targets_at_ends: bool = False
) -> tuple[Tensor, Tensor]:
    """Split the places 0, 1, ..., n + m - 1 evenly into those of targets and those of sources.

    Returns
    -------
    targets, sources : Tensor ``[num_targets]``, Tensor ``[num_sources]``
        The places in float64, increasing.
    """
    total = num_targets + num_sources
    few = min(num_targets, num_sources)
    step = torch.arange(few, device="cpu")
    # Members of the smaller set are at least two places apart, so each has its own neighbour.
    if targets_at_ends and 1 < num_targets <= num_sources:
        places = torch.div(step * (total - 1), few - 1, rounding_mode="floor")
    else:
        places = torch.div((2 * step + 1) * total, 2 * few, rounding_mode="floor")
    is_few = torch.zeros(total, dtype=torch.bool, device="cpu")
    is_few[places] = True
    order = torch.argsort(is_few, stable=True)  # of known size, which fake tensors need
    larger, smaller = order[: total - few].double(), order[total - few :].double()
    return (smaller, larger) if num_targets <= num_sources else (larger, smaller)
