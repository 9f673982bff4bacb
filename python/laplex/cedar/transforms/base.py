"""What every transform is: parameters that a solver trains, and the bases that they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..basis import Basis, random_rotation

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..settings import Settings

__all__ = ["Transform"]


class Transform(nn.Module):
    """Base of the transforms. ``forward()`` gives the basis, with gradients."""

    #: Whether the alternating solver, procrustes, finds it.
    alternates: ClassVar[bool] = False
    #: What a fit looks for in a sample of the data before it makes one: nothing, a rotation that
    #: the alternating solver finds, or centred rows.
    starts_from: ClassVar[Literal["chance", "rotation", "rows"]] = "chance"

    @classmethod
    def new(
        cls,
        settings: Settings,
        dim: int,
        random: torch.Generator,
        device: torch.device,
        dtype: torch.dtype,
        *,
        rotation: Tensor | None = None,
        sample: Tensor | None = None,
    ) -> Self:
        """Parameters at their start.

        Parameters
        ----------
        rotation : Tensor [d, d], optional
            Where to start; one by chance when not given.
        sample : Tensor [m, d], optional
            Centred rows of the data.
        """
        if rotation is None:
            rotation = random_rotation(dim, random).to(device, dtype)
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
