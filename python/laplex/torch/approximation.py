"""`ApproximationWarning`: GPyTorch approximates where Laplex has no exact algebra."""

from __future__ import annotations

import sys
import warnings

# The functions of the package `linear_operator` that multiply by a matrix again and again.
_ITERATIONS = frozenset(
    {"linear_cg", "lanczos_tridiag", "minres", "contour_integral_quad", "stochastic_lq"}
)


class ApproximationWarning(UserWarning):
    """GPyTorch solves, factorises or samples a matrix with one of Laplex's inside by iterations.

    Conjugate gradients and Lanczos iterations give approximate and, for log determinants, random
    results. Laplex has exact algebra for sums of its kernels on the same inputs and of low-rank
    kernels, for products with low-rank and index kernels, and for noise, but for no other sums and
    products. ``gpytorch.settings.fast_computations(False, False, False)`` selects Cholesky factors.
    """


def warn_of_iterations(matrix: str) -> None:
    """Warn if an iterative method of ``linear_operator`` is among the callers.

    The methods that the package calls for a product are the same for a single product, which is
    exact, and for those of an iteration, so that only the stack of calls tells them apart.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        name = frame.f_code.co_name
        if name in _ITERATIONS and "linear_operator" in frame.f_code.co_filename:
            warnings.warn(
                f"linear_operator approximates by {name} with {matrix} inside. See "
                "laplex.gram.ApproximationWarning for what is exact. "
                "gpytorch.settings.fast_computations(False, False, False) selects Cholesky factors",
                ApproximationWarning,
                stacklevel=2,
            )
            return


def warn_of_size(size: int, most: int, what: str) -> None:
    """Warn of a matrix that has no exact algebra and is too large for a Cholesky factor."""
    if size > most:
        warnings.warn(
            f"{what}: linear_operator approximates matrices of more than {most} rows, unless "
            "gpytorch.settings.fast_computations(False, False, False) selects Cholesky factors",
            ApproximationWarning,
            stacklevel=3,
        )
