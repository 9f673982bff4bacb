"""`LaplaceGramLinearOperator`: a covariance on a line for GPyTorch's package ``linear_operator``.

Importing this module needs that package; `LaplaceGram.to_linear_operator` imports it when called.
Every operation costs O(n) and forms no matrix, where the package's own algebra would use conjugate
gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from linear_operator import LinearOperator
from linear_operator.operators import (
    ConstantDiagLinearOperator,
    DiagLinearOperator,
    RootLinearOperator,
)
from torch import Tensor

from .checks import broadcast
from .conditional import Conditional
from .gaussian import Gaussian
from .parameters import GramParameters


def _expanded(tensor: Tensor, batch: torch.Size | list[int], name: str) -> Tensor:
    return tensor.expand((*batch, *tensor.shape[tensor.dim() - GramParameters.trailing(name) :]))


class _Covariance(LinearOperator):  # type: ignore[misc]
    """The common base of the covariances here: symmetric matrices with algebra of their own."""

    def matmul(self, other: Any) -> Any:
        """Multiply A by a tensor ``[..., n, k]`` or ``[n]``, twice differentiable."""
        return self._matmul(other) if isinstance(other, Tensor) else super().matmul(other)

    def solve(self, right_tensor: Tensor, left_tensor: Tensor | None = None) -> Tensor:
        """Multiply the inverse of A by ``right_tensor``, of shape ``[..., n, k]`` or ``[n]``.

        If ``left_tensor`` is given, multiply the result by it from the left.
        """
        result: Tensor = self._solve(right_tensor)
        return result if left_tensor is None else left_tensor @ result

    def inv_quad(self, inv_quad_rhs: Tensor, reduce_inv_quad: bool = True) -> Tensor:
        """Return the traces of ``R^T A^-1 R``, or its diagonals if ``reduce_inv_quad=False``."""
        quadratic: Tensor = self.inv_quad_logdet(inv_quad_rhs, reduce_inv_quad=reduce_inv_quad)[0]
        return quadratic

    def evaluate_kernel(self) -> _Covariance:
        """Return the operator itself, which is not lazy."""
        return self

    def __add__(self, other: Any) -> Any:
        """Add another operator; a diagonal becomes noise."""
        if isinstance(other, ConstantDiagLinearOperator):
            return self.add_diagonal(other.diag_values)
        if isinstance(other, DiagLinearOperator):
            return self.add_diagonal(other._diag)
        return super().__add__(other)

    def mul(self, other: Any) -> Any:
        """Multiply by another operator or tensor.

        Positive numbers, one for each matrix of the batch, keep the type of the operator.
        """
        if isinstance(other, Tensor) and other.dim() >= 2 and other.shape[-2:] == (1, 1):
            return self._mul_constant(other[..., 0, 0])
        return super().mul(other)

    def _transpose_nonbatch(self) -> _Covariance:
        return self

    def _getitem(self, row_index: Any, col_index: Any, *batch_indices: Any) -> Any:
        """Principal submatrices keep their type; others multiply through the whole matrix."""
        tensors = any(isinstance(each, Tensor) for each in (row_index, col_index, *batch_indices))
        if tensors or row_index != col_index:
            return super()._getitem(row_index, col_index, *batch_indices)
        return self._principal(row_index, batch_indices)

    def _principal(self, index: Any, batch: tuple[Any, ...]) -> _Covariance:
        raise NotImplementedError


class LaplaceGramLinearOperator(_Covariance):
    """A `LaplaceGram` as a ``LinearOperator`` for GPyTorch, with exact algebra in O(n).

    Use `LaplaceGram.to_linear_operator` to build one. An added diagonal becomes noise, a positive
    factor multiplies the variances, and the sum of two operators on the same anchors has the terms
    of both.

    Parameters
    ----------
    *tensors
        The tensors named by ``names``, all with the full batch in front. The package
        ``linear_operator`` takes its operators apart into tensors, changes these (by permuting,
        expanding or differentiating), and builds new operators from them.
    names : tuple of str
        The name of each tensor: ``anchors``, ``noise``, and for term 0 ``0.lengthscale`` and so on.
    make : callable
        The function that makes the matrix from its parameters.
    """

    def __init__(
        self,
        *tensors: Tensor,
        names: tuple[str, ...],
        make: Callable[[GramParameters], Gaussian] = Gaussian.of,
    ) -> None:
        super().__init__(*tensors, names=names, make=make)
        self._named = dict(zip(names, tensors, strict=True))
        self._make = make

    @classmethod
    def of(cls, gram: Gaussian) -> LaplaceGramLinearOperator:
        """Wrap a `LaplaceGram`.

        Parameters
        ----------
        gram : LaplaceGram
            The matrix; what it has computed already is not computed again.

        Returns
        -------
        LaplaceGramLinearOperator
            The operator.
        """
        parameters = gram.parameters
        named = {
            name: _expanded(tensor, parameters.batch, name)
            for name, tensor in parameters.named().items()
        }
        operator = cls(*named.values(), names=tuple(named), make=gram.of)
        operator.__dict__["gram"] = gram  # which may have been factorised already
        return operator

    @cached_property
    def gram(self) -> Gaussian:
        """The `LaplaceGram` that the operator was made from."""
        return self._make(GramParameters.from_named(self._named))

    # --- algebra ----------------------------------------------------------------------------------

    def _matmul(self, rhs: Tensor) -> Tensor:
        return self.gram @ rhs

    def _solve(self, rhs: Tensor, preconditioner: Any = None, num_tridiag: int | None = 0) -> Any:
        if num_tridiag:
            return super()._solve(rhs, preconditioner, num_tridiag)
        if rhs.dim() == 1:
            return self.gram.solve(rhs)
        return self.gram.solve(self._rows(rhs)).movedim(0, -1)

    def inv_quad_logdet(
        self,
        inv_quad_rhs: Tensor | None = None,
        logdet: bool | None = False,
        reduce_inv_quad: bool | None = True,
    ) -> tuple[Tensor, Tensor]:
        """Return the traces (or diagonals) of ``R^T A^-1 R``, and log det A, in one pass."""
        gram, none = self.gram, torch.zeros((), dtype=self.dtype, device=self.device)
        if inv_quad_rhs is None:
            return none, gram.logdet() if logdet else none
        rhs = inv_quad_rhs[..., None] if inv_quad_rhs.dim() == 1 else inv_quad_rhs
        quadratic, determinant = gram.inv_quad_logdet(self._rows(rhs))
        quadratic = quadratic.movedim(0, -1)
        return quadratic.sum(-1) if reduce_inv_quad else quadratic, determinant if logdet else none

    def _rows(self, matrices: Tensor) -> Tensor:
        """Columns of ``[..., n, k]`` as rows that broadcast with the batch, ``[k, ..., n]``."""
        lead = broadcast(matrices.shape[:-2], self.batch_shape)
        return matrices.expand(*lead, *matrices.shape[-2:]).movedim(-1, 0)

    def root_decomposition(self, method: str | None = None) -> RootLinearOperator:
        """Return the exact factor S of A = S S^T, lower triangular in sorted order."""
        return RootLinearOperator(_Root(self, inverse=False, transposed=False))

    def root_inv_decomposition(self, *_: Any, **__: Any) -> RootLinearOperator:
        """Return the exact transposed inverse of S, a root of the inverse of A."""
        return RootLinearOperator(_Root(self, inverse=True, transposed=True))

    def zero_mean_mvn_samples(self, num_samples: int) -> Tensor:
        """Draw samples ``[num_samples, *b, n]`` of N(0, A)."""
        return self.gram.sample((num_samples,))

    # --- operators made of this one ---------------------------------------------------------------

    def add_diagonal(self, diag: Tensor) -> LinearOperator:
        """Add noise variances of shape ``[..., n]``, ``[..., 1]`` or ``[]`` to A."""
        noise = diag.double()[None] if diag.dim() == 0 else diag.double()
        gram = self.gram
        if gram.noise is not None:
            noise = gram.noise + noise
        if not bool((noise >= 0).all()):
            return super().add_diagonal(diag)
        parameters = GramParameters.checked(gram.anchors, gram.terms, noise)
        return self.of(self._make(parameters))

    def __add__(self, other: Any) -> Any:
        """Add another operator.

        A diagonal becomes noise, and the sum of two operators on the same anchors has the terms of
        both.
        """
        if not isinstance(other, LaplaceGramLinearOperator):
            return super().__add__(other)
        if not self.gram.has_anchors_of(other.gram):
            return super().__add__(other)
        return self.of(self.gram + other.gram)

    def _mul_constant(self, other: float | Tensor) -> LinearOperator:
        if not isinstance(other, Tensor):
            other = torch.tensor(other, dtype=self.dtype, device=self.device)
        if not bool((other > 0).all()):
            return super()._mul_constant(other)
        return self.of(self.gram * other)

    def _expand_batch(self, batch_shape: torch.Size | list[int]) -> LaplaceGramLinearOperator:
        return self._map(lambda name, tensor: _expanded(tensor, batch_shape, name))

    def _principal(
        self, index: Any, batch: tuple[Any, ...] = (Ellipsis,)
    ) -> LaplaceGramLinearOperator:
        n = self.shape[-1]

        def taken(name: str, tensor: Tensor) -> Tensor:
            # A noise variance [*b, 1] is shared by all anchors.
            along = GramParameters.is_per_anchor(name) and tensor.shape[-1] == n
            inner = (slice(None),) * (GramParameters.trailing(name) - 1)
            return tensor[(*batch, *inner, index) if along else batch]

        return self._map(taken)

    def _map(self, change: Callable[[str, Tensor], Tensor]) -> LaplaceGramLinearOperator:
        """A copy in which every tensor is replaced by the result of `change`."""
        tensors = [change(name, tensor) for name, tensor in self._named.items()]
        return type(self)(*tensors, names=tuple(self._named), make=self._make)

    # --- entries ----------------------------------------------------------------------------------

    def _size(self) -> torch.Size:
        anchors = self._named["anchors"]
        return torch.Size((*anchors.shape, anchors.shape[-1]))

    def _diagonal(self) -> Tensor:
        return self.gram.diagonal()

    def _get_indices(self, row_index: Tensor, col_index: Tensor, *batch_indices: Tensor) -> Tensor:
        """Compute single entries by the formula."""
        n = self.shape[-1]

        def take(tensor: Tensor, index: Tensor) -> Tensor:
            # A noise variance [*b, 1] has one entry, whatever the index.
            last = index if tensor.shape[-1] == n else torch.zeros_like(index)
            return tensor[batch_indices + (last,)]  # noqa: RUF005 (Python 3.10)

        anchors = self.gram.anchors.double().expand(*self.batch_shape, n)
        distance = (take(anchors, row_index) - take(anchors, col_index)).abs()
        total = distance.new_zeros(())
        for term in self.gram.terms:
            for part, column in term.parts(anchors):
                kernel = part.covariance_at(distance, self.batch_shape, batch_indices)
                if column is not None:
                    column = column.expand(*self.batch_shape, n)
                    kernel = kernel * take(column, row_index) * take(column, col_index)
                total = total + kernel
        if "noise" in self._named:
            total = total + take(self._named["noise"], row_index) * (row_index == col_index)
        return total.to(self.dtype)

    def to_dense(self) -> Tensor:
        """Return the dense matrix ``[*b, n, n]``."""
        return self.gram.to_dense()


class _Root(LinearOperator):  # type: ignore[misc]
    """The factor S of A = S S^T, its transpose, or the inverse of either."""

    def __init__(
        self, covariance: LaplaceGramLinearOperator, *, inverse: bool, transposed: bool
    ) -> None:
        super().__init__(covariance, inverse=inverse, transposed=transposed)
        self._covariance = covariance
        self._inverse = inverse
        self._transposed = transposed

    def matmul(self, other: Any) -> Any:
        """Multiply the factor by a tensor ``[..., n, k]`` or ``[n]``."""
        return self._matmul(other) if isinstance(other, Tensor) else super().matmul(other)

    def _matmul(self, rhs: Tensor) -> Tensor:
        gram = self._covariance.gram
        multiply = gram.whiten if self._inverse else gram.color
        if rhs.dim() == 1:
            return multiply(rhs, transpose=self._transposed)
        rows = self._covariance._rows(rhs)
        return multiply(rows, transpose=self._transposed).movedim(0, -1)

    def _size(self) -> torch.Size:
        return torch.Size(self._covariance.shape)

    def _transpose_nonbatch(self) -> _Root:
        return _Root(self._covariance, inverse=self._inverse, transposed=not self._transposed)


class LaplaceConditionalLinearOperator(_Covariance):
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

    def _padded(self, rhs: Tensor) -> Tensor:
        zeros = rhs.new_zeros(*rhs.shape[:-2], self._observed, rhs.shape[-1])
        return torch.cat((zeros, rhs), -2)

    def _matmul(self, rhs: Tensor) -> Tensor:
        if rhs.dim() == 1:
            return self._matmul(rhs[:, None])[:, 0]
        first = self._whole @ self._padded(rhs)
        weights = self._given.solve(first[..., : self._observed, :])
        zeros = weights.new_zeros(*weights.shape[:-2], self.shape[-1], weights.shape[-1])
        second = self._whole @ torch.cat((weights, zeros), -2)
        return first[..., self._observed :, :] - second[..., self._observed :, :]

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
