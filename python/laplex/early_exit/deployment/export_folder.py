"""The folder of an exported model: what it may replace, and that it appears complete.

Importing this imports no torch, so that a mistyped folder is answered at once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .runner import MANIFEST


def check_export_folder(path: Path, overwrite: bool) -> None:
    """Check that an exported model may take a place.

    Raises
    ------
    FileExistsError
        Something is there: a file, other files than those of an exported model, or an exported
        model without `overwrite`.
    NotADirectoryError
        A folder above it is a file.
    """
    if path.is_file():
        raise FileExistsError(f"{path} is a file: pass a folder")
    above = next(one for one in path.absolute().parents if one.exists())
    if not above.is_dir():
        raise NotADirectoryError(f"can't write {path}: {above} is a file")
    if not path.is_dir() or not any(path.iterdir()):
        return
    if not (path / MANIFEST).is_file():
        raise FileExistsError(
            f"{path} holds files that are not an exported model: give another folder"
        )
    if not overwrite:
        raise FileExistsError(f"{path} holds an exported model: pass overwrite=True to replace it")


@contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside `path` to write to; it takes its place if all goes well."""
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    part, old = (path.with_name(path.name + suffix) for suffix in (".part", ".old"))
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        yield part
        if path.exists():  # os.replace takes the place of empty folders alone
            shutil.rmtree(old, ignore_errors=True)
            os.replace(path, old)
        os.replace(part, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
