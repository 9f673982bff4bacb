"""Exits outside Python's training world: a file for each segment, and a runner of them.

`export` cuts a model at its exits, as no exporter takes exits that depend on data, and writes ONNX
or ``torch.export`` files; `ExportedModel` runs one segment after the other with the samples that
are left. The runner needs NumPy and the runtime of the files alone, and a copy of it lies beside
them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .runner import ExportedModel as ExportedModel
    from .runner import ExportedPrediction as ExportedPrediction
    from .writing import export as export

__all__ = ["ExportedModel", "ExportedPrediction", "export"]

_HOME = {"ExportedModel": ".runner", "ExportedPrediction": ".runner", "export": ".writing"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
