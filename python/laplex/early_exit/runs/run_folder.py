"""What is in the folder of a training run, told without importing torch."""

from __future__ import annotations

from pathlib import Path

from .settings import RunSettings, read_settings

CONFIG, HISTORY, WEIGHTS, CHECKPOINTS = "config.yaml", "history.json", "weights.pt", "checkpoints"


def check_finished(folder: Path) -> None:
    """Check that a folder holds a run that is finished.

    Raises
    ------
    ValueError
        There is none, or it is not finished.
    """
    if not (folder / CONFIG).is_file():
        there = "holds no run" if folder.is_dir() else "is no folder"
        raise ValueError(f"{folder} {there}: pass one that `laplex exits train --out` wrote")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"the run in {folder} is not finished: go on with `laplex exits train --out "
            f"{folder} --resume`"
        )


def begun(out: Path) -> RunSettings | None:
    """The settings of the run that was begun in a folder, if there is one."""
    return read_settings(out / CONFIG) if (out / CONFIG).is_file() else None
