"""A plan whose anchors are spread over the processes of a group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .._support.arguments import kernel_number
from .._support.communicator import Communicator, agree, communicator
from .._support.profiles import profile_of
from ..numpy import checks as validation
from ..numpy.checks import Array
from ..numpy.plan import PlanGradients
from .line import Line
from .part import Part

if TYPE_CHECKING:
    from mpi4py import MPI
    from torch.distributed import ProcessGroup

__all__ = ["ShardedPlan"]


class ShardedPlan:
    r"""A Laplace kernel matrix whose targets and sources are spread over processes.

    It is the matrix of `laplex.Plan` for the anchors of all ranks together, one after another in
    rank order, and gives the same results, bit for bit, for any number of ranks and any shards:

    .. math::
        K_{ij} = \exp(-(1/\ell - i\omega)\,|x_i - y_j|)\,\exp(i(\theta_i - \phi_j))

    Each rank gives and receives vectors in its own *user order*: one entry for each anchor that it
    passed. Inside, each rank owns an interval of the line, so values travel to the owners and
    results travel back. Vectors in *line order*, one entry for each anchor that the rank owns,
    sorted, save both ways; see `to_line`.

    Parameters
    ----------
    targets : array ``[n_local]``, float32 or float64
        This rank's shard of the targets :math:`x`, of any size and in any order; it may be empty.
    sources : array ``[m_local]``, optional
        This rank's shard of the sources :math:`y`, in the same precision. None on all ranks selects
        the self case ``y = x``.
    lengthscale, frequency : float
        :math:`\ell > 0` and :math:`\omega`, the same on all ranks.
    target_phase, source_phase : array ``[n_local]``, array ``[m_local]``, optional
        :math:`\theta` and :math:`\phi` in radians.
    real_part, kernel
        As in `laplex.Plan`, and the same on all ranks.
    group : torch.distributed.ProcessGroup, optional
        The processes. The default is torch's default group if torch.distributed is initialised, and
        otherwise this process alone.
    comm : mpi4py.MPI.Comm, optional
        The processes of MPI, instead of a group; PyTorch is not needed then.
    num_threads : int, optional
        The number of threads of this rank, as in `laplex.Plan`.

    Attributes
    ----------
    shape : tuple of int
        ``(n_local, m_local)`` in user order.
    line_shape : tuple of int
        ``(n_line, m_line)``, the numbers of targets and sources that this rank owns.
    dtype : numpy.dtype
        The precision of the anchors, float32 or float64.
    nbytes : int
        The number of bytes that the plan holds on this rank.

    Raises
    ------
    TypeError, ValueError
        As `laplex.Plan` does, on all ranks with the same message, which names the rank; and if
        arguments differ that must be the same on all ranks.
    laplex.distributed.RankDiedError
        If a process of the group dies (gloo only).

    Warns
    -----
    UserWarning
        On rank 0, if one rank gets much more than its share because so many anchors are equal:
        equal anchors stay on one rank.

    Notes
    -----
    The constructor and every method are collective: all ranks call them in the same order, also
    ranks whose shards are empty. All arguments are checked on all ranks before any work; one small
    message tells whether a rank has an error.

    The line is cut at multiples of 16,384 anchors of the sorted order, so each rank owns its share
    to within one such segment, and a line shorter than that is on one rank. A product of one row
    in user order sends each value to its owner and each result back, at most
    :math:`4 (n + m)(P - 1)/P^2` bytes a rank in float32 for equal shards in random order, and a
    few numbers for each segment.

    If a rank dies, the others raise a `RankDiedError` in the next collective. If one is stuck, they
    wait for the timeout of the process group, which
    ``torch.distributed.init_process_group(timeout=...)`` sets. On MPI, the launcher ends all
    processes when one of them dies.

    Examples
    --------
    On one process it is a `laplex.Plan`:

    >>> import laplex.distributed
    >>> plan = laplex.distributed.ShardedPlan([0.0, 2.0, 1.0], lengthscale=2.0)
    >>> plan.apply([1.0, 0.0, 0.0]).round(4)
    array([1.    , 0.3679, 0.6065])
    >>> plan.to_line([1.0, 2.0, 3.0])
    array([1., 3., 2.])
    """

    def __init__(
        self,
        targets: object,
        sources: object = None,
        *,
        lengthscale: object = 1.0,
        frequency: object = 0.0,
        target_phase: object = None,
        source_phase: object = None,
        real_part: bool = False,
        kernel: str = "matern12",
        group: ProcessGroup | None = None,
        comm: MPI.Comm | None = None,
        num_threads: int | None = None,
    ) -> None:
        self._comm: Communicator = communicator(group, comm)
        given: dict[str, Array] = {}
        error: Exception | None = None
        facts: dict[str, object] = {}
        try:
            options = {"sources": sources, "target_phase": target_phase}
            given = _anchors({"targets": targets, **options, "source_phase": source_phase})
            ell, omega = _scalar("lengthscale", lengthscale), _scalar("frequency", frequency)
            profile_of(kernel)
            if not isinstance(real_part, (bool, np.bool_)):
                raise TypeError(f"real_part must be True or False, got {real_part!r}")
            self._threads = validation.num_threads(num_threads)
            facts = {
                "the call": "ShardedPlan",
                "the dtype of targets": str(given["targets"].dtype),
                **{f"whether {name} is given": name in given for name in _OPTIONAL},
                "lengthscale": ell,
                "frequency": omega,
                "real_part": bool(real_part),
                "kernel": kernel,
            }
        except Exception as found:
            error = found
        agree(self._comm, error, facts)

        self._line = Line(self._comm, given["targets"], given.get("sources"), self._threads)
        line = self._line
        theta, phi = given.get("target_phase"), given.get("source_phase")
        self._part = Part(
            line,
            ell,
            omega if omega != 0 else None,
            (
                None if theta is None else line.targets.to_line(theta),
                None if phi is None else line.sources.to_line(phi),
            ),
            bool(real_part),
            kernel,
            self._threads,
        )
        self._kernel, self._lengthscale = kernel, ell
        line.warn_of_ties()

    # ------------------------------------------------------------------------------------- products

    def apply(self, v: object, *, order: str = "user") -> Array:
        """Multiply by the matrix: ``u = K v``.

        Parameters
        ----------
        v : array ``[..., m_local]``
            Values of the plan's precision, real or complex; a float32 plan also takes float16. All
            ranks pass the same leading dimensions and dtype.
        order : {"user", "line"}
            The order of ``v`` and of the result, the same on all ranks. In line order, ``v`` is
            ``[..., m_line]``, and only some numbers for each segment of the line are sent.

        Returns
        -------
        array ``[..., n_local]`` or ``[..., n_line]``
            A new array. It is complex if ``v`` or the kernel is, and float16 if ``v`` is float16
            and the kernel is real.
        """
        return self._product("v", v, order, 0)

    def transpose(self, u: object, *, order: str = "user") -> Array:
        """Multiply by the transpose: ``v = K^T u``.

        Parameters
        ----------
        u : array ``[..., n_local]``
            Values, as in `apply`.
        order : {"user", "line"}
            The order of ``u`` and of the result, as in `apply`.

        Returns
        -------
        array ``[..., m_local]`` or ``[..., m_line]``
            A new array, of the dtype that `apply` would return.
        """
        return self._product("u", u, order, 1)

    def adjoint(self, u: object, *, order: str = "user") -> Array:
        """Multiply by the adjoint (conjugate transpose): ``v = K^H u``.

        Parameters
        ----------
        u : array ``[..., n_local]``
            Values, as in `apply`.
        order : {"user", "line"}
            The order of ``u`` and of the result, as in `apply`.

        Returns
        -------
        array ``[..., m_local]`` or ``[..., m_line]``
            A new array, of the dtype that `apply` would return.
        """
        return self._product("u", u, order, 2)

    def half_sums(self, v: object, *, order: str = "user") -> tuple[Array, Array]:
        """Split ``K v`` into the parts that come from the left and from the right of each target.

        Parameters
        ----------
        v : array ``[..., m_local]``
            Values as in `apply`.
        order : {"user", "line"}
            As in `apply`.

        Returns
        -------
        left, right : array ``[..., n_local]``
            The sums over the sources at or below each target, and over the sources above it.
        """
        (array,) = self._checked("half_sums", {"v": (v, "sources")}, order)
        values = self._in("sources", array, order)
        left, right = (
            self._out("targets", _rounded(each, array), order)
            for each in self._part.half_sums(self._widened(values))
        )
        return left, right

    def _product(self, name: str, v: object, order: str, mode: int) -> Array:
        here, there = ("targets", "sources") if mode else ("sources", "targets")
        method = ("apply", "transpose", "adjoint")[mode]
        (array,) = self._checked(method, {name: (v, here)}, order)
        product = self._part.sum(self._widened(self._in(here, array, order)), mode)
        return self._out(there, _rounded(product, array), order)

    def vjp(self, v: object, grad: object, *, order: str = "user") -> PlanGradients:
        """Compute the gradients of ``Re <grad, K v>`` with respect to all inputs.

        Parameters
        ----------
        v : array ``[..., m_local]``
            The values of the product.
        grad : array ``[..., n_local]``
            The cotangent, of the shape and dtype of ``apply(v)``.
        order : {"user", "line"}
            The order of the arguments and of the gradients, as in `apply`.

        Returns
        -------
        PlanGradients
            As of `laplex.Plan.vjp`. Those of vectors are this rank's shard. Those of lengthscale
            and frequency are the derivatives of the sum over all ranks, the same on all of them.
        """
        given = {"v": (v, "sources"), "grad": (grad, "targets")}
        array, g = self._checked("vjp", given, order)
        values, cotangent = self._in("sources", array, order), self._in("targets", g, order)
        found = self._part.vjp(self._widened(values), self._widened(cotangent))
        d_v, d_x, d_y, d_ell, d_omega, d_theta, d_phi = found
        if self._line.y is None:
            d_x, d_y = d_x + d_y, None
        out = {"values": (d_v.astype(array.dtype, copy=False), "sources")}
        out |= {"targets": (d_x, "targets"), "sources": (d_y, "sources")}
        out |= {"target_phase": (d_theta, "targets"), "source_phase": (d_phi, "sources")}
        moved: dict[str, Any] = {
            name: None if each is None else self._out(side, each, order)
            for name, (each, side) in out.items()
        }
        return PlanGradients(lengthscale=d_ell, frequency=d_omega, **moved)

    # --------------------------------------------------------------------------------- both orders

    def to_line(self, w: object, *, side: str = "sources") -> Array:
        """Send a vector from user order to line order.

        In line order, each rank has the entries of the anchors that it owns, sorted by anchor. The
        vectors of all ranks, one after another, are sorted, too; equal anchors are in the order of
        the ranks and positions that they came from.

        Parameters
        ----------
        w : array ``[..., m_local]`` or ``[..., n_local]``
            One entry for each anchor of this rank's shard, of any dtype. All ranks pass the same
            leading dimensions and dtype.
        side : {"sources", "targets"}
            Whether the entries belong to the sources or to the targets.

        Returns
        -------
        array ``[..., m_line]`` or ``[..., n_line]``
            One entry for each anchor of this side that this rank owns.
        """
        return self._route(side, "w", w, to_line=True)

    def from_line(self, u: object, *, side: str = "targets") -> Array:
        """Send a vector from line order back to user order: the inverse of `to_line`.

        Parameters
        ----------
        u : array ``[..., n_line]`` or ``[..., m_line]``
            One entry for each anchor of this side that this rank owns.
        side : {"targets", "sources"}
            Whether the entries belong to the targets or to the sources.

        Returns
        -------
        array ``[..., n_local]`` or ``[..., m_local]``
            One entry for each anchor of this rank's shard.
        """
        return self._route(side, "u", u, to_line=False)

    def _route(self, side: str, name: str, value: object, to_line: bool) -> Array:
        error: Exception | None = None
        facts: dict[str, object] = {}
        try:
            if side not in ("targets", "sources"):
                raise ValueError(f"side must be 'targets' or 'sources', got {side!r}")
            route = self._line.route(side)
            array = validation.as_array(name, value)
            count = route.shard_size if to_line else route.line_size
            _check_count(name, array, count, side)
            facts = {"the call": "to_line" if to_line else "from_line", "side": side}
            facts[f"the leading shape of {name}"] = array.shape[:-1]
            facts[f"the dtype of {name}"] = str(array.dtype)
        except Exception as found:
            error = found
        agree(self._comm, error, facts)
        return route.to_line(array) if to_line else route.from_line(array)

    def _in(self, side: str, array: Array, order: str) -> Array:
        return array if order == "line" else self._line.route(side).to_line(array)

    def _out(self, side: str, array: Array, order: str) -> Array:
        return array if order == "line" else self._line.route(side).from_line(array)

    def _checked(
        self, method: str, given: dict[str, tuple[object, str]], order: str
    ) -> list[Array]:
        """Check the vectors of a method, by name with their side, on all ranks."""
        error: Exception | None = None
        facts: dict[str, object] = {"the call": method, "order": order}
        arrays = []
        try:
            if order not in ("user", "line"):
                raise ValueError(f"order must be 'user' or 'line', got {order!r}")
            for name, (value, side) in given.items():
                count = self._count(side, order)
                array = validation.values(name, value, self.dtype, count, f"{side} on this rank")
                facts[f"the leading shape of {name}"] = array.shape[:-1]
                facts[f"the dtype of {name}"] = str(array.dtype)
                arrays.append(array)
            if len(arrays) == 2:
                arrays[1] = self._cotangent(*arrays)
        except Exception as found:
            error = found
        agree(self._comm, error, facts)
        return arrays

    def _count(self, side: str, order: str) -> int:
        route = self._line.route(side)
        return route.line_size if order == "line" else route.shard_size

    def _cotangent(self, v: Array, grad: Array) -> Array:
        if grad.shape[:-1] != v.shape[:-1]:
            raise ValueError(
                f"grad has shape {list(grad.shape)} but v has shape {list(v.shape)}: pass a "
                "cotangent of the result's shape"
            )
        wanted = self._part.result_dtype(v)
        if grad.dtype.kind == "c" and wanted.kind != "c":
            raise TypeError(f"grad is {grad.dtype} but apply(v) is {wanted}: pass a real cotangent")
        return grad.astype(wanted, copy=False)

    def _widened(self, array: Array) -> Array:
        return array.astype(self.dtype) if array.dtype == np.float16 else array

    # ----------------------------------------------------------------------------------- inspection

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of targets and sources of this rank's shard."""
        return self._line.targets.shard_size, self._line.sources.shard_size

    @property
    def line_shape(self) -> tuple[int, int]:
        """The numbers of targets and sources that this rank owns."""
        return self._line.targets.line_size, self._line.sources.line_size

    @property
    def dtype(self) -> np.dtype[Any]:
        """The precision of anchors and values: float32 or float64."""
        return self._line.x.dtype

    @property
    def nbytes(self) -> int:
        """The number of bytes held on this rank."""
        return self._part.nbytes + self._line.nbytes

    def __repr__(self) -> str:
        own = "self" if self._line.y is None else "targets x sources"
        return (
            f"ShardedPlan(rank {self._comm.rank} of {self._comm.size}, shape={self.shape}, "
            f"line_shape={self.line_shape}, dtype={self.dtype}, kernel={self._kernel!r}, {own}, "
            f"lengthscale={self._lengthscale})"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a ShardedPlan cannot be pickled or copied, because it belongs to a running group of "
            "processes: save the anchors, and build the plan again on all ranks"
        )


