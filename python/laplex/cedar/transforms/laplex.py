"""A product of rotations by Laplace kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..basis import Basis
from ..laplace_rotation import LaplaceRotations
from ..laplace_start import starting_anchors
from . import TRANSFORMS
from .base import Start, Transform

if TYPE_CHECKING:
    from ..settings import Settings

#: Standard deviation of the initial anchors, in lengthscales times the number of coordinates:
#: neighbours are about two lengthscales apart, so that a chain mixes some and loses nothing.
_ANCHOR_SPREAD = 0.6


@TRANSFORMS.register("laplex")
class Laplace(Transform):
    """`LaplaceRotations` between trainable anchors.

    It suits coordinates with neighbours that are alike, and is weak without: 4, 8 and 16 heads
    reach a held-out FVE at k = 32 of .76, .85 and .86 on Fashion-MNIST (a cosine transform .83, PCA
    .88, a rotation .92), but .43, .45 and .48 on 384-d embeddings of words, where coordinates as
    they are have .41, PCA .58 and a rotation .67.

    Parameters
    ----------
    dim, heads : int
        d coordinates, as many chains.
    random : torch.Generator
        Of the start.
    sample : Tensor [m, d], optional
        Centred rows that the anchors start from, see `starting_anchors`. None: normal anchors, for
        parameters that are loaded next; from there hardly anything is learned.
    """

    starts_from = "rows"

    def __init__(
        self,
        dim: int,
        heads: int,
        random: torch.Generator,
        *,
        device: torch.device,
        dtype: torch.dtype,
        sample: Tensor | None = None,
    ) -> None:
        super().__init__()
        if sample is None:
            anchors = torch.randn(heads, dim, generator=random, dtype=torch.float64)
            anchors *= _ANCHOR_SPREAD * dim
        else:
            anchors = starting_anchors(sample, heads, random)
        self.anchors = nn.Parameter(anchors.to(device, dtype))

    @classmethod
    def new(cls, settings: Settings, start: Start) -> Laplace:
        """Anchors where the sample says."""
        dim, random, device, dtype, _, sample = start
        return cls(dim, settings.heads, random, device=device, dtype=dtype, sample=sample)

    @classmethod
    def at(cls, basis: Basis, settings: Settings) -> Laplace:
        """Trainable anchors where those of a basis are."""
        if not isinstance(basis, LaplaceRotations):
            raise ValueError("basis='laplex' can't continue from a basis of another kind: call fit")
        heads, dim = basis.anchors.shape
        made = cls(
            dim, heads, torch.Generator(), device=basis.anchors.device, dtype=basis.anchors.dtype
        )
        made.anchors = nn.Parameter(basis.anchors.detach().clone())
        return made

    def forward(self) -> Basis:
        """The basis, with gradients."""
        return LaplaceRotations(self.anchors)

    @torch.no_grad()
    def finished(self) -> Basis:
        """The basis, without gradients."""
        return LaplaceRotations(self.anchors.detach().clone())
