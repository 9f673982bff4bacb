"""Exact Gaussian models with Laplace kernels.

`LaplaceGram` is a covariance matrix of points on a line, with the operations of a Gaussian in
linear time. It is a sum of terms: `Term`, `SHO`, `Matern32`, `Matern52`, `Celerite` and `Rotation`.
`LaplaceGPRegressor` is a Gaussian process regressor with scikit-learn's interface.
`LaplaceCovariance` is a covariance model of flattened images with learnable anchors, `History` is
the record of its fit, and `fit_coarse_to_fine` fits one to large images by way of small ones.
`MaternKernel`, `SHOKernel`, `LaplaceKernel`, `LaplaceSumKernel` and `LaplaceGramLinearOperator` are
for GPyTorch, and `ApproximationWarning` tells where GPyTorch approximates. Each name is imported at
its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .._support.optional import require

if TYPE_CHECKING:
    from ..torch.approximation import ApproximationWarning as ApproximationWarning
    from .basis import constant as constant
    from .basis import harmonics as harmonics
    from .basis import polynomial as polynomial
    from .conditional import Conditional as Conditional
    from .covariance import History as History
    from .covariance import LaplaceCovariance as LaplaceCovariance
    from .covariance import fit_coarse_to_fine as fit_coarse_to_fine
    from .gpytorch import LaplaceKernel as LaplaceKernel
    from .gpytorch import LaplaceSumKernel as LaplaceSumKernel
    from .gpytorch import MaternKernel as MaternKernel
    from .gpytorch import SHOKernel as SHOKernel
    from .laplace_gram import LaplaceGram as LaplaceGram
    from .linear_operator import LaplaceGramLinearOperator as LaplaceGramLinearOperator
    from .regressor import LaplaceGPRegressor as LaplaceGPRegressor
    from .terms import SHO as SHO
    from .terms import Celerite as Celerite
    from .terms import Matern32 as Matern32
    from .terms import Matern52 as Matern52
    from .terms import Rotation as Rotation
    from .terms import Term as Term
    from .terms import TermProduct as TermProduct
    from .terms import TermSum as TermSum

__all__ = [
    "SHO",
    "ApproximationWarning",
    "Celerite",
    "Conditional",
    "History",
    "LaplaceCovariance",
    "LaplaceGPRegressor",
    "LaplaceGram",
    "LaplaceGramLinearOperator",
    "LaplaceKernel",
    "LaplaceSumKernel",
    "Matern32",
    "Matern52",
    "MaternKernel",
    "Rotation",
    "SHOKernel",
    "Term",
    "TermProduct",
    "TermSum",
    "constant",
    "fit_coarse_to_fine",
    "harmonics",
    "polynomial",
]

# For each name its module, and what it needs besides torch: (module to find, extra).
_HOME: dict[str, tuple[str, tuple[str, str] | None]] = {
    "ApproximationWarning": ("..torch.approximation", None),
    "Celerite": (".terms", None),
    "Conditional": (".conditional", None),
    "History": (".covariance", None),
    "LaplaceCovariance": (".covariance", None),
    "LaplaceGPRegressor": (".regressor", ("sklearn", "gp")),
    "LaplaceGram": (".laplace_gram", None),
    "LaplaceGramLinearOperator": (".linear_operator", ("linear_operator", "gp")),
    "LaplaceKernel": (".gpytorch", ("gpytorch", "gp")),
    "LaplaceSumKernel": (".gpytorch", ("gpytorch", "gp")),
    "Matern32": (".terms", None),
    "Matern52": (".terms", None),
    "MaternKernel": (".gpytorch", ("gpytorch", "gp")),
    "Rotation": (".terms", None),
    "SHO": (".terms", None),
    "SHOKernel": (".gpytorch", ("gpytorch", "gp")),
    "Term": (".terms", None),
    "constant": (".basis", None),
    "fit_coarse_to_fine": (".covariance", None),
    "harmonics": (".basis", None),
    "polynomial": (".basis", None),
    "TermProduct": (".terms", None),
    "TermSum": (".terms", None),
}


def __getattr__(name: str) -> Any:
    try:
        module, needed = _HOME[name]
    except KeyError:
        raise AttributeError(f"module 'laplex.gram' has no attribute {name!r}") from None
    require("torch", extra="torch", feature=f"laplex.gram.{name}")
    if needed is not None:
        require(needed[0], extra=needed[1], feature=f"laplex.gram.{name}")
    value = getattr(import_module(module, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
