"""The state of the folder of a training run, read without importing torch."""

from __future__ import annotations

from pathlib import Path

from .settings import RunSettings, read_settings

CONFIG, HISTORY, WEIGHTS, CHECKPOINTS = "config.yaml", "history.json", "weights.pt", "checkpoints"


def check_finished(folder: Path) -> None:
    """Check that a folder holds a finished run.

    Raises
    ------
    ValueError
        If there is no run, or it is not finished.
    """
    if not (folder / CONFIG).is_file():
        there = "does not hold a run" if folder.is_dir() else "is not a folder"
        raise ValueError(f"{folder} {there}: pass one that `laplex exits train --out` wrote")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"the run in {folder} is not finished: continue it with `laplex exits train --out "
            f"{folder} --resume`"
        )


def begun(out: Path) -> RunSettings | None:
    """The settings of the run that was started in a folder, or None."""
    return read_settings(out / CONFIG) if (out / CONFIG).is_file() else None
