"""`LaplaceOperator`: the kernel matrix as an object that behaves like a torch matrix."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import _core
from .._support.optional import require
from .._support.profiles import PROFILES, profile_of
from .._support.sides import side_name, side_number
from ..numpy import checks as validation
from . import execution
from .autograd import is_watched
from .call import TENSORS, TRAILING, Call, Scalar, call_of, check_operand, signature
from .dense import kernel
from .functional import product_with

if TYPE_CHECKING:
    from typing import TypeGuard

    from ..numpy.plan import Plan


class LaplaceOperator:
    r"""A Laplace-kernel matrix that multiplies torch tensors without being formed.

    .. math::

        K_{ij} = e^{-(1/\ell - i\omega)\,|x_i - y_j|}\; e^{i(\theta_i - \phi_j)}

    Parameters
    ----------
    targets : Tensor ``[*b, n]``
        The anchors :math:`x`, as in `laplex.matvec`. Leading dimensions make a batch of matrices.
    sources : Tensor ``[*b, m]``, optional
        The anchors :math:`y`. None selects the self case ``y = x``.
    lengthscale, frequency : float or Tensor
        :math:`\ell` and :math:`\omega`, as in `laplex.matvec`.
    target_phase, source_phase : Tensor, optional
        :math:`\theta` and :math:`\phi`, as in `laplex.matvec`.
    real_part : bool
        Use the real matrix :math:`\mathrm{Re}\,K` (the cosine form).
    kernel : {"matern12", "matern32", "matern52"}
        The shape of the kernel, as in `laplex.matvec`; the default is the Laplace kernel.
    side : {"both", "left", "right"}
        The sources that count for each target, as in `laplex.matvec`. The transpose of an operator
        with ``side="left"`` has ``side="right"``.

    Attributes
    ----------
    targets, sources, lengthscale, frequency, target_phase, source_phase : Tensor or None
        The arguments as tensors. ``sources`` is None in the self case, ``frequency`` is None for a
        kernel without oscillation.
    real_part : bool
        Whether the matrix is the real part.
    kernel, side : str
        The name of the kernel, and the sources that count for each target.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As for `laplex.matvec`. The constructor checks shapes, dtypes, and numbers that are not in
        tensors; the first use checks those in tensors.

    Notes
    -----
    Gradients flow to every tensor given, through ``@``, `to_dense` and the adapter to GPyTorch.

    Examples
    --------
    >>> import torch, laplex
    >>> K = laplex.LaplaceOperator(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0, 3.0]))
    >>> K.shape
    torch.Size([2, 3])
    >>> K @ torch.ones(3)
    tensor([1.1851, 0.8711])
    >>> (K.T @ torch.ones(2)).shape
    torch.Size([3])
    """

    #: Tells NumPy's arrays to leave ``array @ operator`` to the operator.
    __array_ufunc__ = None

    def __init__(
        self,
        targets: Tensor,
        sources: Tensor | None = None,
        *,
        lengthscale: Scalar = 1.0,
        frequency: Scalar = 0.0,
        target_phase: Tensor | None = None,
        source_phase: Tensor | None = None,
        real_part: bool = False,
        kernel: str = "matern12",
        side: str = "both",
    ) -> None:
        check_operand("targets", targets)
        profile_of(kernel)
        self._take(
            call_of(
                targets,  # stands in for the values, which are not known yet
                targets,
                sources,
                lengthscale,
                frequency,
                target_phase,
                source_phase,
                real_part,
                side_number(side),
            ),
            kernel,
        )

    def _take(self, call: Call, kernel: str) -> None:
        """Check a call, except for its values, and take its arguments."""
        anchors = call.targets if call.sources is None else call.sources
        self._signature = signature(call._replace(values=anchors.new_empty(anchors.shape[-1:])))
        self.targets, self.sources = call.targets, call.sources
        self.lengthscale, self.frequency = call.lengthscale, call.frequency
        self.target_phase, self.source_phase = call.target_phase, call.source_phase
        self.real_part = call.real_part
        self.side = side_name(call.side)
        self.kernel = kernel

    @property
    def _call(self) -> Call:
        """The arguments as a call whose values are a placeholder."""
        tensors = (self.targets, self.targets, self.sources, self.lengthscale, self.frequency)
        phases = self.target_phase, self.source_phase
        return Call(*tensors, *phases, self.real_part, side=side_number(self.side))

    # --- products ---------------------------------------------------------------------------------

    def __matmul__(self, other: object) -> Tensor:
        """Multiply a vector or matrices, as ``torch.matmul`` does.

        Parameters
        ----------
        other : Tensor ``[m]`` or ``[..., m, k]``
            A vector, or matrices, whose batch broadcasts with that of the operator.

        Returns
        -------
        Tensor ``[*batch, n]`` or ``[*batch, n, k]``
            The products.
        """
        if not _is_tensor(other):
            return NotImplemented
        if other.dim() < 2:
            return self.matvec(other)
        columns = self._with_row_dimension()
        return columns.matvec(other.mT).mT

    def __rmatmul__(self, other: object) -> Tensor:
        """Multiply a vector ``[n]`` or matrices ``[..., k, n]`` from the left: ``u @ operator``.

        The result has shape ``[..., m]`` or ``[..., k, m]``.
        """
        if not _is_tensor(other):
            return NotImplemented
        return self.T @ other if other.dim() < 2 else (self.T @ other.mT).mT

    def matvec(self, values: Tensor) -> Tensor:
        """Multiply vectors along the last dimension.

        Parameters
        ----------
        values : Tensor ``[..., m]``
            The vectors, as in `laplex.matvec`.

        Returns
        -------
        Tensor ``[..., n]``
            The products.
        """
        check_operand("values", values)
        return product_with(Call(values, *self._call[1:]), self.kernel)

    def _with_row_dimension(self) -> LaplaceOperator:
        """Give every batched argument a dimension of size 1 for the columns of a matrix."""
        return self._like(
            tensor if tensor is None or tensor.dim() == last else tensor.unsqueeze(-1 - last)
            for tensor, last in zip(self._tensors, TRAILING[1:], strict=True)
        )

    # --- related operators ------------------------------------------------------------------------

    @property
    def T(self) -> LaplaceOperator:
        """The transpose, of shape ``[..., m, n]``: both roles are exchanged, and phases negated."""
        return self._of(self._call.transpose(self.targets))

    @property
    def mT(self) -> LaplaceOperator:
        """The transpose, under torch's name for batches of matrices."""
        return self.T

    @property
    def H(self) -> LaplaceOperator:
        """The adjoint (conjugate transpose), of shape ``[..., m, n]``."""
        return self._of(self._call.adjoint(self.targets))

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> LaplaceOperator:
        """Return the operator on another device or with another precision.

        Parameters
        ----------
        dtype : torch.dtype, optional
            The new dtype of anchors and phases, torch.float32 or torch.float64. Lengthscale and
            frequency keep their own dtype, which is float64 unless they were float32 tensors.
        device : torch.device or str, optional
            The new device of all tensors.

        Returns
        -------
        LaplaceOperator
        """
        return self._like(
            None if tensor is None else tensor.to(dtype=dtype if last else None, device=device)
            for tensor, last in zip(self._tensors, TRAILING[1:], strict=True)
        )

    @property
    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self._call[1:TENSORS]

    def _like(self, tensors: Iterable[Tensor | None]) -> LaplaceOperator:
        """Return the operator of other tensors."""
        return self._of(Call._make((self.targets, *tensors, *self._call[TENSORS:])))

    def _of(self, call: Call) -> LaplaceOperator:
        operator = LaplaceOperator.__new__(LaplaceOperator)
        operator._take(call, self.kernel)
        return operator

    # --- inspection -------------------------------------------------------------------------------

    @property
    def shape(self) -> torch.Size:
        """The shape ``(*batch, n, m)``."""
        sig = self._signature
        return torch.Size((*sig.anchor_batch, sig.targets, sig.sources))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the matrix: that of the anchors, or the complex type of their precision."""
        return self._signature.result_dtype

    @property
    def device(self) -> torch.device:
        """The device of the anchors."""
        return self.targets.device

    @property
    def requires_grad(self) -> bool:
        """Whether any argument requires its gradient."""
        return any(tensor is not None and tensor.requires_grad for tensor in self._tensors)

    def to_dense(self) -> Tensor:
        """Return the dense matrix ``[*batch, n, m]``, computed by its formula and differentiable.

        Raises
        ------
        MemoryError
            If the matrix would have more than 2**28 entries.
        """
        sig = self._signature
        validation.dense_size(prod(sig.anchor_batch), sig.targets, sig.sources)
        targets, sources, lengthscale, frequency, theta, phi = self._tensors
        assert targets is not None
        assert lengthscale is not None
        if not torch.compiler.is_compiling() and sig.plain and not is_watched():
            self._plan()  # the core checks the numbers: NaN anchors, a lengthscale of 0
        sources = targets if sources is None else sources
        matrix = kernel(
            targets.unsqueeze(-1),
            sources.unsqueeze(-2),
            lengthscale[..., None, None],
            None if frequency is None else frequency[..., None, None],
            None if theta is None else theta.unsqueeze(-1),
            None if phi is None else phi.unsqueeze(-2),
            self.real_part,
            PROFILES[self.kernel],
            side_number(self.side),
        )
        return matrix.to(self.dtype).expand(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Return `to_dense` for ``numpy.asarray(operator)`` on the CPU, up to 2**24 entries.

        Raises
        ------
        MemoryError
            If the matrix would have more entries, because the conversion is then probably an
            accident.
        RuntimeError
            If an argument requires its gradient, which an array would lose.
        ValueError
            If ``copy=False`` is requested.
        """
        validation.becomes_array("a LaplaceOperator", tuple(self.shape), copy, "operator @ v")
        if self.requires_grad:
            raise RuntimeError(
                "a LaplaceOperator that requires gradients cannot be converted to a NumPy array: "
                "use operator.to_plan(), or operator.to_dense().detach()"
            )
        matrix = self.to_dense().numpy()
        return matrix if dtype is None else matrix.astype(dtype, copy=False)

    def rank(self) -> int | Tensor:
        """Return the rank of the matrix in exact arithmetic, in O(n + m) from the anchors' order.

        Returns
        -------
        int or Tensor
            An int, or an int64 tensor of the batch's shape for a batch of matrices.

        Raises
        ------
        ValueError
            With ``real_part``, for one-sided sums, and for other kernels than ``"matern12"``: no
            such rule is known.
        NotImplementedError
            Inside a transform of ``torch.func``.
        """
        if self.kernel != "matern12":
            raise ValueError(
                f"the rank of a matrix with kernel={self.kernel!r} is not known in O(n): use "
                "torch.linalg.matrix_rank(operator.to_dense()) for a small one"
            )
        if self.side != "both":
            raise ValueError(
                f"the rank of a matrix with side={self.side!r} is not known in O(n): use "
                "torch.linalg.matrix_rank(operator.to_dense()) for a small one"
            )
        # Only the order matters, so the numbers may be on any device.
        plan = (self.to(device="cpu") if self.device.type == "cuda" else self)._plan()
        assert isinstance(plan, _core.Plan)
        ranks = torch.tensor(plan.rank(), dtype=torch.int64)
        ranks = ranks.reshape(self._signature.anchor_batch)
        return int(ranks) if ranks.dim() == 0 else ranks

    def _plan(self) -> execution.Plan:
        own = _detached("rank", self._call[:TENSORS])
        return execution.plan_of(Call._make((*own, *self._call[TENSORS:])), self._signature)

    def __repr__(self) -> str:
        form = "real"
        if self.dtype.is_complex or self.real_part:
            form = "carrier phases" if self.frequency is None else "oscillating"
            form = "cosine" if self.real_part else form
        parts = [f"shape={tuple(self.shape)}", f"form={form!r}", f"dtype={self.dtype}"]
        if self.sources is None:
            parts.append("sources=targets")
        if self.lengthscale.dim() == 0 and self.lengthscale.device.type == "cpu":
            parts.append(f"lengthscale={float(self.lengthscale.detach()):.6g}")
        if self.requires_grad:
            parts.append("requires_grad=True")
        if self.kernel != "matern12":
            parts.insert(1, f"kernel={self.kernel!r}")
        if self.side != "both":
            parts.insert(1, f"side={self.side!r}")
        return f"LaplaceOperator({', '.join(parts)})"

    # --- other libraries --------------------------------------------------------------------------

    def to_plan(self) -> Plan:
        """Return a `laplex.Plan` on the CPU, of the same matrix and dtype and without gradients.

        Raises
        ------
        NotImplementedError
            Inside a transform of ``torch.func``.
        """
        from ..numpy.plan import Plan

        targets, sources, lengthscale, frequency, theta, phi = (
            None if tensor is None else tensor.resolve_neg().cpu().numpy()
            for tensor in _detached("to_plan", self._tensors)
        )
        if frequency is not None and not frequency.any() and theta is None:
            # A plan with frequency 0 does not oscillate; phases of 0 keep its kernel complex.
            theta = np.zeros_like(targets)
        return Plan(
            targets,
            sources,
            lengthscale=lengthscale,
            frequency=0.0 if frequency is None else frequency,
            target_phase=theta,
            source_phase=phi,
            real_part=self.real_part,
            kernel=self.kernel,
            side=self.side,
        )

    def to_scipy(self) -> Any:
        """Return a ``scipy.sparse.linalg.LinearOperator``; see `laplex.adapters.to_scipy`."""
        require("scipy", extra="all", feature="laplex.LaplaceOperator.to_scipy")
        from ..numpy.scipy_operator import PlanLinearOperator

        return PlanLinearOperator(self.to_plan())

    def to_linear_operator(self) -> Any:
        """Return GPyTorch's ``LinearOperator``; see `laplex.adapters.to_linear_operator`."""
        require("linear_operator", extra="all", feature="laplex.LaplaceOperator.to_linear_operator")
        from .linear_operator import LaplaceLinearOperator

        return LaplaceLinearOperator.of(self)


def _detached(method: str, tensors: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Return the tensors without gradients; raise an error if transforms hide their numbers."""
    own = [None if each is None else each.detach() for each in tensors]
    for each in own:
        if each is not None and torch._C._functorch.is_functorch_wrapped_tensor(each):
            raise NotImplementedError(
                f"LaplaceOperator.{method} does not support the transforms of torch.func: call it "
                "outside of them, and use leading dimensions in place of vmap"
            )
    return own


def _is_tensor(other: object) -> TypeGuard[Tensor]:
    """Whether an operator can multiply it; NumPy arrays raise an error with the remedy."""
    if isinstance(other, np.ndarray):
        raise TypeError(
            "a LaplaceOperator multiplies torch tensors, got a NumPy array: use "
            "torch.as_tensor, or to_plan().apply"
        )
    return isinstance(other, Tensor)
