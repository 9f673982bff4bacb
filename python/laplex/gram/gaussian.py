"""`Gaussian`: exact algebra of N(mean, A) in linear time, for points on a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import factor as factors
from . import process
from .checks import ArrayLike, copied, no_forward_mode, same_contents, sample_shape
from .factor import Covariance, Factor, Gram
from .low_rank import LowRank
from .matrix import Matrix
from .parameters import GramParameters
from .singular import points_named


class Coefficients(NamedTuple):
    """The distribution of the coefficients of a basis: see `LaplaceGram.coefficients`."""

    mean: Tensor
    covariance: Tensor


class Gaussian(Matrix):
    """The algebra of `laplex.gram.LaplaceGram`, on which other classes build.

    The factor is kept, and computed again if the numbers in any tensor have changed since.

    Parameters
    ----------
    parameters
        The parameters of A, already checked.
    """

    def _begin(self, parameters: GramParameters) -> None:
        super()._begin(parameters)
        self._factored: tuple[list[object], dict[bool, Gram]] | None = None

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
            gram, basis = self._factor(covariance), self.parameters.flat_basis()
            low_rank = LowRank(gram, covariance, rows[:, :0], *basis)
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
        return self.logdet_limit()

    def logdet_limit(self) -> Tensor:
        """`logdet`; without the diverging logarithms of improper priors.

        :meta private:
        """
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
        values = parameters.centered(values)
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
        self._refuse_improper("log det A", "log_prob() has a limit, the restricted likelihood")
        return self.quadratic_and_logdet(values)

    def quadratic_and_logdet(self, values: ArrayLike) -> tuple[Tensor, Tensor]:
        """`inv_quad_logdet`; its limit, as for `logdet_limit`, where priors are improper.

        :meta private:
        """
        rows, restore = self.parameters.flattened(values)

        def both(gram: Gram, covariance: Covariance) -> Tensor:
            whitened, logs = factors.innovations(gram, rows, covariance)
            squares = (whitened.square() * torch.exp(-logs)[:, None]).sum(-1)
            return torch.cat((squares, logs.sum(-1, keepdim=True)), -1)

        if self._basis is None:
            result = self._symmetric(both)
        else:
            result = self._by_low_rank(LowRank.quadratic_and_logdet, rows)
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
                    with points_named(lambda place: ("anchor", int(first[place]))):  # noqa: B023
                        drawn = process.sample(shape, generator=generator)[..., copy_of]
                    latent = latent + (drawn if column is None else drawn * column)
            if parameters.noise is not None:
                white = self._white((*shape, n), generator)
                latent = latent + parameters.noise.double().sqrt() * white
            samples.append(latent)
        flat = torch.stack(samples, -2)
        processes = self.parameters.restored(flat.reshape(*shape, *self._batch, n))
        return self._plus_basis(processes, shape, generator)

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_factored": None,
        }  # not picklable; made again

    # --- inside -----------------------------------------------------------------------------------

    def of_terms(self) -> Gaussian:
        """That of terms and noise alone, which shares the factor.

        :meta private:
        """
        made = Gaussian(self.parameters.without_trend())
        self._factor()
        made._factored = self._factored
        return made

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
        no_forward_mode(tensors)
        return torch.is_grad_enabled() and any(each.requires_grad for each in tensors)

    def _by_low_rank(self, value: Callable[[LowRank], Tensor], rows: Tensor) -> Tensor:
        """A value of rows ``[B, R, n]``, and its derivatives if they are recorded."""
        basis, prior = self.parameters.flat_basis()
        self._is_recorded(rows, basis, prior)  # refuses forward mode
        return self._symmetric(
            lambda gram, covariance: value(LowRank(gram, covariance, rows, basis, prior))
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
