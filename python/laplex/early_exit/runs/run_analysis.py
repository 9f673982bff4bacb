"""Look inside a run of the command line: tables, numbers and pictures, kept in its folder."""

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
    """What ``laplex exits analyze`` found of one run, ready to be shown.

    Attributes
    ----------
    tables : dict of str to str
        By the names of the measurements.
    pictures : dict of str to bytes
        PNG files, of the same names.
    failures : dict of str to str
        Measurements that failed, and why.
    numbers : dict
        ``Analysis.to_dict()``.
    """

    tables: dict[str, str]
    pictures: dict[str, bytes]
    failures: dict[str, str]
    numbers: dict[str, Any]

    @classmethod
    def of(cls, analysis: Analysis) -> RunAnalysis:
        """Draw an analysis."""
        parts = analysis.parts()
        return cls(
            tables={name: part.table() for name, part in parts.items()},
            pictures={name: png_of(part.plot()) for name, part in parts.items()},
            failures=dict(analysis.failures),
            numbers=analysis.to_dict(),
        )

    def write(self, run: Path) -> Path:
        """Put it into a run's folder, the numbers last; returns where."""
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
        """That of a run's folder, or None where it was not analysed.

        Raises
        ------
        ValueError
            The file holds something else, or a picture is missing.
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
                f"{folder} is not what `laplex exits analyze` writes ({error}): analyse the run "
                "again"
            ) from error
