"""What every transform is: parameters that a solver trains, and the bases that they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..basis import Basis, random_rotation

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..settings import Settings

__all__ = ["Start", "Transform"]


class Start(NamedTuple):
    """What a fit has when it makes a transform of d coordinates."""

    dim: int
    random: torch.Generator
    device: torch.device
    dtype: torch.dtype
    rotation: Tensor | None = None
    """[d, d], where to start; by chance when there is none."""
    sample: Tensor | None = None
    """[m, d], centred rows of the data."""


class Transform(nn.Module):
    """Base of the transforms. ``forward()`` gives the basis, with gradients."""

    #: Whether the alternating solver, procrustes, finds it.
    alternates: ClassVar[bool] = False
    #: What a fit looks for before it makes one: nothing, a rotation that the alternating solver
    #: finds on a sample of the data, or the sample.
    starts_from: ClassVar[Literal["chance", "rotation", "rows"]] = "chance"

    @classmethod
    def new(cls, settings: Settings, start: Start) -> Self:
        """Parameters at their start."""
        rotation = start.rotation
        if rotation is None:
            rotation = random_rotation(start.dim, start.random).to(start.device, start.dtype)
        return cls.from_rotation(rotation, settings)

    @classmethod
    def from_rotation(cls, rotation: Tensor, settings: Settings) -> Self:
        """Parameters of a rotation [d, d]."""
        raise NotImplementedError

    @classmethod
    def at(cls, basis: Basis, settings: Settings) -> Self:
        """Parameters of a basis that was found before."""
        raise NotImplementedError

    def forward(self) -> Basis:
        """The basis, with gradients."""
        raise NotImplementedError

    def finished(self) -> Basis:
        """The basis, without gradients and without what training rounded."""
        raise NotImplementedError
