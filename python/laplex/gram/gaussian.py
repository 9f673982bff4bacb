"""`Gaussian`: N(0, A) for a covariance matrix A of points on a line, exact and in linear time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..numpy import checks as validation
from ..torch.functional import matvec
from . import factor as factors
from .checks import ArrayLike, as_tensor, broadcast, copied, positive, same_contents, sample_shape
from .factor import Covariance, Factor, Gram
from .parameters import GramParameters, shared
from .term import Term

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on


class Gaussian:
    """The algebra of `laplex.gram.LaplaceGram`, and what others build on it.

    The factor is kept, and made again when the numbers of a tensor have changed, in whatever way.

    Parameters
    ----------
    parameters
        What A is made of; they were checked.
    """

    #: NumPy's arrays leave ``array @ gram`` to the Gram.
    __array_ufunc__ = None

    def __init__(self, parameters: GramParameters) -> None:
        self.anchors, self.terms, self.noise, self._batch = parameters
        self._factored: tuple[list[object], dict[bool, Gram]] | None = None

    @classmethod
    def of(cls, parameters: GramParameters) -> Self:
        """One of this class from parameters that were checked."""
        made = cls.__new__(cls)
        Gaussian.__init__(made, parameters)
        return made

    @property
    def parameters(self) -> GramParameters:
        """What the matrix is made of."""
        return GramParameters(self.anchors, self.terms, self.noise, self._batch)

    # --- products --------------------------------------------------------------------------------

    def matvec(self, values: ArrayLike) -> Tensor:
        """A times values ``[..., n]``, by `laplex.matvec`; `values` broadcast with the batch."""
        parameters = self.parameters
        values = parameters.broadcast_values(values).double()
        anchors = self.anchors.double()
        result = torch.zeros_like(values) if self.noise is None else self.noise * values
        for term in self.terms:
            lengthscale, some = term.columns(anchors)
            columns = torch.stack(some)
            columns = columns.reshape(
                columns.shape[:1] + (1,) * (values.dim() + 1 - columns.dim()) + columns.shape[1:]
            )
            product = matvec(columns * values, anchors, lengthscale=lengthscale)
            result = result + (columns * product).sum(0)
        return parameters.restored(result)

    def __matmul__(self, other: object) -> Tensor:
        """A times a vector ``[n]`` or matrices ``[..., n, k]``."""
        if not isinstance(other, (Tensor, np.ndarray)):
            return NotImplemented
        other = self.parameters.as_values(other)
        if other.dim() < 2:
            return self.matvec(other)
        # Columns as rows: of a Gram with a batch, as one leading dimension more.
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
        """A vector ``[n]`` or matrices ``[..., k, n]`` times A."""
        if not isinstance(other, (Tensor, np.ndarray)):
            return NotImplemented
        other = self.parameters.as_values(other)
        return self @ other if other.dim() < 2 else (self @ other.mT).mT

    # --- other matrices --------------------------------------------------------------------------

    @property
    def T(self) -> Self:
        """A itself, which is symmetric."""
        return self

    @property
    def mT(self) -> Self:
        """A itself, by torch's name for the transpose of a batch of matrices."""
        return self

    def __add__(self, other: object) -> Self:
        """The sum of two on the same anchors: the terms and the noises of both.

        Raises
        ------
        TypeError
            For anything but a `LaplaceGram`: a number might mean noise, or every entry.
        ValueError
            For other anchors.
        """
        if not isinstance(other, Gaussian):
            raise TypeError(
                f"a LaplaceGram adds another LaplaceGram alone, got {type(other).__name__}: noise "
                "is that of the constructor, LaplaceGram(A.anchors, terms=A.terms, noise=...)"
            )
        if not self.has_anchors_of(other):
            raise ValueError(
                "the two LaplaceGrams have different anchors: pass both the same tensor, or add "
                "their to_dense()"
            )
        noise = other.noise if self.noise is None else self.noise
        if self.noise is not None and other.noise is not None:
            noise = self.noise + other.noise
        anchors = shared(self.anchors, other.anchors)
        return self.of(GramParameters.checked(anchors, (*self.terms, *other.terms), noise))

    __radd__ = __add__  # of what is no LaplaceGram: the same sentence

    def has_anchors_of(self, other: Gaussian) -> bool:
        """Whether the anchors of both are the same numbers, of the same precision and device."""
        return same_contents([self.anchors], [other.anchors])

    def __mul__(self, factor: object) -> Self:
        """A times a positive number, or numbers ``[*b]`` for a batch: variances and noise are."""
        scale: Tensor
        if isinstance(factor, (Tensor, np.ndarray)):
            scale = as_tensor("factor", factor).to(self.device, torch.float64)
        elif isinstance(factor, Real):
            scale = torch.tensor(float(factor), dtype=torch.float64, device=self.device)
        else:
            return NotImplemented
        if not positive(scale):
            raise ValueError(
                "a LaplaceGram is multiplied with positive, finite numbers, as its variances are: "
                f"got {factor}"
            )
        terms = [term.times(scale) for term in self.terms]
        noise = None if self.noise is None else self.noise * scale[..., None]
        return self.of(GramParameters.checked(self.anchors, terms, noise))

    __rmul__ = __mul__

    # --- the factor ------------------------------------------------------------------------------

    def solve(self, values: ArrayLike) -> Tensor:
        """A^-1 times values ``[..., n]``."""
        rows, restore = self.parameters.flattened(values)
        if not self._is_recorded(rows):
            return restore(self._factor().solve(rows))

        def solution(gram: Gram, covariance: Covariance) -> Tensor:
            whitened, logs = factors.innovations(gram, rows, covariance)
            whitened = whitened * torch.exp(-logs)[:, None]
            return factors.product(gram, Factor.UPPER_INVERSE, whitened, covariance)

        return restore(self._symmetric(solution))

    def color(self, values: ArrayLike, *, transpose: bool = False) -> Tensor:
        """S, or with `transpose` S^T, times values ``[..., n]``: A = S S^T.

        S makes samples of N(0, A) from white noise.
        """
        return self._scaled(values, Factor.UPPER if transpose else Factor.LOWER)

    def whiten(self, values: ArrayLike, *, transpose: bool = False) -> Tensor:
        """S^-1, or with `transpose` S^-T, times values ``[..., n]``: A^-1 = S^-T S^-1.

        S^-1 makes white noise of samples of N(0, A).
        """
        return self._scaled(values, Factor.UPPER_INVERSE if transpose else Factor.LOWER_INVERSE)

    def _scaled(self, values: ArrayLike, factor: Factor) -> Tensor:
        rows, restore = self.parameters.flattened(values)
        if not self._is_recorded(rows):
            return restore(self._factor().apply(factor, rows, scaled=True))
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
        return restore(result)

    # --- the Gaussian N(0, A) --------------------------------------------------------------------

    def logdet(self) -> Tensor:
        """Log det A ``[*b]``."""

        def value(gram: Gram, covariance: Covariance) -> Tensor:
            return factors.log_variances(gram, covariance).sum(-1)

        recorded = self._is_recorded()
        result = self._symmetric(value) if recorded else self._factor().logdet()
        return self.parameters.restored(result.reshape(self._batch))

    def log_prob(self, values: ArrayLike) -> Tensor:
        """Log density of N(0, A) at values ``[..., n]``: a number for each, ``[...]``."""
        rows, restore = self.parameters.flattened(values)

        def value(gram: Gram, covariance: Covariance) -> Tensor:
            return factors.log_prob(gram, rows, covariance)

        recorded = self._is_recorded(rows)
        return restore(self._symmetric(value) if recorded else self._factor().log_prob(rows))

    def inv_quad_logdet(self, values: ArrayLike) -> tuple[Tensor, Tensor]:
        """``v^T A^-1 v`` of values ``[..., n]``, and log det A ``[*b]``, in one pass."""
        rows, restore = self.parameters.flattened(values)

        def both(gram: Gram, covariance: Covariance) -> Tensor:
            whitened, logs = factors.innovations(gram, rows, covariance)
            squares = (whitened.square() * torch.exp(-logs)[:, None]).sum(-1)
            return torch.cat((squares, logs.sum(-1, keepdim=True)), -1)

        result = self._symmetric(both)
        logdet = self.parameters.restored(result[..., -1].reshape(self._batch))
        return restore(result[..., :-1]), logdet

    def sample(
        self, shape: int | Sequence[int] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Samples of N(0, A) ``[*shape, *b, n]``, with gradients to the parameters."""
        white = torch.randn(
            *sample_shape(shape),
            *self._batch,
            self.anchors.shape[-1],
            dtype=torch.float64,
            device=self.device,
            generator=generator,
        )
        return self.color(white.to(self.dtype))

    def sample_at_ties(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """As `sample`, also where anchors coincide without noise and A is singular.

        Each column is an independent process, drawn at the places without their copies.
        """
        try:
            return self.sample(shape, generator=generator)
        except np.linalg.LinAlgError:
            pass
        anchors, lengthscale, loadings, noise = self.parameters.covariance()
        n = anchors.shape[-1]
        samples = []
        for b in range(len(anchors)):
            places, copy_of = torch.unique(anchors[b], return_inverse=True)
            # Derivatives by anchors go through one of the copies: they are one place.
            first = torch.full_like(copy_of[: len(places)], n).scatter_reduce(
                0, copy_of, torch.arange(n, device=copy_of.device), "amin"
            )
            terms = (Term(lengthscale[b]),)
            processes = Gaussian(GramParameters.of(anchors[b][first], terms, None))
            drawn = processes.sample(shape, generator=generator)
            white = torch.randn(
                *shape, n, dtype=torch.float64, device=self.device, generator=generator
            )
            latent = (drawn[..., copy_of] * loadings[b].mT).sum(-2)
            samples.append(latent + noise[b].sqrt() * white)
        flat = torch.stack(samples, -2)
        return self.parameters.restored(flat.reshape(*shape, *self._batch, n))

    # --- inspection ------------------------------------------------------------------------------

    @property
    def shape(self) -> torch.Size:
        """``(*b, n, n)``."""
        n = self.anchors.shape[-1]
        return torch.Size((*self._batch, n, n))

    @property
    def dtype(self) -> torch.dtype:
        """The anchors', and of all results."""
        return self.anchors.dtype

    @property
    def device(self) -> torch.device:
        """The anchors'."""
        return self.anchors.device

    @property
    def requires_grad(self) -> bool:
        """Whether any tensor asks for its gradient."""
        return any(each.requires_grad for each in self.parameters.tensors())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """``numpy.asarray(gram)`` is `to_dense` of a Gram on the CPU, up to 2**24 entries.

        Raises
        ------
        MemoryError
            Above them: nobody may have meant to write down the matrix.
        RuntimeError
            When a tensor requires its gradient, which an array would lose.
        ValueError
            With ``copy=False``.
        """
        validation.becomes_array("a LaplaceGram", tuple(self.shape), copy, "A @ v")
        if self.requires_grad:
            raise RuntimeError(
                "a LaplaceGram that requires its gradient does not become a NumPy array: use "
                "detach()"
            )
        matrix = self.to_dense().numpy()
        return matrix if dtype is None else matrix.astype(dtype, copy=False)

    def diagonal(self) -> Tensor:
        """The variances ``[*b, n]``, noise included."""
        covariance = self.parameters.covariance()
        variances = covariance.loadings.square().sum(-1) + covariance.noise
        return self.parameters.restored(variances.reshape(self.shape[:-1]))

    def to_dense(self) -> Tensor:
        """A itself ``[*b, n, n]``, differentiable.

        Raises
        ------
        MemoryError
            Above 2**28 entries.
        """
        n = self.anchors.shape[-1]
        validation.dense_size(prod(self._batch), n, n)
        anchors, lengthscale, loadings, noise = self.parameters.covariance()
        distance = (anchors[:, :, None] - anchors[:, None, :]).abs()
        dense = torch.diag_embed(noise)
        for k in range(loadings.shape[-1]):
            column = loadings[..., k]
            kernel = torch.exp(-distance / lengthscale[:, k, None, None])
            dense = dense + column[:, :, None] * kernel * column[:, None, :]
        return self.parameters.restored(dense.reshape(self.shape))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_factored": None}  # the core's object is made again when needed

    # --- inside -----------------------------------------------------------------------------------

    def _factor(
        self, covariance: Covariance | None = None, *, ties_backwards: bool = False
    ) -> Gram:
        """The factorisation, kept until a number changes; `covariance`, if it is there already.

        That is seen in the numbers themselves, of which a copy is kept. The versions of tensors do
        not count what is written through ``.data`` or through an array that shares memory.
        """
        given, factored = self.parameters.contents(), self._factored
        if factored is None or not same_contents(factored[0], given):
            self._factored = factored = (copied(given), {})
        kept = factored[1]
        if ties_backwards not in kept:
            if covariance is None:
                covariance = self.parameters.covariance()
            kept[ties_backwards] = Gram(covariance, ties_backwards=ties_backwards)
        return kept[ties_backwards]

    def _is_recorded(self, *others: Tensor) -> bool:
        """Whether derivatives are asked for, by a parameter or by one of the others."""
        tensors = [*others, *self.parameters.tensors()]
        if forward_ad._current_level >= 0 and any(
            _unpack_dual(each).tangent is not None for each in tensors
        ):
            raise NotImplementedError(
                "LaplaceGram has no forward-mode derivatives but of matvec: use torch.autograd.grad"
            )
        return torch.is_grad_enabled() and any(each.requires_grad for each in tensors)

    def _symmetric(self, value: Callable[[Gram, Covariance], Tensor]) -> Tensor:
        """A value that does not depend on the order of equal anchors, as the mean over both orders.

        Its derivatives by the anchors are one-sided in each: the mean has sign(0) = 0.
        """
        covariance = self.parameters.covariance()
        gram = self._factor(covariance)
        result = value(gram, covariance)
        if gram.has_ties and torch.is_grad_enabled() and self.anchors.requires_grad:
            backwards = self._factor(covariance, ties_backwards=True)
            result = 0.5 * (result + value(backwards, covariance))
        return result


_unpack_dual: Any = forward_ad.unpack_dual
