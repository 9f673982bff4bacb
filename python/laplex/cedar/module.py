"""A fitted change of basis as a torch module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .basis import Basis, DenseBasis


class CedarModule(nn.Module):
    r"""A fitted model as a torch module, with gradients with respect to the embeddings.

    ``encode`` gives codes :math:`s = T_k(U (z - b))`, ``decode`` gives embeddings
    :math:`b + U^{-1} s`, and ``forward`` gives reconstructions.

    Parameters
    ----------
    basis : Basis
        The change of basis U.
    mean : Tensor [d]
        The centre b.
    k : int
        Number of nonzero entries of a code.
    """

    mean: Tensor

    def __init__(self, basis: Basis, mean: Tensor, k: int) -> None:
        super().__init__()
        self.k = k
        self.register_buffer("mean", mean.clone())
        self._names = list(basis.tensors())
        for name, tensor in basis.tensors().items():
            self.register_buffer(name, tensor.detach().clone())

    def encode(self, z: Tensor, k: int | None = None) -> Tensor:
        """Encode embeddings.

        Parameters
        ----------
        z : Tensor [..., d]
            Embeddings.
        k : int, optional
            Number of nonzero entries of a code; that of the module if None.

        Returns
        -------
        Tensor [..., d]
            The codes, with gradients.

        Raises
        ------
        ValueError
            If the last dimension is not d.
        """
        rows = self._flat(z) - self.mean
        return self._basis().encode(rows, self.k if k is None else k).reshape(z.shape)

    def decode(self, codes: Tensor) -> Tensor:
        """Reconstruct embeddings from codes.

        Parameters
        ----------
        codes : Tensor [..., d]
            Codes, such as those of `encode`.

        Returns
        -------
        Tensor [..., d]
            The embeddings, with gradients.

        Raises
        ------
        ValueError
            If the last dimension is not d.
        """
        return (self._basis().synthesise(self._flat(codes)) + self.mean).reshape(codes.shape)

    def forward(self, z: Tensor) -> Tensor:
        """Encode and reconstruct embeddings.

        Parameters
        ----------
        z : Tensor [..., d]
            Embeddings.

        Returns
        -------
        Tensor [..., d]
            The reconstructions, with gradients.
        """
        return self.decode(self.encode(z))

    def extra_repr(self) -> str:
        """Return what ``repr`` shows.

        :meta private:
        """
        return f"dim={len(self.mean)}, k={self.k}"

    def _flat(self, rows: Tensor) -> Tensor:
        if rows.dim() == 0 or rows.shape[-1] != len(self.mean):
            raise ValueError(f"expected shape [..., {len(self.mean)}], got {list(rows.shape)}")
        return rows.reshape(-1, len(self.mean)).to(self.mean.dtype)

    def _basis(self) -> Basis:
        return basis_of({name: getattr(self, name) for name in self._names})


def basis_of(tensors: dict[str, Any]) -> Basis:
    """Make a basis from the tensors that ``Basis.tensors`` returns."""
    if "anchors" in tensors:
        from .laplace_rotation import LaplaceRotations  # few models need it

        parts = (tensors.get(name) for name in ("anchors", "order", "signs"))
        return LaplaceRotations(*parts)  # type: ignore[arg-type]
    return DenseBasis(tensors["readouts"], tensors.get("atoms"))
