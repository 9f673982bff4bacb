"""SciPy's ``LinearOperator`` of a `LaplaceGram`. Importing this module needs SciPy."""

from __future__ import annotations

import numpy as np
from scipy.sparse.linalg import LinearOperator

from ..numpy.checks import Array
from .gaussian import Gaussian


class GramLinearOperator(LinearOperator):  # type: ignore[misc]
    """A or its inverse, ``[n, n]``, in the dtype of the anchors; operands are converted to it.

    Parameters
    ----------
    gram : Gaussian
        A single matrix, without gradients, on the CPU.
    inverse : bool
        Apply the inverse of A instead of A.

    Raises
    ------
    ValueError
        If `gram` is a batch of matrices.
    """

    def __init__(self, gram: Gaussian, *, inverse: bool = False) -> None:
        if len(gram.shape) > 2:
            raise ValueError(
                f"the LaplaceGram holds a batch of shape {tuple(gram.shape[:-2])}, but a SciPy "
                "LinearOperator is a single matrix: build a LaplaceGram for each of them"
            )
        self._gram = gram
        self._inverse = inverse
        super().__init__(dtype=str(gram.dtype).removeprefix("torch."), shape=tuple(gram.shape))

    # A vector has shape [n] or [n, 1] and a matrix [n, k]; `.T` turns their columns into rows.

    def _matvec(self, v: Array) -> Array:
        if np.iscomplexobj(v):
            real, imaginary = self._matvec(v.real), self._matvec(v.imag)
            return real + 1j * imaginary
        product = self._gram.solve if self._inverse else self._gram.matvec
        result: Array = product(np.asarray(v, self.dtype).T).numpy().T
        return result

    _matmat = _rmatvec = _rmatmat = _matvec
