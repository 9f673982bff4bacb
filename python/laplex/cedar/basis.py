"""Invertible changes of basis: codes from centred embeddings, and embeddings from codes."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .topk import top_k, traceable_top_k


class Basis(ABC):
    r"""Base class of an invertible change of basis U.

    The rows :math:`u_i` of U are the readouts; the columns of :math:`U^{-1}` are the atoms.

    Attributes
    ----------
    dim : int
        Number of columns d of the embeddings.
    axes : int
        Number of coordinates: d, or more of a frame.
    """

    dim: int
    #: Whether the atoms are orthonormal, so that U is a rotation.
    orthogonal = False
    #: Whether `encode` keeps to operations that torch can trace, as it must inside a network.
    traceable = False

    @property
    def axes(self) -> int:
        """Number of coordinates."""
        return self.dim

    @abstractmethod
    def analyse(self, z: Tensor) -> Tensor:
        r"""Return the coordinates :math:`U z` of rows z [n, d]."""

    @abstractmethod
    def synthesise(self, codes: Tensor) -> Tensor:
        r"""Return the embeddings :math:`U^{-1} s` of rows s [n, d]."""

    @property
    @abstractmethod
    def atom_norms(self) -> Tensor | None:
        """The norms of the atoms [d], or None if all are 1."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that define the basis, by name, for files."""

    @property
    def readouts(self) -> Tensor:
        """The matrix U [d, d]; its rows are the readouts."""
        return self.analyse(self._identity()).T.contiguous()

    @property
    def atoms(self) -> Tensor:
        """The atoms as rows [d, d]: the transpose of the inverse of U."""
        return self.synthesise(self._identity())

    def encode(self, z: Tensor, k: int) -> Tensor:
        r"""Return the codes :math:`T_k(U z)` [n, d] of centred rows z [n, d].

        A code keeps the k entries with the largest contributions to the reconstruction,
        :math:`|u_i \cdot z|\,\|a_i\|`, because the scale of a row of U alone is arbitrary.
        """
        keep = traceable_top_k if self.traceable else top_k
        return keep(self.analyse(z), k, self.atom_norms)

    def coordinates(self, z: Tensor, axes: list[int]) -> Tensor:
        r"""Return some coordinates :math:`u_i \cdot z` [n, m] of rows z [n, d], by axis."""
        return self.analyse(z)[:, axes]

    def steps(self, axes: list[int]) -> Tensor:
        """Return as rows [m, d] what each of some coordinates grows by 1 along, alone among these.

        These are the atoms of the axes.
        """
        return self.synthesise(self._identity()[axes])

    def arranged(self, order: Tensor, signs: Tensor) -> Basis:
        """Return the basis whose axis i is ``signs[i]`` times axis ``order[i]`` of this one.

        A kind of basis that cannot be rearranged returns itself.
        """
        return self

    @abstractmethod
    def to(self, device: torch.device, dtype: torch.dtype) -> Basis:
        """Return the same basis on another device or in another precision."""

    @abstractmethod
    def _identity(self) -> Tensor: ...


class DenseBasis(Basis):
    """A change of basis that is stored as matrices.

    Parameters
    ----------
    readouts : Tensor [d, d]
        The matrix U.
    atoms : Tensor [d, d], optional
        The atoms as rows, :math:`U^{-T}`. Leave them out for an orthogonal U, whose atoms are its
        readouts.
    """

    def __init__(self, readouts: Tensor, atoms: Tensor | None = None) -> None:
        self._readouts = readouts
        self._atoms = atoms
        self.dim = readouts.shape[1]
        self.orthogonal = atoms is None

    def analyse(self, z: Tensor) -> Tensor:
        """Return the coordinates [n, d] of rows z [n, d]."""
        return z @ self._readouts.T

    def synthesise(self, codes: Tensor) -> Tensor:
        """Return the embeddings [n, d] of codes [n, d]."""
        return codes @ (self._readouts if self._atoms is None else self._atoms)

    def coordinates(self, z: Tensor, axes: list[int]) -> Tensor:
        """Return some coordinates [n, m] of rows z [n, d], without computing the others."""
        return z @ self._readouts[axes].T

    def steps(self, axes: list[int]) -> Tensor:
        """Return the atoms of some axes as rows [m, d]."""
        return self.atoms[axes]

    @property
    def atom_norms(self) -> Tensor | None:
        """The norms of the atoms [d], or None for a rotation."""
        return None if self._atoms is None else self._atoms.norm(dim=1)

    @property
    def readouts(self) -> Tensor:
        """The matrix U [d, d]; its rows are the readouts."""
        return self._readouts

    @property
    def atoms(self) -> Tensor:
        """The atoms as rows [d, d]."""
        return self._readouts if self._atoms is None else self._atoms

    def tensors(self) -> dict[str, Tensor]:
        """Return the matrices, by name."""
        if self._atoms is None:
            return {"readouts": self._readouts}
        return {"readouts": self._readouts, "atoms": self._atoms}

    def arranged(self, order: Tensor, signs: Tensor) -> DenseBasis:
        """Return the basis whose axis i is ``signs[i]`` times axis ``order[i]`` of this one."""
        flips = signs[:, None].to(self._readouts)
        atoms = None if self._atoms is None else self._atoms[order] * flips
        return DenseBasis(self._readouts[order] * flips, atoms)

    def to(self, device: torch.device, dtype: torch.dtype) -> DenseBasis:
        """Return the same basis on another device or in another precision."""
        atoms = None if self._atoms is None else self._atoms.to(device, dtype)
        return DenseBasis(self._readouts.to(device, dtype), atoms)

    def _identity(self) -> Tensor:
        return torch.eye(self.dim, device=self._readouts.device, dtype=self._readouts.dtype)


def random_rotation(dim: int, generator: torch.Generator) -> Tensor:
    """Draw an orthogonal matrix [d, d] from the uniform (Haar) distribution, in float64."""
    normal = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(normal)
    rotation: Tensor = q * r.diagonal().sign()  # the signs make it uniform (Mezzadri, 2007)
    return rotation


def nearest_rotation(matrix: Tensor) -> Tensor:
    """Return the orthogonal matrix nearest to a matrix [d, d]: its polar factor.

    It maximises tr(Q^T M) over orthogonal Q: the orthogonal Procrustes problem (Schoenemann, 1966).
    """
    left, _, right = torch.linalg.svd(matrix)
    rotation: Tensor = left @ right
    return rotation
