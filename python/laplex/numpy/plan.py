"""The NumPy interface: build a plan from the anchors once, then apply it many times."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core
from .._support.core import PRODUCT, Gradients, Kernel, Vectors
from .._support.profiles import profile_of
from .._support.sides import side_number
from . import checks as validation
from .checks import Array
from .layout import layout_of

if TYPE_CHECKING:
    from typing import TypeGuard

__all__ = ["Plan", "PlanGradients"]

#: The least memory that a plan and one product need, so that impossible sizes fail at once.
_BYTES_PER_ANCHOR = 64
_BYTES_PER_HEAD = 1024

#: Arrays of up to this many entries skip the check of available memory.
_SMALL = 1 << 24


class PlanGradients(NamedTuple):
    """Gradients of ``Re <grad, K v>`` with respect to every argument, as `Plan.vjp` returns them.

    Attributes
    ----------
    values : array
        The gradient with respect to the values, of their shape.
    targets, sources : array or None
        The gradients with respect to the anchors, in the shapes in which these were given.
        ``sources`` is None in the self case.
    lengthscale, frequency : array
        The gradients with respect to lengthscale and frequency, in the shapes in which these were
        given.
    target_phase, source_phase : array or None
        The gradients with respect to the phases; None for phases that were not given.
    """

    values: Array
    targets: Array
    sources: Array | None
    lengthscale: Array
    frequency: Array
    target_phase: Array | None
    source_phase: Array | None


class Plan:
    r"""A Laplace kernel matrix that multiplies in O(n + m) time without being formed.

    .. math::
        K_{ij} = \exp(-(1/\ell - i\omega)\,|x_i - y_j|)\,\exp(i(\theta_i - \phi_j))

    Building a plan sorts the anchors once. Every product after that is linear in their number.

    Parameters
    ----------
    targets : array ``[..., n]``, float32, float64 or integer
        The anchors :math:`x`. Leading dimensions are a batch of independent matrices ("heads").
        Heads may share anchors ``[n]`` and ``[m]``, which are then sorted once for all of them.
    sources : array ``[..., m]``, optional
        The anchors :math:`y`, in the same precision. None selects the self case ``y = x``: the
        anchors are sorted once, and targets and sources are one parameter.

        Integer and boolean anchors and phases take the precision of the floating-point ones, or
        float64 if there are none. They must be exact: integers beyond 2**53 (in float32, 2**24)
        raise an error.
    lengthscale : float or array ``[...]``
        :math:`\ell > 0`, in the unit of the anchors; one for all heads or one per head.
    frequency : float or array ``[...]``
        :math:`\omega`, in radians per unit of the anchors. A non-zero frequency makes the kernel
        complex.
    target_phase, source_phase : array ``[..., n]``, array ``[..., m]``, optional
        :math:`\theta` and :math:`\phi` in radians. Phases make the kernel complex, even where they
        are 0.
    real_part : bool
        Use the real matrix :math:`\mathrm{Re}\,K` (the cosine form).
    kernel : {"matern12", "matern32", "matern52"}
        The shape of the kernel, a Matérn kernel of smoothness 1/2, 3/2 or 5/2. The first is the
        Laplace kernel of the formula. The others replace :math:`e^{-d/\ell}` by
        :math:`(1 + s)\,e^{-s}` with :math:`s = \sqrt{3}\,d/\ell`, and by
        :math:`(1 + s + s^2/3)\,e^{-s}` with :math:`s = \sqrt{5}\,d/\ell`.
    side : {"both", "left", "right"}
        The sources that count for each target: all of them, those at or below it
        (:math:`y_j \le x_i`), or those at or above it (:math:`y_j \ge x_i`). A source that is tied
        with a target counts on either side. The entries of the others are 0.
    num_threads : int, optional
        The number of threads. The default is the environment variable ``LAPLEX_NUM_THREADS``, or
        else all processors that this process may use. The results do not depend on it, bit for
        bit.

    Attributes
    ----------
    shape : tuple of int
        ``(..., n, m)``.
    dtype : numpy.dtype
        The precision of the anchors, float32 or float64.
    nbytes : int
        The number of bytes that the plan holds now.

    Raises
    ------
    TypeError
        If the anchors are neither float32, float64 nor integers, or have mixed precision.
    ValueError
        If anchors are NaN or infinite, an integer cannot be represented exactly, a lengthscale is
        not positive, or shapes do not match.
    MemoryError
        If the plan would need more memory than the machine has.

    Notes
    -----
    This is the operator class of arXiv 2605.24584. Sums are accumulated in float64. The error is at
    most 1e-14 (float64) or 1e-6 (float32) times :math:`\sum_j |K_{ij}||v_j|`.

    Where a target equals a source, the Laplace kernel has a kink. Derivatives follow the convention
    sign(0) = 0: the tied pair contributes nothing to derivatives with respect to the anchors.

    With ``side``, the error is relative to the sum over the sources on that side alone. The
    transpose and the adjoint sum the targets at or above each source for ``side="left"``, and those
    at or below it for ``side="right"``. Derivatives are those of the entries: the jump of a sum
    where a target passes a source is not differentiated.

    Several threads may use one plan at once, even while another thread calls `update`.

    Examples
    --------
    >>> import numpy as np, laplex
    >>> plan = laplex.Plan([0.0, 1.0, 2.0], [0.5, 1.5], lengthscale=2.0)
    >>> plan.apply([1.0, -1.0]).round(4)
    array([ 0.3064,  0.    , -0.3064])
    >>> (plan @ [[1.0, 1], [-1.0, 1]]).round(4)  # a matrix of two columns
    array([[ 0.3064,  1.2512],
           [ 0.    ,  1.5576],
           [-0.3064,  1.2512]])
    """

    #: Tells NumPy's arrays to leave ``array @ plan`` to the plan.
    __array_ufunc__ = None

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
        num_threads: int | None = None,
    ) -> None:
        profile, number = profile_of(kernel), side_number(side)
        given = {"targets": validation.as_array("targets", targets)}
        for name, value in (
            ("sources", sources),
            ("target_phase", target_phase),
            ("source_phase", source_phase),
        ):
            if value is not None:
                given[name] = validation.as_array(name, value)
        dtype = validation.precision(*given.values())
        given = {name: validation.anchors(name, array, dtype) for name, array in given.items()}
        x, y = given["targets"], given.get("sources")
        theta, phi = given.get("target_phase"), given.get("source_phase")
        n = x.shape[-1]
        m = n if y is None else y.shape[-1]
        ell = validation.scalars("lengthscale", lengthscale)
        omega = validation.scalars("frequency", frequency)
        for name, phase, count, what in (
            ("target_phase", theta, n, "targets"),
            ("source_phase", phi, m, "sources"),
        ):
            if phase is not None and phase.shape[-1] != count:
                raise ValueError(
                    f"{name} has {phase.shape[-1]} entries but there are {count} {what}"
                )
        if not isinstance(real_part, (bool, np.bool_)):
            raise TypeError(f"real_part must be True or False, got {real_part!r}")
        self._threads = validation.num_threads(num_threads)

        shapes = {"targets": x.shape[:-1], "lengthscale": ell.shape, "frequency": omega.shape}
        for name, array in (("sources", y), ("target_phase", theta), ("source_phase", phi)):
            if array is not None:
                shapes[name] = array.shape[:-1]
        self._batch = validation.broadcast_shapes(shapes)
        self._input_shapes = shapes
        heads = math.prod(self._batch)
        validation.enough_memory(
            f"a plan for n = {n}, m = {m}" + (f" and {heads} heads" if heads > 1 else ""),
            heads * ((n + m) * _BYTES_PER_ANCHOR + _BYTES_PER_HEAD),
        )

        self._n, self._m = n, m
        self._dtype = dtype
        self._real_part = bool(real_part)
        self._kernel = kernel
        self._side = side
        self._oscillates = bool(np.any(omega != 0))
        self._complex = (self._oscillates or theta is not None or phi is not None) and not real_part
        # Kept for pickling. The core keeps the anchors and the lengthscale, because only the core
        # knows the current ones when several threads call update(), which checks these shapes.
        self._frequency = omega
        self._theta = None if theta is None else self._own(theta)
        self._phi = None if phi is None else self._own(phi)
        self._x_shape, self._y_shape = x.shape, None if y is None else y.shape

        # Anchors without a batch are sorted once for all heads.
        sides = (x,) if y is None else (x, y)
        shared = heads > 1 and all(math.prod(side.shape[:-1]) == 1 for side in sides)
        self._anchor_batch = (1,) * len(self._batch) if shared else self._batch

        ell_heads = _spread(ell, np.dtype(np.float64), self._batch)
        omega_heads = _spread(omega, ell_heads.dtype, self._batch) if self._oscillates else None
        x_heads = _spread(x, dtype, (*self._anchor_batch, n))
        y_heads = None if y is None else _spread(y, dtype, (*self._anchor_batch, m))
        theta_heads = None if theta is None else _spread(theta, dtype, (*self._batch, n))
        phi_heads = None if phi is None else _spread(phi, dtype, (*self._batch, m))
        arrays = (x_heads, y_heads, ell_heads, omega_heads, theta_heads, phi_heads)
        addresses = (_address(each) for each in arrays)
        options = (dtype == np.float64, self._real_part, profile.number, number, shared)
        self._core = _core.Plan(Kernel(*options, heads, n, m, *addresses), self._threads)

    # ------------------------------------------------------------------------------------- products

    def apply(self, v: object, out: Array | None = None) -> Array:
        """Multiply by the matrix: ``u = K v``.

        Parameters
        ----------
        v : array ``[..., m]``
            Values of the plan's precision, real or complex; a float32 plan also takes float16.
            Leading dimensions broadcast with the plan's batch dimensions as in NumPy.
        out : numpy.ndarray ``[..., n]``, optional
            Receives the result. It must be C-contiguous and writeable, have the shape and dtype of
            the result, and share no memory with ``v``.

        Returns
        -------
        array ``[..., n]``
            ``out``, or a new array. It is complex if ``v`` or the kernel is, and float16 if ``v``
            is float16 and the kernel is real.
        """
        return self._product(v, out, mode=0)

    def transpose(self, u: object, out: Array | None = None) -> Array:
        """Multiply by the transpose: ``v = K^T u``.

        Parameters
        ----------
        u : array ``[..., n]``
            Values, as in `apply`.
        out : numpy.ndarray ``[..., m]``, optional
            Receives the result, as in `apply`.

        Returns
        -------
        array ``[..., m]``
            ``out``, or a new array, of the dtype that `apply` would return.
        """
        return self._product(u, out, mode=1)

    def adjoint(self, u: object, out: Array | None = None) -> Array:
        """Multiply by the adjoint (conjugate transpose): ``v = K^H u``.

        Parameters
        ----------
        u : array ``[..., n]``
            Values, as in `apply`.
        out : numpy.ndarray ``[..., m]``, optional
            Receives the result, as in `apply`.

        Returns
        -------
        array ``[..., m]``
            ``out``, or a new array, of the dtype that `apply` would return.
        """
        return self._product(u, out, mode=2)

    def half_sums(self, v: object) -> tuple[Array, Array]:
        """Split ``K v`` into the parts that come from the left and from the right of each target.

        Parameters
        ----------
        v : array ``[..., m]``
            Values as in `apply`.

        Returns
        -------
        left, right : array ``[..., n]``
            The sums over the sources at or below each target, and over the sources above it. Up to
            rounding, ``left + right`` equals ``apply(v)``.

        Raises
        ------
        ValueError
            If the plan has a ``side``: then `apply` gives one of them.
        """
        array = validation.values("v", v, self._dtype, self._m, "sources")
        batch, laid, is_complex, half = self._lay("v", array)
        left = self._empty(batch, self._n, is_complex)
        right = self._empty(batch, self._n, is_complex)
        out, out_right = self._lay_out(left, batch), self._lay_out(right, batch)
        self._core.half_sums(
            _vectors(laid), laid.shape[1], _vectors(out), _vectors(out_right), self._threads
        )
        left = self._lay_back(out, left, batch)
        right = self._lay_back(out_right, right, batch)
        if half and not self._complex:
            return left.astype(np.float16), right.astype(np.float16)
        return left, right

    def _product(self, v: object, out: Array | None, mode: int) -> Array:
        name, count, what = ("v", self._m, "sources") if mode == 0 else ("u", self._n, "targets")
        size = self._n if mode == 0 else self._m
        if self._is_simple(v, count):  # skip the arrangement, which costs more than a small product
            dtype = self._result_dtype(False)
            shape = (*v.shape[:-1], size)
            if out is None:
                out = np.empty(shape, dtype)
            else:
                validation.output("out", out, shape, dtype, v)
            rows = v.size // count
            given = Vectors(_address(v), False, 0, count)
            written = Vectors(_address(out), self._complex, 0, size)
            self._core.sum(given, rows, written, mode, PRODUCT, self._threads)
            return out
        array = validation.values(name, v, self._dtype, count, what)
        batch, laid, is_complex, half = self._lay(name, array)
        rounded = half and not self._complex  # there is no smaller type for a complex result
        dtype = np.dtype(np.float16) if rounded else self._result_dtype(is_complex)
        if out is not None:
            out = validation.output("out", out, (*batch, size), dtype, array)
        result = self._empty(batch, size, is_complex) if out is None or rounded else out
        target = self._lay_out(result, batch)
        rows, written = laid.shape[1], _vectors(target)
        self._core.sum(_vectors(laid), rows, written, mode, PRODUCT, self._threads)
        result = self._lay_back(target, result, batch)
        if not rounded:
            return result
        if out is None:
            return result.astype(np.float16)
        out[...] = result
        return out

    def __matmul__(self, other: object) -> Array:
        """Multiply a vector or matrices, as ``numpy.matmul`` does.

        `apply` does the same for rows, which already have the memory layout that the plan needs.

        Parameters
        ----------
        other : array ``[m]`` or ``[..., m, k]``
            A vector, or matrices, whose batch broadcasts with that of the plan.

        Returns
        -------
        array ``[..., n]`` or ``[..., n, k]``
            The products.
        """
        if isinstance(other, Plan):
            return NotImplemented
        return self._columns("v", other, 0)

    def __rmatmul__(self, other: object) -> Array:
        """Multiply a vector ``[n]`` or matrices ``[..., k, n]`` from the left: ``u @ plan``.

        The result has shape ``[..., m]`` or ``[..., k, m]``.
        """
        array = validation.values("u", other, self._dtype, self._n, "targets")
        if array.ndim < 2:
            return self.transpose(array)
        return np.moveaxis(self.transpose(self._rows_first(array)), 0, -2)

    @property
    def matvec(self) -> Callable[[object], Array]:
        """The product ``plan @ v`` under the name that SciPy's ``aslinearoperator`` looks for.

        The value is a function of ``v [m]`` or ``[m, k]``. Unlike ``@`` it converts ``v`` to the
        plan's precision. Prefer `laplex.adapters.to_scipy`: it multiplies all columns of a matrix
        together, where SciPy takes one column after another, and it supports complex kernels.

        Raises
        ------
        TypeError
            If the kernel is complex, because SciPy would take ``dtype``, which is that of the
            anchors, for the matrix's.
        """
        self._as_real_matrix()
        return lambda v: self._columns("v", self._converted("v", v), 0)

    @property
    def rmatvec(self) -> Callable[[object], Array]:
        """The adjoint product ``K^H u`` for ``u [n]`` or ``[n, k]``; see `matvec`."""
        self._as_real_matrix()
        return lambda u: self._columns("u", self._converted("u", u), 2)

    def _as_real_matrix(self) -> None:
        if self._complex:
            raise TypeError(
                "SciPy cannot use a complex plan directly, because the plan's dtype is the real "
                "one of its anchors: use laplex.adapters.to_scipy(plan)"
            )

    def _converted(self, name: str, value: object) -> Array:
        array = validation.as_array(name, value)
        wide = array.dtype.kind == "c"
        return array.astype(
            validation.complex_dtype(self._dtype) if wide else self._dtype, copy=False
        )

    def _columns(self, name: str, value: object, mode: int) -> Array:
        """Multiply a vector or the columns of matrices."""
        array = validation.as_array(name, value)
        if array.ndim < 2:
            return self._product(array, None, mode)
        count, what = (self._m, "sources") if mode == 0 else (self._n, "targets")
        if array.shape[-2] != count:
            raise ValueError(
                f"{name} has shape {list(array.shape)} but the dimension before the last must be "
                f"{count}, the number of {what}: apply() takes rows [..., {count}]"
            )
        rows = self._rows_first(array.swapaxes(-1, -2))
        return np.moveaxis(self._product(rows, None, mode), 0, -1)

    def _rows_first(self, matrices: Array) -> Array:
        """Move the axis ``k`` of ``[..., k, count]`` to the front, before the batch."""
        lead = validation.broadcast_shapes(
            {"the matrices": matrices.shape[:-2], "plan": self._batch}
        )
        return np.moveaxis(np.broadcast_to(matrices, (*lead, *matrices.shape[-2:])), -2, 0)

    def _is_simple(self, v: object, count: int) -> TypeGuard[Array]:
        """Whether the core can read ``v`` as it is: real rows for a plan without heads."""
        return (
            type(v) is np.ndarray
            and v.dtype == self._dtype
            and v.dtype.isnative
            and v.flags.c_contiguous
            and v.flags.aligned
            and not self._batch
            and v.ndim > 0
            and v.shape[-1] == count
            and 0 < v.size <= _SMALL
        )

    # ------------------------------------------------------------------------------------ gradients

    def vjp(self, v: object, grad: object) -> PlanGradients:
        r"""Compute the gradients of ``Re <grad, K v>`` with respect to all inputs.

        Parameters
        ----------
        v : array ``[..., m]``
            The values of the product.
        grad : array ``[..., n]``
            The cotangent, of the shape and dtype of ``apply(v)``.

        Returns
        -------
        PlanGradients
            ``values`` has the shape of ``v``. Every other gradient has the shape in which its
            argument was given; it is summed over all dimensions along which the argument was
            broadcast. In the self case ``sources`` is None and ``targets`` is the total. Phases
            that were not given are None. Complex gradients follow PyTorch: the gradient of a real
            loss :math:`L` is :math:`\partial L/\partial\mathrm{Re} + i\,\partial
            L/\partial\mathrm{Im}`.

        Notes
        -----
        This is the vector-Jacobian product. With :math:`c = 1/\ell - i\omega` and the convention
        sign(0) = 0, the derivatives of the matrix of the Laplace kernel are
        :math:`\partial K_{ij}/\partial x_i = -c\,\mathrm{sign}(x_i - y_j) K_{ij}`,
        :math:`\partial K/\partial\ell = |x-y| K/\ell^2` and
        :math:`\partial K/\partial\omega = i |x-y| K`.
        """
        array = validation.values("v", v, self._dtype, self._m, "sources")
        batch, laid, is_complex, _ = self._lay("v", array)
        g = validation.values("grad", grad, self._dtype, self._n, "targets")
        if g.shape != (*batch, self._n):
            raise ValueError(
                f"grad has shape {list(g.shape)} but apply(v) has shape {[*batch, self._n]}: "
                "pass a cotangent of the result's shape"
            )
        wanted = self._result_dtype(is_complex)
        if np.iscomplexobj(g) and wanted.kind != "c":
            raise TypeError(f"grad is {g.dtype} but apply(v) is {wanted}: pass a real cotangent")
        _, g_laid, _, _ = self._lay("grad", g.astype(wanted, copy=False), batch)

        heads, rows = laid.shape[:2]
        d_values = np.empty((heads, rows, self._m), laid.dtype)
        d_x = np.empty((heads, self._n), self._dtype)
        d_y = np.empty((heads, self._m), self._dtype)
        d_ell = np.empty(heads)
        d_omega = np.empty(heads)
        d_theta = None if self._theta is None else np.empty((heads, self._n), self._dtype)
        d_phi = None if self._phi is None else np.empty((heads, self._m), self._dtype)
        found = (d_values, d_x, d_y, d_ell, d_omega, d_theta, d_phi)
        gradients = Gradients(*(_address(each) for each in found))
        self._core.vjp(_vectors(laid), _vectors(g_laid), rows, gradients, PRODUCT, self._threads)
        if self._y_shape is None:
            d_x += d_y
        return PlanGradients(
            values=_sum_to(self._from_heads(d_values, batch, self._m), array.shape).astype(
                array.dtype.newbyteorder("="), copy=False
            ),
            targets=self._gather("targets", d_x),
            sources=None if self._y_shape is None else self._gather("sources", d_y),
            lengthscale=self._gather("lengthscale", d_ell),
            frequency=self._gather("frequency", d_omega),
            target_phase=None if d_theta is None else self._gather("target_phase", d_theta),
            source_phase=None if d_phi is None else self._gather("source_phase", d_phi),
        )

    # ---------------------------------------------------------------------------------- the anchors

    def update(
        self, targets: object = None, sources: object = None, *, lengthscale: object = None
    ) -> None:
        """Move the anchors, change the lengthscale, or both, as after an optimiser step.

        If the old order is nearly right it is repaired; otherwise the anchors are sorted again. A
        lengthscale alone leaves the order as it is. The results are the same as those of a new
        plan, bit for bit. If the call raises, the plan is unchanged.

        Parameters
        ----------
        targets : array ``[..., n]``, optional
            The new targets, in the shape and dtype that the plan was built with. The anchors stay
            where they are if neither ``targets`` nor ``sources`` is given.
        sources : array ``[..., m]``, optional
            The new sources, likewise. In the self case it must be None. Otherwise it must be given
            if ``targets`` is.
        lengthscale : float or array ``[...]``, optional
            The new lengthscale, in the shape that the plan was built with. It stays as it is if
            this is None.

        Raises
        ------
        TypeError
            If nothing is given, or if a dtype differs from the plan's.
        ValueError
            If a shape differs from the plan's, only one side of two is given, an anchor is NaN or
            infinite, or a lengthscale is not positive.

        Examples
        --------
        >>> import laplex
        >>> plan = laplex.Plan([0.0, 1.0])
        >>> plan.update([0.0, 2.0], lengthscale=2.0)
        >>> plan.apply([1.0, 0.0]).round(4)
        array([1.    , 0.3679])
        """
        x_heads = y_heads = ell_heads = None
        if targets is not None or sources is not None:
            x = self._moved("targets", targets, self._x_shape)
            x_heads = _spread(x, self._dtype, (*self._anchor_batch, self._n))
            validation.sides(sources is not None, self._y_shape is None)
            if self._y_shape is not None:
                y = self._moved("sources", sources, self._y_shape)
                y_heads = _spread(y, self._dtype, (*self._anchor_batch, self._m))
        elif lengthscale is None:
            raise TypeError("there is nothing to update: pass anchors, a lengthscale, or both")
        if lengthscale is not None:
            ell = validation.scalars("lengthscale", lengthscale)
            self._check_shape("lengthscale", ell, self._input_shapes["lengthscale"])
            ell_heads = _spread(ell, np.dtype(np.float64), self._batch)
        self._core.update(_address(x_heads), _address(y_heads), _address(ell_heads), self._threads)

    def _moved(self, name: str, value: object, shape: tuple[int, ...]) -> Array:
        array = validation.anchors(name, value, self._dtype)
        self._check_shape(name, array, shape)
        return array

    @staticmethod
    def _check_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
        if array.shape != shape:
            raise ValueError(
                f"{name} has shape {list(array.shape)} but the plan was built with "
                f"{list(shape)}: build a new plan"
            )

    # ----------------------------------------------------------------------------------- inspection

    def rank(self) -> int | Array:
        """Return the rank of the matrix in exact arithmetic, in O(n + m).

        The rank follows from the order of the anchors. Each target that is tied with a source
        counts 1 and splits the line. Between ties, the rank is the largest number of disjoint
        neighbouring (target, source) pairs.

        Returns
        -------
        int or array
            An int, or an integer array of the batch shape.

        Raises
        ------
        ValueError
            For the cosine form (``real_part`` with phases or a frequency), for other kernels than
            ``"matern12"`` and for one-sided sums, for which no such rule is known.
        """
        ranks = np.array(self._core.rank(), dtype=np.int64).reshape(self._batch)
        return int(ranks) if ranks.ndim == 0 else ranks

    def to_dense(self) -> Array:
        """Return the dense matrix ``[..., n, m]``, for tests and pictures.

        Raises
        ------
        MemoryError
            If the matrix would have more than 2**28 entries.
        """
        validation.dense_size(math.prod(self._batch), self._n, self._m)
        matrix = np.empty((*self._batch, self._n, self._m), self._result_dtype(False))
        self._core.to_dense(_address(matrix), np.iscomplexobj(matrix))
        return matrix

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return `to_dense` for ``numpy.asarray(plan)``, up to 2**24 entries.

        Raises
        ------
        MemoryError
            If the matrix would have more entries, because the conversion is then probably an
            accident.
        ValueError
            If ``copy=False`` is requested.
        """
        validation.becomes_array("a plan", self.shape, copy, "plan @ v or plan.apply(v)")
        matrix = self.to_dense()
        return matrix if dtype is None else matrix.astype(dtype, copy=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape ``(..., n, m)``."""
        return (*self._batch, self._n, self._m)

    @property
    def ndim(self) -> int:
        """The number of dimensions: two and those of the batch."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of entries of the matrix, none of which is stored."""
        return math.prod(self.shape)

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
        """The number of bytes held now; after the first `update`, with the memory for the next."""
        copies = [a for a in (self._theta, self._phi) if a is not None]
        return int(self._core.nbytes) + sum(a.nbytes for a in copies)

    def __repr__(self) -> str:
        form = "real"
        if self._oscillates or self._theta is not None or self._phi is not None:
            form = "oscillating" if self._oscillates else "carrier phases"
            if self._real_part:
                form = "cosine"
        kernel = "" if self._kernel == "matern12" else f"kernel={self._kernel!r}, "
        kernel += "" if self._side == "both" else f"side={self._side!r}, "
        own = "self" if self._y_shape is None else "targets x sources"
        shape = self._input_shapes["lengthscale"]
        heads = np.ones(self._batch)
        self._core.anchors(0, 0, _address(heads))
        ell = list(shape) if shape else _take_back(heads, shape).item()
        return (
            f"Plan(shape={self.shape}, dtype={self._dtype}, {kernel}form={form!r}, {own}, "
            f"lengthscale={ell})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        options = {
            "frequency": self._frequency,
            "target_phase": self._theta,
            "source_phase": self._phi,
            "real_part": self._real_part,
            "kernel": self._kernel,
            "side": self._side,
            "num_threads": self._threads or None,
        }
        x = np.empty((*self._anchor_batch, self._n), self._dtype)
        y = np.empty((*self._anchor_batch, self._m), self._dtype)
        ell = np.ones(self._batch)
        self._core.anchors(_address(x), _address(y), _address(ell))
        options["lengthscale"] = _take_back(ell, self._input_shapes["lengthscale"])
        sources = None if self._y_shape is None else _take_back(y, self._y_shape)
        return _rebuild, (type(self), _take_back(x, self._x_shape), sources, options)

    # -------------------------------------------------------------------------------- memory layout

    def _own(self, array: Array) -> Array:
        return np.array(array, dtype=self._dtype, order="C", copy=True)

    def _result_dtype(self, values_complex: bool) -> np.dtype[Any]:
        return (
            validation.complex_dtype(self._dtype)
            if values_complex or self._complex
            else self._dtype
        )

    def _empty(self, batch: tuple[int, ...], size: int, values_complex: bool) -> Array:
        dtype = self._result_dtype(values_complex)
        validation.enough_memory("the result", math.prod(batch) * size * dtype.itemsize)
        return np.empty((*batch, size), dtype)

    def _lay(
        self, name: str, array: Array, batch: tuple[int, ...] | None = None
    ) -> tuple[tuple[int, ...], Array, bool, bool]:
        """Lay out ``[heads, rows, count]``, contiguous in the last; copy only if necessary."""
        if batch is None:
            batch = validation.broadcast_shapes({name: array.shape[:-1], "plan": self._batch})
        is_half = array.dtype.newbyteorder("=") == np.float16
        is_complex = array.dtype.kind == "c"
        dtype = validation.complex_dtype(self._dtype) if is_complex else self._dtype
        array = array.astype(dtype, copy=False)
        layout = layout_of(batch, self._batch)
        spread = np.broadcast_to(array, (*batch, array.shape[-1]))
        validation.enough_memory(name, spread.nbytes if spread.size else 0)
        laid = spread.transpose(*layout.order, len(batch)).reshape(
            layout.heads, layout.rows, array.shape[-1]
        )
        if array.shape[-1] > 1 and laid.strides[-1] != laid.itemsize:
            laid = np.ascontiguousarray(laid)
        if any(stride % laid.itemsize for stride in laid.strides):
            laid = np.ascontiguousarray(laid)
        return batch, laid, is_complex, is_half

    def _lay_out(self, result: Array, batch: tuple[int, ...]) -> Array:
        """Return where the core writes ``result``: in place if strides allow, else a new array."""
        layout = layout_of(batch, self._batch)
        permuted = result.transpose(*layout.order, len(batch))
        # reshape copies when the rows interleave with the heads in more than one place
        laid: Array = permuted.reshape(layout.heads, layout.rows, result.shape[-1])
        return laid

    def _lay_back(self, written: Array, result: Array, batch: tuple[int, ...]) -> Array:
        if not np.may_share_memory(written, result):
            result[...] = self._from_heads(written, batch, result.shape[-1])
        return result

    def _from_heads(self, array: Array, batch: tuple[int, ...], size: int) -> Array:
        """Undo the order of axes of :meth:`_lay`."""
        layout = layout_of(batch, self._batch)
        back: Array = array.reshape((*layout.sizes, size)).transpose(*layout.back, len(batch))
        return back

    def _gather(self, name: str, gradient: Array) -> Array:
        """Sum a gradient per head to the shape in which its input was given."""
        tail = gradient.shape[1:]
        return _sum_to(gradient.reshape((*self._batch, *tail)), (*self._input_shapes[name], *tail))


def _rebuild(
    cls: type[Plan], targets: Array, sources: Array | None, options: dict[str, Any]
) -> Plan:
    return cls(targets, sources, **options)


def _address(array: Array | None) -> int:
    """Return an address; 0 means "not given" to the core, so an empty array gives 1."""
    if array is None:
        return 0
    return _core.address(array) or 1


def _vectors(laid: Array) -> Vectors:
    (head, row, _), itemsize = laid.strides, laid.itemsize
    return Vectors(_address(laid), laid.dtype.kind == "c", head // itemsize, row // itemsize)


def _spread(array: Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """Repeat an array for every head, contiguously."""
    return np.ascontiguousarray(np.broadcast_to(array, shape), dtype=dtype)


def _take_back(array: Array, shape: tuple[int, ...]) -> Array:
    """Undo the broadcast of an array of ``shape`` to ``array``."""
    if array.size == 0:  # there is no head to take it from
        return np.zeros(shape, array.dtype)
    array = array[(0,) * (array.ndim - len(shape))]
    return array[tuple(slice(size) for size in shape)]


def _sum_to(array: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the dimensions along which an input of ``shape`` was broadcast to ``array``."""
    extra = array.ndim - len(shape)
    if extra:
        array = array.sum(axis=tuple(range(extra)))
    stretched = tuple(
        k for k, (have, want) in enumerate(zip(array.shape, shape, strict=True)) if have != want
    )
    if stretched:
        array = array.sum(axis=stretched, keepdims=True)
    return np.asarray(array)
