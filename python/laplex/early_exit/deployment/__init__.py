"""Export of models with exits: one file for each segment, and a runner for these files.

Exporters do not support exits that depend on the data. `export` therefore cuts the model at its
exits, and writes the segments as ONNX or ``torch.export`` files. `ExportedModel` runs one segment
after another with the samples that have not left. The runner needs only NumPy and the runtime of
the files; a copy of it is written next to them.
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
