"""tinygp's tests of its quasiseparable kernels and of the solvers that they are for."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import tinygp
import tinygp.solvers
import tinygp.solvers.kalman
from tinygp_shim import GaussianProcess, Solver, quasisep

_JAX = "jax.jit traces a kernel or a model, and those of Laplex are of torch"
_PRODUCT = "the product of a Matern-5/2 kernel and an oscillator, which Laplex refuses"
EXPLANATIONS = {
    "as_pytree": _JAX,
    "test_carma_jit": _JAX,
    "test_unsorted": f"{_JAX}; besides, Laplex takes points in any order",
    "test_carma_quads": "about attributes of tinygp's CARMA kernel; here, it is a sum of terms",
    "test_quasisep_kernels[kernel11]": _PRODUCT,
    "test_quasisep_kernels[kernel12]": _PRODUCT,
    "test_kalman.py::test_filter[kernel9]": _PRODUCT,
    "test_kalman.py::test_filter[kernel10]": _PRODUCT,
    "test_kalman.py::test_consistent_with_direct[kernel9]": _PRODUCT,
    "test_kalman.py::test_consistent_with_direct[kernel10]": _PRODUCT,
}


def prepare(clone: Path) -> list[str]:
    """Put the shim in the place of the kernels, their solvers and GaussianProcess."""
    jax.config.update("jax_enable_x64", True)
    sys.modules["tinygp.kernels.quasisep"] = tinygp.kernels.quasisep = quasisep
    tinygp.GaussianProcess = GaussianProcess
    tinygp.solvers.QuasisepSolver = tinygp.solvers.kalman.KalmanSolver = Solver
    tests = clone / "tests"
    return [
        str(tests / "test_kernels" / "test_quasisep.py"),
        str(tests / "test_solvers" / "test_quasisep" / "test_solver.py"),
        str(tests / "test_solvers" / "test_kalman.py"),
    ]
