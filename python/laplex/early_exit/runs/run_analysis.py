"""The analysis of a run of the command line: tables, numbers and figures in its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._support.complete_files import replacing
from ..._support.html_pages import png_of
from ..dynamics import Analysis
from .run import write_json

FOLDER, FILE = "analysis", "analysis.json"
_KIND = "laplex.early_exit.runs.run_analysis"


@dataclass(frozen=True, eq=False)
class RunAnalysis:
    """Result of ``laplex exits analyze`` for one run, ready for display.

    Attributes
    ----------
    tables : dict of str to str
        Table of each measurement, by name.
    pictures : dict of str to bytes
        Figure of each measurement as a PNG file, by name.
    failures : dict of str to str
        The measurements that failed, and the reason.
    numbers : dict
        The result of ``Analysis.to_dict()``.
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
        values = {
            "kind": _KIND,
            "tables": self.tables,
            "failures": self.failures,
            "numbers": self.numbers,
        }
        write_json(folder / FILE, values)
        return folder

    @classmethod
    def read(cls, run: Path) -> RunAnalysis | None:
        """Read the analysis in the folder of a run, or return None if there is none.

        Raises
        ------
        ValueError
            If the file holds something else, or a figure is missing.
        """
        folder = run / FOLDER
        if not (folder / FILE).is_file():
            return None
        try:
            values = json.loads((folder / FILE).read_text("utf-8"))
            tables = {str(name): str(text) for name, text in values["tables"].items()}
            return cls(
                tables=tables,
                pictures={name: (folder / f"{name}.png").read_bytes() for name in tables},
                failures={str(name): str(why) for name, why in values["failures"].items()},
                numbers=dict(values["numbers"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError, FileNotFoundError) as error:
            raise ValueError(
                f"{folder} was not written by `laplex exits analyze` ({error}): analyse the run "
                "again"
            ) from error
