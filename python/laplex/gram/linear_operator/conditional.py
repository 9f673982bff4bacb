"""`LaplaceConditionalLinearOperator`: the covariance of some entries, given others."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from linear_operator import LinearOperator
from linear_operator.operators import RootLinearOperator
from torch import Tensor

from ..conditional import Conditional
from .covariance import Covariance
from .gram import LaplaceGramLinearOperator

MOST_DENSE = 4096
"""The largest number of entries with a dense root, which takes 128 MiB."""


class LaplaceConditionalLinearOperator(Covariance):
    """The covariance of the last entries of a Gaussian vector, given the first ones, in O(n).

    It is the Schur complement ``A_rr - A_ro A_oo^-1 A_or`` of a `LaplaceGram`, so its inverse is a
    block of the inverse of A.

    Parameters
    ----------
    whole : LaplaceGramLinearOperator
        The covariance A ``[*b, n, n]`` of all entries, noise included.
    observed : int
        The number of given entries.
    """

    def __init__(self, whole: LaplaceGramLinearOperator, *, observed: int) -> None:
        super().__init__(whole, observed=observed)
        self._whole = whole
        self._observed = observed

    @cached_property
    def _given(self) -> LaplaceGramLinearOperator:
        return self._whole._principal(slice(self._observed))

    def _conditional(self) -> Conditional:
        n, gram = self._whole.shape[-1], self._whole.gram
        numbers = torch.arange(n, device=self.device)
        values = torch.zeros(
            *self.batch_shape, self._observed, dtype=self.dtype, device=self.device
        )
        return Conditional(gram, numbers[: self._observed], numbers[self._observed :], values)

    def _from_whole(self, rhs: Tensor) -> Tensor:
        """Multiply by ``[-A_ro A_oo^-1, 1]``, which turns vectors of N(0, A) into those of C."""
        weights = self._given.solve(rhs[..., : self._observed, :])
        zeros = weights.new_zeros(*weights.shape[:-2], self.shape[-1], weights.shape[-1])
        expected = self._whole @ torch.cat((weights, zeros), -2)
        return rhs[..., self._observed :, :] - expected[..., self._observed :, :]

    def _to_whole(self, rhs: Tensor) -> Tensor:
        """Multiply by the transpose of that matrix."""
        covered = self._whole @ self._padded(rhs)
        weights = self._given.solve(covered[..., : self._observed, :])
        return torch.cat((-weights, rhs.expand(*weights.shape[:-2], *rhs.shape[-2:])), -2)

    def _padded(self, rhs: Tensor) -> Tensor:
        zeros = rhs.new_zeros(*rhs.shape[:-2], self._observed, rhs.shape[-1])
        return torch.cat((zeros, rhs), -2)

    def _product(self, rhs: Tensor) -> Tensor:
        if rhs.dim() == 1:
            return self._product(rhs[:, None])[:, 0]
        if not self._whole.has_basis:
            return self._from_whole(self._whole @ self._padded(rhs))
        # The part of a basis is large and mostly known: it is not subtracted from itself.
        rows, uncertain = self._conditional()._of_basis()
        alone = type(self)(self._whole.without_basis(), observed=self._observed)
        told = rows.mT @ (uncertain @ (rows @ rhs.double()))
        return alone._product(rhs) + told.to(self.dtype)

    def to_dense(self) -> Tensor:
        """Return the dense matrix ``[*b, m, m]``."""
        return self._conditional().covariance

    def _solve(self, rhs: Tensor, preconditioner: Any = None, num_tridiag: int | None = 0) -> Any:
        if num_tridiag:
            return super()._solve(rhs, preconditioner, num_tridiag)
        if rhs.dim() == 1:
            return self._solve(rhs[:, None])[:, 0]
        return self._whole.solve(self._padded(rhs))[..., self._observed :, :]

    def inv_quad_logdet(
        self,
        inv_quad_rhs: Tensor | None = None,
        logdet: bool | None = False,
        reduce_inv_quad: bool | None = True,
    ) -> tuple[Tensor, Tensor]:
        """Return the traces (or diagonals) of ``R^T C^-1 R``, and log det C.

        log det C is log det A minus log det A_oo.
        """
        if inv_quad_rhs is not None:
            rhs = inv_quad_rhs[..., None] if inv_quad_rhs.dim() == 1 else inv_quad_rhs
            inv_quad_rhs = self._padded(rhs)
        quadratic, determinant = self._whole.inv_quad_logdet(inv_quad_rhs, logdet, reduce_inv_quad)
        if logdet:
            determinant = determinant - self._given.logdet()
        return quadratic, determinant

    def root_decomposition(self, method: str | None = None) -> Any:
        """Return an exact root: the Cholesky factor, or for many entries a lazy ``[m, n]`` one.

        The lazy root is that of Matheron's rule, ``[-A_ro A_oo^-1, 1] S`` for A = S S^T.
        """
        if self.shape[-1] <= MOST_DENSE:
            return super().root_decomposition(method)
        return RootLinearOperator(ConditionalRoot(self, inverse=False))

    def root_inv_decomposition(self, *arguments: Any, **named: Any) -> Any:
        """Return an exact root of the inverse of C, as `root_decomposition` does of C."""
        if self.shape[-1] <= MOST_DENSE:
            return super().root_inv_decomposition(*arguments, **named)
        return RootLinearOperator(ConditionalRoot(self, inverse=True))

    def zero_mean_mvn_samples(self, num_samples: int) -> Tensor:
        """Draw samples ``[num_samples, *b, m]`` of N(0, C) by Matheron's rule."""
        return self._conditional().sample((num_samples,))

    def add_diagonal(self, diag: Tensor) -> LinearOperator:
        """Add noise variances of shape ``[..., m]``, ``[..., 1]`` or ``[]`` to C."""
        diag = diag[None] if diag.dim() == 0 else diag
        own = diag.expand(*diag.shape[:-1], self.shape[-1])
        padded = torch.cat((own.new_zeros(*own.shape[:-1], self._observed), own), -1)
        if not bool((own >= 0).all()):
            return super().add_diagonal(diag)
        return type(self)(self._whole.add_diagonal(padded), observed=self._observed)

    def _mul_constant(self, other: float | Tensor) -> LinearOperator:
        whole = self._whole._mul_constant(other)
        if not isinstance(whole, LaplaceGramLinearOperator):
            return super()._mul_constant(other)
        return type(self)(whole, observed=self._observed)

    def _expand_batch(self, batch_shape: torch.Size | list[int]) -> LinearOperator:
        return type(self)(self._whole._expand_batch(batch_shape), observed=self._observed)

    def _principal(self, index: Any, batch: tuple[Any, ...]) -> LinearOperator:
        numbers = torch.arange(self._whole.shape[-1], device=self.device)
        kept = torch.cat((numbers[: self._observed], numbers[self._observed :][index]))
        whole = self._whole._principal(kept, batch)
        return type(self)(whole, observed=self._observed)

    def _size(self) -> torch.Size:
        m = self._whole.shape[-1] - self._observed
        return torch.Size((*self._whole.batch_shape, m, m))

    def _diagonal(self) -> Tensor:
        return self._conditional().variance


