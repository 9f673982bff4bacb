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
    unit = means.abs().max()  # no square of a smaller number over- or underflows
    before = {name: value.clone() for name, value in head.state_dict().items()}
    missed = _fit(head, (means / unit).to(head.targets))
    head.source_gain.div_(unit)
    if not head.source_gain.isfinite().all():
        head.load_state_dict(before)
        raise ValueError(
            f"the gains overflow {head.source_gain.dtype} at class means of at most "
            f"{float(unit):.2g}: scale the features, or use head.float()"
        )
    return missed


def _fit(head: LaplexHead, means: Tensor) -> float:
    """Place the classes for means of at most 1, and return the part of them that is missed."""
    centre = means.double().mean(dim=0)
    centred = (means - centre).to(means)
    centre = centre.to(means)
    residual = centred.clone()
    energy = float(residual.square().sum())
    lengthscale = head.lengthscale
    gains = torch.empty_like(head.sources)
    own = torch.zeros_like(means[:, 0])  # of each class, its weight times its centred mean
    for number in range(head.heads):
        gains[number] = _place(head, number, float(lengthscale[number]), centred, residual, own)
    # So that the softmax of as many classes is neither flat nor saturated. The bound is for heads
    # whose weight resembles no means, such as one without phases of a single feature.
    size = own.mean().clamp(min=1e-3 * energy / head.num_classes)
    scale = 2 * math.log(max(head.num_classes, 2)) / size
    # Not of the sources that `_anchors` moves to the outermost class: the kernel is that of all.
    sums = column_sums(head.targets, head.sources, lengthscale)
    head.source_gain.copy_(gains * sums * scale)
    if head.bias is not None:
        head.bias.zero_()
        head.bias.copy_(-head(centre) - scale / 2 * own)
    return math.sqrt(float(residual.square().sum()) / energy)


def _place(
    head: LaplexHead,
    number: int,
    lengthscale: float,
    centred: Tensor,
    residual: Tensor,
    own: Tensor,
) -> Tensor:
    """Place the classes on one line, take its part off the residual, and return its gains."""
    sources = head.sources[number]
    low, high = float(sources.min()), float(sources.max())
    places = torch.linspace(low, high, PLACES * len(sources)).to(sources)
    kernel = torch.exp(-(places[:, None] - sources).abs() / lengthscale)
    # With a short lengthscale there may be places that no source reaches.
    norms = kernel.square().sum(dim=1).sqrt().clamp(min=torch.finfo(kernel.dtype).tiny ** 0.5)
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
            match = matvec(residual[block] * sign, places, sources, lengthscale=lengthscale)
            size = match.clamp(min=0) / norms
        else:
            match = matvec(
                residual[block],
                places,
                sources,
                lengthscale=lengthscale,
                target_phase=torch.zeros_like(places),
                source_phase=phi[number],
            )
            size = match.abs() / norms
        best = size.argmax(dim=1)
        if theta is not None:
            theta[number, block] = -match.gather(1, best[:, None]).squeeze(1).angle()
        # The centre of the best place and its neighbours, which keeps classes from being tied.
        near = (best[:, None] + torch.arange(-1, 2, device=best.device)).clamp(0, len(places) - 1)
        share = size.gather(1, near) + torch.finfo(size.dtype).tiny
        head.targets[number, block] = (share * places[near]).sum(1) / share.sum(1)
        weight = rows(block)
        shared += (weight * residual[block]).sum(dim=0)
        energy += weight.square().sum(dim=0)
    gains = torch.where(energy > 0, shared / energy.where(energy > 0, 1.0), 0.0)
    for block in blocks:
        weight = rows(block) * gains
        residual[block] -= weight
        own[block] += (weight * centred[block]).sum(dim=1)
    return gains * sign


def _checked(head: LaplexHead, class_means: Tensor) -> Tensor:
    check_tensor("class_means", class_means)
    shape = (head.num_classes, head.in_features)
    if class_means.shape != shape:
        raise ValueError(
            f"class_means must have the shape {list(shape)}, one row for each class, "
            f"got {list(class_means.shape)}"
        )
    means = class_means.detach()
    means = (means if means.layout is torch.strided else means.to_dense()).to(head.targets).double()
    if not means.isfinite().all():
        raise ValueError("class_means must be finite, but has NaN or infinite entries")
    if bool((means == means[0]).all()):
        raise ValueError("class_means must differ from each other, but all rows are equal")
    return means
