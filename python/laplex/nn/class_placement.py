"""Initial places of a head's classes on its lines, by the mean features of each class."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from laplex.nn.kernel_product import column_sums
from laplex.torch.call import check_tensor
from laplex.torch.functional import matvec

if TYPE_CHECKING:
    from laplex.nn.head import LaplexHead

#: Places that are tried, for each feature.
PLACES = 2

#: Classes that are placed at a time; more take more memory and no less time.
BLOCK = 4096


def place_classes(head: LaplexHead, class_means: Tensor) -> float:
    """Place the classes and set the gains; see `laplex.nn.LaplexHead.place_classes`."""
    means = _checked(head, class_means)
    centre = means.mean(dim=0)
    residual = means - centre
    energy = float(residual.square().sum())
    if not energy > 0:
        raise ValueError("class_means must differ from each other, but all rows are equal")
    lengthscale = head.lengthscale
    gains = torch.empty_like(head.sources)
    for number in range(head.heads):
        gains[number] = _place(head, number, float(lengthscale[number]), residual)
    left = min(float(residual.square().sum()) / energy, 1.0)
    # The logit of a class at its own mean, on average over the classes: so much that the softmax
    # of as many classes is neither flat nor saturated.
    wanted = 2 * math.log(max(head.num_classes, 2))
    scale = wanted * head.num_classes / (energy * max(1 - left, torch.finfo(means.dtype).eps))
    sums = column_sums(*head._anchors(head.targets, head.sources), lengthscale)
    head.source_gain.copy_(gains * sums * scale)
    if head.bias is not None:
        head.bias.zero_()
        head.bias.copy_(-head(centre))
    return math.sqrt(left)


def _place(head: LaplexHead, number: int, lengthscale: float, residual: Tensor) -> Tensor:
    """Place the classes on one line, take its part off the residual, and return its gains."""
    sources = head.sources[number]
    low, high = float(sources.min()), float(sources.max())
    places = torch.linspace(low, high, PLACES * len(sources)).to(sources)
    kernel = torch.exp(-(places[:, None] - sources).abs() / lengthscale)
    norms = kernel.square().sum(dim=1).sqrt()
    theta, phi = head.target_phase, head.source_phase
    sign = head.source_gain[number].sign().to(sources) if phi is None else torch.ones_like(sources)
    blocks = [slice(first, first + BLOCK) for first in range(0, len(residual), BLOCK)]

    def rows(block: slice) -> Tensor:
        """The weights of a block of classes at gains of 1."""
        distance = (head.targets[number, block, None] - sources).abs()
        matrix = torch.exp(-distance / lengthscale) * sign
        if theta is None or phi is None:
            return matrix
        return matrix * torch.cos(theta[number, block, None] - phi[number])

    shared = torch.zeros_like(sources)
    energy = torch.zeros_like(sources)
    for block in blocks:
        if theta is None or phi is None:
            match = matvec(residual[block] * sign, places, sources, lengthscale=lengthscale) / norms
            best = match.argmax(dim=1)
        else:
            match = matvec(
                residual[block],
                places,
                sources,
                lengthscale=lengthscale,
                target_phase=torch.zeros_like(places),
                source_phase=phi[number],
            )
            best = (match.abs() / norms).argmax(dim=1)
            theta[number, block] = -match.gather(1, best[:, None]).squeeze(1).angle()
        head.targets[number, block] = places[best]
        weight = rows(block)
        shared += (weight * residual[block]).sum(dim=0)
        energy += weight.square().sum(dim=0)
    gains = torch.where(energy > 0, shared / energy.where(energy > 0, 1.0), 0.0)
    for block in blocks:
        residual[block] -= rows(block) * gains
    return gains * sign


def _checked(head: LaplexHead, class_means: Tensor) -> Tensor:
    check_tensor("class_means", class_means)
    shape = (head.num_classes, head.in_features)
    if class_means.shape != shape:
        raise ValueError(
            f"class_means must have the shape {list(shape)}, one row for each class, "
            f"got {list(class_means.shape)}"
        )
    if not class_means.isfinite().all():
        raise ValueError("class_means must be finite, but has NaN or infinite entries")
    return class_means.detach().to(head.targets)
