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
from linear_operator.operators import DenseLinearOperator, RootLinearOperator
from linear_operator.utils.warnings import NumericalWarning
from torch import Tensor

from ..checks import broadcast
from ..gaussian import Gaussian
from ..parameters import GramParameters, shared
from ..terms import TermSum
from .covariance import Covariance
from .low_rank import products, root_of
from .root import RepeatedRoot, Root

MOST_STATES = {"cpu": 32, "cuda": 8}
"""The largest number of columns of a `LaplaceGram`."""


def _expanded(tensor: Tensor, batch: torch.Size | list[int], name: str) -> Tensor:
    return tensor.expand((*batch, *tensor.shape[tensor.dim() - GramParameters.trailing(name) :]))


def _joined(tensors: tuple[Tensor, Tensor], dim: int) -> Tensor:
    """Two tensors ``[*b, n]``, or for dimension -2 ``[*b, p, n]``, side by side."""
    lead = broadcast(*(each.shape[:dim] for each in tensors))
    return torch.cat([each.expand(*lead, *each.shape[dim:]) for each in tensors], dim)


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

        If coincident anchors make A singular, S has the rows of the factor at the distinct anchors,
        and fewer columns than rows. Where the terms have scales or phases, or the anchors of a
        batch differ, a small multiple of the identity matrix is added instead, and there is a
        warning, as in the package's own Cholesky factors.
        """
        if not self._is_definite():
            distinct, copy_of = self._at_distinct_anchors()
            if distinct is not self and distinct._is_definite():
                root = Root(distinct, inverse=False, transposed=False)
                return RootLinearOperator(RepeatedRoot(root, copy_of))
        return RootLinearOperator(Root(self._definite(), inverse=False, transposed=False))

    def _at_distinct_anchors(self) -> tuple[LaplaceGramLinearOperator, Tensor]:
        """The matrix at the distinct anchors, of which it repeats rows and columns by an index."""
        n, anchors = self.shape[-1], self._named["anchors"].detach()
        one = anchors.reshape(-1, n)[0]
        places, copy_of = torch.unique(one, return_inverse=True)
        along = [name for name in self._named if GramParameters.is_per_anchor(name)]
        if along != ["anchors"] or not bool((anchors == one).all()):
            return self, torch.arange(n, device=self.device)
        # Derivatives by anchors go through the first of the anchors at each place.
        numbers = torch.arange(n, device=self.device)
        first = torch.full_like(numbers[: len(places)], n).scatter_reduce(
            0, copy_of, numbers, "amin"
        )
        return self._principal(first), copy_of

    def root_inv_decomposition(self, *_: Any, **__: Any) -> RootLinearOperator:
        """Return the exact transposed inverse of S, a root of the inverse of A.

        If A is singular, a small multiple of the identity matrix is added, with a warning.
        """
        return RootLinearOperator(Root(self._definite(), inverse=True, transposed=True))

    def _definite(self) -> LaplaceGramLinearOperator:
        """The operator itself, with jitter on its diagonal if it is singular."""
        if self._is_definite():
            return self
        jitter = linear_operator.settings.cholesky_jitter.value(torch.double)
        jitter = float(jitter * self._diagonal().detach().mean())
        warnings.warn(
            f"the matrix is singular, added {jitter:.1e} to its diagonal: add noise of your own "
            "choice with add_jitter() to avoid this",
            NumericalWarning,
            stacklevel=3,
        )
        mended: LaplaceGramLinearOperator = self.add_jitter(jitter)
        return mended

    def _is_definite(self) -> bool:
        try:
            with torch.no_grad():
                self.gram.logdet()  # the factor is kept
        except np.linalg.LinAlgError:
            return False
        return True

    def zero_mean_mvn_samples(self, num_samples: int) -> Tensor:
        """Draw samples ``[num_samples, *b, n]`` of N(0, A), which may be singular."""
        return self.gram.sample_at_ties((num_samples,), None)

    # --- operators made of this one ---------------------------------------------------------------

    def add_diagonal(self, diag: Tensor) -> LinearOperator:
        """Add noise variances of shape ``[..., n]``, ``[..., 1]`` or ``[]`` to A."""
        noise = diag.double()[None] if diag.dim() == 0 else diag.double()
        if "noise" in self._named:
            noise = self._named["noise"] + noise
        if not bool((noise >= 0).all()):
            return super().add_diagonal(diag)
        return self._with(noise=noise)

    def __add__(self, other: Any) -> Any:
        """Add another operator.

        A diagonal becomes noise, the sum of two operators on the same anchors has the terms of
        both, and the columns of a root of low rank become a basis.
        """
        if isinstance(other, LaplaceGramLinearOperator):
            same = self.gram.has_anchors_of(other.gram)
            return self.of(self.gram + other.gram) if same else super().__add__(other)
        root = root_of(other) if isinstance(other, LinearOperator) else None
        if root is not None:
            return self._plus(root)
        if isinstance(other, DenseLinearOperator) and other.shape[-2:] == self.shape[-2:]:
            self._warn_of_size("a sum with a dense matrix is dense")
            return DenseLinearOperator(self.to_dense() + other.tensor)
        return super().__add__(other)

    def _plus(self, root: Tensor) -> LaplaceGramLinearOperator:
        """The sum with ``R R^T`` for a root R ``[..., n, r]``."""
        rows, prior = root.double().mT, root.new_ones(root.shape[-1], dtype=torch.float64)
        if "basis" in self._named:
            rows, prior = (
                _joined((self._named["basis"], rows), -2),
                torch.cat((self._named["prior"], prior.expand(*self.batch_shape, -1)), -1),
            )
        return self._with(basis=rows, prior=prior)

    def _mul_matrix(self, other: Any) -> Any:
        """Multiply elementwise: the columns of a root of low rank become scales of terms."""
        most = MOST_STATES[self.device.type]
        product = self._of_terms(other) if isinstance(other, LaplaceGramLinearOperator) else None
        if product is not None and _columns(product.gram) <= most:
            return product
        root = root_of(other)
        if root is None or root.shape[-1] * _columns(self.gram) > most:
            return super()._mul_matrix(other)
        gram, columns = self.gram, root.double().unbind(-1)
        terms = [
            term.replaced(scale=column if term.scale is None else term.scale * column)
            for column in columns
            for term in gram.terms
        ]
        noise = gram.noise
        if noise is not None:
            noise = noise * root.double().square().sum(-1)
        basis, prior = self._named.get("basis"), self._named.get("prior")
        if basis is not None and prior is not None:
            basis = products(basis.mT, root.double())
            prior = prior.repeat_interleave(root.shape[-1], -1)
        parameters = GramParameters.checked(gram.anchors, terms, noise, basis, prior)
        return self.of(self._make(parameters))

    def _of_terms(self, other: LaplaceGramLinearOperator) -> LaplaceGramLinearOperator | None:
        """The product on the same anchors, as the products of all terms; None if it is not one."""
        one, two = self.gram, other.gram
        plain = self._named.keys() | other._named.keys()
        if plain & {"noise", "basis"} or not one.has_anchors_of(two):
            return None
        try:
            terms = TermSum(one.terms) * TermSum(two.terms)
            anchors = shared(one.anchors, two.anchors)
            return self.of(self._make(GramParameters.checked(anchors, terms, None)))
        except NotImplementedError:  # the product of the processes has a larger state
            return None

    @property
    def has_basis(self) -> bool:
        """Whether there is a part of low rank."""
        return "basis" in self._named

    def without_basis(self) -> LaplaceGramLinearOperator:
        """The operator without its part of low rank."""
        kept = {k: v for k, v in self._named.items() if k not in ("basis", "prior")}
        return self._made(kept)

    def joined(self, other: LaplaceGramLinearOperator) -> LaplaceGramLinearOperator | None:
        """The covariance of these entries and others of the same model, or None.

        The models are the same if their terms have the same forms; the numbers are those here.

        :meta private:
        """
        named, theirs = dict(self._named), dict(other._named)
        if "noise" in named or "noise" in theirs:
            for each in (named, theirs):
                anchors = each["anchors"]
                noise = each.get("noise", anchors.new_zeros(1, dtype=torch.float64))
                each["noise"] = noise.expand(*noise.shape[:-1], anchors.shape[-1])
        if named.keys() != theirs.keys():
            return None
        for name in named:
            if GramParameters.is_per_anchor(name):
                named[name] = _joined((named[name], theirs[name]), -1)
        return self._made(named)

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

    def _with(self, **changes: Tensor) -> LaplaceGramLinearOperator:
        """A copy with other tensors, whose batches broadcast."""
        return self._made({**self._named, **changes})

    def _made(self, named: dict[str, Tensor]) -> LaplaceGramLinearOperator:
        return self.of(self._make(GramParameters.from_named(named)))

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
        if self.has_basis:
            matrix, prior = self._named["basis"].mT, self._named["prior"]
            one = matrix[batch_indices + (row_index,)]  # noqa: RUF005 (Python 3.10)
            two = matrix[batch_indices + (col_index,)]  # noqa: RUF005
            total = total + (one * two * prior[batch_indices]).sum(-1)
        if "noise" in self._named:
            total = total + take(self._named["noise"], row_index) * (row_index == col_index)
        return total.to(self.dtype)

    def to_dense(self) -> Tensor:
        """Return the dense matrix ``[*b, n, n]``."""
        return self.gram.to_dense()


def _columns(gram: Gaussian) -> int:
    """The number of columns of the state."""
    anchors = gram.anchors.double()
    parts = [part for term in gram.terms for part, _ in term.parts(anchors)]
    return sum(len(block.weights) for part in parts for block in part.blocks(anchors))
