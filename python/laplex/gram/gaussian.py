"""`Gaussian`: exact algebra of N(0, A) in linear time, for points on a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..numpy import checks as validation
from . import factor as factors
from . import process
from .checks import ArrayLike, as_tensor, broadcast, copied, positive, same_contents, sample_shape
from .factor import Covariance, Factor, Gram
from .low_rank import LowRank
from .parameters import GramParameters, shared
from .product import product

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on


class Coefficients(NamedTuple):
    """The distribution of the coefficients of a basis: see `LaplaceGram.coefficients`."""

    mean: Tensor
    covariance: Tensor


class Gaussian:
    """The algebra of `laplex.gram.LaplaceGram`, on which other classes build.

    The factor is kept, and computed again if the numbers in any tensor have changed since.

    Parameters
    ----------
    parameters
        The parameters of A, already checked.
    """

    #: NumPy arrays leave ``array @ gram`` to this class.
    __array_ufunc__ = None

    def __init__(self, parameters: GramParameters) -> None:
        self.anchors, self.terms, self.noise, self._batch, self._basis, self._means = parameters
        self._factored: tuple[list[object], dict[bool, Gram]] | None = None

    @classmethod
    def of(cls, parameters: GramParameters) -> Self:
        """Make an object of this class from parameters that were already checked.

        :meta private:
        """
        made = cls.__new__(cls)
        Gaussian.__init__(made, parameters)
        return made

    @property
    def parameters(self) -> GramParameters:
        """The parameters of the matrix.

        :meta private:
        """
        return GramParameters(
            self.anchors, self.terms, self.noise, self._batch, self._basis, self._means
        )

    @property
    def mean(self) -> Tensor:
        """The mean ``[*b, n]`` of the Gaussian, 0 without `mean`."""
        zeros = self.anchors.new_zeros(*self._batch, self.anchors.shape[-1])
        return self.parameters.shifted(zeros)

    @property
    def basis(self) -> Tensor | None:
        """The values ``[*b, n, p]`` of the basis at the anchors, or None."""
        return (
            None
            if self._basis is None
            else self.parameters.restored(self.parameters.basis_rows().mT)
        )

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
        if not isinstance(other, Gaussian):
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

    def has_anchors_of(self, other: Gaussian) -> bool:
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

    # --- the factor ------------------------------------------------------------------------------

    def solve(self, values: ArrayLike) -> Tensor:
        """Multiply by the inverse of A.

        With an improper prior of coefficients, the inverse is its limit
        ``K^-1 - K^-1 B (B^T K^-1 B)^-1 B^T K^-1``, which is 0 for vectors in the span of the basis.

        Parameters
        ----------
        values : array ``[..., n]``
            The values v; their leading dimensions broadcast with the batch.

        Returns
        -------
        Tensor ``[..., n]``
            The solutions.
        """
        rows, restore = self.parameters.flattened(values)
        if self._basis is not None:
            return restore(self._by_low_rank(LowRank.solve, rows))
        if not self._is_recorded(rows):
            return restore(self._factor().solve(rows))

        def solution(gram: Gram, covariance: Covariance) -> Tensor:
            whitened, logs = factors.innovations(gram, rows, covariance)
            whitened = whitened * torch.exp(-logs)[:, None]
            return factors.product(gram, Factor.UPPER_INVERSE, whitened, covariance)

        return restore(self._symmetric(solution))

    def color(self, values: ArrayLike, *, transpose: bool = False) -> Tensor:
        """Multiply by the square root S of A = S S^T.

        S turns white noise into samples of N(0, A). It is triangular in the sorted order of the
        anchors, unless there is a basis.

        Parameters
        ----------
        values : array ``[..., n]``
            The values v; their leading dimensions broadcast with the batch.
        transpose : bool
            Whether to multiply by the transpose of S instead.

        Returns
        -------
        Tensor ``[..., n]``
            The products.
        """
        return self._scaled(values, Factor.UPPER if transpose else Factor.LOWER)

    def whiten(self, values: ArrayLike, *, transpose: bool = False) -> Tensor:
        """Multiply by the inverse of the square root S of A = S S^T.

        The inverse of S turns samples of N(0, A) into white noise.

        Parameters
        ----------
        values : array ``[..., n]``
            The values v; their leading dimensions broadcast with the batch.
        transpose : bool
            Whether to multiply by the transpose of this inverse instead.

        Returns
        -------
        Tensor ``[..., n]``
            The products.
        """
        return self._scaled(values, Factor.UPPER_INVERSE if transpose else Factor.LOWER_INVERSE)

    def _scaled(self, values: ArrayLike, factor: Factor) -> Tensor:
        self._refuse_improper("a square root of A", "log_prob() and solve() have a limit")
        rows, restore = self.parameters.flattened(values)
        low_rank = None
        if self._basis is not None:
            covariance = self.parameters.covariance()
            low_rank = self._low_rank(self._factor(covariance), covariance, rows[:, :0])
            if factor is Factor.LOWER:
                rows = low_rank.times_root(rows, transpose=False)
            elif factor is Factor.UPPER_INVERSE:
                rows = low_rank.times_inverse_root(rows, transpose=True)
        result = self._scaled_rows(rows, factor)
        if low_rank is not None:
            if factor is Factor.UPPER:
                result = low_rank.times_root(result, transpose=True)
            elif factor is Factor.LOWER_INVERSE:
                result = low_rank.times_inverse_root(result, transpose=False)
        return restore(result)

    def _scaled_rows(self, rows: Tensor, factor: Factor) -> Tensor:
        """Multiply rows ``[B, R, n]`` by the scaled factor of terms and noise."""
        if not self._is_recorded(rows):
            return self._factor().apply(factor, rows, scaled=True)
        covariance = self.parameters.covariance()
        gram = self._factor(covariance)
        half = 0.5 * factors.log_variances(gram, covariance)[:, None]
        if factor is Factor.LOWER:
            rows = rows * half.exp()
        elif factor is Factor.UPPER_INVERSE:
            rows = rows * (-half).exp()
        result = factors.product(gram, factor, rows, covariance)
        if factor is Factor.UPPER:
            result = result * half.exp()
        elif factor is Factor.LOWER_INVERSE:
            result = result * (-half).exp()
        return result

    # --- the Gaussian N(mean, A) ------------------------------------------------------------------

    def logdet(self) -> Tensor:
        """Return the log determinant of A, of shape ``[*b]``."""
        self._refuse_improper("log det A", "log_prob() has a limit, the restricted likelihood")
        if self._basis is not None:
            empty = self.anchors.new_zeros(0, *self._batch, self.anchors.shape[-1])
            rows, _ = self.parameters.flattened(empty)
            logdet = self._by_low_rank(LowRank.logdet, rows)
            return self.parameters.restored(logdet.reshape(self._batch))

        def value(gram: Gram, covariance: Covariance) -> Tensor:
            return factors.log_variances(gram, covariance).sum(-1)

        recorded = self._is_recorded()
        result = self._symmetric(value) if recorded else self._factor().logdet()
        return self.parameters.restored(result.reshape(self._batch))

    def log_prob(self, values: ArrayLike) -> Tensor:
        r"""Return the log density of N(mean, A).

        Where coefficients have an improper prior, it is the restricted likelihood

        .. math::

            \log \int N(v \mid m + B \beta, K)\, d\beta
            = -\tfrac12 \bigl(r^T K^{-1} r + \log \det K + \log \det B^T K^{-1} B
            + (n - p) \log 2\pi\bigr)

        with the p columns B of these coefficients, the covariance K of everything else, and the
        residuals r of generalised least squares (Rasmussen and Williams, equation 2.45).

        Parameters
        ----------
        values : array ``[..., n]``
            The values v; their leading dimensions broadcast with the batch.

        Returns
        -------
        Tensor ``[...]``
            The log density at each vector of values, in nats.
        """
        parameters = self.parameters
        values = parameters.centered(parameters.broadcast_values(values))
        if self._basis is not None:
            rows, restore = parameters.flattened(values)
            return restore(self._by_low_rank(LowRank.log_prob, rows))
        recorded = self._is_recorded(values)
        density = process.log_density(parameters, values, recorded, _log_prob_by_factor)
        if density is not None:
            return parameters.restored(density)
        return self._log_prob_by_factor(values, recorded)

    def _log_prob_by_factor(self, values: Tensor, recorded: bool) -> Tensor:
        rows, restore = self.parameters.flattened(values)

        def value(gram: Gram, covariance: Covariance) -> Tensor:
            return factors.log_prob(gram, rows, covariance)

        return restore(self._symmetric(value) if recorded else self._factor().log_prob(rows))

    def coefficients(self, values: ArrayLike) -> Coefficients:
        """Return the distribution of the coefficients of `basis`, given values at the anchors.

        With an improper prior of all coefficients, the expectations are the estimates of
        generalised least squares, and the covariance is that of their errors.

        Parameters
        ----------
        values : array ``[..., n]``
            The values v, noise included; their leading dimensions broadcast with the batch.

        Returns
        -------
        mean : Tensor ``[..., p]``
            Expectations, for each vector of values.
        covariance : Tensor ``[*b, p, p]``
            Their covariance.

        Raises
        ------
        ValueError
            If there is no basis.
        """
        _, mean = self.posterior(self.parameters.centered(values))
        if mean is None:
            raise ValueError("coefficients are those of a basis, but there is none: pass basis=")
        return Coefficients(mean, self.coefficient_covariance())

    def posterior(self, values: ArrayLike) -> tuple[Tensor, Tensor | None]:
        """A^-1 times values ``[..., n]`` of mean 0, and what coefficients they let expect.

        :meta private:
        """
        if self._basis is None:
            return self.solve(values), None
        rows, restore = self.parameters.flattened(values)
        both = self._by_low_rank(lambda a: torch.cat((a.solve(), a.coefficients()), -1), rows)
        both, n = restore(both), rows.shape[-1]
        return both[..., :n], both[..., n:]

    def coefficient_covariance(self) -> Tensor:
        """The covariance ``[*b, p, p]`` of the coefficients, given values at the anchors.

        :meta private:
        """
        parameters = self.parameters
        empty = self.anchors.new_zeros(0, *self._batch, self.anchors.shape[-1])
        result = self._by_low_rank(LowRank.coefficient_covariance, parameters.flattened(empty)[0])
        return parameters.restored(result.reshape(*self._batch, *result.shape[-2:]))

    def inv_quad_logdet(self, values: ArrayLike) -> tuple[Tensor, Tensor]:
        """Return quadratic forms of the inverse of A, and its log determinant, in one pass.

        Parameters
        ----------
        values : array ``[..., n]``
            The values v; their leading dimensions broadcast with the batch.

        Returns
        -------
        quadratic : Tensor ``[...]``
            ``v^T A^-1 v`` for each vector of values.
        logdet : Tensor ``[*b]``
            The log determinants of A.
        """
        rows, restore = self.parameters.flattened(values)
        if self._basis is not None:
            self._refuse_improper("log det A", "log_prob() has a limit, the restricted likelihood")

        def both(gram: Gram, covariance: Covariance) -> Tensor:
            if self._basis is not None:
                made = self._low_rank(gram, covariance, rows)
                return torch.cat((made.quadratic(), made.logdet()[:, None]), -1)
            whitened, logs = factors.innovations(gram, rows, covariance)
            squares = (whitened.square() * torch.exp(-logs)[:, None]).sum(-1)
            return torch.cat((squares, logs.sum(-1, keepdim=True)), -1)

        result = self._symmetric(both)
        logdet = self.parameters.restored(result[..., -1].reshape(self._batch))
        return restore(result[..., :-1]), logdet

    def sample(
        self, shape: int | Sequence[int] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw samples ``[*shape, *b, n]`` of N(mean, A), with gradients to the parameters.

        Parameters
        ----------
        shape : int or sequence of int
            Leading dimensions of the result.
        generator : torch.Generator, optional
            Source of random numbers. By default, torch's global generator.
        """
        self._refuse_improper("a sample", "condition() and predict() can be sampled")
        parameters = self.parameters
        return parameters.shifted(self._drawn(sample_shape(shape), generator))

    def _drawn(self, lead: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Samples of N(0, A), in which improper coefficients are 0."""
        white = self._white((*lead, *self._batch, self.anchors.shape[-1]), generator)
        rows, restore = self.parameters.flattened(white.to(self.dtype))
        samples = restore(self._scaled_rows(rows, Factor.LOWER))
        return self._plus_basis(samples, lead, generator)

    def _plus_basis(
        self, samples: Tensor, lead: tuple[int, ...], generator: torch.Generator | None
    ) -> Tensor:
        """Samples of terms and noise, plus the basis times random coefficients."""
        if self._basis is None:
            return samples
        prior = self._basis.prior.double()
        scale = torch.where(prior == torch.inf, 0.0, prior).sqrt()
        coefficients = scale * self._white((*lead, *self._batch, prior.shape[-1]), generator)
        trend = (coefficients[..., None, :] @ self.parameters.basis_rows())[..., 0, :]
        return self.parameters.restored(samples.double() + trend)

    def _white(self, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, device=self.device, generator=generator)

    def sample_at_ties(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Draw samples of N(0, A), also if coincident anchors make A singular.

        Improper coefficients are 0. Each column is an independent process, which is drawn once at
        each distinct place.

        :meta private:
        """
        try:
            return self._drawn(shape, generator)
        except np.linalg.LinAlgError:
            pass
        n, samples = self.anchors.shape[-1], []
        for parameters in self.parameters.without_trend().matrices():
            anchors = parameters.anchors
            places, copy_of = torch.unique(anchors, return_inverse=True)
            # Derivatives by anchors go through the first of the anchors at each place.
            first = torch.full_like(copy_of[: len(places)], n).scatter_reduce(
                0, copy_of, torch.arange(n, device=copy_of.device), "amin"
            )
            latent = anchors.new_zeros(())
            for term in parameters.terms:
                for part, column in term.parts(anchors):
                    process = Gaussian(GramParameters.of(anchors[first], (part,), None))
                    drawn = process.sample(shape, generator=generator)[..., copy_of]
                    latent = latent + (drawn if column is None else drawn * column)
            if parameters.noise is not None:
                white = self._white((*shape, n), generator)
                latent = latent + parameters.noise.double().sqrt() * white
            samples.append(latent)
        flat = torch.stack(samples, -2)
        processes = self.parameters.restored(flat.reshape(*shape, *self._batch, n))
        return self._plus_basis(processes, shape, generator)

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

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_factored": None,
        }  # not picklable; made again

    # --- inside -----------------------------------------------------------------------------------

    def _factor(
        self, covariance: Covariance | None = None, *, ties_backwards: bool = False
    ) -> Gram:
        """The factorisation, which is kept until a number in a tensor changes.

        A copy of the numbers is kept to detect changes, because the version counters of tensors
        miss what is written through ``.data`` or through an array that shares memory. Pass
        `covariance` if it is already computed.
        """
        given, factored = self.parameters.contents(), self._factored
        if factored is None or not same_contents(factored[0], given):
            self._factored = factored = (copied(given), {})
        kept = factored[1]
        if ties_backwards not in kept:
            if covariance is None:
                covariance = self.parameters.covariance()
            with self.parameters.explained():
                kept[ties_backwards] = Gram(covariance, ties_backwards=ties_backwards)
        return kept[ties_backwards]

    def _is_recorded(self, *others: Tensor) -> bool:
        """Whether a parameter of terms or noise, or another given tensor, requires gradients."""
        tensors = [*others, *self.parameters.tensors()]
        if forward_ad._current_level >= 0 and any(
            _unpack_dual(each).tangent is not None for each in tensors
        ):
            raise NotImplementedError(
                "LaplaceGram supports forward-mode derivatives only for matvec: use "
                "torch.autograd.grad"
            )
        return torch.is_grad_enabled() and any(each.requires_grad for each in tensors)

    def _refuse_improper(self, what: str, instead: str) -> None:
        """Raise an error for what is infinite if a coefficient has an improper prior."""
        if self._basis is not None and self._basis.is_improper:
            raise ValueError(
                f"a coefficient of basis has an improper prior, so that A is infinite and {what} "
                f"has no meaning: {instead}; or pass finite variances as prior="
            )

    def _low_rank(self, gram: Gram, covariance: Covariance, rows: Tensor) -> LowRank:
        basis, prior = self.parameters.flat_basis()
        return LowRank(gram, covariance, rows, basis, prior)

    def _by_low_rank(self, value: Callable[[LowRank], Tensor], rows: Tensor) -> Tensor:
        """A value of rows ``[B, R, n]``, and its derivatives if they are recorded."""
        self._is_recorded(rows)  # refuses forward mode
        return self._symmetric(
            lambda gram, covariance: value(self._low_rank(gram, covariance, rows))
        )

    def _symmetric(self, value: Callable[[Gram, Covariance], Tensor]) -> Tensor:
        """The mean of a value over both orders of equal anchors, on which it does not depend.

        Its derivatives by the anchors are one-sided in each order; the mean has sign(0) = 0.
        """
        covariance = self.parameters.covariance()
        gram = self._factor(covariance)
        result = value(gram, covariance)
        if gram.has_ties and torch.is_grad_enabled() and self.anchors.requires_grad:
            backwards = self._factor(covariance, ties_backwards=True)
            result = 0.5 * (result + value(backwards, covariance))
        return result


def _log_prob_by_factor(parameters: GramParameters, values: Tensor) -> Tensor:
    return Gaussian.of(parameters)._log_prob_by_factor(values, True)


_unpack_dual: Any = forward_ad.unpack_dual
