"""Trainable parameters of a change of basis: modules that give a `Basis` when called."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .basis import Basis, DenseBasis, nearest_rotation
from .laplace_rotation import LaplaceRotations
from .laplace_start import starting_anchors

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
        The rotation U_0; A = 0. Any U_0 will do together with its atoms.
    atoms : Tensor [d, d], optional
        Of U_0, as rows: its inverse transposed.
    """

    start: Tensor
    atoms: Tensor

    def __init__(self, start: Tensor, atoms: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("start", start)
        self.register_buffer("atoms", start if atoms is None else atoms)
        self.generator = nn.Parameter(torch.zeros_like(start))

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


class Laplace(nn.Module):
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
    def at(cls, basis: LaplaceRotations) -> Laplace:
        """Trainable anchors where those of a basis are."""
        heads, dim = basis.anchors.shape
        made = cls(
            dim,
            heads,
            torch.Generator(),
            device=basis.anchors.device,
            dtype=basis.anchors.dtype,
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
