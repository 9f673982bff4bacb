"""SciPy's ``LinearOperator`` of a `LaplaceGram`. Importing this module needs SciPy."""

from __future__ import annotations

import numpy as np
from scipy.sparse.linalg import LinearOperator

from ..numpy.checks import Array
from .gaussian import Gaussian


class GramLinearOperator(LinearOperator):  # type: ignore[misc]
    """A or A^-1 ``[n, n]`` of the anchors' precision, to which it converts what it multiplies.

    Parameters
    ----------
    gram : Gaussian
        A single matrix, without gradients, on the CPU.
    inverse : bool
        A^-1 in place of A.

    Raises
    ------
    ValueError
        For a batch.
    """

    def __init__(self, gram: Gaussian, *, inverse: bool = False) -> None:
        if len(gram.shape) > 2:
            raise ValueError(
                f"the LaplaceGram holds a batch of shape {tuple(gram.shape[:-2])}, SciPy's "
                "LinearOperator is one matrix: make a LaplaceGram of one of them"
            )
        self._gram = gram
        self._inverse = inverse
        super().__init__(dtype=str(gram.dtype).removeprefix("torch."), shape=tuple(gram.shape))

    # A vector comes as [n] or [n, 1], a matrix as [n, k]: `.T` makes rows of each.

    def _matvec(self, v: Array) -> Array:
        if np.iscomplexobj(v):
            real, imaginary = self._matvec(v.real), self._matvec(v.imag)
            return real + 1j * imaginary
        product = self._gram.solve if self._inverse else self._gram.matvec
        result: Array = product(np.asarray(v, self.dtype).T).numpy().T
        return result

    _matmat = _rmatvec = _rmatmat = _matvec