_OPTIONAL = ("sources", "target_phase", "source_phase")


def _anchors(given: dict[str, object]) -> dict[str, Array]:
    """Check anchors and phases; those that are None are left out."""
    arrays = {
        name: validation.as_array(name, value)
        for name, value in given.items()
        if value is not None or name == "targets"
    }
    dtype = validation.precision(*arrays.values())
    arrays = {name: validation.anchors(name, array, dtype) for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.ndim != 1:
            raise ValueError(
                f"{name} has shape {list(array.shape)}, but a line over processes has one head: "
                "pass one dimension, and a plan for each head"
            )
        check_finite(name, array)
        arrays[name] = np.ascontiguousarray(array, dtype)
    for name, side in (("target_phase", "targets"), ("source_phase", "sources")):
        count = len(arrays.get(side, arrays["targets"]))
        if name in arrays and len(arrays[name]) != count:
            raise ValueError(f"{name} has {len(arrays[name])} entries but there are {count} {side}")
    return arrays


def check_finite(name: str, array: Array) -> None:
    """Refuse NaN and infinity in anchors and phases ``[k]``, in the words of the compiled core."""
    finite = np.isfinite(array)
    if not finite.all():
        entry = int(np.argmin(finite))
        shown = "NaN" if np.isnan(array[entry]) else f"{array[entry]:g}"
        raise ValueError(f"{name} must be finite, but entry {entry} is {shown}")


def _scalar(name: str, value: object) -> float:
    array = validation.scalars(name, value)
    if array.ndim:
        raise ValueError(
            f"{name} has shape {list(array.shape)}, but a line over processes has one head: pass a "
            "number, and a plan for each head"
        )
    kernel_number(name, float(array))
    return float(array)


def _check_count(name: str, array: Array, count: int, side: str) -> None:
    if array.ndim == 0 or array.shape[-1] != count:
        raise ValueError(
            f"{name} has shape {list(array.shape)} but the last dimension must be {count}, the "
            f"number of {side} on this rank"
        )


def _rounded(result: Array, values: Array) -> Array:
    """Round a real result to the dtype of half-precision values."""
    is_half = values.dtype == np.float16 and result.dtype.kind != "c"
    return result.astype(np.float16) if is_half else result
