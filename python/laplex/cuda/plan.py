"""Plans on a GPU, for the arrays of any library: CuPy, JAX, Numba, PyTorch.

Arrays are taken through ``__cuda_array_interface__`` or DLPack, without a copy; this module needs
NumPy alone. (PyTorch users have :func:`laplex.matvec`, which also differentiates.)
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from .. import _core
from .._support.core import Gradients, Kernel, Memory, Vectors
from ..numpy import checks as validation

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Array", "Plan", "PlanGradients", "device_count"]

#: DLPack's numbers of the devices whose memory is read: kDLCUDA; the host's only in the emulation.
_DEVICE_TYPES = frozenset({1, 2} if _core.cuda_emulated else {2})

#: The address of what has no entries; not 0, which means "not given" to the core.
_NOWHERE = 256

_HALF = np.dtype(np.float16)
_DOUBLE = np.dtype(np.float64)


def device_count() -> int:
    """How many GPUs can be used; 0 without a driver, or in a build for the CPU alone."""
    return _core.cuda_device_count()


class Array:
    """An array in GPU memory: what results are where the input's library makes no arrays.

    Other libraries take it without a copy: ``cupy.asarray(a)``, ``jax.dlpack.from_dlpack(a)``,
    ``torch.as_tensor(a, device="cuda")``, ``numba.cuda.as_cuda_array(a)``.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    """

    def __init__(
        self, shape: Sequence[int], dtype: np.dtype[Any], stream: object, axes: Sequence[int] = ()
    ) -> None:
        # `axes` says where each dimension lies in memory, the slowest first; default: C order.
        self._shape = tuple(shape)
        self._dtype = np.dtype(dtype)
        self._axes = tuple(axes) or tuple(range(len(self._shape)))
        strides = [0] * len(self._shape)
        step = 1
        for axis in reversed(self._axes):
            strides[axis] = step
            step *= self._shape[axis]
        self._in_order = self._axes == tuple(range(len(self._shape)))
        self._strides = tuple(stride * self._dtype.itemsize for stride in strides)
        self._stream = _address_of(stream)
        self._memory = _core.DeviceArray(
            step * self._dtype.itemsize,
            self._dtype.str,
            list(self._shape),
            strides,
            self._stream,
        )
        self._kept = stream  # memory is given back on it; attributes go in the order they came

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the entries."""
        return self._dtype

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self._shape)

    @property
    def nbytes(self) -> int:
        """Bytes of GPU memory."""
        return math.prod(self._shape) * self._dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self._shape,
            "typestr": self._dtype.str,
            "data": (self._memory.pointer, False),
            "strides": None if self._in_order else self._strides,
            "version": 3,
            "stream": self._stream or 1,  # 0 is not allowed there: it is ambiguous
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1 if _core.cuda_emulated else 2), self._memory.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """A DLPack capsule (unversioned) for a consumer on ``stream``.

        Raises
        ------
        BufferError
            If a copy or another device is asked for.
        """
        if copy or (dl_device is not None and tuple(dl_device) != self.__dlpack_device__()):
            raise BufferError("only the array itself can be handed out, where it is")
        if stream != -1 and _address_of(stream) != self._stream:  # -1: do not wait
            _core.cuda_synchronize(self._stream)
        return self._memory.to_dlpack()

    def numpy(self) -> validation.Array:
        """A copy on the host; waits for the array's stream."""
        laid = np.empty([self._shape[axis] for axis in self._axes], self._dtype)
        if laid.size:
            self._memory.copy_to_host(_core.address(laid))
        return laid if self._in_order else laid.transpose(np.argsort(self._axes)).copy()

    def __repr__(self) -> str:
        return f"laplex.cuda.Array(shape={self._shape}, dtype={self._dtype})"


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
        call = _Call(
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
        still = not _is_on_device(frequency) and not np.any(
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
            *(_pointer(each) for each in (x, y, ell, omega, theta, phi)),
        )
        storage = _lend(targets, _core.cuda_storage_bytes(self._kernel), call)
        scratch = _lend(targets, _core.cuda_scratch_bytes(self._kernel), call)
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
        ndim = len(_Call(None, v=other).view("v").shape)
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
        call = _Call(stream, v=v)
        values = self._values(call, "v", self._m, "sources")
        shape = (*values.shape[:-1], self._n)
        dtype = self._result_dtype(values.is_complex)
        left, left_at = _new(v, shape, dtype, call.owner)
        right, right_at = _new(v, shape, dtype, call.owner)
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
        call = _Call(stream, **{name: v, "out": out})
        values = self._values(call, name, count, what, half=True)
        half = values.dtype == _HALF
        shape = (*values.shape[:-1], size)
        # There is no smaller type for a complex result.
        dtype = _HALF if half and not self._complex else self._result_dtype(values.is_complex)
        if out is None:
            out, address = _new(v, shape, dtype, call.owner)
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
        call = _Call(stream, v=v, grad=grad)
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
            return _new(v, (*self._batch, *shape), dtype, call.owner)

        axes: tuple[int, ...] = ()
        if rows > 1 and heads > 1:
            first = len(values.shape) - 1 - len(self._batch)
            last = len(values.shape) - 1
            axes = (*range(first, last), *range(first), last)
        d_values, d_values_at = _new(v, values.shape, values.dtype, call.owner, axes)
        d_x, d_x_at = new((self._n,))
        d_y, d_y_at = None, 0
        role = None  # in the self case, the sources' share of the targets' gradient
        if self._is_self:
            role = _lend(v, heads * self._m * self._dtype.itemsize, call)
            d_y_at = role.span[0]
        else:
            d_y, d_y_at = new((self._m,))
        d_ell, d_ell_at = new((), _DOUBLE)
        d_omega, d_omega_at = new((), _DOUBLE)
        d_theta, d_theta_at = new((self._n,)) if self._has_phases[0] else (None, 0)
        d_phi, d_phi_at = new((self._m,)) if self._has_phases[1] else (None, 0)
        work = _lend(v, self._core.gradient_workspace_bytes(rows, values.is_complex), call)
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
        call = _Call(stream, targets=targets, sources=sources)
        x = _anchors(call, "targets", self._dtype, self._batch, self._n)
        y = None
        if sources is not None:
            y = _anchors(call, "sources", self._dtype, self._batch, self._m)
        scratch = _lend(targets, _core.cuda_scratch_bytes(self._kernel), call)
        self._core.update(x.pointer, _pointer(y), call.stream, scratch.span)

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
        self, call: _Call, name: str, count: int, what: str, *, half: bool = False
    ) -> _View:
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

    def _workspace(self, like: object, values: _View, call: _Call) -> _Lent:
        nbytes = self._core.workspace_bytes(self._rows(values), values.is_complex, 0)
        return _lend(like, nbytes, call)

    def _rows(self, values: _View) -> int:
        return math.prod(values.shape[: len(values.shape) - 1 - len(self._batch)])

    def _strides(self, size: int) -> tuple[int, int]:
        """From head to head and from row to row of ``[*rows, *batch, size]``."""
        return size, math.prod(self._batch) * size

    def _vectors(self, view: _View) -> Vectors:
        return self._written(view.pointer, view.dtype, view.shape[-1])

    def _written(self, address: int, dtype: np.dtype[Any], size: int) -> Vectors:
        return Vectors(address, dtype.kind == "c", *self._strides(size))

    def _result_dtype(self, values_complex: bool) -> np.dtype[Any]:
        wide = values_complex or self._complex
        return validation.complex_dtype(self._dtype) if wide else self._dtype


