"""`Matrix`: a covariance matrix of points on a line, its products and entries."""

from __future__ import annotations

from copy import deepcopy
from math import prod
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..numpy import checks as validation
from .checks import ArrayLike, as_tensor, broadcast, positive, same_contents
from .parameters import GramParameters, shared
from .product import product

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on


class Matrix:
    """What `laplex.gram.LaplaceGram` needs no factor for.

    Parameters
    ----------
    parameters
        The parameters of A, already checked.
    """

    #: NumPy arrays leave ``array @ gram`` to this class.
    __array_ufunc__ = None

    def __init__(self, parameters: GramParameters) -> None:
        self._begin(parameters)

    def _begin(self, parameters: GramParameters) -> None:
        self.anchors, self.terms, self.noise, self._batch, self._basis, self._means = parameters

    @classmethod
    def of(cls, parameters: GramParameters) -> Self:
        """Make an object of this class from parameters that were already checked.

        :meta private:
        """
        made = cls.__new__(cls)
        made._begin(parameters)
        return made

    @property
    def parameters(self) -> GramParameters:
        """The parameters of the matrix.

        :meta private:
        """
        return GramParameters(
            self.anchors, self.terms, self.noise, self._batch, self._basis, self._means
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy of its own memory, as a part of a torch module needs it."""
        made = self.__class__.__new__(self.__class__)
        memo[id(self)] = made
        made._begin(self.parameters.deep_copied(memo))
        state = self.__getstate__() if hasattr(self, "__getstate__") else self.__dict__
        others = {name: each for name, each in state.items() if name not in made.__dict__}
        made.__dict__.update(deepcopy(others, memo))
        return made

    @property
    def mean(self) -> Tensor:
        """The mean ``[*b, n]`` of the Gaussian, which is 0 by default."""
        zeros = self.anchors.new_zeros(*self._batch, self.anchors.shape[-1])
        return self.parameters.shifted(zeros)

    @property
    def basis(self) -> Tensor | None:
        """The values ``[*b, n, p]`` of the basis at the anchors, or None."""
        if self._basis is None:
            return None
        return self.parameters.restored(self.parameters.basis_rows().mT)

    @property
    def prior(self) -> Tensor | None:
        """The prior variances ``[*b, p]`` of the coefficients of the basis, or None."""
        return None if self._basis is None else self._basis.prior.double()

    # --- products --------------------------------------------------------------------------------

    def matvec(self, values: ArrayLike) -> Tensor:
        """Multiply by A.

        The product uses `laplex.matvec` where it can, and does not need the factor of A. The mean
        plays no part.

        Parameters
        ----------
        values : array ``[..., n]``
            The values v; their leading dimensions broadcast with the batch.

        Returns
        -------
        Tensor ``[..., n]``
            The products.
        """
        parameters = self.parameters
        self._refuse_improper("a product with A", "solve() has a limit, and needs no product")
        values = parameters.broadcast_values(values).double()
        anchors = self.anchors.double()
        result = torch.zeros_like(values) if self.noise is None else self.noise * values
        for term in self.terms:
            result = result + product(term, values, anchors)
        if self._basis is not None:
            rows = parameters.basis_rows()
            inner = (rows @ values[..., None])[..., 0] * self._basis.prior.double()
            result = result + (rows.mT @ inner[..., None])[..., 0]
        return parameters.restored(result)

    def __matmul__(self, other: object) -> Tensor:
        """Multiply A by a vector or by matrices.

        Parameters
        ----------
        other : Tensor or array ``[n]`` or ``[..., n, k]``
            A vector, or matrices, whose batch broadcasts with that of A.

        Returns
        -------
        Tensor ``[*b, n]`` or ``[..., n, k]``
            The products.
        """
        if not isinstance(other, (Tensor, np.ndarray)):
            return NotImplemented
        other = self.parameters.as_values(other)
        if other.dim() < 2:
            return self.matvec(other)
        # Columns become rows; with a batch, they become one more leading dimension.
        try:
            lead = broadcast(other.shape[:-2], self._batch)
        except RuntimeError:
            raise ValueError(
                f"the matrices have shape {list(other.shape)}, which does not broadcast with the "
                f"batch {list(self._batch)}"
            ) from None
        rows = other.expand(*lead, *other.shape[-2:]).movedim(-1, 0)
        return self.matvec(rows).movedim(0, -1)

    def __rmatmul__(self, other: object) -> Tensor:
        """Multiply a vector ``[n]`` or matrices ``[..., k, n]`` by A."""
        if not isinstance(other, (Tensor, np.ndarray)):
            return NotImplemented
        other = self.parameters.as_values(other)
        return self @ other if other.dim() < 2 else (self @ other.mT).mT

    # --- other matrices --------------------------------------------------------------------------

    @property
    def T(self) -> Self:
        """The transpose, which is A itself."""
        return self

    @property
    def mT(self) -> Self:
        """The transpose under torch's name for batches of matrices, which is A itself."""
        return self

    def __add__(self, other: object) -> Self:
        """Add two covariance matrices on the same anchors.

        The sum has the terms and the bases of both, and the sum of their noise variances and of
        their means, as that of two independent vectors.

        Raises
        ------
        TypeError
            If the other object is not a `LaplaceGram`. A number, for example, could mean noise or
            a constant in every entry.
        ValueError
            If the anchors differ.
        """
        if not isinstance(other, Matrix):
            raise TypeError(
                "a LaplaceGram can only be added to another LaplaceGram, got "
                f"{type(other).__name__}: to add noise, pass it to the constructor, "
                "LaplaceGram(A.anchors, terms=A.terms, noise=...)"
            )
        if not self.has_anchors_of(other):
            raise ValueError(
                "the two LaplaceGrams have different anchors: build both from the same anchors, or "
                "add the results of to_dense()"
            )
        noise = other.noise if self.noise is None else self.noise
        if self.noise is not None and other.noise is not None:
            noise = self.noise + other.noise
        anchors = shared(self.anchors, other.anchors)
        total = GramParameters.checked(anchors, (*self.terms, *other.terms), noise)
        basis = other._basis if self._basis is None else self._basis.plus(other._basis)
        return self.of(total.with_trend(basis, self._means + other._means))

    __radd__ = __add__  # raises the same error for any other object

    def has_anchors_of(self, other: Matrix) -> bool:
        """Whether both have equal anchors of the same dtype and device.

        :meta private:
        """
        return same_contents([self.anchors], [other.anchors])

    def __mul__(self, factor: object) -> Self:
        """Multiply A by a positive number, or by numbers ``[*b]`` for a batch.

        The factor multiplies the variances of all terms, of the noise, and of the coefficients of
        a basis. The mean stays as it is.
        """
        scale: Tensor
        if isinstance(factor, (Tensor, np.ndarray)):
            scale = as_tensor("factor", factor).to(self.device, torch.float64)
        elif isinstance(factor, Real):
            scale = torch.tensor(float(factor), dtype=torch.float64, device=self.device)
        else:
            return NotImplemented
        if not positive(scale):
            raise ValueError(
                "a LaplaceGram can only be multiplied by positive, finite numbers, so that its "
                f"variances stay positive, got {factor}"
            )
        terms = [term.times(scale) for term in self.terms]
        noise = None if self.noise is None else self.noise * scale[..., None]
        basis = self._basis
        if basis is not None:
            basis = basis._replace(prior=basis.prior * scale[..., None])
        scaled = GramParameters.checked(self.anchors, terms, noise)
        return self.of(scaled.with_trend(basis, self._means))

    __rmul__ = __mul__

    # --- inspection ------------------------------------------------------------------------------

    @property
    def shape(self) -> torch.Size:
        """The shape ``(*b, n, n)`` of the matrix, with the batch in front."""
        n = self.anchors.shape[-1]
        return torch.Size((*self._batch, n, n))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the anchors and of all results."""
        return self.anchors.dtype

    @property
    def device(self) -> torch.device:
        """The device of the anchors and of all results."""
        return self.anchors.device

    @property
    def requires_grad(self) -> bool:
        """Whether any of the tensors requires gradients."""
        given = self.parameters.all_contents()
        return any(isinstance(each, Tensor) and each.requires_grad for each in given)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Convert to the dense matrix of up to 2**24 entries, for ``numpy.asarray``.

        Raises
        ------
        MemoryError
            If the matrix has more entries. A function that converts its argument to an array would
            otherwise form it by accident; call `to_dense` instead.
        RuntimeError
            If a tensor requires gradients, which the array would lose.
        ValueError
            If ``copy=False``.
        """
        validation.becomes_array("a LaplaceGram", tuple(self.shape), copy, "A @ v")
        if self.requires_grad:
            raise RuntimeError(
                "a LaplaceGram that requires gradients cannot be converted to a NumPy array: use "
                "detach()"
            )
        matrix = self.to_dense().numpy()
        return matrix if dtype is None else matrix.astype(dtype, copy=False)

    def diagonal(self) -> Tensor:
        """Return the diagonal of A, the variances ``[*b, n]``, noise included."""
        self._refuse_improper("a variance", "condition() and predict() have variances")
        noise = 0.0 if self.noise is None else self.noise.double()
        anchors, total = self.anchors.double(), self.anchors.new_zeros((), dtype=torch.float64)
        for term in self.terms:
            for part, column in term.parts(anchors):
                variance = part.covariance(torch.zeros_like(anchors[..., :1]), 1)
                total = total + (variance if column is None else column.square() * variance)
        if self._basis is not None:
            squares = self.parameters.basis_rows().square()
            total = total + (self._basis.prior.double()[..., None] * squares).sum(-2)
        return self.parameters.restored((total + noise).expand(self.shape[:-1]))

    def to_dense(self) -> Tensor:
        """Return the dense matrix ``[*b, n, n]``, which is differentiable.

        Raises
        ------
        MemoryError
            If the matrix has more than 2**28 entries.
        """
        self._refuse_improper("a matrix", "solve() and log_prob() have a limit")
        n = self.anchors.shape[-1]
        validation.dense_size(prod(self._batch), n, n)
        anchors = self.anchors.double()
        distance = (anchors[..., :, None] - anchors[..., None, :]).abs()
        dense = torch.zeros_like(distance)
        if self.noise is not None:
            noise = self.noise.double()
            dense = dense + torch.diag_embed(noise.expand(*noise.shape[:-1], n))
        for term in self.terms:
            for part, column in term.parts(anchors):
                kernel = part.covariance(distance, 2)
                if column is not None:
                    kernel = column[..., :, None] * kernel * column[..., None, :]
                dense = dense + kernel
        if self._basis is not None:
            rows = self.parameters.basis_rows()
            dense = dense + rows.mT @ (self._basis.prior.double()[..., None] * rows)
        return self.parameters.restored(dense.expand(self.shape))

    # --- inside -----------------------------------------------------------------------------------

    def _refuse_improper(self, what: str, instead: str) -> None:
        """Raise an error for what is infinite if a coefficient has an improper prior."""
        if self._basis is not None and self._basis.is_improper:
            raise ValueError(
                f"a coefficient of basis has an improper prior, so that A is infinite and {what} "
                f"has no meaning: {instead}; or pass finite variances as prior="
            )
