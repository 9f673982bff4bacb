"""Any invertible matrix as a change of basis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..basis import Basis, DenseBasis
from . import TRANSFORMS
from .base import Transform

if TYPE_CHECKING:
    from ..settings import Settings


@TRANSFORMS.register("invertible")
class Invertible(Transform):
    r"""An invertible matrix :math:`U = e^A U_0` with trainable A.

    The inverse is :math:`U^{-1} = U_0^T e^{-A}` and needs no linear solve. A starts at 0.

    Parameters
    ----------
    start : Tensor [d, d]
        The rotation :math:`U_0`, or any invertible matrix if ``atoms`` is given.
    atoms : Tensor [d, d], optional
        The atoms of :math:`U_0` as rows: its inverse transposed.
    """

    # From the best rotation, gradients find non-orthogonal atoms of mixtures with condition 20 to
    # the last digit in 2000 steps; from a random rotation they do not quite.
    starts_from = "rotation"

    start: Tensor
    atoms: Tensor

    def __init__(self, start: Tensor, atoms: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("start", start)
        self.register_buffer("atoms", start if atoms is None else atoms)
        self.generator = nn.Parameter(torch.zeros_like(start))

    @classmethod
    def from_rotation(cls, rotation: Tensor, settings: Settings) -> Invertible:
        """Make a transform at a rotation, as in `Transform.from_rotation`."""
        return cls(rotation)

    @classmethod
    def at(cls, basis: Basis, settings: Settings) -> Invertible:
        """Make a transform at any basis, as in `Transform.at`."""
        return cls(basis.readouts.clone(), basis.atoms.clone())

    def forward(self) -> Basis:
        """Return the basis with gradients."""
        return self._basis(self.generator, self.start, self.atoms)

    @torch.no_grad()
    def finished(self) -> Basis:
        """Return the basis with atoms of norm 1, because the scale of a row of U is arbitrary."""
        basis = self._basis(self.generator.double(), self.start.double(), self.atoms.double())
        norms = basis.atoms.norm(dim=1, keepdim=True)
        unit = DenseBasis(basis.readouts * norms, basis.atoms / norms)
        return unit.to(self.start.device, self.start.dtype)

    def _basis(self, generator: Tensor, start: Tensor, atoms: Tensor) -> DenseBasis:
        growth, decay = torch.linalg.matrix_exp(torch.stack((generator, -generator)))
        return DenseBasis(growth @ start, decay.T @ atoms)
