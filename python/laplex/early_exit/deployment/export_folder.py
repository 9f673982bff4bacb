"""The folder of an exported model: what it may replace, and how it appears only when complete.

Importing this does not import torch, so that a mistyped folder is reported at once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .runner import MANIFEST


def check_export_folder(path: Path, overwrite: bool) -> None:
    """Check that an exported model may be written to a path.

    Raises
    ------
    FileExistsError
        If the path is a file, a folder with files other than an exported model, or an exported
        model and `overwrite` is false.
    NotADirectoryError
        If one of its parents is a file.
    """
    if path.is_file():
        raise FileExistsError(f"{path} is a file: pass a folder")
    above = next(one for one in path.absolute().parents if one.exists())
    if not above.is_dir():
        raise NotADirectoryError(f"{path} cannot be written: {above} is a file")
    if not path.is_dir() or not any(path.iterdir()):
        return
    if not (path / MANIFEST).is_file():
        raise FileExistsError(
            f"{path} holds files that are not an exported model: pass another folder"
        )
    if not overwrite:
        raise FileExistsError(f"{path} holds an exported model: pass overwrite=True to replace it")


@contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to write to; it replaces `path` if no exception occurs."""
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    part, old = (path.with_name(path.name + suffix) for suffix in (".part", ".old"))
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        if path.exists():  # os.replace can replace only empty folders
            shutil.rmtree(old, ignore_errors=True)
            os.replace(path, old)
        os.replace(part, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
