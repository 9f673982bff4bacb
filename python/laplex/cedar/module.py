"""A fitted change of basis as a torch module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .basis import Basis, DenseBasis
from .drift import Drift
from .fitted import Fitted
from .frame import FrameBasis
from .interventions import Value, changed, checked_changes
from .settings import whole


class CedarModule(nn.Module):
    r"""A fitted model as a torch module, with gradients with respect to the embeddings.

    ``encode`` gives codes :math:`s = T_k(U (z - b))`, ``decode`` gives embeddings
    :math:`b + U^{-1} s`, ``forward`` gives reconstructions, and ``intervene`` sets coordinates.

    It consists of torch operations only: it can be moved to another type or device, compiled,
    exported (also to ONNX), and differentiated in any mode, also under ``torch.func.vmap`` and
    autocast. Only with basis "laplex" it is confined to float32 and float64 and to
    ``torch.autograd``: it can be neither compiled nor exported, has no values on the device "meta",
    and no transforms of ``torch.func``.
    With basis "frame" it cannot be exported to ONNX, which has no Cholesky factorisation.

    Parameters
    ----------
    basis : Basis
        The change of basis U.
    mean : Tensor [d]
        The centre b.
    k : int
        Number of nonzero entries of a code.
    fitted : Fitted, optional
        What the fit knows of its rows, for `check_drift`.
    """

    mean: Tensor

    def __init__(self, basis: Basis, mean: Tensor, k: int, fitted: Fitted | None = None) -> None:
        super().__init__()
        self.k = k
        self._fitted = None if fitted is None else replace(fitted, bases=())
        self.register_buffer("mean", mean.clone())
        self._names = list(basis.tensors())
        for name, tensor in basis.tensors().items():
            self.register_buffer(name, tensor.detach().clone())

    def encode(self, z: Tensor, k: int | None = None) -> Tensor:
        r"""Encode embeddings: :math:`T_k(U (z - b))`.

        Parameters
        ----------
        z : Tensor [..., d]
            Embeddings.
        k : int, optional
            Number of nonzero entries of a code; that of the module if None.

        Returns
        -------
        Tensor [..., d]
            The codes in the type of the module, with gradients. Of equal entries, those with the
            lowest index are kept.

        Raises
        ------
        TypeError, ValueError
            If the last dimension is not d, or k is not a positive integer.
        """
        entries = self.k if k is None else whole("k", k)
        rows = self._flat(z, "z") - self.mean
        codes = self._basis().encode(rows, entries)
        return codes.reshape(*z.shape[:-1], codes.shape[-1])

    def decode(self, codes: Tensor) -> Tensor:
        r"""Reconstruct embeddings from codes: :math:`b + U^{-1} s`.

        Parameters
        ----------
        codes : Tensor [..., d]
            Codes, such as those of `encode`.

        Returns
        -------
        Tensor [..., d]
            The embeddings in the type of the module, with gradients.

        Raises
        ------
        ValueError
            If the last dimension is not d.
        """
        basis = self._basis()
        self._check(codes, "codes", basis.axes)
        rows = codes.reshape(-1, basis.axes).to(self.mean.dtype)
        return (basis.synthesise(rows) + self.mean).reshape(*codes.shape[:-1], basis.dim)

    def intervene(self, z: Tensor, values: Mapping[Any, Value], names: Any = None) -> Tensor:
        r"""Set some coordinates of embeddings and leave all others as they are.

        .. math:: z' = z + \sum_i (t_i - u_i \cdot (z - b))\, a_i

        Nothing is cut off to k entries: the part of z that its code omits stays in it. For frames
        see ``CEDAR.intervene``.

        Parameters
        ----------
        z : Tensor [..., d]
            Embeddings.
        values : mapping
            The new coordinates :math:`t_i`, by axis or by name, as in ``CEDAR.intervene``. Whether
            Tensors and functions give finite numbers is not checked.
        names : AxisNames or mapping of str to int, optional
            What the names in ``values`` mean.

        Returns
        -------
        Tensor [..., d]
            The changed embeddings in the type of z, with gradients.

        Raises
        ------
        TypeError, ValueError, IndexError
            If the last dimension is not d, or ``values`` is not as `CEDAR.intervene` wants it.
        """
        self._check(z, "z")
        if not z.is_floating_point():
            z = z.to(self.mean.dtype)
        basis = self._basis()
        return changed(basis, self.mean, z, checked_changes(values, names, basis.axes))

    def check_drift(self, z: Tensor) -> None:
        """Warn if embeddings differ from those of the fit, as ``CEDAR.transform`` does.

        The other methods look at no numbers, so that they can be traced. Call this one outside of
        traced code, for instance on the first batch.

        Parameters
        ----------
        z : Tensor [..., d]
            At least 32 embeddings; of fewer nothing can be said.

        Raises
        ------
        ValueError
            If the last dimension is not d, or the module was not made by ``CEDAR.torch_module``.

        Warns
        -----
        DriftWarning
            If mean or norm are far from those of the training rows, or the axes explain much less.
        """
        if self._fitted is None:
            raise ValueError(
                "the module does not know the rows of its fit: make it by CEDAR.torch_module"
            )
        rows = self._flat(z, "z").detach()
        drift = Drift(self._fitted, "z", self._basis())
        drift.see(rows - self.mean)
        drift.warn()

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
        return f"dim={self.mean.shape[0]}, k={self.k}"

    @property
    def axes(self) -> int:
        """Number of axes: d, or more with a frame."""
        return self._basis().axes

    def _check(self, rows: Tensor, name: str, dim: int | None = None) -> None:
        if not isinstance(rows, Tensor):
            raise TypeError(
                f"{name} must be a Tensor, got {type(rows).__name__}: pass torch.as_tensor({name}),"
                " or call the methods of CEDAR, which take arrays"
            )
        dim = self.mean.shape[0] if dim is None else dim
        if rows.dim() == 0 or rows.shape[-1] != dim:
            raise ValueError(f"{name}: expected shape [..., {dim}], got {list(rows.shape)}")

    def _flat(self, rows: Tensor, name: str) -> Tensor:
        self._check(rows, name)
        return rows.reshape(-1, self.mean.shape[0]).to(self.mean.dtype)

    def _basis(self) -> Basis:
        if "anchors" in self._names and (self.mean.is_meta or torch.compiler.is_exporting()):
            raise NotImplementedError(
                "a module with basis 'laplex' can be neither exported nor run on the device "
                "'meta', because its work depends on values: fit with basis='orthogonal' for that"
            )
        basis = basis_of({name: getattr(self, name) for name in self._names})
        basis.traceable = True
        return basis


def basis_of(tensors: dict[str, Any]) -> Basis:
    """Make a basis from the tensors that ``Basis.tensors`` returns."""
    if "anchors" in tensors:
        from .laplace_rotation import LaplaceRotations  # few models need it

        parts = (tensors.get(name) for name in ("anchors", "order", "signs"))
        return LaplaceRotations(*parts)  # type: ignore[arg-type]
    if "frame" in tensors:
        return FrameBasis(tensors["frame"], tensors["dual"])
    return DenseBasis(tensors["readouts"], tensors.get("atoms"))
