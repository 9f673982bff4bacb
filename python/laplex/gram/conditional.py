"""`Conditional`: the remaining entries of a Gaussian vector, given some of its entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .checks import ArrayLike, copied, same_contents, sample_shape
from .factor import Gram, unobserved_variances
from .gaussian import Gaussian
from .product import product


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
    ) -> None:
        self._gram = gram
        self._made_of = gram if made_of is None else made_of
        self._contents = copied(self._made_of.parameters.contents())
        self.observed = observed
        self.rest = rest
        self._given = Gaussian(gram.parameters.take(observed))
        # A copy, as for the anchors, so that later results are of the same observations.
        self._values = self._given.parameters.broadcast_values(values, "observed entries").clone()
        self._results: dict[str, Tensor] = {}

    @property
    def mean(self) -> Tensor:
        """Expectation ``[..., m]`` of the remaining entries, for each row of values."""
        return self._kept("mean", lambda: self._expectation(self._values))

    def _kept(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """A result, which is kept if derivatives are recorded and computed anew otherwise."""
        self._check_contents()
        if torch.is_grad_enabled():
            if name not in self._results:
                self._results[name] = compute()
            return self._results[name]
        return self._results[name].detach() if name in self._results else compute()

    def _check_contents(self) -> None:
        if not same_contents(self._contents, self._made_of.parameters.contents()):
            raise RuntimeError(
                "anchors, noise or a term have changed since this conditional was made: make it "
                "again, with condition() or predict()"
            )

    def _expectation(self, values: Tensor) -> Tensor:
        weights = self._given.solve(values).double()
        anchors = self._gram.anchors.double()
        total = anchors.new_zeros(())
        for term in self._gram.terms:
            total = total + product(term, weights, anchors, self.observed, self.rest)
        return self._gram.parameters.restored(total)

    @property
    def latent_variance(self) -> Tensor:
        """Variance ``[*b, m]`` of each remaining entry without its noise."""
        return self._kept("latent_variance", self._latent_variance)

    def _latent_variance(self) -> Tensor:
        gram = self._gram
        covariance = gram.parameters.covariance()
        anchors, noise = covariance.anchors, covariance.noise
        unobserved = torch.zeros_like(
            anchors[0] if len(anchors) else noise.sum(0), dtype=torch.bool
        )
        unobserved[self.rest] = True
        covariance = covariance._replace(noise=torch.where(unobserved, torch.inf, noise))

        def variances(ties_backwards: bool) -> Tensor:
            with gram.parameters.explained():
                factorised = Gram(covariance, ties_backwards=ties_backwards)
            ties.append(factorised.has_ties)
            return unobserved_variances(factorised, covariance)[:, self.rest]

        ties: list[bool] = []
        result = variances(False)
        if ties[0] and torch.is_grad_enabled() and anchors.requires_grad:
            result = 0.5 * (result + variances(True))  # sign(0) = 0, see Gaussian._symmetric
        result = result.reshape(*gram.shape[:-2], self.rest.numel())
        return gram.parameters.restored(result.clamp(min=0))

    @property
    def variance(self) -> Tensor:
        """Variance ``[*b, m]`` of each remaining entry, its noise included.

        The new points of `LaplaceGram.predict` have no noise: for the variance of measurements
        there, add their noise variance.
        """
        noise = self._gram.noise
        if noise is None:
            return self.latent_variance
        n = self._gram.anchors.shape[-1]
        own = noise.expand(*noise.shape[:-1], n)[..., self.rest]
        return (self.latent_variance + own).to(self._gram.dtype)

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
        whole = self._gram.sample_at_ties((*sample_shape(shape), *rows), generator)
        return whole[..., self.rest] + self._expectation(self._values - whole[..., self.observed])

    def __repr__(self) -> str:
        return (
            f"Conditional({self.rest.numel()} entries given {self.observed.numel()}, "
            f"values={list(self._values.shape)})"
        )
