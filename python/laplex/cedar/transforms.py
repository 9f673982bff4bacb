"""Trainable parameters of a change of basis: modules that give a `Basis` when called."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .basis import Basis, DenseBasis, nearest_rotation
from .laplace_rotation import LaplaceRotations, starting_anchors

#: Standard deviation of the initial anchors, in lengthscales times the number of coordinates:
#: neighbours are about two lengthscales apart, so that a chain mixes some and loses nothing.
_ANCHOR_SPREAD = 0.6


class Orthogonal(nn.Module):
    r"""U = exp(A - A^T) U_0 or, as ``"cayley"``, (I + B)^{-1} (I - B) U_0 with B = A - A^T.

    Parameters
    ----------
    start : Tensor [d, d]
        The rotation U_0; A = 0.
    parametrization : {"expm", "cayley"}
    """

    start: Tensor

    def __init__(self, start: Tensor, parametrization: str = "expm") -> None:
        super().__init__()
        self.register_buffer("start", start)
        self.generator = nn.Parameter(torch.zeros_like(start))
        self.parametrization = parametrization

    def forward(self) -> Basis:
        """The basis, with gradients."""
        skew = self.generator - self.generator.T
        if self.parametrization == "expm":
            rotation = torch.linalg.matrix_exp(skew)
        else:
            identity = torch.eye(len(skew), dtype=skew.dtype, device=skew.device)
            rotation = torch.linalg.solve(identity + skew, identity - skew)
        return DenseBasis(rotation @ self.start)

    @torch.no_grad()
    def finished(self) -> Basis:
        """The basis, orthogonal to the last digit."""
        readouts = nearest_rotation(self().readouts)
        return DenseBasis(readouts.to(self.start.dtype))


class Invertible(nn.Module):
    r"""U = exp(A) U_0 and :math:`U^{-1} = U_0^T e^{-A}`, which no solve is needed for.

    Parameters
    ----------
    start : Tensor [d, d]
        The rotation U_0; A = 0.
    """

    start: Tensor

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start)
        self.generator = nn.Parameter(torch.zeros_like(start))

    def forward(self) -> Basis:
        """The basis, with gradients."""
        return self._basis(self.generator, self.start)

    @torch.no_grad()
    def finished(self) -> Basis:
        """The basis with atoms of norm 1, in float64: scales of rows of U are arbitrary."""
        basis = self._basis(self.generator.double(), self.start.double())
        norms = basis.atoms.norm(dim=1, keepdim=True)
        unit = DenseBasis(basis.readouts * norms, basis.atoms / norms)
        return unit.to(self.start.device, self.start.dtype)

    def _basis(self, generator: Tensor, start: Tensor) -> DenseBasis:
        growth, decay = torch.linalg.matrix_exp(torch.stack((generator, -generator)))
        return DenseBasis(growth @ start, decay.T @ start)


class Laplace(nn.Module):
    """`LaplaceRotations` between trainable anchors.

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

    def forward(self) -> Basis:
        """The basis, with gradients."""
        return LaplaceRotations(self.anchors)

    @torch.no_grad()
    def finished(self) -> Basis:
        """The basis, without gradients."""
        return LaplaceRotations(self.anchors.detach().clone())
