"""`LaplaceGramLinearOperator`: a `LaplaceGram` for GPyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any

import linear_operator
import numpy as np
import torch
from linear_operator import LinearOperator
from linear_operator.operators import RootLinearOperator
from linear_operator.utils.warnings import NumericalWarning
from torch import Tensor

from ..gaussian import Gaussian
from ..parameters import GramParameters
from .covariance import Covariance
from .root import Root


def _expanded(tensor: Tensor, batch: torch.Size | list[int], name: str) -> Tensor:
    return tensor.expand((*batch, *tensor.shape[tensor.dim() - GramParameters.trailing(name) :]))


class LaplaceGramLinearOperator(Covariance):
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

    def _product(self, rhs: Tensor) -> Tensor:
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

    def root_decomposition(self, method: str | None = None) -> RootLinearOperator:
        """Return the exact factor S of A = S S^T, lower triangular in sorted order.

        If coincident anchors make A singular, a small multiple of the identity matrix is added, and
        there is a warning, as in the package's own Cholesky factors.
        """
        return RootLinearOperator(Root(self._definite(), inverse=False, transposed=False))

    def root_inv_decomposition(self, *_: Any, **__: Any) -> RootLinearOperator:
        """Return the exact transposed inverse of S, a root of the inverse of A.

        A singular matrix is treated as in `root_decomposition`.
        """
        return RootLinearOperator(Root(self._definite(), inverse=True, transposed=True))

    def _definite(self) -> LaplaceGramLinearOperator:
        """The operator itself, with jitter on its diagonal if it is singular."""
        scale = self._diagonal().detach().mean()
        jitter, found = linear_operator.settings.cholesky_jitter.value(torch.double), self
        for attempt in range(linear_operator.settings.cholesky_max_tries.value() + 1):
            try:
                with torch.no_grad():
                    found.gram.logdet()  # the factor is kept
                return found
            except np.linalg.LinAlgError:
                added = float(scale * jitter * 10**attempt)
                warnings.warn(
                    f"the matrix is singular, added {added:.1e} to its diagonal",
                    NumericalWarning,
                    stacklevel=3,
                )
                found = self.add_jitter(added)
        found.gram.logdet()  # raises the error that names the anchors
        return found

    def zero_mean_mvn_samples(self, num_samples: int) -> Tensor:
        """Draw samples ``[num_samples, *b, n]`` of N(0, A), which may be singular."""
        return self.gram.sample_at_ties((num_samples,), None)

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
