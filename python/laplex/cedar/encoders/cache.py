"""A cache of embeddings on disk, which resumes interrupted runs and checks files when opened.

A finished set of embeddings is one file, ``<key>.npy``, which ``numpy.load`` reads. Until it is
finished, its rows are in files ``<key>.<first>-<end>.npy``. Each file ends with the SHA-256 of all
bytes before it, and appears by one rename. So several processes may fill the same folder, and a
file that was cut or altered is detected and computed again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

Embeddings = npt.NDArray[np.floating[Any]]

#: Rows in a file of an unfinished set. At 0.1 s per image, an interruption costs at most a minute.
_ROWS_A_PART = 512
_DIGEST_BYTES = hashlib.sha256().digest_size


def load_or_compute(
    folder: str | os.PathLike[str], key: str, count: int, compute: Callable[[int, int], Embeddings]
) -> Embeddings:
    """Return the embeddings [count, ...] of a key, memory-mapped and read-only.

    Parameters
    ----------
    folder : path
        Folder of the cache; it is made if it does not exist.
    key : str
        Hash of everything that the embeddings depend on, used as the name of the file.
    count : int
        Number of embeddings.
    compute : callable
        ``compute(first, end)`` returns the rows first to end - 1, of shape [end - first, ...]. It
        is called for rows that are not on disk.

    Raises
    ------
    OSError
        If the folder cannot be made or written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / f"{key}.npy"
    rows = _open(whole, count)
    if rows is not None:
        return rows

    paths, parts = [], []
    for first in range(0, count, _ROWS_A_PART):
        end = min(first + _ROWS_A_PART, count)
        path = folder / f"{key}.{first}-{end}.npy"
        part = _open(path, end - first)
        if part is None:
            rows = _open(whole, count)  # another process may have finished, and removed its parts
            if rows is not None:
                return rows
            part = _write(path, [compute(first, end)])
        paths.append(path)
        parts.append(part)
    _write(whole, parts)
    for path in paths:
        path.unlink(missing_ok=True)
    return _mapped(whole)


def _write(path: Path, parts: list[Embeddings]) -> Embeddings:
    """Write parts as one array with its checksum, completely or not at all, and map it."""
    header = BytesIO()
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    dtype = parts[0].dtype.newbyteorder("<")
    np.lib.format.write_array_header_1_0(
        header, {"descr": dtype.str, "fortran_order": False, "shape": shape}
    )
    # In the same folder, because a rename is atomic only within a file system.
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            digest = hashlib.sha256()
            bodies = (part.astype(dtype).tobytes() for part in parts)
            for data in chain([header.getvalue()], bodies):
                digest.update(data)
                file.write(data)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the name without the content
        rows = _mapped(temporary)  # before anyone else can remove it
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def _open(path: Path, count: int) -> Embeddings | None:
    """Map the rows of a file, or return None if it is absent or not what was written."""
    try:
        size = path.stat().st_size
        digest, left = hashlib.sha256(), size - _DIGEST_BYTES
        with path.open("rb") as file:
            while left > 0 and (block := file.read(min(left, 2**22))):
                digest.update(block)
                left -= len(block)
            if left != 0 or file.read() != digest.digest():
                return None
        rows = _mapped(path)
    except (FileNotFoundError, ValueError):
        return None
    return rows if len(rows) == count else None


def _mapped(path: Path) -> Embeddings:
    rows: Embeddings = np.load(path, mmap_mode="r", allow_pickle=False)
    return rows
