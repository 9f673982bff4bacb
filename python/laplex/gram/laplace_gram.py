"""`LaplaceGram`: exact algebra with covariance matrices of points on a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log, pi, prod
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..numpy import checks as validation
from ..torch.functional import matvec
from . import factor as factors
from .checks import (
    ArrayLike,
    ScalarLike,
    all_finite,
    as_tensor,
    broadcast,
    checked_noise,
    checked_terms,
    copied,
    no_transforms,
    same_contents,
    same_device,
    sample_shape,
    split,
    supported,
)
from .conditional import Conditional
from .factor import Parameters, Side
from .term import Term, TermTensors

if TYPE_CHECKING:
    from .factor import AnyFactor


class LaplaceGram:
    r"""A covariance matrix of Laplace kernels between anchors on a line, with noise.

    .. math::

        A = \sum_t \sigma_t^2\, \mathrm{diag}(s_t)\,
            \bigl[e^{-|x_i - x_j|/\ell_t}
            \cos(\theta_{ti} - \theta_{tj} + \omega_t (x_i - x_j))\bigr]\,
            \mathrm{diag}(s_t) + \mathrm{diag}(\text{noise})

    Products, solutions, determinants, samples and conditionals are exact and cost O(n J^2) once the
    anchors are sorted, J counting 1 for a term without phase and frequency and 2 for another. A is
    factorised by one pass of a Kalman filter along the line, whose result is celerite's (arXiv
    1703.09710); the model is that of arXiv 2605.24584, section on Gram operators, in our reading.

    Parameters
    ----------
    anchors : Tensor or array, shape ``[*b, n]``, float32 or float64
        x, in any order. An array of integers becomes float64.
    lengthscale, variance, frequency, phase, scale
        Of a single term: see `laplex.gram.Term`.
    terms : sequence of Term, optional
        A sum of terms, in place of those arguments. At most 32 columns: J <= 32.
    noise : float, Tensor or array, shapes ``[*b, n]`` or ``[*b, 1]``, optional
        Variance of the noise at each anchor, not negative. None is 0.

    Raises
    ------
    TypeError, ValueError
        Bad shapes, dtypes or numbers, naming the argument.
    numpy.linalg.LinAlgError
        When A is first factorised: A is singular, or so nearly that double precision cannot tell.
        The message names the anchors. Coincident anchors make A singular where they have no noise.

    Notes
    -----
    All computations are in float64, on the CPU; results have the anchors' dtype. Gradients flow to
    every tensor, twice. Where anchors coincide, first derivatives by anchors use sign(0) = 0 in
    everything that does not depend on the order of the anchors (`solve`, `logdet`, `log_prob`,
    `condition`); `color` and `whiten` do, and are one-sided there.

    NumPy arrays may stand for tensors everywhere. They are copied, and results are tensors. A
    `LaplaceGram` keeps its factor, and makes it again when the numbers of a tensor have changed, in
    whatever way.

    The factor S of A = S S^T has the anchors' numbers on both sides and is lower triangular in
    their sorted order.

    Examples
    --------
    >>> import torch, laplex
    >>> x = torch.tensor([0.0, 3.0, 1.0], dtype=torch.float64)
    >>> A = laplex.gram.LaplaceGram(x, lengthscale=2.0, noise=0.1)
    >>> v = torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64)
    >>> A.solve(A @ v)
    tensor([0.5000, 1.5000, 2.5000], dtype=torch.float64)
    >>> A.log_prob(torch.zeros(3, dtype=torch.float64))
    tensor(-2.6590, dtype=torch.float64)
    """

    #: NumPy's arrays leave ``array @ gram`` to the Gram.
    __array_ufunc__ = None

    def __init__(
        self,
        anchors: ArrayLike,
        *,
        lengthscale: ScalarLike = 1.0,
        variance: ScalarLike = 1.0,
        frequency: ScalarLike = 0.0,
        phase: ArrayLike | None = None,
        scale: ArrayLike | None = None,
        terms: Sequence[Term] | None = None,
        noise: ScalarLike | None = None,
    ) -> None:
        no_transforms()
        anchors = as_tensor("anchors", anchors)
        if anchors.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"anchors must be float32 or float64, got {anchors.dtype}")
        if anchors.dim() == 0:
            raise ValueError("anchors must have shape [..., n], got a scalar: pass it as [x]")
        supported(anchors.device)
        if not all_finite(anchors):
            raise ValueError("anchors must be finite, but have a NaN or an infinity")
        single = Term(lengthscale, variance, frequency, phase, scale)
        if terms is not None and not single.is_default():
            raise ValueError("pass either terms or the arguments of a single term, not both")
        terms = (single,) if terms is None else checked_terms(terms)
        same_device({"noise": noise}, anchors.device)
        for term in terms:
            same_device(vars(term), anchors.device)
        self.anchors = anchors
        self.terms = tuple(terms)
        self.noise = checked_noise(noise, anchors)
        for term in self.terms:
            term.check(anchors)
        try:
            self._batch = broadcast(
                anchors.shape[:-1],
                *(tensors.batch_shape() for tensors in self._tensors),
                *(() if self.noise is None else (self.noise.shape[:-1],)),
            )
        except RuntimeError:
            raise ValueError(
                "the leading dimensions of anchors, terms and noise do not broadcast"
            ) from None
        self._factored: tuple[list[object], dict[bool, AnyFactor]] | None = None

    # --- products --------------------------------------------------------------------------------

    def matvec(self, values: ArrayLike) -> Tensor:
        """A times values ``[..., n]``, by `laplex.matvec`; `values` broadcast with the batch."""
        values = self._checked(values).double()
        anchors = self.anchors.double()
        result = torch.zeros_like(values) if self.noise is None else self.noise * values
        for tensors in self._tensors:
            columns = torch.stack(tensors.loadings(anchors))
            columns = columns.reshape(
                columns.shape[:1] + (1,) * (values.dim() + 1 - columns.dim()) + columns.shape[1:]
            )
            product = matvec(columns * values, anchors, lengthscale=tensors.lengthscale)
            result = result + (columns * product).sum(0)
        return result.to(self.dtype)

    def __matmul__(self, other: object) -> Tensor:
        """A times a vector ``[n]`` or matrices ``[..., n, k]``."""
        if not isinstance(other, (Tensor, np.ndarray)):
            return NotImplemented
        other = self._values(other)
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
        other = self._values(other)
        return self @ other if other.dim() < 2 else (self @ other.mT).mT

    # --- other matrices --------------------------------------------------------------------------

    @property
    def T(self) -> LaplaceGram:
        """A itself, which is symmetric."""
        return self

    @property
    def mT(self) -> LaplaceGram:
        """A itself, by torch's name for the transpose of a batch of matrices."""
        return self

    def __add__(self, other: object) -> LaplaceGram:
        """The sum of two on the same anchors: the terms and the noises of both.

        Raises
        ------
        TypeError
            For anything but a `LaplaceGram`: a number might mean noise, or every entry.
        ValueError
            For other anchors.
        """
        if not isinstance(other, LaplaceGram):
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
        return LaplaceGram(anchors, terms=(*self.terms, *other.terms), noise=noise)

    __radd__ = __add__  # of what is no LaplaceGram: the same sentence

    def has_anchors_of(self, other: LaplaceGram) -> bool:
        """Whether the anchors of both are the same numbers, of the same precision and device."""
        return same_contents([self.anchors], [other.anchors])

    def __mul__(self, factor: object) -> LaplaceGram:
        """A times a positive number, or numbers ``[*b]`` for a batch: variances and noise are."""
        scale: Tensor
        if isinstance(factor, (Tensor, np.ndarray)):
            scale = as_tensor("factor", factor).to(self.device, torch.float64)
        elif isinstance(factor, Real):
            scale = torch.tensor(float(factor), dtype=torch.float64, device=self.device)
        else:
            return NotImplemented
        if not bool(((scale > 0) & scale.isfinite()).all()):
            raise ValueError(
                "a LaplaceGram is multiplied with positive, finite numbers, as its variances are: "
                f"got {factor}"
            )
        terms = [
            replace(term, variance=tensors.variance * scale)
            for term, tensors in zip(self.terms, self._tensors, strict=True)
        ]
        noise = None if self.noise is None else self.noise * scale[..., None]
        return LaplaceGram(self.anchors, terms=terms, noise=noise)

    __rmul__ = __mul__

    def to(self, *args: Any, **kwargs: Any) -> LaplaceGram:
        """The same on another device or in another precision.

        Parameters
        ----------
        *args, **kwargs
            Device and dtype, as ``torch.Tensor.to`` takes them. Lengthscale, variance and frequency
            keep their precision.
        """
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if dtype not in (None, torch.float32, torch.float64):
            raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
        keep = ("lengthscale", "variance", "frequency")
        return self._like(lambda name, tensor: tensor.to(device, None if name in keep else dtype))

    def detach(self) -> LaplaceGram:
        """The same without gradients, of the same memory.

        Like a detached tensor, it follows what is written into a parameter and does not follow one
        that gets other memory (``parameter.data = other``).
        """
        return self._like(lambda _, tensor: tensor.detach())

    def _like(self, change: Callable[[str, Tensor], Tensor]) -> LaplaceGram:
        """The same with other tensors in place of those there are; numbers stay."""

        def changed(name: str, value: Any) -> Any:
            return change(name, value) if isinstance(value, Tensor) else value

        terms = [
            Term(**{name: changed(name, value) for name, value in vars(term).items()})
            for term in self.terms
        ]
        noise = None if self.noise is None else change("noise", self.noise)
        return LaplaceGram(change("anchors", self.anchors), terms=terms, noise=noise)

    # --- the factor ------------------------------------------------------------------------------

    def solve(self, values: ArrayLike) -> Tensor:
        """A^-1 times values ``[..., n]``."""
        rows, restore = self._flatten(values)
        parameters = self._parameters()

        def solution(factor: AnyFactor) -> Tensor:
            if not _recording(rows, *parameters):
                return factor.solve(rows)
            whitened, logs = factors.innovations(factor, rows, parameters)
            whitened = whitened * torch.exp(-logs)[:, None]
            return factors.product(factor, Side.UPPER_INVERSE, whitened, parameters)

        return restore(self._symmetric(solution, parameters))

    def color(self, values: ArrayLike, *, transpose: bool = False) -> Tensor:
        """S, or with `transpose` S^T, times values ``[..., n]``: A = S S^T.

        S makes samples of N(0, A) from white noise.
        """
        return self._scaled(values, Side.UPPER if transpose else Side.LOWER)

    def whiten(self, values: ArrayLike, *, transpose: bool = False) -> Tensor:
        """S^-1, or with `transpose` S^-T, times values ``[..., n]``: A^-1 = S^-T S^-1.

        S^-1 makes white noise of samples of N(0, A).
        """
        return self._scaled(values, Side.UPPER_INVERSE if transpose else Side.LOWER_INVERSE)

    def _scaled(self, values: ArrayLike, side: Side) -> Tensor:
        rows, restore = self._flatten(values)
        parameters = self._parameters()
        factor = self._factor(parameters)
        if not _recording(rows, *parameters):
            return restore(factor.apply(side, rows, scaled=True))
        half = 0.5 * factors.log_variances(factor, parameters)[:, None]
        if side is Side.LOWER:
            rows = rows * half.exp()
        elif side is Side.UPPER_INVERSE:
            rows = rows * (-half).exp()
        result = factors.product(factor, side, rows, parameters)
        if side is Side.UPPER:
            result = result * half.exp()
        elif side is Side.LOWER_INVERSE:
            result = result * (-half).exp()
        return restore(result)

    # --- the Gaussian N(0, A) --------------------------------------------------------------------

    def logdet(self) -> Tensor:
        """Log det A ``[*b]``."""
        parameters = self._parameters()

        def value(factor: AnyFactor) -> Tensor:
            if not _recording(*parameters):
                return factor.logdet()
            return factors.log_variances(factor, parameters).sum(-1)

        return self._symmetric(value, parameters).reshape(self._batch).to(self.dtype)

    def log_prob(self, values: ArrayLike) -> Tensor:
        """Log density of N(0, A) at values ``[..., n]``: a number for each, ``[...]``."""
        rows, restore = self._flatten(values)
        parameters = self._parameters()

        def value(factor: AnyFactor) -> Tensor:
            if not _recording(rows, *parameters):
                return factor.log_prob(rows)
            whitened, logs = factors.innovations(factor, rows, parameters)
            square = whitened.square() * torch.exp(-logs)[:, None]
            n = rows.shape[-1]
            return -0.5 * (square.sum(-1) + logs.sum(-1, keepdim=True) + n * log(2 * pi))

        return restore(self._symmetric(value, parameters)[..., None])[..., 0]

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

    def _sample_at_ties(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """As `sample`, also where anchors coincide without noise and A is singular.

        Each column is an independent process, drawn at the places without their copies.
        """
        try:
            return self.sample(shape, generator=generator)
        except np.linalg.LinAlgError:
            pass
        anchors, lengthscale, loadings, noise = self._parameters()
        n = anchors.shape[-1]
        samples = []
        for b in range(len(anchors)):
            places, copy_of = torch.unique(anchors[b], return_inverse=True)
            # Derivatives by anchors go through one of the copies: they are one place.
            first = torch.full_like(copy_of[: len(places)], n).scatter_reduce(
                0, copy_of, torch.arange(n, device=copy_of.device), "amin"
            )
            processes = LaplaceGram(anchors[b][first], lengthscale=lengthscale[b])
            drawn = processes.sample(shape, generator=generator)
            white = torch.randn(
                *shape, n, dtype=torch.float64, device=self.device, generator=generator
            )
            latent = (drawn[..., copy_of] * loadings[b].mT).sum(-2)
            samples.append(latent + noise[b].sqrt() * white)
        flat = torch.stack(samples, -2)
        return flat.reshape(*shape, *self._batch, n).to(self.dtype)

    def condition(self, observed_index: ArrayLike, values: ArrayLike) -> Conditional:
        """The remaining entries of a vector of N(0, A), given some of them.

        Parameters
        ----------
        observed_index : Tensor or array
            Numbers of the observed entries, integers ``[k]``, each once; or a bool mask ``[n]``.
        values : Tensor or array, shape ``[..., k]``
            The observed entries, noise included; for a mask in ascending order.

        Returns
        -------
        Conditional
            Of the remaining entries, in ascending order, noise included.
        """
        n = self.anchors.shape[-1]
        observed, rest = split(observed_index, n, self.device)
        return Conditional(self, observed, rest, values)

    def predict(self, targets: ArrayLike, values: ArrayLike) -> Conditional:
        """The process at new points without noise, given values ``[..., n]`` at the anchors.

        Parameters
        ----------
        targets : Tensor or array, shape ``[*b, m]``
            New points, of the anchors' dtype, or integers.
        values : Tensor or array, shape ``[..., n]``
            Observations at the anchors, noise included.

        Raises
        ------
        ValueError
            When a term has phases or scales, which new points have not: build one LaplaceGram over
            all points, and `condition` it.
        """
        targets = as_tensor("targets", targets, integers=self.dtype)
        if targets.dtype is not self.dtype or targets.dim() == 0:
            raise TypeError(
                f"targets must be {self.dtype} as the anchors are, of shape [..., m]; got "
                f"{targets.dtype} {list(targets.shape)}"
            )
        if not all_finite(targets):
            raise ValueError("targets must be finite, but have a NaN or an infinity")
        if any(term.phase is not None or term.scale is not None for term in self.terms):
            raise ValueError(
                "predict has no phase or scale for the targets: build a LaplaceGram of anchors and "
                "targets together, and condition() it"
            )
        n, m = self.anchors.shape[-1], targets.shape[-1]
        batch = broadcast(self.anchors.shape[:-1], targets.shape[:-1])
        anchors = torch.cat((self.anchors.expand(*batch, n), targets.expand(*batch, m)), -1)
        noise = None
        if self.noise is not None:
            shape = self.noise.shape[:-1]
            noise = torch.cat((self.noise.expand(*shape, n), self.noise.new_zeros(*shape, m)), -1)
        whole = LaplaceGram(anchors, terms=self.terms, noise=noise)
        numbers = torch.arange(n + m, device=self.device)
        return Conditional(whole, numbers[:n], numbers[n:], values, made_of=self)

    def precision(self) -> tuple[Tensor, Tensor, Tensor]:
        """The tridiagonal inverse of a single real term without noise.

        Returns
        -------
        order : Tensor, int64 ``[*b, n]``
            Numbers of the anchors in ascending order.
        diagonal : Tensor ``[*b, n]``
            ``inv(A)[order, order]``, the diagonal in sorted order.
        off_diagonal : Tensor ``[*b, n - 1]``
            Entries between an anchor and the next one in sorted order. All others are 0.

        Raises
        ------
        ValueError
            With noise, or more than one column: the inverse is dense then; use `solve`.
        """
        parameters = self._parameters()
        anchors, lengthscale, loadings, noise = parameters
        if loadings.shape[-1] != 1 or bool((noise != 0).any()):
            raise ValueError(
                "the inverse is tridiagonal for a single real term without noise only: use solve()"
            )
        order = self._factor(parameters).order()
        gaps = anchors.gather(-1, order).diff(dim=-1) / lengthscale
        scale = loadings[..., 0].gather(-1, order)
        lost = -torch.expm1(-2 * gaps)  # 1 - r^2, without cancellation
        inner = torch.exp(-2 * gaps) / lost
        edge = torch.zeros_like(anchors[:, :1])
        diagonal = 1 + torch.cat((edge, inner), -1) + torch.cat((inner, edge), -1)
        diagonal = diagonal / scale.square()
        off = -torch.exp(-gaps) / lost / (scale[:, :-1] * scale[:, 1:])
        n = anchors.shape[-1]
        return (
            order.reshape(*self._batch, n),
            diagonal.to(self.dtype).reshape(*self._batch, n),
            off.to(self.dtype).reshape(*self._batch, max(n - 1, 0)),
        )

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
        return any(isinstance(each, Tensor) and each.requires_grad for each in self._given())

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
        _, _, loadings, noise = self._parameters()
        variances = loadings.square().sum(-1) + noise
        return variances.reshape(self.shape[:-1]).to(self.dtype)

    def to_dense(self) -> Tensor:
        """A itself ``[*b, n, n]``, differentiable.

        Raises
        ------
        MemoryError
            Above 2**28 entries.
        """
        n = self.anchors.shape[-1]
        validation.dense_size(prod(self._batch), n, n)
        anchors, lengthscale, loadings, noise = self._parameters()
        distance = (anchors[:, :, None] - anchors[:, None, :]).abs()
        dense = torch.diag_embed(noise)
        for k in range(loadings.shape[-1]):
            column = loadings[..., k]
            kernel = torch.exp(-distance / lengthscale[:, k, None, None])
            dense = dense + column[:, :, None] * kernel * column[:, None, :]
        return dense.reshape(self.shape).to(self.dtype)

    def __repr__(self) -> str:
        noise = "None" if self.noise is None else f"Tensor{list(self.noise.shape)}"
        if self.noise is not None and self.noise.numel() == 1:
            noise = f"{float(self.noise.detach()):.6g}"
        return (
            f"LaplaceGram(shape={tuple(self.shape)}, terms={len(self.terms)}, "
            f"noise={noise}, dtype={self.dtype})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_factored": None}  # the core's object is made again when needed

    def to_scipy(self, *, inverse: bool = False) -> Any:
        """A without gradients as a ``scipy.sparse.linalg.LinearOperator``, which can be pickled.

        With `inverse` A^-1: as a preconditioner ``M=`` of SciPy's solvers, for instance.

        Raises
        ------
        ImportError
            Without SciPy.
        ValueError
            For a batch.
        """
        from .._support.optional import require

        require("scipy.sparse.linalg", extra="all", feature="LaplaceGram.to_scipy")
        from .scipy_operator import GramLinearOperator

        return GramLinearOperator(self, inverse=inverse)

    def to_linear_operator(self) -> Any:
        """A as a GPyTorch ``LinearOperator`` with exact `solve` and `logdet` in O(n)."""
        from .._support.optional import require

        require("linear_operator", extra="gp", feature="LaplaceGram.to_linear_operator")
        from .linear_operator import LaplaceGramLinearOperator

        return LaplaceGramLinearOperator.of(self)

    # --- inside ----------------------------------------------------------------------------------

    @property
    def _tensors(self) -> list[TermTensors]:
        """The terms' parameters as they are now, in float64."""
        return [term.tensors(self.anchors) for term in self.terms]

    def _parameters(self) -> Parameters:
        """Anchors, lengthscale, loadings and noise as `laplex.gram.factor` takes them."""
        n, batch = self.anchors.shape[-1], self._batch
        anchors = self.anchors.double()
        lengthscale, columns = [], []
        for tensors in self._tensors:
            for column in tensors.loadings(anchors):
                columns.append(column.expand(*batch, n))
                lengthscale.append(tensors.lengthscale.expand(batch))
        noise = anchors.new_zeros(()) if self.noise is None else self.noise.double()
        flat = prod(batch)
        return (
            factors.plain(anchors.expand(*batch, n).reshape(flat, n)),
            torch.stack(lengthscale, -1).reshape(flat, len(columns)).contiguous(),
            torch.stack(columns, -1).reshape(flat, n, len(columns)).contiguous(),
            factors.plain(noise.expand(*batch, n).reshape(flat, n)),
        )

    def _factor(self, parameters: Parameters, *, ties_backwards: bool = False) -> AnyFactor:
        """The factorisation of `parameters`, kept until a number changes.

        That is seen in the numbers themselves, of which a copy is kept. The versions of tensors do
        not count what is written through ``.data`` or through an array that shares memory.
        """
        given, factored = self._given(), self._factored
        if factored is None or not same_contents(factored[0], given):
            self._factored = factored = (copied(given), {})
        kept = factored[1]
        if ties_backwards not in kept:
            kept[ties_backwards] = factors.factorise(parameters, ties_backwards=ties_backwards)
        return kept[ties_backwards]

    def _given(self) -> list[object]:
        """All that the matrix is made of: tensors, numbers and None."""
        terms = (value for term in self.terms for value in vars(term).values())
        return [self.anchors, self.noise, *terms]

    def _symmetric(self, value: Callable[[AnyFactor], Tensor], parameters: Parameters) -> Tensor:
        """A value that does not depend on the order of equal anchors, as the mean over both orders.

        Its derivatives by the anchors are one-sided in each: the mean has sign(0) = 0.
        """
        factor = self._factor(parameters)
        result = value(factor)
        if factor.has_ties and _recording(self.anchors):
            result = 0.5 * (result + value(self._factor(parameters, ties_backwards=True)))
        return result

    def _values(self, values: object) -> Tensor:
        return as_tensor("values", values, integers=self.dtype, exact=False)

    def _checked(self, values: object, what: str = "anchors") -> Tensor:
        no_transforms()
        values = self._values(values)
        if values.dtype is not self.dtype:
            raise TypeError(
                f"values are {values.dtype} but the anchors {self.dtype}: convert one with .to()"
            )
        if values.device != self.device:
            raise ValueError(f"values are on {values.device} but the anchors on {self.device}")
        n = self.anchors.shape[-1]
        if values.dim() == 0 or values.shape[-1] != n:
            raise ValueError(
                f"values have shape {list(values.shape)} but the last dimension must be {n}, the "
                f"number of {what}"
            )
        try:
            return values.expand(*broadcast(values.shape[:-1], self._batch), n)
        except RuntimeError:
            raise ValueError(
                f"values have shape {list(values.shape)}, which does not broadcast with the batch "
                f"{list(self._batch)}"
            ) from None

    def _flatten(self, values: ArrayLike) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Values as float64 ``[B, R, n]``, and what brings such a result into their shape.

        Rows are what the batch does not have: leading dimensions, and those where it has size 1.
        """
        values = self._checked(values).double()
        n, lead = values.shape[-1], values.shape[:-1]
        batch = (1,) * (len(lead) - len(self._batch)) + tuple(self._batch)
        own = [d for d, size in enumerate(batch) if size > 1]
        rows = [d for d, size in enumerate(batch) if size <= 1]
        # A batch of size 0 has no matrix, and a row dimension of that size no row.
        order = [*own, *rows]
        moved = values.permute(*order, len(lead))
        flat_batch = prod(self._batch)
        flat_rows = prod(lead[d] for d in rows) if flat_batch else 0
        flat = moved.reshape(flat_batch, flat_rows, n)

        def restore(result: Tensor) -> Tensor:
            shaped = result.reshape(*(lead[d] for d in order), result.shape[-1])
            back = [order.index(d) for d in range(len(lead))]
            return shaped.permute(*back, len(lead)).to(self.dtype)

        return flat, restore


_unpack_dual: Any = forward_ad.unpack_dual


def _recording(*tensors: Tensor) -> bool:
    forward = forward_ad._current_level >= 0
    if forward and any(_unpack_dual(each).tangent is not None for each in tensors):
        raise NotImplementedError(
            "LaplaceGram has no forward-mode derivatives but of matvec: use torch.autograd.grad"
        )
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def shared(one: Tensor, two: Tensor) -> Tensor:
    """Equal tensors as a single one, which hands derivatives on to both in halves."""
    return one if one is two or not (one.requires_grad or two.requires_grad) else (one + two) / 2