# --- arrays of others -----------------------------------------------------------------------------


@dataclass
class _View:
    """A contiguous array in device memory, of whichever library."""

    pointer: int  #: never 0, which means "not given" to the core
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read_only: bool
    owner: object  #: keeps the memory alive

    @property
    def is_complex(self) -> bool:
        return self.dtype.kind == "c"

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class _Call:
    """The arrays of one call, and the stream that it runs on."""

    def __init__(self, stream: object, **arrays: object) -> None:
        self._arrays = arrays
        self._interfaces = {name: _interface_of(each) for name, each in arrays.items()}
        self._streams: dict[str, object] = {}
        for name, each in arrays.items():
            own = _current_stream_of(each)
            if own is None:
                own = (self._interfaces[name] or {}).get("stream")
            self._streams[name] = own
        if stream is None:
            stream = next((each for each in self._streams.values() if each is not None), None)
        #: What to keep for as long as the stream is used; its address is `stream`.
        self.owner = stream
        self.stream = _address_of(stream)

    def view(self, name: str) -> _View:
        """The argument, ready to be read on the stream.

        Raises
        ------
        TypeError
            If it is no CUDA array.
        ValueError
            If it is not contiguous, or has a mask.
        """
        value = self._arrays[name]
        interface = self._interfaces[name]
        own = self._streams[name]
        if own is not None and _address_of(own) != self.stream:
            if _core.cuda_capture_id(self.stream) is not None:
                raise RuntimeError(
                    f"{name} is of another stream than the one that is captured into a graph, and "
                    "nothing can be waited for there: pass an array of the captured stream"
                )
            _core.cuda_synchronize(_address_of(own))
        device = _device_of(value)
        if device is not None and device[0] == 2 and device[1] != _core.cuda_current_device():
            raise ValueError(
                f"{name} is on GPU {device[1]}, but the current one is "
                f"{_core.cuda_current_device()}: make the array's GPU the current one, as with "
                f"cupy.cuda.Device({device[1]}) or torch.cuda.device({device[1]})"
            )
        if interface is None:
            return self._from_dlpack(name, value, device)
        if interface.get("mask") is not None:
            raise ValueError(f"{name} has a mask: pass an array without one")
        if any(getattr(value, each, bool)() for each in ("is_conj", "is_neg")):
            # PyTorch's lazy views, of which the interface says nothing
            raise ValueError(
                f"{name} is a lazily conjugated or negated view: pass "
                f"{name}.resolve_conj().resolve_neg()"
            )
        address, read_only = interface["data"]
        return _contiguous(
            name, address, interface["shape"], interface.get("strides"), interface["typestr"],
            bool(read_only), value,
        )  # fmt: skip

    def _from_dlpack(self, name: str, value: object, device: tuple[int, int] | None) -> _View:
        if device is None or not hasattr(value, "__dlpack__"):
            raise TypeError(
                f"{name} must be a CUDA array (with __cuda_array_interface__ or __dlpack__), got "
                f"{type(value).__name__}"
            )
        if device[0] not in _DEVICE_TYPES:
            raise TypeError(f"{name} is not in GPU memory: use laplex.Plan, or copy it to the GPU")
        # The producer makes its work come before ours; 1 is DLPack's legacy default stream.
        stream = None if device[0] == 1 else self.stream or 1
        capsule = value.__dlpack__(stream=stream)
        address, shape, strides, typestr, _, _ = _core.read_dlpack(capsule)
        return _contiguous(name, address, shape, strides, typestr, False, capsule)


