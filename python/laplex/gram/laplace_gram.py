"""`LaplaceGram`: a covariance matrix of points on a line, with exact algebra."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from .._support.communicator import communicator, together
from .._support.optional import require
from .checks import ArrayLike, ScalarLike, split
from .components import Components, components
from .conditional import Conditional
from .distributed import GaussianOnRanks
from .gaussian import Gaussian
from .parameters import GramParameters
from .terms import BaseTerm, Term
from .trend import BasisLike, MeanLike

if TYPE_CHECKING:
    from mpi4py import MPI
    from torch.distributed import ProcessGroup
    from typing_extensions import Self  # typing has it from Python 3.11 on


class LaplaceGram(Gaussian):
    r"""A covariance matrix of points on a line: a sum of terms, plus noise.

    A term is a Laplace kernel, with the parameters below, or one of the other processes of
    `terms`. Of Laplace kernels, the matrix is

    .. math::

        A = \sum_t \sigma_t^2\, \mathrm{diag}(s_t)\,
            \bigl[e^{-|x_i - x_j|/\ell_t}
            \cos(\theta_{ti} - \theta_{tj} + \omega_t (x_i - x_j))\bigr]\,
            \mathrm{diag}(s_t) + \mathrm{diag}(\text{noise})

    Products, solutions, determinants, samples and conditional distributions are exact up to
    rounding. They cost O(n J^2) time and O(n J) memory once the anchors are sorted. A `Term`
    without phase and frequency adds 1 to the number of columns J, and any other `Term` adds 2;
    `SHO`, `Matern32` and `Celerite` add 2, `Matern52` 3 and `Rotation` 4.

    Parameters
    ----------
    anchors : Tensor or array, shape ``[*b, n]``, float32 or float64
        The points :math:`x`, in any order. Integers become float64. The last dimension numbers the
        points of a line, so that anchors of shape ``[n, 1]`` are n matrices of one anchor each.
    lengthscale, variance, frequency, phase, scale
        The parameters of a single term; see `laplex.gram.Term`.
    terms : term or sequence of terms, optional
        A sum of terms, in place of the parameters of a single one: `Term`, `SHO`, `Matern32`,
        `Matern52`, `Celerite` and `Rotation` in any combination, also ``SHO(...) + Matern32(...)``.
        The number of columns J is at most 32, on a GPU at most 8.
    noise : float, Tensor or array, shapes ``[*b, n]`` or ``[*b, 1]``, optional
        The variance of the noise at each anchor, at least 0. None stands for 0.
    mean : float, Tensor, array or function, shapes ``[*b, n]`` or ``[*b, 1]``, optional
        The mean of the Gaussian. A function takes points ``[*b, n]`` as a float64 tensor, and
        returns a number or a tensor of that shape; `predict` also calls it with the targets. None
        stands for 0. The mean enters `log_prob`, `sample`, `condition`, `predict` and
        `coefficients`.
    basis : function, Tensor, array or sequence of these, optional
        Known functions :math:`b_k` with unknown coefficients. A function takes points ``[*b, n]``
        as a float64 tensor, and returns one column ``[*b, n]`` or several ``[*b, n, p]``, such as
        `laplex.gram.constant`, `polynomial` and `harmonics`. A matrix has shape ``[*b, n, p]``.
        Several of these are joined side by side.
    prior : float, Tensor or array, shapes ``[*b, p]`` or ``[]``, optional
        The variances :math:`\tau_k^2` of the independent coefficients, which have mean 0. By
        default infinity, the improper prior of generalised least squares; see Notes. One basis may
        have finite and infinite variances.
    group : torch.distributed.ProcessGroup, optional
        The processes over which the anchors are spread in line order: those of each rank, in any
        order, follow those of the ranks before. See Notes.
    comm : mpi4py.MPI.Comm, optional
        The same for MPI.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong shape, dtype or value. Over ranks, each of them raises the error
        of the first that has one, whose number is in the message.
    numpy.linalg.LinAlgError
        If A is singular, or so close to singular that its factor would have no correct digit. The
        error is raised when A is first factorised, and names the anchors. Anchors that coincide
        can make A singular unless they have noise.

    Notes
    -----
    With a basis, A is K + B diag(:math:`\tau^2`) B^T, where K is the matrix above. One QR
    decomposition of the n x p matrix S^-1 B, for the factor S of K, makes all results exact in
    O(n (J^2 + p^2)), whatever the size of the variances. K must not be singular. The limit of an
    infinite variance exists for `log_prob`, which is then the restricted likelihood, and for
    `solve`, `coefficients`, `condition` and `predict`; other methods raise an error. What functions
    compute from tensors of their own has derivatives, too. To pickle an object with functions,
    define them at the top level of a module, or use those of `laplex.gram`.

    K is factorised by one pass of a Kalman filter along the line. The result is that of celerite
    (arXiv 1703.09710). The model follows the Gram operators of arXiv 2605.24584 in our reading of
    its abstract.

    All computations are in float64, and results have the anchors' dtype and device. Derivatives
    reach every tensor, up to second order. Where anchors coincide, first derivatives by anchors use
    the convention sign(0) = 0 in every result that does not depend on the order of the anchors
    (`solve`, `logdet`, `log_prob`, `condition`). `color` and `whiten` depend on the order, so their
    derivatives are one-sided.

    NumPy arrays are accepted in place of tensors. They are copied, and results are tensors.

    With `group` or `comm`, A is the matrix of the anchors of all ranks, and arguments and results
    are those of a rank's own anchors; a rank may have none. Terms and a single `noise` must be the
    same on every rank. Every method is collective. There are `solve`, `logdet`, `log_prob`,
    `inv_quad_logdet`, `diagonal`, `condition` and `predict`, whose targets are in line order among
    the anchors. Where an anchor equals one of a rank before, it must have noise. `logdet` and
    `log_prob` are the same on every rank. They have first derivatives, for which every rank calls
    ``backward`` on the same loss: those by terms and a single noise are sums over all ranks.

    The factor is kept, and computed again if the numbers in any tensor have changed since. The
    factor S of A = S S^T has rows and columns in the order of the given anchors, and is lower
    triangular in their sorted order. With a basis, the square root by which `color` multiplies is
    not triangular.

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

    def __new__(
        cls, *_: Any, group: ProcessGroup | None = None, comm: MPI.Comm | None = None, **__: Any
    ) -> Self:
        """Over ranks, the object is one of another class."""
        kind = cls if group is None and comm is None else _LaplaceGramOnRanks
        return cast("Self", object.__new__(kind))

    def __init__(
        self,
        anchors: ArrayLike,
        *,
        lengthscale: ScalarLike = 1.0,
        variance: ScalarLike = 1.0,
        frequency: ScalarLike = 0.0,
        phase: ArrayLike | None = None,
        scale: ArrayLike | None = None,
        terms: BaseTerm | Sequence[BaseTerm] | None = None,
        noise: ScalarLike | None = None,
        mean: MeanLike | None = None,
        basis: BasisLike | None = None,
        prior: ScalarLike | None = None,
        group: ProcessGroup | None = None,
        comm: MPI.Comm | None = None,
    ) -> None:
        del group, comm  # see __new__
        single = Term(lengthscale, variance, frequency, phase, scale)
        if terms is None:
            terms = (single,)
        elif not single.is_default():
            raise ValueError("pass either terms or the arguments of a single term, not both")
        super().__init__(GramParameters.checked(anchors, terms, noise, basis, prior, mean))

    def to(self, *args: Any, **kwargs: Any) -> LaplaceGram:
        """Return a copy on another device or in another precision.

        Parameters
        ----------
        *args, **kwargs
            Device and dtype, as for ``torch.Tensor.to``. Lengthscale, variance and frequency keep
            their precision.
        """
        device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        if dtype not in (None, torch.float32, torch.float64):
            raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")

        def moved(name: str, tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if GramParameters.is_per_anchor(name) else None)

        anchors, terms, noise, _, basis, means = self.parameters.map(moved)
        made = GramParameters.checked(anchors, terms, noise)
        return self.of(made.with_trend(basis, means))

    def detach(self) -> LaplaceGram:
        """Return a LaplaceGram without gradients that shares memory with this one.

        As with a detached tensor, values written into a parameter show in both. Assigning new
        memory to a parameter (``parameter.data = other``) does not affect the detached one.
        """
        return self.of(self.parameters.detached())

    def condition(self, observed_index: ArrayLike, values: ArrayLike) -> Conditional:
        """Condition a vector of N(0, A) on some of its entries.

        Parameters
        ----------
        observed_index : Tensor or array
            Indices ``[k]`` of the observed entries, each once, or a bool mask ``[n]``.
        values : Tensor or array, shape ``[..., k]``
            The observed entries, noise included, in the order of ``observed_index``. For a mask,
            they are in ascending order of the entries.

        Returns
        -------
        Conditional
            The distribution of the remaining entries in ascending order. Its ``variance`` includes
            their noise, its ``latent_variance`` does not.
        """
        observed, rest = split(observed_index, self.anchors.shape[-1], self.device)
        return Conditional(self, observed, rest, values)

    def predict(
        self,
        targets: ArrayLike,
        values: ArrayLike,
        *,
        term: Components | None = None,
        basis_targets: ArrayLike | None = None,
        mean_targets: ScalarLike | None = None,
    ) -> Conditional:
        """Predict the process, without noise, at new points.

        Parameters
        ----------
        targets : Tensor or array, shape ``[*b, m]``
            New points, of the anchors' dtype, or integers.
        values : Tensor or array, shape ``[..., n]``
            Observations at the anchors, noise included.
        term : int or term or {"basis", "mean"} or a sequence of these, optional
            Predict one summand of the process in place of the whole, given the same observations: a
            term, or its number in ``terms``, or what the basis or the mean contributes. A sequence,
            or a sum of terms, stands for the sum of several. The expectations of all summands add
            up to that of the whole.
        basis_targets : Tensor or array, shape ``[*b, m, p]``, optional
            The values of the basis at the targets, only where a basis is a matrix.
        mean_targets : float, Tensor or array, shape ``[*b, m]``, optional
            The mean at the targets, only where the mean is a number for each anchor.

        Returns
        -------
        Conditional
            The distribution of the process at the targets, given the values. Neither ``variance``
            nor ``latent_variance`` includes noise, so the two are equal. For the variance of new
            measurements, add their noise variance.

        Raises
        ------
        ValueError
            If a term has phases or scales, because new points have neither. In that case build one
            `LaplaceGram` over anchors and targets together, and call `condition`. Likewise if
            basis or mean have no values at the targets, or if they have them and others are given.
        """
        shown = components(term, self.terms, basis=self._basis is not None, mean=bool(self._means))
        targets = self.parameters.checked_targets(targets)
        extended = self.parameters.extended(targets, basis_targets, mean_targets)
        n = self.anchors.shape[-1]
        part = None
        if shown is not None:
            extended = extended.showing(shown, n)
            if all(isinstance(each, str) for each in shown):
                part = " and ".join(map(str, shown))
        numbers = torch.arange(extended.n, device=self.device)
        observed, rest = numbers.tensor_split([n])
        return Conditional(Gaussian(extended), observed, rest, values, made_of=self, part=part)

    def precision(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tridiagonal inverse of a single real term without noise.

        Returns
        -------
        order : Tensor, int64 ``[*b, n]``
            Indices of the anchors in ascending order.
        diagonal : Tensor ``[*b, n]``
            The diagonal of the inverse in sorted order, ``inv(A)[order, order]``.
        off_diagonal : Tensor ``[*b, n - 1]``
            The entries between each anchor and the next one in sorted order. All other entries
            are 0.

        Raises
        ------
        ValueError
            If there is noise, a basis or more than one column. The inverse is dense then; use
            `solve`.
        """
        covariance = self.parameters.covariance()
        anchors, lengthscale, loadings, noise = covariance[:4]
        is_dense = loadings.shape[-1] != 1 or bool((noise != 0).any())
        if is_dense or self._basis is not None:
            raise ValueError(
                "the inverse is tridiagonal only for a single real term without noise and basis: "
                "use solve()"
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
        if covariance.weights is not None:
            diagonal, off = diagonal / covariance.weights, off / covariance.weights
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
        basis = "" if self._basis is None else f", basis={self._basis.size} columns"
        mean = ", with a mean" if self._means else ""
        return (
            f"LaplaceGram(shape={tuple(self.shape)}, terms={len(self.terms)}, "
            f"noise={noise}{basis}{mean}, dtype={self.dtype})"
        )

    def to_scipy(self, *, inverse: bool = False) -> Any:
        """Return A, without gradients, as a ``scipy.sparse.linalg.LinearOperator``.

        The operator can be pickled.

        Parameters
        ----------
        inverse : bool
            Return the inverse of A instead, for example as the preconditioner ``M=`` of one of
            SciPy's solvers.

        Raises
        ------
        ImportError
            If SciPy is not installed.
        ValueError
            If A is a batch of matrices.
        """
        require("scipy.sparse.linalg", extra="gp", feature="LaplaceGram.to_scipy")
        from .scipy_operator import GramLinearOperator

        return GramLinearOperator(self.detach().to("cpu"), inverse=inverse)

    def to_linear_operator(self) -> Any:
        """Return A as a `LaplaceGramLinearOperator`, with exact algebra in O(n) for GPyTorch."""
        require("linear_operator", extra="gp", feature="LaplaceGram.to_linear_operator")
        from .linear_operator import LaplaceGramLinearOperator

        return LaplaceGramLinearOperator.of(self)


# That of the constructor; that of `__new__` would go before it.
LaplaceGram.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    list(inspect.signature(LaplaceGram.__init__).parameters.values())[1:]
)


class _LaplaceGramOnRanks(GaussianOnRanks, LaplaceGram):
    """What `LaplaceGram` makes over ranks."""

    def __init__(
        self,
        *arguments: Any,
        group: ProcessGroup | None = None,
        comm: MPI.Comm | None = None,
        **named: Any,
    ) -> None:
        ranks = communicator(group, comm)
        together(ranks, lambda: LaplaceGram.__init__(self, *arguments, **named))
        self.start(ranks)
