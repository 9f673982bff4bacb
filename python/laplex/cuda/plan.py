"""`laplex.cuda.Plan`: `laplex.Plan` for arrays on a GPU."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, NoReturn

import numpy as np

from .. import _core
from .._support.core import Gradients, Kernel, Vectors
from ..numpy import checks as validation
from .array import Array
from .interchange import DeviceArrays, Lent, View, is_on_device, lend, new_array, pointer_to

_HALF = np.dtype(np.float16)
_DOUBLE = np.dtype(np.float64)


class PlanGradients(NamedTuple):
    """Gradients of ``Re <grad, K v>``, as arrays on the GPU; see :meth:`Plan.vjp`."""

    values: Any
    targets: Any
    sources: Any
    lengthscale: Any
    frequency: Any
    target_phase: Any
    source_phase: Any


class Plan:
    r"""A Laplace kernel matrix ``[n, m]`` on a GPU: :class:`laplex.Plan` for arrays that are there.

    .. math::
        K_{ij} = \exp(-(1/\ell - i\omega)\,|x_i - y_j|)\,\exp(i(\theta_i - \phi_j))

    Parameters
    ----------
    targets : CUDA array [*batch, n], float32 or float64
        The anchors :math:`x`; the leading dimensions are a batch of independent matrices.
    sources : CUDA array [*batch, m], optional
        The anchors :math:`y`, in the same precision. None: the self case ``y = x``.
    lengthscale : float, array of them on the host, or CUDA array [*batch] in float64
        :math:`\ell > 0`. Numbers from the host broadcast to the batch and are copied once. A CUDA
        array is read where it is *at every call*: write to it, and the next product has the new
        lengthscale (one that is not positive then makes NaN).
    frequency : like lengthscale
        :math:`\omega`. Non-zero on the host, or on the GPU at all, makes the kernel complex.
    target_phase, source_phase : CUDA arrays [*batch, n], [*batch, m], optional
        :math:`\theta, \phi` in radians, of the anchors' precision; read at every call, like a
        lengthscale on the GPU.
    real_part : bool
        Use the real matrix :math:`\mathrm{Re}\,K` (the cosine form); for real values alone.
    stream : int or stream, optional
        For the construction; see Notes.

    Attributes
    ----------
    shape : (*batch, n, m)
    dtype : of the anchors; float32 or float64
    nbytes : bytes of GPU memory held by the plan

    Notes
    -----
    A CUDA array is any object with ``__cuda_array_interface__``, or DLPack's methods for a CUDA
    device: CuPy, JAX, Numba, PyTorch, :class:`laplex.cuda.Array`. It must be C-contiguous, and on
    the current device.

    Results come as arrays of the values' library if that is CuPy or PyTorch, otherwise as
    :class:`laplex.cuda.Array`; or in ``out``.

    ``stream`` is an address, or a stream of CuPy or PyTorch. Left out, it is the one that the first
    of the arrays names: for CuPy and PyTorch their current one; otherwise the legacy default
    stream. Arrays that name another stream are waited for. Nothing else waits, except construction
    and :meth:`update`, which look at the anchors.

    For the caller to see to: a plan that is used on several streams must be built, or updated,
    before the others use it, and outlive their work; arrays must live until the call's work is
    done, which CuPy and PyTorch arrange on their own streams, and which is so once a result has
    been handed to JAX or copied to the host; a stream given by its address must outlive what was
    made on it.

    In a stream that is captured into a CUDA graph, products and gradients are captured with the
    order that the plan has, and :meth:`update` as a sort: every replay takes the anchors as they
    are by then. Nothing is looked at there, and NaN makes NaN. Arrays must not name another stream.
    No plan or :class:`laplex.cuda.Array` of the stream may be let go while it is captured: CUDA
    does not take memory back there that is not the graph's. The plan itself is built before, and
    update comes first in a capture that has both. The plan, and all arrays of the calls, must live
    as long as the graph is replayed. Results must be ``out``, or arrays of CuPy or PyTorch.

    Memory to work in comes from the pool of CuPy or PyTorch where the arrays are theirs, otherwise,
    and in a capture, from CUDA's.

    Sums are accumulated in float64, as in :class:`laplex.Plan`, but in another order: results agree
    to rounding, and from run to run bit for bit.

    Raises
    ------
    RuntimeError
        Without a GPU, or in a build without CUDA.
    TypeError
        For arrays that are not on the GPU; for types that do not fit.
    ValueError
        For NaN or infinite anchors, a lengthscale that is not positive, shapes that do not fit,
        arrays that are not contiguous, not aligned to their numbers, or on another GPU.
    MemoryError
        If the GPU's memory does not suffice.
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
        stream: object = None,
    ) -> None:
        _core.cuda_require_device()
        if not isinstance(real_part, (bool, np.bool_)):
            raise TypeError(f"real_part must be True or False, got {real_part!r}")
        call = DeviceArrays(
            stream,
            targets=targets,
            sources=sources,
            lengthscale=lengthscale,
            frequency=frequency,
            target_phase=target_phase,
            source_phase=source_phase,
        )
        if _core.cuda_capture_id(call.stream) is not None:
            raise RuntimeError(
                "a plan is built while its stream is captured into a graph, and has to wait for "
                "what it finds in the anchors: build it before the capture"
            )
        x = _anchors(call, "targets")
        self._dtype = x.dtype
        self._batch = x.shape[:-1]
        self._n = x.shape[-1]
        y = None if sources is None else _anchors(call, "sources", self._dtype, self._batch)
        self._m = self._n if y is None else y.shape[-1]
        self._is_self = y is None
        theta = phi = None
        if target_phase is not None:
            theta = _anchors(call, "target_phase", self._dtype, self._batch, self._n)
        if source_phase is not None:
            phi = _anchors(call, "source_phase", self._dtype, self._batch, self._m)
        ell = _scalars(call, "lengthscale", self._batch)
        # Where no head oscillates, the core has a kernel that does not.
        still = not is_on_device(frequency) and not np.any(
            validation.scalars("frequency", frequency)
        )
        omega = None if still else _scalars(call, "frequency", self._batch)
        self._real_part = bool(real_part)
        self._has_phases = (theta is not None, phi is not None)
        self._oscillates = omega is not None
        self._complex = (self._oscillates or any(self._has_phases)) and not self._real_part
        self._kernel = Kernel(
            self._dtype == _DOUBLE,
            self._real_part,
            math.prod(self._batch),
            self._n,
            self._m,
            *(pointer_to(each) for each in (x, y, ell, omega, theta, phi)),
        )
        storage = lend(targets, _core.cuda_storage_bytes(self._kernel), call)
        scratch = lend(targets, _core.cuda_scratch_bytes(self._kernel), call)
        self._core = _core.CudaPlan(self._kernel, call.stream, storage.span, scratch.span)
        # The core points to these, and gives memory back on the stream: after it, as in Array.
        self._parameters = (ell, omega, theta, phi)
        self._storage = storage
        self._stream = call.owner
        self._lengthscale_text = "on the GPU"
        if isinstance(ell, Array):
            given = validation.scalars("lengthscale", lengthscale)
            self._lengthscale_text = str(list(given.shape) if given.ndim else given.item())

    # ------------------------------------------------------------------------------------- products

    def apply(self, v: object, out: object = None, *, stream: object = None) -> Any:
        """``u = K v`` for ``v [*rows, *batch, m] -> u [*rows, *batch, n]``.

        Parameters
        ----------
        v : CUDA array [*rows, *batch, m]
            Of the plan's precision, real or complex; or float16 for a float32 plan.
        out : CUDA array [*rows, *batch, n], optional
            Receives the result: C-contiguous, writeable, of the result's dtype, not overlapping
            ``v``.
        stream : int or stream, optional
            See the class's notes.

        Returns
        -------
        array [*rows, *batch, n]
            ``out``, or a new one: complex if ``v`` or the kernel is; float16 if ``v`` is and the
            kernel is real.
        """
        return self._product(v, out, stream, 0)

    def transpose(self, u: object, out: object = None, *, stream: object = None) -> Any:
        """``v = K^T u`` for ``u [*rows, *batch, n] -> v [*rows, *batch, m]``; see :meth:`apply`."""
        return self._product(u, out, stream, 1)

    def adjoint(self, u: object, out: object = None, *, stream: object = None) -> Any:
        """``v = K^H u``, the conjugate transpose; see :meth:`transpose`."""
        return self._product(u, out, stream, 2)

    #: NumPy's arrays leave ``array @ plan`` to the plan, which refuses them.
    __array_ufunc__ = None

    def __matmul__(self, other: object) -> Any:
        """``plan @ v`` is ``apply(v)`` for a vector ``[m]`` of a plan without a batch.

        Raises
        ------
        ValueError
            For matrices, whose columns do not lie as the plan wants them.
        """
        ndim = len(DeviceArrays(None, v=other).view("v").shape)
        if ndim != 1 or self._batch:
            raise ValueError(
                "a plan on the GPU multiplies a vector with @, one without a batch: call "
                "plan.apply() with the columns of matrices as contiguous rows"
            )
        return self.apply(other)

    def __array__(self, dtype: object = None, copy: object = None) -> NoReturn:
        """A plan on the GPU does not become a NumPy array."""
        raise TypeError(
            "a plan on the GPU does not become a NumPy array: multiply with plan.apply(v), or "
            "build a laplex.Plan of the anchors on the host"
        )

    def half_sums(self, v: object, *, stream: object = None) -> tuple[Any, Any]:
        """The two parts of ``K v``: from the sources at or below each target, and from those above.

        ``v`` is as in :meth:`apply`, but never float16.

        Returns
        -------
        (left, right) : arrays [*rows, *batch, n] with ``left + right == apply(v)`` up to rounding
        """
        call = DeviceArrays(stream, v=v)
        values = self._values(call, "v", self._m, "sources")
        shape = (*values.shape[:-1], self._n)
        dtype = self._result_dtype(values.is_complex)
        left, left_at = new_array(v, shape, dtype, call.owner)
        right, right_at = new_array(v, shape, dtype, call.owner)
        work = self._workspace(v, values, call)
        self._core.half_sums(
            self._vectors(values),
            self._rows(values),
            self._written(left_at, dtype, self._n),
            self._written(right_at, dtype, self._n),
            call.stream,
            work.span,
        )
        return left, right

    def _product(self, v: object, out: object, stream: object, mode: int) -> Any:
        name, count, what = ("v", self._m, "sources") if mode == 0 else ("u", self._n, "targets")
        size = self._n if mode == 0 else self._m
        call = DeviceArrays(stream, **{name: v, "out": out})
        values = self._values(call, name, count, what, half=True)
        half = values.dtype == _HALF
        shape = (*values.shape[:-1], size)
        # There is no smaller type for a complex result.
        dtype = _HALF if half and not self._complex else self._result_dtype(values.is_complex)
        if out is None:
            out, address = new_array(v, shape, dtype, call.owner)
        else:
            address = _output(call, shape, dtype, values, name)
        work = self._workspace(v, values, call)
        self._core.sum(
            self._vectors(values),
            self._rows(values),
            self._written(address, dtype, size),
            int(half),
            mode,
            0,
            0,
            call.stream,
            work.span,
        )
        return out

    # ------------------------------------------------------------------------------------ gradients

    def vjp(self, v: object, grad: object, *, stream: object = None) -> PlanGradients:
        r"""Gradients of ``Re <grad, K v>`` by all inputs: the vector-Jacobian product.

        Parameters
        ----------
        v : CUDA array [*rows, *batch, m], never float16
        grad : CUDA array [*rows, *batch, n]
            The cotangent, of the shape and dtype of ``apply(v)``.
        stream : int or stream, optional
            See the class's notes.

        Returns
        -------
        PlanGradients
            ``values`` like ``v``, with the heads outermost in memory: where there are rows *and*
            heads it is not contiguous. ``targets``, ``sources``, ``target_phase``,
            ``source_phase`` like the anchors; ``lengthscale`` and ``frequency`` ``[*batch]`` in
            float64, also where one number was given for all heads. In the self case ``sources`` is
            None and ``targets`` is the total. Phases that were not given are None.

        See Also
        --------
        laplex.Plan.vjp : for the conventions at ties and of complex gradients.
        """
        call = DeviceArrays(stream, v=v, grad=grad)
        values = self._values(call, "v", self._m, "sources")
        wanted = self._result_dtype(values.is_complex)
        g = call.view("grad")
        if g.dtype != wanted:
            raise TypeError(f"grad is {g.dtype} but apply(v) is {wanted}: pass a cotangent of it")
        if g.shape != (*values.shape[:-1], self._n):
            raise ValueError(
                f"grad has shape {list(g.shape)} but apply(v) has shape "
                f"{[*values.shape[:-1], self._n]}: pass a cotangent of the result's shape"
            )
        rows, heads = self._rows(values), math.prod(self._batch)

        def new(shape: tuple[int, ...], dtype: np.dtype[Any] = self._dtype) -> tuple[Any, int]:
            return new_array(v, (*self._batch, *shape), dtype, call.owner)

        axes: tuple[int, ...] = ()
        if rows > 1 and heads > 1:
            first = len(values.shape) - 1 - len(self._batch)
            last = len(values.shape) - 1
            axes = (*range(first, last), *range(first), last)
        d_values, d_values_at = new_array(v, values.shape, values.dtype, call.owner, axes)
        d_x, d_x_at = new((self._n,))
        d_y, d_y_at = None, 0
        role = None  # in the self case, the sources' share of the targets' gradient
        if self._is_self:
            role = lend(v, heads * self._m * self._dtype.itemsize, call)
            d_y_at = role.span[0]
        else:
            d_y, d_y_at = new((self._m,))
        d_ell, d_ell_at = new((), _DOUBLE)
        d_omega, d_omega_at = new((), _DOUBLE)
        d_theta, d_theta_at = new((self._n,)) if self._has_phases[0] else (None, 0)
        d_phi, d_phi_at = new((self._m,)) if self._has_phases[1] else (None, 0)
        work = lend(v, self._core.gradient_workspace_bytes(rows, values.is_complex), call)
        gradients = Gradients(
            d_values_at, d_x_at, d_y_at, d_ell_at, d_omega_at, d_theta_at, d_phi_at
        )
        self._core.vjp(
            self._vectors(values), self._vectors(g), rows, gradients, call.stream, work.span
        )
        if role is not None:
            _core.cuda_add(self._kernel.is_double, d_x_at, d_y_at, heads * self._n, call.stream)
        return PlanGradients(d_values, d_x, d_y, d_ell, d_omega, d_theta, d_phi)

    # ---------------------------------------------------------------------------------- the anchors

    def update(self, targets: object, sources: object = None, *, stream: object = None) -> None:
        """Moves the anchors (after an optimiser step); everything else stays.

        An order that is still right is kept. If this raises, the plan is unchanged. Waits for the
        stream, unless it is captured into a graph: see the class's notes.

        Parameters
        ----------
        targets : CUDA array [*batch, n], of the shape and dtype the plan was built with
        sources : CUDA array [*batch, m]; must be None exactly in the self case
        stream : int or stream, optional
            See the class's notes.
        """
        validation.sides(sources is not None, self._is_self)
        call = DeviceArrays(stream, targets=targets, sources=sources)
        x = _anchors(call, "targets", self._dtype, self._batch, self._n)
        y = None
        if sources is not None:
            y = _anchors(call, "sources", self._dtype, self._batch, self._m)
        scratch = lend(targets, _core.cuda_scratch_bytes(self._kernel), call)
        self._core.update(x.pointer, pointer_to(y), call.stream, scratch.span)

    # ----------------------------------------------------------------------------------- inspection

    @property
    def shape(self) -> tuple[int, ...]:
        """``(*batch, n, m)``."""
        return (*self._batch, self._n, self._m)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading dimensions: one matrix for each entry."""
        return self._batch

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of anchors and values: float32 or float64."""
        return self._dtype

    @property
    def nbytes(self) -> int:
        """Bytes of GPU memory held, without the arrays that the caller keeps."""
        own = (each.nbytes for each in self._parameters if isinstance(each, Array))
        return self._core.nbytes + sum(own)

    def __repr__(self) -> str:
        form = "real"
        if self._oscillates or any(self._has_phases):
            form = "oscillating" if self._oscillates else "carrier phases"
            if self._real_part:
                form = "cosine"
        own = "self" if self._is_self else "targets x sources"
        return (
            f"laplex.cuda.Plan(shape={self.shape}, dtype={self._dtype}, form={form!r}, {own}, "
            f"lengthscale={self._lengthscale_text})"
        )

    # -------------------------------------------------------------------------------- memory layout

    def _values(
        self, call: DeviceArrays, name: str, count: int, what: str, *, half: bool = False
    ) -> View:
        view = call.view(name)
        allowed = {self._dtype, validation.complex_dtype(self._dtype)}
        if self._dtype == np.float32:
            if view.dtype == _HALF and not half:
                raise TypeError(
                    f"{name} is float16, which apply, transpose and adjoint take alone: convert "
                    "it to float32"
                )
            allowed.add(_HALF)
        if view.dtype not in allowed:
            raise TypeError(
                f"{name} has dtype {view.dtype} but the plan is {self._dtype}: convert it to "
                f"{validation.complex_dtype(self._dtype) if view.is_complex else self._dtype}"
            )
        tail = (*self._batch, count)
        if view.shape[-len(tail) :] != tail:
            batch = "".join(f"{size}, " for size in self._batch)
            raise ValueError(
                f"{name} has shape {list(view.shape)} but must have shape [..., {batch}{count}]: "
                f"{'the heads and ' if self._batch else ''}the number of {what} last"
            )
        return view

    def _workspace(self, like: object, values: View, call: DeviceArrays) -> Lent:
        nbytes = self._core.workspace_bytes(self._rows(values), values.is_complex, 0)
        return lend(like, nbytes, call)

    def _rows(self, values: View) -> int:
        return math.prod(values.shape[: len(values.shape) - 1 - len(self._batch)])

    def _strides(self, size: int) -> tuple[int, int]:
        """From head to head and from row to row of ``[*rows, *batch, size]``."""
        return size, math.prod(self._batch) * size

    def _vectors(self, view: View) -> Vectors:
        return self._written(view.pointer, view.dtype, view.shape[-1])

    def _written(self, address: int, dtype: np.dtype[Any], size: int) -> Vectors:
        return Vectors(address, dtype.kind == "c", *self._strides(size))

    def _result_dtype(self, values_complex: bool) -> np.dtype[Any]:
        wide = values_complex or self._complex
        return validation.complex_dtype(self._dtype) if wide else self._dtype