def _contiguous(
    name: str,
    address: int,
    shape: Sequence[int],
    strides: Sequence[int] | None,
    typestr: str,
    read_only: bool,
    owner: object,
) -> _View:
    dtype = np.dtype(typestr)
    if 0 in shape:
        return _View(_NOWHERE, tuple(shape), dtype, read_only, owner)
    if strides is not None:
        step = dtype.itemsize
        for size, stride in zip(reversed(shape), reversed(strides), strict=True):
            if size > 1 and stride != step:
                raise ValueError(
                    f"{name} must be C-contiguous: pass a copy, such as "
                    f"cupy.ascontiguousarray({name}) or {name}.contiguous()"
                )
            step *= size
    # Of a complex number each part is read for itself.
    alignment = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    if address % alignment:
        raise ValueError(
            f"{name} lies at an address that is no multiple of {alignment} bytes: pass a copy"
        )
    return _View(address, tuple(shape), dtype, read_only, owner)


def _interface_of(value: object) -> dict[str, Any] | None:
    device = _device_of(value)
    if device is not None and device[0] == 1:  # asking is an error to some arrays of the host
        return None
    interface: dict[str, Any] | None = getattr(value, "__cuda_array_interface__", None)
    if (
        interface is not None
        and device is not None
        and interface.get("version", 0) < 3
        and _current_stream_of(value) is None
    ):
        return None  # before version 3 it names no stream to wait for: DLPack waits (JAX)
    return interface


def _device_of(value: object) -> tuple[int, int] | None:
    """DLPack's numbers for the kind of memory and for the device, or None."""
    device_of = getattr(value, "__dlpack_device__", None)
    if device_of is None:
        return None
    kind, number = device_of()
    return int(kind), int(number)


def _is_in_device_memory(value: object) -> bool:
    device = _device_of(value)
    return device is not None and device[0] in _DEVICE_TYPES


def _is_on_device(value: object) -> bool:
    if isinstance(value, (np.ndarray, np.generic)):  # numbers of the host, in the emulation too
        return False
    return _interface_of(value) is not None or _is_in_device_memory(value)


def _library_of(value: object) -> str:
    return type(value).__module__.partition(".")[0]


