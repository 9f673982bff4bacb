"""Plans on a GPU, for the arrays of any library: CuPy, JAX, Numba, PyTorch.

Arrays are taken through ``__cuda_array_interface__`` or DLPack, without a copy; this module needs
NumPy alone. (PyTorch users have :func:`laplex.matvec`, which also differentiates.)
"""

from .. import _core
from .array import Array
from .plan import Plan, PlanGradients

__all__ = ["Array", "Plan", "PlanGradients", "device_count"]


def device_count() -> int:
    """How many GPUs can be used; 0 without a driver, or in a build for the CPU alone."""
    return _core.cuda_device_count()
