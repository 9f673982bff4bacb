"""A rotation as a change of basis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..basis import Basis, DenseBasis, nearest_rotation
from . import TRANSFORMS
from .base import Transform

if TYPE_CHECKING:
    from ..settings import Settings


@TRANSFORMS.register("orthogonal")
class Orthogonal(Transform):
    r"""A rotation with a trainable matrix A.

    With :math:`B = A - A^T`, the rotation is :math:`U = e^B U_0` ("expm") or
    :math:`U = (I + B)^{-1} (I - B) U_0` ("cayley"). A starts at 0.

    Parameters
    ----------
    start : Tensor [d, d]
        The rotation :math:`U_0`.
    parametrization : {"expm", "cayley"}
        The matrix exponential or the Cayley transform.
    """

    alternates = True

    start: Tensor

    def __init__(self, start: Tensor, parametrization: str = "expm") -> None:
        super().__init__()
        self.register_buffer("start", start)
        self.generator = nn.Parameter(torch.zeros_like(start))
        self.parametrization = parametrization

    @classmethod
    def from_rotation(cls, rotation: Tensor, settings: Settings) -> Orthogonal:
        """Make a transform at a rotation, as in `Transform.from_rotation`."""
        return cls(rotation, settings.parametrization)

    @classmethod
    def at(cls, basis: Basis, settings: Settings) -> Orthogonal:
        """Make a transform at the rotation nearest to a basis, as in `Transform.at`."""
        rotation = nearest_rotation(basis.readouts.double())  # of an invertible basis too
        return cls(rotation.to(basis.readouts.dtype), settings.parametrization)

    def forward(self) -> Basis:
        """Return the basis with gradients."""
        skew = self.generator - self.generator.T
        if self.parametrization == "expm":
            rotation = torch.linalg.matrix_exp(skew)
        else:
            identity = torch.eye(len(skew), dtype=skew.dtype, device=skew.device)
            rotation = torch.linalg.solve(identity + skew, identity - skew)
        return DenseBasis(rotation @ self.start)

    @torch.no_grad()
    def finished(self) -> Basis:
        """Return the basis, orthogonal to the last digit."""
        readouts = nearest_rotation(self().readouts.double())
        return DenseBasis(readouts.to(self.start.dtype))
