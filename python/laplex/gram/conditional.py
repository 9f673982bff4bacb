"""`Conditional`: the remaining entries of a Gaussian vector, given some of its entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from math import ceil, exp, log, pi, prod, sqrt

import torch
from numpy.linalg import LinAlgError
from torch import Tensor

from ..numpy.checks import MAX_DENSE_ENTRIES
from .checks import ArrayLike, copied, same_contents, sample_shape
from .gaussian import Gaussian
from .parameters import GramParameters
from .product import product
from .singular import points_named
from .unobserved import variances

#: The numbers of a block of columns of a covariance.
_BLOCK = 2**23

#: The largest rounding errors of a prediction, relative to the values.
_DIGITS = 1e-3


class Conditional:
    """The conditional distribution of some entries of a Gaussian vector, given the others.

    `LaplaceGram.condition` and `LaplaceGram.predict` return objects of this class. Each property is
    computed at its first use, in O(n J^2) for J columns, and is differentiable. The object belongs
    to the numbers that it was made from: if the `LaplaceGram` changes, its properties raise
    ``RuntimeError``.

    Attributes
    ----------
    observed, rest : Tensor, int64
        Indices of the ``k`` given entries, and of the ``m`` remaining ones.
    mean : Tensor ``[..., m]``
        Expectation of the remaining entries, for each row of values.
    variance : Tensor ``[*b, m]``
        Variance of each remaining entry, its own noise included. It has first derivatives only.
        After `LaplaceGram.predict` it equals ``latent_variance``, because new points have no noise.
    latent_variance : Tensor ``[*b, m]``
        Variance of each remaining entry without its noise. It has first derivatives only.
    covariance : Tensor ``[*b, m, m]``
        Covariance of the remaining entries, their noise included.

    Notes
    -----
    After `LaplaceGram.predict`, ``mean ± 1.96 * sqrt(variance)`` is a 95 % band for the process. A
    band for new measurements is wider: ``mean ± 1.96 * sqrt(variance + noise)``, where ``noise`` is
    the noise variance of a measurement.
    """

    def __init__(
        self,
        gram: Gaussian,
        observed: Tensor,
        rest: Tensor,
        values: ArrayLike,
        *,
        made_of: Gaussian | None = None,
        part: str | None = None,
    ) -> None:
        self._has_targets = made_of is not None
        self._made_of = gram if made_of is None else made_of
        self._part = part
        self._contents = copied(self._made_of.parameters.all_contents())
        self.observed = observed
        self.rest = rest
        parameters = gram.parameters.resolved()
        given = parameters.take(observed)
        # A copy, as for the anchors, so that later results are of the same observations.
        values = given.broadcast_values(values, "observed entries").clone()
        # Intermediate results are in float64, too.
        self._gram, self._given = Gaussian(parameters.double()), Gaussian(given.double())
        self._values = values.double()
        self._results: dict[str, Tensor] = {}

    @property
    def mean(self) -> Tensor:
        """Expectation ``[..., m]`` of the remaining entries, for each row of values."""
        return self._kept("mean", self._mean)

    def _mean(self) -> Tensor:
        values = self._given.parameters.centered(self._values)
        return self._rest.shifted(self._expectation(values))

    def _kept(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """A result, which is kept if derivatives are recorded and computed anew otherwise."""
        self._check_contents()
        if torch.is_grad_enabled():
            if name not in self._results:
                self._results[name] = self._restored(compute())
            return self._results[name]
        known = name in self._results
        return self._results[name].detach() if known else self._restored(compute())

    def _restored(self, result: Tensor) -> Tensor:
        return self._made_of.parameters.restored(result)

    def _check_contents(self) -> None:
        if not same_contents(self._contents, self._made_of.parameters.all_contents()):
            raise RuntimeError(
                "anchors, noise or a term have changed since this conditional was made: make it "
                "again, with condition() or predict()"
            )

    # --- moments ----------------------------------------------------------------------------------

    @cached_property
    def _rest(self) -> GramParameters:
        """The parameters of the remaining entries."""
        return self._gram.parameters.take(self.rest)

    def _expectation(self, values: Tensor) -> Tensor:
        """Expectation ``[..., m]``, given values of mean 0, without the mean of the vector."""
        with self._observed_named():
            weights, coefficients = self._given.posterior(values)
        result = self._of_terms(weights, values)
        if coefficients is not None:
            rows = self._rest.basis_rows()
            result = result + (coefficients[..., None, :] @ rows)[..., 0, :]
        return result

    def _of_terms(self, weights: Tensor, solved: Tensor) -> Tensor:
        """Multiply weights ``[..., k]`` by the covariance of terms with the remaining entries.

        The weights are the solution for `solved`, whose size the result has.
        """
        if weights.numel():
            with torch.no_grad():
                self._check_digits(weights.abs(), float(solved.abs().max()))
        return self._product(weights)

    def _product(self, weights: Tensor) -> Tensor:
        anchors = self._gram.anchors
        total = anchors.new_zeros(())
        for term in self._gram.terms:
            total = total + product(term, weights, anchors, self.observed, self.rest)
        return total

    def _check_digits(self, sizes: Tensor, expected: float) -> None:
        """Refuse weights of these sizes whose sum cancels down to its rounding errors."""
        given = self._given
        if any(term.has_parameters_per_anchor() for term in given.terms):
            variance = float(given.of_terms().diagonal().max())
        else:  # the factor's first variance is that of its point, and takes less time to find
            variance = exp(float(given._factor().log_variances().max()))
        least = _DIGITS / torch.finfo(torch.float64).eps * max(expected, sqrt(variance))
        if variance * float(sizes.sum(-1).max()) <= least:
            return
        if bool((self._product(sizes).abs() <= least).all()):
            return
        raise LinAlgError(
            "the prediction would have fewer than 3 correct digits: the observed anchors are so "
            "close to one another, with so little noise, that their differences decide. Add "
            "noise > 0, or leave some of them out; variance is not affected"
        )

    def _of_basis(self) -> tuple[Tensor, Tensor]:
        """What the other entries' basis does not tell of that ``[*b, p, m]`` of the remaining ones.

        And the covariance ``[*b, p, p]`` of the coefficients.
        """
        rows = self._given.parameters.basis_rows()
        # Whole, so that the functions are not taken for a dimension of the batch.
        rows = rows.expand(*self._gram.shape[:-2], *rows.shape[-2:])
        with self._observed_named():
            alone = self._given.of_terms()
            columns = rows.movedim(-2, 0)
            told = self._of_terms(alone.solve(columns), columns).movedim(0, -2)
            return self._rest.basis_rows() - told, self._given.coefficient_covariance()

    @property
    def latent_variance(self) -> Tensor:
        """Variance ``[*b, m]`` of each remaining entry without its noise."""
        return self._kept("latent_variance", self._latent_variance)

    def _latent_variance(self) -> Tensor:
        gram = self._gram
        covariance = gram.parameters.covariance()
        noise = covariance.noise.index_fill(-1, self.rest, torch.inf)
        with gram.parameters.explained():
            result = variances(covariance._replace(noise=noise), self.rest)
        result = result.reshape(*gram.shape[:-2], self.rest.numel())
        if gram.parameters.basis is not None:
            rows, uncertain = self._of_basis()
            result = result + (rows * (uncertain @ rows)).sum(-2)
        return result.clamp(min=0)

    @property
    def variance(self) -> Tensor:
        """Variance ``[*b, m]`` of each remaining entry, its noise included.

        The new points of `LaplaceGram.predict` have no noise: for the variance of measurements
        there, add their noise variance.
        """
        return self._kept("variance", self._variance)

    def _variance(self) -> Tensor:
        noise = self._rest.noise
        return self._latent_variance() if noise is None else self._latent_variance() + noise

    @property
    def covariance(self) -> Tensor:
        """Covariance ``[*b, m, m]`` of the remaining entries, their noise included.

        It is a Schur complement, computed by m solutions in O(m (n + m) J) time. Errors of its
        entries are relative to the variances k(0) before conditioning, those of ``variance`` to
        itself; in both cases, they are at most about 1e-16 k(0) / noise. Without derivatives,
        columns are computed in blocks of 64 MiB.

        Raises
        ------
        MemoryError
            If the covariance has more than 2**28 entries.
        """
        return self._kept("covariance", self._covariance)

    def _covariance(self) -> Tensor:
        gram, batch, m = self._gram, self._gram.shape[:-2], self.rest.numel()
        if prod(batch) * m * m > MAX_DENSE_ENTRIES:
            raise MemoryError(
                f"covariance would have {prod(batch)} x {m} x {m} entries, but is limited to "
                f"{MAX_DENSE_ENTRIES}: use variance, sample() and log_prob(), which need no matrix"
            )
        rest = self._rest
        result = Gaussian(rest.without_trend()).to_dense()
        with self._observed_named():
            alone = self._given.of_terms()
        units = torch.eye(m, dtype=torch.float64, device=gram.device)
        units = units.reshape(m, *(1,) * len(batch), m).expand(m, *batch, m)
        told = []
        blocks = ceil(prod(batch) * m * gram.shape[-1] / _BLOCK)
        for some in units.tensor_split(max(1, blocks)):
            columns = gram.anchors.new_zeros(())
            for term in gram.terms:
                columns = columns + product(term, some, gram.anchors, self.rest, self.observed)
            told.append(self._of_terms(alone.solve(columns), columns))
        result = result - torch.cat(told).movedim(0, -2)
        if rest.basis is not None:
            rows, uncertain = self._of_basis()
            result = result + rows.mT @ uncertain @ rows
        return 0.5 * (result + result.mT)

    # --- the distribution -------------------------------------------------------------------------

    def log_prob(self, values: ArrayLike) -> Tensor:
        """Return the log density of the remaining entries, their noise included, in O(n + m).

        Parameters
        ----------
        values : Tensor or array, shape ``[..., m]``
            Values of the remaining entries. Their leading dimensions broadcast with those of the
            given values.

        Returns
        -------
        Tensor ``[...]``
            The log density at each vector of values, in nats.

        Raises
        ------
        numpy.linalg.LinAlgError
            If the covariance of the entries is singular, for example at coincident targets, or if
            they are those of a basis or a mean alone.
        """
        self._check_contents()
        made_of = self._made_of.parameters
        values = made_of.as_values(values)
        if values.dtype is not self._made_of.dtype:
            raise TypeError(
                f"values are {values.dtype} but the anchors are {made_of.anchors.dtype}: convert "
                "one with .to()"
            )
        rest = self._rest.broadcast_values(values.double(), "remaining entries")
        if self._part is not None:
            count = self._degrees()
            raise LinAlgError(
                f"the contribution of {self._part} has no density at {self.rest.numel()} targets: "
                f"it has only {count} degree{'' if count == 1 else 's'} of freedom. Predict a term "
                "or the whole; coefficients() returns the distribution of coefficients"
            )
        # The inverse of the covariance is a block of that of all entries. Unlike the difference of
        # two densities, it keeps its digits where repeated observations make both of them large.
        residuals = rest - self._mean()
        lead, k = residuals.shape[:-1], self.observed.numel()
        both = torch.cat((residuals.new_zeros(*lead, k), residuals), -1)
        order = torch.cat((self.observed, self.rest)).argsort()
        with self._targets_named():
            square, whole = self._gram.quadratic_and_logdet(both[..., order])
        with self._observed_named():
            logdet = whole - self._given.logdet_limit()
        constant = self.rest.numel() * log(2 * pi)
        return self._restored(-0.5 * (square + logdet + constant))

    def sample(
        self, shape: int | Sequence[int] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw joint samples ``[*shape, ..., m]`` of the remaining entries, noise included.

        The samples follow Matheron's rule: draw the whole vector, then add the conditional
        expectation of its difference from the values at the observed entries.

        Parameters
        ----------
        shape : int or sequence of int
            Leading dimensions of the result.
        generator : torch.Generator, optional
            Source of random numbers. By default, torch's global generator.
        """
        rows = self._values.shape[: self._values.dim() - 1 - (len(self._gram.shape) - 2)]
        self._check_contents()
        with self._targets_named():
            whole = self._gram.sample_at_ties((*sample_shape(shape), *rows), generator)
        values = self._given.parameters.centered(self._values) - whole[..., self.observed]
        result = whole[..., self.rest] + self._expectation(values)
        return self._restored(self._rest.shifted(result))

    # --- messages ---------------------------------------------------------------------------------

    def _degrees(self) -> int:
        basis = self._gram.parameters.basis
        return basis.size if basis is not None and "basis" in (self._part or "") else 0

    def _observed_named(self) -> AbstractContextManager[None]:
        """Name anchors as the caller does in messages about the matrix of observed entries."""
        return points_named(lambda k: ("anchor", int(self.observed[k])))

    def _targets_named(self) -> AbstractContextManager[None]:
        """The same in messages about the matrix of all entries, which may end with targets."""
        k = self.observed.numel()
        return points_named(
            lambda i: ("target", i - k) if self._has_targets and i >= k else ("anchor", i)
        )

    def __repr__(self) -> str:
        return (
            f"Conditional({self.rest.numel()} entries given {self.observed.numel()}, "
            f"values={list(self._values.shape)})"
        )
