"""The operator in the clothes of other libraries: SciPy's and GPyTorch's ``LinearOperator``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .optional import require
from .plan import Plan

if TYPE_CHECKING:
    import numpy.typing as npt

    from .operator import LaplaceOperator


def to_scipy(plan: Plan) -> Any:
    """Wrap a plan as a ``scipy.sparse.linalg.LinearOperator``, for SciPy's iterative solvers.

    Parameters
    ----------
    plan
        A single matrix ``[n, m]``.

    Returns
    -------
    scipy.sparse.linalg.LinearOperator
        With matvec, rmatvec, matmat and rmatmat, of the matrix's dtype. What it multiplies is
        converted to the plan's precision.

    Raises
    ------
    ImportError
        Without SciPy.
    ValueError
        For a plan with batched anchors.
    """
    linalg = require("scipy.sparse.linalg", extra="all", feature="laplex.adapters.to_scipy")
    if plan.batch_shape:
        raise ValueError(
            f"the plan holds a batch of shape {plan.batch_shape}, SciPy's LinearOperator is one "
            "matrix: make a plan of one of them"
        )
    real, complex_ = plan.dtype, np.result_type(plan.dtype, np.complex64)

    def converted(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.asarray(array, dtype=complex_ if np.iscomplexobj(array) else real)

    def apply(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        product: npt.NDArray[Any] = plan.apply(converted(array).T).T
        return product

    def adjoint(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        product: npt.NDArray[Any] = plan.adjoint(converted(array).T).T
        return product

    return linalg.LinearOperator(
        shape=plan.shape,
        dtype=plan.apply(np.zeros(plan.shape[-1], real)).dtype,
        # SciPy hands a vector over as [m] or [m, 1]; the transposes above suit both.
        matvec=apply,
        rmatvec=adjoint,
        matmat=apply,
        rmatmat=adjoint,
    )


def to_linear_operator(operator: LaplaceOperator) -> Any:
    """Wrap an operator as a ``linear_operator.LinearOperator``, as GPyTorch uses.

    Gradients flow to the operator's tensors. Only real matrices: the library has no complex ones.

    Raises
    ------
    ImportError
        Without the package ``linear_operator``.
    TypeError
        For a complex kernel without `real_part`.
    """
    require("linear_operator", extra="all", feature="laplex.adapters.to_linear_operator")
    from .gpytorch import LaplaceLinearOperator

    return LaplaceLinearOperator.of(operator)
