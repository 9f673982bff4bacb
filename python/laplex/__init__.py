"""Exact products with learnable Laplace-kernel matrices in O(n) time.

Laplex implements the operator class of arXiv 2605.24584. It computes ``u = K v`` with ::

    K[i, j] = exp(-(1/lengthscale - i frequency) |x_i - y_j|)
              * exp(i (target_phase_i - source_phase_j))

The time is linear in the number of targets ``x`` and sources ``y`` once both are sorted.

``import laplex`` needs only NumPy. The names that need PyTorch (``matvec``, ``LaplaceOperator``,
``gram``, ``nn``, ``order``, ``sliced``, ``cedar``, ``early_exit``) are imported when they are
first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _core
from ._support.moved_modules import MOVED, keep_old_names
from ._support.optional import installed, require
from .numpy.plan import Plan, PlanGradients

if TYPE_CHECKING:
    from . import adapters as adapters
    from . import cedar as cedar
    from . import cuda as cuda
    from . import distributed as distributed
    from . import early_exit as early_exit
    from . import gram as gram
    from . import nn as nn
    from . import order as order
    from . import plan_cache as plan_cache
    from . import sliced as sliced
    from .torch.functional import matvec as matvec
    from .torch.log_product import logmatvec as logmatvec
    from .torch.operator import LaplaceOperator as LaplaceOperator

__version__: str = _core.__version__

__all__ = [
    "LaplaceOperator",
    "Plan",
    "PlanGradients",
    "__version__",
    "adapters",
    "cedar",
    "cuda",
    "distributed",
    "early_exit",
    "gram",
    "logmatvec",
    "matvec",
    "nn",
    "order",
    "plan_cache",
    "sliced",
]

# The module and attribute behind each lazy name; None stands for the module itself.
_LAZY: dict[str, tuple[str, str | None]] = {
    "LaplaceOperator": (".torch.operator", "LaplaceOperator"),
    "adapters": (".adapters", None),
    "cedar": (".cedar", None),
    "cuda": (".cuda", None),
    "distributed": (".distributed", None),
    "early_exit": (".early_exit", None),
    "gram": (".gram", None),
    "logmatvec": (".torch.log_product", "logmatvec"),
    "matvec": (".torch.functional", "matvec"),
    "nn": (".nn", None),
    "order": (".order", None),
    "plan_cache": (".plan_cache", None),
    "sliced": (".sliced", None),
}
_EXTRAS = {"cedar": "cedar", "early_exit": "exits"}
_WITHOUT_TORCH = frozenset({"adapters", "cuda", "distributed", "plan_cache"})

if not installed("torch"):  # a star import must not fail on names that need torch
    __all__ = [name for name in __all__ if name not in _LAZY or name in _WITHOUT_TORCH]


keep_old_names()


def __getattr__(name: str) -> Any:
    if f"{__name__}.{name}" in MOVED:
        return import_module(f"{__name__}.{name}")
    try:
        module, attribute = _LAZY[name]
    except KeyError:
        raise AttributeError(f"module 'laplex' has no attribute {name!r}") from None
    if name not in _WITHOUT_TORCH:
        require("torch", extra=_EXTRAS.get(name, "torch"), feature=f"laplex.{name}")
    value: Any = import_module(module, __name__)
    if attribute is not None:
        value = getattr(value, attribute)
    globals()[name] = value  # so that later look-ups do not call this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
