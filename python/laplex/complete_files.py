"""Files that appear only when they are complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; what was written takes its place if all goes well.

    Raises
    ------
    OSError
        It can't be written there; before anything else is done.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"can't write {path}: there is no folder {folder}")
    if path.is_dir():
        raise IsADirectoryError(f"can't write {path}: it is a folder")
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(b"")
    except OSError as error:
        raise OSError(f"can't write {path}: {error.strerror}") from error
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
