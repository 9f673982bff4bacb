"""Plans on a GPU for the arrays of any library: CuPy, JAX, Numba, PyTorch.

This module takes arrays through ``__cuda_array_interface__`` or DLPack, without copying them. It
needs only NumPy. With PyTorch you can also use `laplex.matvec`, which is differentiable.
"""

from .. import _core
from .array import Array
from .plan import Plan, PlanGradients

__all__ = ["Array", "Plan", "PlanGradients", "device_count"]


def device_count() -> int:
    """Return the number of usable GPUs; 0 without a driver or in a build without CUDA."""
    return _core.cuda_device_count()
