"""Adapters to other libraries: SciPy's ``LinearOperator`` and that of GPyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._support.optional import require
from .numpy.plan import Plan

if TYPE_CHECKING:
    from .torch.operator import LaplaceOperator

__all__ = ["to_linear_operator", "to_scipy"]


def to_scipy(plan: Plan) -> Any:
    """Wrap a plan as a ``scipy.sparse.linalg.LinearOperator``, for SciPy's iterative solvers.

    Parameters
    ----------
    plan : laplex.Plan
        A plan of one matrix ``[n, m]``, without a batch.

    Returns
    -------
    scipy.sparse.linalg.LinearOperator
        An operator with ``matvec``, ``rmatvec``, ``matmat`` and ``rmatmat`` and the dtype of the
        matrix. It converts its operands to the plan's precision. Pickling and copying it includes
        the plan.

    Raises
    ------
    ImportError
        If SciPy is not installed.
    TypeError
        If ``plan`` is not a plan.
    ValueError
        If the plan has a batch of matrices.
    """
    if not isinstance(plan, Plan):
        raise TypeError(
            f"plan must be a laplex.Plan, got {type(plan).__name__}: build one from the anchors (a "
            "LaplaceGram has a method to_scipy() of its own)"
        )
    require("scipy.sparse.linalg", extra="gp", feature="laplex.adapters.to_scipy")
    from .numpy.scipy_operator import PlanLinearOperator

    return PlanLinearOperator(plan)


def to_linear_operator(operator: LaplaceOperator) -> Any:
    """Wrap an operator as a ``linear_operator.LinearOperator``, the matrix class of GPyTorch.

    Gradients flow to the operator's tensors.

    Parameters
    ----------
    operator : laplex.LaplaceOperator
        An operator with a real matrix, or a batch of them; the package has no complex matrices.

    Returns
    -------
    linear_operator.LinearOperator
        The same matrix, with the operator's batch.

    Raises
    ------
    ImportError
        If the package ``linear_operator`` is not installed.
    TypeError
        If the kernel is complex and the operator was built without ``real_part=True``.
    """
    require("linear_operator", extra="gp", feature="laplex.adapters.to_linear_operator")
    from .torch.linear_operator import LaplaceLinearOperator

    return LaplaceLinearOperator.of(operator)
