"""The operator in the clothes of other libraries: SciPy's and GPyTorch's ``LinearOperator``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._support.optional import require
from .numpy.plan import Plan

if TYPE_CHECKING:
    from .torch.operator import LaplaceOperator


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
        converted to the plan's precision. It can be pickled and copied, the plan with it.

    Raises
    ------
    ImportError
        Without SciPy.
    TypeError
        For anything but a plan.
    ValueError
        For a plan with batched anchors.
    """
    if not isinstance(plan, Plan):
        raise TypeError(
            f"plan must be a laplex.Plan, got {type(plan).__name__}: make one of the anchors; a "
            "LaplaceGram has a method to_scipy()"
        )
    require("scipy.sparse.linalg", extra="all", feature="laplex.adapters.to_scipy")
    from .numpy.scipy_operator import PlanLinearOperator

    return PlanLinearOperator(plan)


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
    from .torch.linear_operator import LaplaceLinearOperator

    return LaplaceLinearOperator.of(operator)
