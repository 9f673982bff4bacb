"""SciPy's ``LinearOperator`` of a plan. Importing this module needs SciPy: `adapters` does it."""

from __future__ import annotations

import numpy as np
from scipy.sparse.linalg import LinearOperator

from .checks import Array
from .plan import Plan


class PlanLinearOperator(LinearOperator):  # type: ignore[misc]
    """A plan's matrix ``[n, m]`` of the plan's precision, complex for a complex kernel.

    Parameters
    ----------
    plan : Plan
        A single matrix.

    Raises
    ------
    ValueError
        For a plan with batched anchors.
    """

    def __init__(self, plan: Plan) -> None:
        if plan.batch_shape:
            raise ValueError(
                f"the plan holds a batch of shape {plan.batch_shape}, SciPy's LinearOperator is "
                "one matrix: make a plan of one of them"
            )
        self._plan = plan
        none = np.zeros((0, plan.shape[-1]), plan.dtype)
        super().__init__(dtype=plan.apply(none).dtype, shape=plan.shape)

    # A vector comes as [m] or [m, 1], a matrix as [m, k]: `.T` makes rows of each.

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
