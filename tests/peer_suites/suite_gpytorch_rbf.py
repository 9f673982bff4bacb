"""GPyTorch's tests of kernels with a Matern or an RBF kernel inside, with Laplex's in both places.

Many tests of sums, scales and grids have an RBF kernel inside, for which a Matern-1/2 kernel stands
here. With ``OWN=1`` in the environment, it is GPyTorch's own, and nothing of Laplex is used, which
shows what the substitution alone breaks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gpytorch

FILES = (
    "additive_and_product_kernels",
    "arc_kernel",
    "constant_kernel",
    "cylindrical_kernel",
    "grid_interpolation_kernel",
    "grid_kernel",
    "matern_kernel",
    "newton_girard_additive_kernel",
    "scale_kernel",
)

_OWN = "GPyTorch's own Matern kernel fails, too"
_NUMBERS = f"the numbers are those of the RBF kernel; {_OWN}"
_PRODUCT = f"only the RBF kernel is a product over the columns of the inputs; {_OWN}"
EXPLANATIONS = {
    "radial_basis_function": _NUMBERS,
    "TestGridInterpolationKernel": _PRODUCT,
    "TestGridKernel::test_grid_grid": _PRODUCT,
    "TestNewtonGirardAdditiveKernel::test_degree": _PRODUCT,
    "TestScaleKernel::test_ard": _NUMBERS,
    "TestScaleKernel::test_no_batch_kernel_double_batch_x_ard": "float32 distances of GPyTorch in "
    f"two dimensions; {_OWN}",
}


def prepare(clone: Path) -> list[str]:
    """Put the kernels in place, and return the test files."""
    matern = gpytorch.kernels.MaternKernel
    if not os.environ.get("OWN"):
        from laplex.gram import MaternKernel as matern

    class Rough(matern):
        def __init__(self, **options: Any) -> None:
            super().__init__(nu=0.5, **options)

    Rough.__qualname__ = Rough.__name__ = "Rough"
    globals()["Rough"] = Rough  # where pickle finds it
    gpytorch.kernels.RBFKernel = Rough
    gpytorch.kernels.MaternKernel = matern
    folder = clone / "test" / "kernels"
    return [str(folder / f"test_{name}.py") for name in FILES]
