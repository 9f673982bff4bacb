"""Plans on a GPU, for the arrays of any library: CuPy, JAX, Numba, PyTorch.

Arrays are taken through ``__cuda_array_interface__`` or DLPack, without a copy; this module needs
NumPy alone. (PyTorch users have :func:`laplex.matvec`, which also differentiates.)
"""

from .plan import Array, Plan, PlanGradients, device_count

__all__ = ["Array", "Plan", "PlanGradients", "device_count"]
