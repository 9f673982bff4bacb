"""Exits outside Python's training world: a file for each segment, and a runner of them.

`export` cuts a model at its exits, as no exporter takes exits that depend on data, and writes ONNX
or ``torch.export`` files; `ExportedModel` runs one segment after the other with the samples that
are left. The runner needs NumPy and the runtime of the files alone, and a copy of it lies beside
them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._support.lazy_packages import lazy_names

if TYPE_CHECKING:
    from .runner import ExportedModel as ExportedModel
    from .runner import ExportedPrediction as ExportedPrediction
    from .writing import export as export

__all__, __getattr__, __dir__ = lazy_names(
    globals(), {".runner": "ExportedModel ExportedPrediction", ".writing": "export"}
)
