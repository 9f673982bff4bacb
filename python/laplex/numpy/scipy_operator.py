"""A plan as SciPy's ``LinearOperator``; only `laplex.adapters` imports this module."""

from __future__ import annotations

import numpy as np
from scipy.sparse.linalg import LinearOperator

from .checks import Array
from .plan import Plan


class PlanLinearOperator(LinearOperator):  # type: ignore[misc]
    """A plan as a ``scipy.sparse.linalg.LinearOperator`` of shape ``[n, m]``.

    Its dtype has the plan's precision and is complex for a complex kernel.

    Parameters
    ----------
    plan : Plan
        A plan of one matrix, without a batch.

    Raises
    ------
    ValueError
        If the plan has a batch of matrices.
    """

    def __init__(self, plan: Plan) -> None:
        if plan.batch_shape:
            raise ValueError(
                f"the plan holds a batch of shape {plan.batch_shape}, but SciPy's LinearOperator "
                "is one matrix: build a plan of one matrix of the batch"
            )
        self._plan = plan
        none = np.zeros((0, plan.shape[-1]), plan.dtype)
        super().__init__(dtype=plan.apply(none).dtype, shape=plan.shape)

    # A vector has shape [m] or [m, 1], a matrix [m, k]; `.T` turns each into rows.

    def _matvec(self, v: Array) -> Array:
        product: Array = self._plan.apply(self._converted(v).T).T
        return product

    def _rmatvec(self, u: Array) -> Array:
        product: Array = self._plan.adjoint(self._converted(u).T).T
        return product

    _matmat, _rmatmat = _matvec, _rmatvec

    def _converted(self, array: Array) -> Array:
        precision = self._plan.dtype
        wide = np.result_type(precision, np.complex64) if np.iscomplexobj(array) else precision
        return np.asarray(array, dtype=wide)
