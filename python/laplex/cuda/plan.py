"""`laplex.cuda.Plan`: the counterpart of `laplex.Plan` for arrays on a GPU."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, NoReturn

import numpy as np

from .. import _core
from .._support.arguments import kernel_number
from .._support.core import PRODUCT, Gradients, Kernel, Vectors
from .._support.profiles import profile_of
from .._support.sides import side_number
from ..numpy import checks as validation
from .array import Array
from .interchange import (
    DeviceArrays,
    Lent,
    Scratch,
    View,
    is_on_device,
    lend,
    new_array,
    pointer_to,
)

_HALF = np.dtype(np.float16)
_DOUBLE = np.dtype(np.float64)


class PlanGradients(NamedTuple):
    """Gradients of ``Re <grad, K v>`` as arrays on the GPU, from `laplex.cuda.Plan.vjp`.

    Attributes
    ----------
    values : array ``[*rows, *batch, m]``
        The gradient with respect to the values.
    targets, sources : array ``[*batch, n]``, array ``[*batch, m]`` or None
        The gradients with respect to the anchors. ``sources`` is None in the self case.
    lengthscale, frequency : array ``[*batch]``
        The gradients with respect to lengthscale and frequency, in float64.
    target_phase, source_phase : array ``[*batch, n]``, array ``[*batch, m]``, or None
        The gradients with respect to the phases; None for phases that were not given.
    """

    values: Any
    targets: Any
    sources: Any
    lengthscale: Any
    frequency: Any
    target_phase: Any
    source_phase: Any


class Plan:
    r"""A Laplace kernel matrix ``[n, m]`` on a GPU, the counterpart of `laplex.Plan`.

    .. math::
        K_{ij} = \exp(-(1/\ell - i\omega)\,|x_i - y_j|)\,\exp(i(\theta_i - \phi_j))

    Parameters
    ----------
    targets : CUDA array ``[*batch, n]``, float32 or float64
        The anchors :math:`x`. The leading dimensions are a batch of independent matrices.
    sources : CUDA array ``[*batch, m]``, optional
        The anchors :math:`y`, in the same precision. None selects the self case ``y = x``.
    lengthscale : float, array on the host, or float64 CUDA array ``[*batch]``
        :math:`\ell > 0`. Numbers from the host broadcast to the batch and are copied once. A CUDA
        array is read in place *at every call*: if you write to it, the next product uses the new
        lengthscale (a lengthscale that is not positive then gives NaN).
    frequency : like ``lengthscale``
        :math:`\omega`. The kernel is complex if any number on the host is not 0, or if a CUDA
        array is given.
    target_phase, source_phase : CUDA array ``[*batch, n]``, CUDA array ``[*batch, m]``, optional
        :math:`\theta` and :math:`\phi` in radians, of the anchors' precision. They are read at
        every call, like a lengthscale on the GPU.
    real_part : bool
        Use the real matrix :math:`\mathrm{Re}\,K` (the cosine form). It takes only real values.
    kernel : {"matern12", "matern32", "matern52"}
        The shape of the kernel, as in `laplex.Plan`; the default is the Laplace kernel.
    side : {"both", "left", "right"}
        The sources that count for each target, as in `laplex.Plan`. Gradients of one-sided sums
        take several products instead of one pass.
    stream : int or stream, optional
        The stream of the construction; see Notes.

    Attributes
    ----------
    shape : tuple of int
        ``(*batch, n, m)``.
    dtype : numpy.dtype
        The precision of the anchors, float32 or float64.
    nbytes : int
        The number of bytes of GPU memory that the plan holds.

    Raises
    ------
    RuntimeError
        If there is no GPU, or the build has no CUDA.
    TypeError
        If an array is not on the GPU, or dtypes do not match.
    ValueError
        If anchors are NaN or infinite, a lengthscale is not positive, shapes do not match, or an
        array is not contiguous, not aligned, or on another GPU.
    MemoryError
        If the GPU does not have enough memory.

    Notes
    -----
    **CUDA arrays.** A CUDA array is any object with ``__cuda_array_interface__`` or with DLPack's
    methods for a CUDA device: arrays of CuPy, JAX, Numba and PyTorch, and `laplex.cuda.Array`. It
    must be C-contiguous and on the current device.

    **Results.** A result is written to ``out`` if it is given. Otherwise it is an array of the
    values' library if that is CuPy or PyTorch, and a `laplex.cuda.Array` if it is not.

    **Streams.** ``stream`` is an address, or a stream of CuPy or PyTorch. By default it is the
    stream that the first of the arrays names, which for CuPy and PyTorch is their current stream,
    or else the legacy default stream. If an array names another stream, the call waits for that
    stream. Nothing else waits, except the construction and `update`, which check the anchors.

    **Lifetimes.** The caller is responsible for the following:

    - Build or update a plan that several streams use before the other streams use it, and keep it
      until their work is done.
    - Keep arrays until the work of the call is done. CuPy and PyTorch take care of this on their
      own streams. It is also done once a result has been handed to JAX or copied to the host.
    - Keep a stream that was given by its address longer than everything that was made on it.

    **CUDA graphs.** In a stream that is captured into a CUDA graph, products and gradients are
    captured with the current order of the plan. `update` is captured as a sort: every replay uses
    the anchors as they are then. Nothing is checked there, and NaN gives NaN. These rules apply:

    - Build the plan before the capture. In a capture with both, call `update` first.
    - Arrays must not name another stream.
    - Results must go to ``out`` or be arrays of CuPy or PyTorch.
    - Do not release a plan or `laplex.cuda.Array` of the stream during the capture. CUDA cannot
      free memory there that does not belong to the graph.
    - Keep the plan and all arrays of the calls for as long as the graph is replayed.

    **Memory.** Working memory comes from the pool of CuPy or PyTorch if the arrays are theirs.
    Otherwise, and in a capture, it comes from CUDA's pool.

    **Accuracy.** Sums are accumulated in float64, as in `laplex.Plan`, but in another order. The
    results agree with those of the CPU up to rounding, and from run to run bit for bit.
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
        side: str = "both",
        stream: object = None,
    ) -> None:
        profile, number = profile_of(kernel), side_number(side)
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
                "a plan cannot be built while its stream is captured into a graph, because it has "
                "to wait for the check of its anchors: build it before the capture"
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
        # If no head oscillates, use the core's kernel without oscillation.
        still = not is_on_device(frequency) and not np.any(
            validation.scalars("frequency", frequency)
        )
        omega = None if still else _scalars(call, "frequency", self._batch)
        self._real_part = bool(real_part)
        self._kernel_name = kernel
        self._side = side
        self._has_phases = (theta is not None, phi is not None)
        self._oscillates = omega is not None
        self._complex = (self._oscillates or any(self._has_phases)) and not self._real_part
        self._kernel = Kernel(
            self._dtype == _DOUBLE,
            self._real_part,
            profile.number,
            number,
            False,  # every head has anchors of its own
            math.prod(self._batch),
            self._n,
            self._m,
            *(pointer_to(each) for each in (x, y, ell, omega, theta, phi)),
        )
        storage = lend(targets, _core.cuda_storage_bytes(self._kernel), call)
        self._core = _core.CudaPlan(self._kernel, call.stream, storage.span, Scratch(targets, call))
        # The core points to these and frees memory on the stream; deleted after it, as in Array.
        self._parameters = (ell, omega, theta, phi)
        self._storage = storage
        self._stream = call.owner
        self._lengthscale_text = "on the GPU"
        if isinstance(ell, Array):
            given = validation.scalars("lengthscale", lengthscale)
            self._lengthscale_text = str(list(given.shape) if given.ndim else given.item())

    # ------------------------------------------------------------------------------------- products

    def apply(self, v: object, out: object = None, *, stream: object = None) -> Any:
        """Multiply by the matrix: ``u = K v``.

        Parameters
        ----------
        v : CUDA array ``[*rows, *batch, m]``
            Values of the plan's precision, real or complex; a float32 plan also takes float16.
        out : CUDA array ``[*rows, *batch, n]``, optional
            Receives the result. It must be C-contiguous and writeable, have the dtype of the
            result, and not overlap ``v``.
        stream : int or stream, optional
            The stream of the call; see the notes of the class.

        Returns
        -------
        array ``[*rows, *batch, n]``
            ``out``, or a new array. It is complex if ``v`` or the kernel is, and float16 if ``v``
            is float16 and the kernel is real.
        """
        return self._product(v, out, stream, 0)

    def transpose(self, u: object, out: object = None, *, stream: object = None) -> Any:
        """Multiply by the transpose: ``v = K^T u``.

        Parameters
        ----------
        u : CUDA array ``[*rows, *batch, n]``
            Values, as in `apply`.
        out : CUDA array ``[*rows, *batch, m]``, optional
            Receives the result, as in `apply`.
        stream : int or stream, optional
            The stream of the call; see the notes of the class.

        Returns
        -------
        array ``[*rows, *batch, m]``
            ``out``, or a new array, of the dtype that `apply` would return.
        """
        return self._product(u, out, stream, 1)

    def adjoint(self, u: object, out: object = None, *, stream: object = None) -> Any:
        """Multiply by the adjoint (conjugate transpose): ``v = K^H u``.

        Parameters
        ----------
        u : CUDA array ``[*rows, *batch, n]``
            Values, as in `apply`.
        out : CUDA array ``[*rows, *batch, m]``, optional
            Receives the result, as in `apply`.
        stream : int or stream, optional
            The stream of the call; see the notes of the class.

        Returns
        -------
        array ``[*rows, *batch, m]``
            ``out``, or a new array, of the dtype that `apply` would return.
        """
        return self._product(u, out, stream, 2)

    #: Tells NumPy's arrays to leave ``array @ plan`` to the plan, which refuses them.
    __array_ufunc__ = None

    def __matmul__(self, other: object) -> Any:
        """Multiply a vector by a plan without a batch, as `apply` does.

        Parameters
        ----------
        other : CUDA array ``[m]``
            The vector.

        Returns
        -------
        array ``[n]``
            The product.

        Raises
        ------
        ValueError
            If the operand is a matrix, whose columns do not have the memory layout that the plan
            needs, or if the plan has a batch.
        """
        ndim = len(DeviceArrays(None, v=other).view("v").shape)
        if ndim != 1 or self._batch:
            raise ValueError(
                "on the GPU, plan @ v takes one vector and a plan without a batch: call "
                "plan.apply() with the columns of matrices as contiguous rows"
            )
        return self.apply(other)

    def __array__(self, dtype: object = None, copy: object = None) -> NoReturn:
        """Refuse the conversion to a NumPy array with a TypeError."""
        raise TypeError(
            "a plan on the GPU cannot become a NumPy array: multiply with plan.apply(v), or "
            "build a laplex.Plan of the anchors on the host"
        )

    def half_sums(self, v: object, *, stream: object = None) -> tuple[Any, Any]:
        """Split ``K v`` into the parts that come from the left and from the right of each target.

        Parameters
        ----------
        v : CUDA array ``[*rows, *batch, m]``
            Values as in `apply`, but never float16.
        stream : int or stream, optional
            The stream of the call; see the notes of the class.

        Returns
        -------
        left, right : array ``[*rows, *batch, n]``
            The sums over the sources at or below each target, and over the sources above it. Up to
            rounding, ``left + right`` equals ``apply(v)``.
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
            PRODUCT,
            call.stream,
            work.span,
        )
        return out

    # ------------------------------------------------------------------------------------ gradients

    def vjp(self, v: object, grad: object, *, stream: object = None) -> PlanGradients:
        r"""Compute the gradients of ``Re <grad, K v>`` with respect to all inputs.

        Parameters
        ----------
        v : CUDA array ``[*rows, *batch, m]``
            The values of the product, never float16.
        grad : CUDA array ``[*rows, *batch, n]``
            The cotangent, of the shape and dtype of ``apply(v)``.
        stream : int or stream, optional
            The stream of the call; see the notes of the class.

        Returns
        -------
        PlanGradients
            ``values`` has the shape of ``v``, with the heads outermost in memory, so it is not
            contiguous if there are both rows *and* heads. ``targets``, ``sources``,
            ``target_phase`` and ``source_phase`` have the shape of the anchors. ``lengthscale`` and
            ``frequency`` have shape ``[*batch]`` in float64, even if one number was given for all
            heads. In the self case ``sources`` is None and ``targets`` is the total. Phases that
            were not given are None.

        See Also
        --------
        laplex.Plan.vjp : The conventions at ties and for complex gradients.
        """
        call = DeviceArrays(stream, v=v, grad=grad)
        values = self._values(call, "v", self._m, "sources")
        wanted = self._result_dtype(values.is_complex)
        g = call.view("grad")
        if g.dtype != wanted:
            raise TypeError(
                f"grad is {g.dtype} but apply(v) is {wanted}: pass a cotangent of that dtype"
            )
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
        role = None  # in the self case, the part of the targets' gradient in the role of sources
        if self._is_self:
            role = lend(v, heads * self._m * self._dtype.itemsize, call)
            d_y_at = role.span[0]
        else:
            d_y, d_y_at = new((self._m,))
        d_ell, d_ell_at = new((), _DOUBLE)
        d_omega, d_omega_at = new((), _DOUBLE)
        d_theta, d_theta_at = new((self._n,)) if self._has_phases[0] else (None, 0)
        d_phi, d_phi_at = new((self._m,)) if self._has_phases[1] else (None, 0)
        nbytes = self._core.gradient_workspace_bytes(rows, values.is_complex, PRODUCT)
        work = lend(v, nbytes, call)
        gradients = Gradients(
            d_values_at, d_x_at, d_y_at, d_ell_at, d_omega_at, d_theta_at, d_phi_at
        )
        self._core.vjp(
            self._vectors(values),
            self._vectors(g),
            rows,
            0,
            gradients,
            PRODUCT,
            call.stream,
            work.span,
        )
        if role is not None:
            _core.cuda_add(self._kernel.is_double, d_x_at, d_y_at, heads * self._n, call.stream)
        return PlanGradients(d_values, d_x, d_y, d_ell, d_omega, d_theta, d_phi)

    # ---------------------------------------------------------------------------------- the anchors

    def update(self, targets: object, sources: object = None, *, stream: object = None) -> None:
        """Move the anchors, as after an optimiser step, and keep everything else.

        An order that is still right is kept. If the call raises, the plan is unchanged. The call
        waits for the stream, unless the stream is captured into a graph; see the notes of the
        class.

        Parameters
        ----------
        targets : CUDA array ``[*batch, n]``
            The new targets, in the shape and dtype that the plan was built with.
        sources : CUDA array ``[*batch, m]``, optional
            The new sources, likewise. It must be None in the self case, and only there.
        stream : int or stream, optional
            The stream of the call; see the notes of the class.
        """
        validation.sides(sources is not None, self._is_self)
        call = DeviceArrays(stream, targets=targets, sources=sources)
        x = _anchors(call, "targets", self._dtype, self._batch, self._n)
        y = None
        if sources is not None:
            y = _anchors(call, "sources", self._dtype, self._batch, self._m)
        self._core.update(x.pointer, pointer_to(y), call.stream, Scratch(targets, call))

    # ----------------------------------------------------------------------------------- inspection

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape ``(*batch, n, m)``."""
        return (*self._batch, self._n, self._m)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading dimensions, with one matrix for each of their entries."""
        return self._batch

    @property
    def dtype(self) -> np.dtype[Any]:
        """The precision of anchors and values: float32 or float64."""
        return self._dtype

    @property
    def nbytes(self) -> int:
        """The number of bytes of GPU memory held, without the arrays that the caller keeps."""
        own = (each.nbytes for each in self._parameters if isinstance(each, Array))
        return self._core.nbytes + sum(own)

    def __repr__(self) -> str:
        form = "real"
        if self._oscillates or any(self._has_phases):
            form = "oscillating" if self._oscillates else "carrier phases"
            if self._real_part:
                form = "cosine"
        kernel = "" if self._kernel_name == "matern12" else f"kernel={self._kernel_name!r}, "
        kernel += "" if self._side == "both" else f"side={self._side!r}, "
        own = "self" if self._is_self else "targets x sources"
        return (
            f"laplex.cuda.Plan(shape={self.shape}, dtype={self._dtype}, {kernel}form={form!r}, "
            f"{own}, lengthscale={self._lengthscale_text})"
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
                    f"{name} is float16, which only apply, transpose and adjoint take: convert it "
                    "to float32"
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
                f"{'the heads and ' if self._batch else ''}the number of {what} come last"
            )
        return view

    def _workspace(self, like: object, values: View, call: DeviceArrays) -> Lent:
        nbytes = self._core.workspace_bytes(self._rows(values), values.is_complex, PRODUCT)
        return lend(like, nbytes, call)

    def _rows(self, values: View) -> int:
        return math.prod(values.shape[: len(values.shape) - 1 - len(self._batch)])

    def _strides(self, size: int) -> tuple[int, int]:
        """Return the strides between heads and between rows of ``[*rows, *batch, size]``."""
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
    """Return anchors or phases ``[*batch, count]``, checked against what is given of these."""
    view = call.view(name)
    if view.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} must be float32 or float64, got {view.dtype}")
    if dtype is not None and view.dtype != dtype:
        raise TypeError(
            f"{name} is {view.dtype} but {'the plan is' if name == 'targets' else 'targets are'} "
            f"{dtype}: convert one of them"
        )
    if not view.shape:
        raise ValueError(f"{name} must have at least one dimension [..., count], got a scalar")
    if batch is not None and (
        view.shape[:-1] != batch or (count is not None and view.shape[-1] != count)
    ):
        wanted = [*batch, "count" if count is None else count]
        raise ValueError(
            f"{name} has shape {list(view.shape)} but must have shape "
            f"[{', '.join(map(str, wanted))}], with the heads of the targets"
        )
    return view


def _scalars(call: DeviceArrays, name: str, batch: tuple[int, ...]) -> View | Array:
    """Return one float64 per head: the caller's array on the device, or a copy of host numbers."""
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
    if spread.size:
        for head in (int(spread.argmin()), int(spread.argmax())):  # a NaN is both
            where = f" for head {head}" if spread.size > 1 else ""
            kernel_number(name, float(spread.flat[head]), where)
    array = Array(batch, _DOUBLE, call.owner)
    if spread.size:
        array._memory.copy_from_host(_core.address(spread))
    return array


def _output(
    call: DeviceArrays, shape: tuple[int, ...], dtype: np.dtype[Any], values: View, name: str
) -> int:
    """Check the caller's output array against the result, and return its address."""
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
