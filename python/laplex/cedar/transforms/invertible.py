"""Any invertible matrix."""

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
    r"""U = exp(A) U_0 and :math:`U^{-1} = U_0^T e^{-A}`, which no solve is needed for.

    Parameters
    ----------
    start : Tensor [d, d]
        The rotation U_0; A = 0. Any U_0 will do together with its atoms.
    atoms : Tensor [d, d], optional
        Of U_0, as rows: its inverse transposed.
    """

    # From a rotation that fits, gradients find atoms that are not orthogonal: on mixtures of
    # condition 20 in 2000 steps to the last digit, from a random one not quite.
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
        """At a rotation [d, d]."""
        return cls(rotation)

    @classmethod
    def at(cls, basis: Basis, settings: Settings) -> Invertible:
        """At any basis."""
        return cls(basis.readouts.clone(), basis.atoms.clone())

    def forward(self) -> Basis:
        """The basis, with gradients."""
        return self._basis(self.generator, self.start, self.atoms)

    @torch.no_grad()
    def finished(self) -> Basis:
        """The basis with atoms of norm 1, in float64: scales of rows of U are arbitrary."""
        basis = self._basis(self.generator.double(), self.start.double(), self.atoms.double())
        norms = basis.atoms.norm(dim=1, keepdim=True)
        unit = DenseBasis(basis.readouts * norms, basis.atoms / norms)
        return unit.to(self.start.device, self.start.dtype)

    def _basis(self, generator: Tensor, start: Tensor, atoms: Tensor) -> DenseBasis:
        growth, decay = torch.linalg.matrix_exp(torch.stack((generator, -generator)))
        return DenseBasis(growth @ start, decay.T @ atoms)
