"""`LaplaceGram`: exact algebra with covariance matrices of points on a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._support.optional import require
from .checks import ArrayLike, ScalarLike, all_finite, as_tensor, split
from .conditional import Conditional
from .gaussian import Gaussian
from .parameters import GramParameters
from .term import Term


class LaplaceGram(Gaussian):
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
    All computations are in float64; results have the anchors' dtype and device. Gradients flow to
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
        single = Term(lengthscale, variance, frequency, phase, scale)
        if terms is None:
            terms = (single,)
        elif not single.is_default():
            raise ValueError("pass either terms or the arguments of a single term, not both")
        super().__init__(GramParameters.checked(anchors, terms, noise))

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

        def moved(name: str, tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if GramParameters.is_per_anchor(name) else None)

        anchors, terms, noise, _ = self.parameters.map(moved)
        return self.of(GramParameters.checked(anchors, terms, noise))

    def detach(self) -> LaplaceGram:
        """The same without gradients, of the same memory.

        Like a detached tensor, it follows what is written into a parameter and does not follow one
        that gets other memory (``parameter.data = other``).
        """
        return self.of(self.parameters.map(lambda _, tensor: tensor.detach()))

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
        observed, rest = split(observed_index, self.anchors.shape[-1], self.device)
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
        if any(term.has_parameters_per_anchor() for term in self.terms):
            raise ValueError(
                "predict has no phase or scale for the targets: build a LaplaceGram of anchors and "
                "targets together, and condition() it"
            )
        whole = Gaussian(self.parameters.extended(targets))
        numbers = torch.arange(whole.anchors.shape[-1], device=self.device)
        observed, rest = numbers.tensor_split([self.anchors.shape[-1]])
        return Conditional(whole, observed, rest, values, made_of=self)

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
        covariance = self.parameters.covariance()
        anchors, lengthscale, loadings, noise = covariance
        if loadings.shape[-1] != 1 or bool((noise != 0).any()):
            raise ValueError(
                "the inverse is tridiagonal for a single real term without noise only: use solve()"
            )
        order = self._factor(covariance).order()
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
            self.parameters.restored(diagonal).reshape(*self._batch, n),
            self.parameters.restored(off).reshape(*self._batch, max(n - 1, 0)),
        )

    def __repr__(self) -> str:
        noise = "None" if self.noise is None else f"Tensor{list(self.noise.shape)}"
        if self.noise is not None and self.noise.numel() == 1:
            noise = f"{float(self.noise.detach()):.6g}"
        return (
            f"LaplaceGram(shape={tuple(self.shape)}, terms={len(self.terms)}, "
            f"noise={noise}, dtype={self.dtype})"
        )

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
        require("scipy.sparse.linalg", extra="all", feature="LaplaceGram.to_scipy")
        from .scipy_operator import GramLinearOperator

        return GramLinearOperator(self.detach().to("cpu"), inverse=inverse)

    def to_linear_operator(self) -> Any:
        """A as a GPyTorch ``LinearOperator`` with exact `solve` and `logdet` in O(n)."""
        require("linear_operator", extra="gp", feature="LaplaceGram.to_linear_operator")
        from .linear_operator import LaplaceGramLinearOperator

        return LaplaceGramLinearOperator.of(self)
