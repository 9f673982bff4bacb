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
    kernels, for products with low-rank and index kernels, for those products of its kernels that
    are terms of a `LaplaceGram`, and for noise, but for no other sums and products.

    For an exact result of a dense matrix in O(n^3), compute within
    ``with gpytorch.settings.fast_computations(False, False, False):``. This selects Cholesky
    factors. It is also what a larger ``gpytorch.settings.max_cholesky_size(n)`` does.
    """


_REMEDY = (
    "For exact results in O(n^3), compute within "
    "'with gpytorch.settings.fast_computations(False, False, False):', which selects Cholesky "
    "factors. See laplex.gram.ApproximationWarning for what is exact in O(n)"
)


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
                f"linear_operator approximates by {name} with {matrix} inside. {_REMEDY}",
                ApproximationWarning,
                stacklevel=2,
            )
            return


def warn_of_size(size: int, what: str) -> None:
    """Warn of a matrix without exact algebra, if it is too large for a Cholesky factor."""
    from linear_operator import settings

    most, fast = settings.max_cholesky_size.value(), settings.fast_computations
    kinds = (fast.covar_root_decomposition, fast.log_prob, fast.solves)
    if size > most and any(each.on() for each in kinds):
        warnings.warn(
            f"{what}, and linear_operator approximates such matrices of more than {most} rows. "
            f"{_REMEDY}",
            ApproximationWarning,
            stacklevel=3,
        )