class ConditionalRoot(LinearOperator):  # type: ignore[misc]
    """A root ``[*b, m, n]`` of a conditional covariance C or of its inverse, by those of A = S S^T.

    With R = ``[-A_ro A_oo^-1, 1]`` and the selection E of the last entries, C = R A R^T and
    C^-1 = E A^-1 E^T.
    """

    def __init__(
        self,
        covariance: LaplaceConditionalLinearOperator,
        *,
        inverse: bool,
        transposed: bool = False,
    ) -> None:
        super().__init__(covariance, inverse=inverse, transposed=transposed)
        self._covariance = covariance
        whole = covariance._whole
        root = whole.root_inv_decomposition() if inverse else whole.root_decomposition()
        self._root = root.root
        self._inverse = inverse
        self._transposed = transposed

    def matmul(self, other: Any) -> Any:
        """Multiply the root by a tensor ``[..., n, k]`` or ``[n]``."""
        return self._matmul(other) if isinstance(other, Tensor) else super().matmul(other)

    def _matmul(self, rhs: Tensor) -> Tensor:
        if rhs.dim() == 1:
            return self._matmul(rhs[:, None])[:, 0]
        given = self._covariance
        if self._transposed:
            whole = given._padded(rhs) if self._inverse else given._to_whole(rhs)
            product: Tensor = self._root.mT @ whole
            return product
        product = self._root @ rhs
        return product[..., given._observed :, :] if self._inverse else given._from_whole(product)

    def _size(self) -> torch.Size:
        shape = (self._covariance.shape[-1], self._root.shape[-1])
        return torch.Size(
            (*self._covariance.batch_shape, *(reversed(shape) if self._transposed else shape))
        )

    def _transpose_nonbatch(self) -> ConditionalRoot:
        return ConditionalRoot(
            self._covariance, inverse=self._inverse, transposed=not self._transposed
        )
