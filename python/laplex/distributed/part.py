"""The part of one rank in a kernel matrix over a whole line, on arrays in line order."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _core
from .._support.core import PRODUCT, Gradients, Kernel, Second, Term, Vectors
from .._support.profiles import profile_of
from .._support.sides import BOTH
from ..numpy.checks import Array, complex_dtype
from .line import Line


class Part:
    """The compiled plan of one rank. Everything is collective; vectors are this rank's part.

    Parameters
    ----------
    line
        The line and the anchors on it.
    lengthscale, frequency
        The kernel's; a frequency of None is a real kernel.
    phases
        Those of targets and sources in line order, or None.
    real_part, kernel, threads
        As in `laplex.Plan`.
    """

    def __init__(
        self,
        line: Line,
        lengthscale: float,
        frequency: float | None,
        phases: tuple[Array | None, Array | None],
        real_part: bool,
        kernel: str,
        threads: int,
    ) -> None:
        self._threads = threads
        self._dtype = line.x.dtype
        self._sizes = len(line.x), len(line.x if line.y is None else line.y)
        self._phased = [phase is not None for phase in phases]
        self._complex = (frequency is not None or any(self._phased)) and not real_part
        ell = np.array([lengthscale])
        omega = None if frequency is None else np.array([frequency])
        profile = profile_of(kernel).number
        options = (self._dtype == np.float64, real_part, profile, BOTH, False, 1)
        arrays = (line.x, line.y, ell, omega, *phases)
        matrix = Kernel(*options, *self._sizes, *map(_address, arrays))
        self._core = _core.Plan(matrix, threads, line.share)

    @property
    def nbytes(self) -> int:
        """The number of bytes that the compiled plan holds."""
        return int(self._core.nbytes)

    def result_dtype(self, values: Array) -> np.dtype[Any]:
        """Return the dtype of a product."""
        wide = self._complex or values.dtype.kind == "c"
        return complex_dtype(self._dtype) if wide else self._dtype

    def sum(self, values: Array, mode: int = 0, term: Term = PRODUCT) -> Array:
        """Multiply ``[..., k]`` by the matrix, its transpose (mode 1) or its adjoint (2)."""
        out = np.empty((*values.shape[:-1], self._sizes[mode > 0]), self.result_dtype(values))
        given, rows, values = _vectors(values)
        self._core.sum(given, rows, _vectors(out)[0], mode, term, self._threads)
        return out

    def half_sums(self, values: Array) -> tuple[Array, Array]:
        """Return the sums over the sources at or below each target, and over those above it."""
        shape = (*values.shape[:-1], self._sizes[0])
        left, right = (np.empty(shape, self.result_dtype(values)) for _ in range(2))
        given, rows, values = _vectors(values)
        self._core.half_sums(given, rows, _vectors(left)[0], _vectors(right)[0], self._threads)
        return left, right

    def vjp(self, values: Array, grad: Array) -> list[Any]:
        """Return the gradients of `core.Gradients`, in its order; None for phases not given."""
        (n, m), dtype = self._sizes, self._dtype
        found = [
            np.empty(values.shape, values.dtype),
            np.empty(n, dtype),
            np.empty(m, dtype),
            np.empty(()),
            np.empty(()),
            np.empty(n, dtype) if self._phased[0] else None,
            np.empty(m, dtype) if self._phased[1] else None,
        ]
        given, rows, values = _vectors(values)
        of_result, _, grad = _vectors(grad)
        addresses = Gradients(*map(_address, found))
        self._core.vjp(given, of_result, rows, addresses, PRODUCT, self._threads)
        return found

    def second_vjp(self, values: Array, grad: Array, cotangents: list[Array]) -> list[Array]:
        """Backpropagate through `vjp`, for real products of the Laplace kernel.

        `cotangents` are those of the gradients by values, targets, sources and lengthscale. Returns
        the gradients by `grad` and by those four.
        """
        found = [np.empty_like(each) for each in (grad, *cotangents)]
        given, rows, values = _vectors(values)
        of_result, _, grad = _vectors(grad)
        cotangents = [np.ascontiguousarray(each) for each in cotangents]
        there = Second(0, *map(_address, cotangents))
        self._core.second_vjp(
            given, of_result, rows, there, Second(*map(_address, found)), self._threads
        )
        return found


def _address(array: Array | None) -> int:
    """Return an address; 0 means "not given" to the core, so an empty array gives 1."""
    return 0 if array is None else _core.address(array) or 1


def _vectors(array: Array) -> tuple[Vectors, int, Array]:
    """Return where the vectors ``[..., k]`` are, how many, and the array that holds them."""
    array = np.ascontiguousarray(array)
    length = array.shape[-1]
    rows = int(np.prod(array.shape[:-1]))
    return Vectors(_address(array), array.dtype.kind == "c", 0, length), rows, array
