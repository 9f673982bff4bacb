"""The analysis of a run of the command line: tables, numbers and figures in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._support.complete_files import replacing
from ..._support.html_pages import png_of
from ..dynamics import Analysis
from .run import read_json, write_json

FOLDER, FILE = "analysis", "analysis.json"


@dataclass(frozen=True, eq=False)
class RunAnalysis:
    """Result of ``laplex exits analyze`` for one run, ready for display.

    Tables and pictures (PNG files) are by the name of the measurement, `failures` are the reasons
    of those that failed, and `numbers` is the result of ``Analysis.to_dict()``.
    """

    tables: dict[str, str]
    pictures: dict[str, bytes]
    failures: dict[str, str]
    numbers: dict[str, Any]

    @classmethod
    def of(cls, analysis: Analysis) -> RunAnalysis:
        """Make the tables and figures of an analysis."""
        parts = analysis.parts()
        return cls(
            tables={name: part.table() for name, part in parts.items()},
            pictures={name: png_of(part.plot()) for name, part in parts.items()},
            failures=dict(analysis.failures),
            numbers=analysis.to_dict(),
        )

    def write(self, run: Path) -> Path:
        """Write it into the folder of a run, the numbers last; return the folder written to."""
        folder = run / FOLDER
        folder.mkdir(exist_ok=True)
        for name, content in self.pictures.items():
            with replacing(folder / f"{name}.png") as part:
                part.write_bytes(content)
        values = {"tables": self.tables, "failures": self.failures, "numbers": self.numbers}
        write_json(folder / FILE, {"kind": "laplex.early_exit.runs.run_analysis", **values})
        return folder

    @classmethod
    def read(cls, run: Path) -> RunAnalysis | None:
        """Read the analysis in the folder of a run; None if there is none."""

        def make(values: Any) -> RunAnalysis:
            tables = {str(name): str(text) for name, text in values["tables"].items()}
            pictures = {name: (run / FOLDER / f"{name}.png").read_bytes() for name in tables}
            failures = {str(name): str(why) for name, why in values["failures"].items()}
            return cls(tables, pictures, failures, dict(values["numbers"]))

        found: RunAnalysis | None = read_json(run / FOLDER / FILE, "analyze", make)
        return found