def _current_stream_of(value: object) -> object:
    """The stream that the array's library works on, as an object that keeps it alive; or None."""
    library = _library_of(value)
    if library == "cupy" and hasattr(value, "__cuda_array_interface__"):
        return sys.modules["cupy"].cuda.get_current_stream()
    if library == "torch" and getattr(value, "is_cuda", False):
        return sys.modules["torch"].cuda.current_stream(value.device)  # type: ignore[attr-defined]
    return None


def _address_of(stream: object) -> int:
    """A stream's address; 0 is the legacy default stream, which others also call 1."""
    if stream is None:
        return 0
    address = stream
    for attribute in ("ptr", "cuda_stream"):
        address = getattr(stream, attribute, address)
    if not isinstance(address, int) or isinstance(address, bool) or address < 0:
        raise TypeError(
            "stream must be an address (an int), or a stream of CuPy or PyTorch, got "
            f"{type(stream).__name__}"
        )
    return 0 if address == 1 else address


def _pointer(given: _View | Array | None) -> int:
    if given is None:
        return 0
    return given.pointer if isinstance(given, _View) else given._memory.pointer or _NOWHERE


def _new(
    like: object,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    stream: object,
    axes: Sequence[int] = (),
) -> tuple[Any, int]:
    """A new array of the library of `like`, on the stream, and its address; axes: see Array."""
    axes = axes or range(len(shape))
    laid = tuple(shape[axis] for axis in axes)
    back = tuple(int(k) for k in np.argsort(axes))
    library = _library_of(like)
    address = _address_of(stream)
    # On the stream of the call, so that the library's allocator knows whose memory it is.
    if library == "cupy":
        cupy = sys.modules["cupy"]
        if _address_of(cupy.cuda.get_current_stream()) == address:
            array = cupy.empty(laid, dtype)
        else:
            with cupy.cuda.ExternalStream(address) if address else cupy.cuda.Stream.null:
                array = cupy.empty(laid, dtype)
        return array.transpose(back), array.data.ptr or _NOWHERE
    if library == "torch":
        torch = sys.modules["torch"]
        device = like.device  # type: ignore[attr-defined]
        kind = getattr(torch, dtype.name)
        if device.type == "cpu" or _address_of(torch.cuda.current_stream(device)) == address:
            tensor = torch.empty(laid, dtype=kind, device=device)
        else:
            with torch.cuda.stream(
                torch.cuda.ExternalStream(address, device)
                if address
                else torch.cuda.default_stream(device)
            ):
                tensor = torch.empty(laid, dtype=kind, device=device)
        return tensor.permute(back), tensor.data_ptr() or _NOWHERE
    if _core.cuda_capture_id(address) is not None:
        raise RuntimeError(
            "a result would be allocated while the stream is captured into a graph, and belong to "
            "the graph: pass out, allocated before the capture, or arrays of CuPy or PyTorch"
        )
    own = Array(shape, dtype, stream, axes)
    return own, own._memory.pointer or _NOWHERE


@dataclass
class _Lent:
    """Memory lent to the core, for as long as this lives."""

    owner: object
    span: Memory


def _lend(like: object, nbytes: int, call: _Call) -> _Lent:
    """Memory from the pool of the library of `like`, if it has one, else from CUDA's.

    From CUDA's too while the stream is captured into a graph: another pool would hand the memory
    out again, and the graph goes on using it. What CUDA allocates in a capture is the graph's own.
    """
    if nbytes == 0:
        return _Lent(None, Memory(0, 0))
    bytes_ = np.dtype(np.uint8)
    if _library_of(like) in ("cupy", "torch") and _core.cuda_capture_id(call.stream) is None:
        owner, address = _new(like, (nbytes,), bytes_, call.owner)
        return _Lent(owner, Memory(address, nbytes))
    own = Array((nbytes,), bytes_, call.owner)
    return _Lent(own, Memory(_pointer(own), nbytes))


# --- arguments ------------------------------------------------------------------------------------


def _anchors(
    call: _Call,
    name: str,
    dtype: np.dtype[Any] | None = None,
    batch: tuple[int, ...] | None = None,
    count: int | None = None,
) -> _View:
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


def _scalars(call: _Call, name: str, batch: tuple[int, ...]) -> _View | Array:
    """One float64 per head: the caller's array on the device, or a copy of numbers of the host."""
    value = call._arrays[name]
    if _is_on_device(value):
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
    call: _Call, shape: tuple[int, ...], dtype: np.dtype[Any], values: _View, name: str
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
