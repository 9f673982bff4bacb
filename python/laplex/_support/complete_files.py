"""Files that appear only when they are complete."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from laplex._support.processes import processes


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to, which replaces ``path`` on success.

    Raises
    ------
    OSError
        If the file cannot be written; raised before anything else is done.
    """
    check_writable(path)
    part = _part(path)
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Check that a file can be written, without leaving anything behind.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {folder}")
    if path.is_dir():
        raise IsADirectoryError(f"cannot write {path}: it is a folder")
    part = _part(path)
    try:
        part.write_bytes(b"")
        part.unlink()
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}") from error


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove the empty ones of some folders, which are given innermost first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()  # refuses a folder that is not empty


def _part(path: Path) -> Path:
    found = processes()
    # All ranks may write one file: each completes its own, and the last one stays.
    mine = f".{found.rank}" if found is not None and found.rank else ""
    return path.with_name(f"{path.name}{mine}.part")