# --- arguments ------------------------------------------------------------------------------------


def _anchors(
    call: DeviceArrays,
    name: str,
    dtype: np.dtype[Any] | None = None,
    batch: tuple[int, ...] | None = None,
    count: int | None = None,
) -> View:
    """Anchors or phases ``[*batch, count]``, as far as these are known."""
    view = call.view(name)
    if view.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} must be float32 or float64, got {view.dtype}")
    if dtype is not None and view.dtype != dtype:
        raise TypeError(
            f"{name} is {view.dtype} but {'the plan is' if name == 'targets' else 'targets are'} "
            f"{dtype}: convert one"
        )
    if not view.shape:
        raise ValueError(f"{name} must have at least one dimension [..., count], got a scalar")
    if batch is not None and (
        view.shape[:-1] != batch or (count is not None and view.shape[-1] != count)
    ):
        wanted = [*batch, "count" if count is None else count]
        raise ValueError(
            f"{name} has shape {list(view.shape)} but must have shape "
            f"[{', '.join(map(str, wanted))}], the heads of the targets"
        )
    return view


def _scalars(call: DeviceArrays, name: str, batch: tuple[int, ...]) -> View | Array:
    """One float64 per head: the caller's array on the device, or a copy of numbers of the host."""
    value = call._arrays[name]
    if is_on_device(value):
        view = call.view(name)
        if view.dtype != np.float64:
            raise TypeError(f"{name} on the GPU must be float64, got {view.dtype}")
        if view.shape != batch:
            raise ValueError(
                f"{name} has shape {list(view.shape)} but must have one entry per head, "
                f"{list(batch)}"
            )
        return view
    numbers = validation.scalars(name, value)
    try:
        spread = np.array(np.broadcast_to(numbers, batch), order="C")
    except ValueError:
        raise ValueError(
            f"{name} has shape {list(numbers.shape)}, which does not broadcast to the heads "
            f"{list(batch)}"
        ) from None
    array = Array(batch, _DOUBLE, call.owner)
    if spread.size:
        array._memory.copy_from_host(_core.address(spread))
    return array


def _output(
    call: DeviceArrays, shape: tuple[int, ...], dtype: np.dtype[Any], values: View, name: str
) -> int:
    """The address of the caller's output array, exactly as the result will be."""
    view = call.view("out")
    if view.shape != shape or view.dtype != dtype:
        raise ValueError(
            f"out has shape {list(view.shape)} and dtype {view.dtype}, but the result has shape "
            f"{list(shape)} and dtype {dtype}"
        )
    if view.read_only:
        raise ValueError("out is read-only: pass a writeable array")
    if (
        view.pointer < values.pointer + values.nbytes
        and values.pointer < view.pointer + view.nbytes
    ):
        raise ValueError(f"out overlaps {name}: pass separate memory")
    return view.pointer
