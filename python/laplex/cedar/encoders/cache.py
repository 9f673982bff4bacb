"""Embeddings on disk: computed once, resumed where they stopped, checked whenever they are opened.

A finished set of embeddings is one file, ``<key>.npy``, which ``numpy.load`` reads; until it is
finished, its rows are in files ``<key>.<first>-<end>.npy``. Each file ends with the SHA-256 of all
bytes before: array and checksum come into being by one rename, so that several processes may fill
the same folder, and a file that is cut or altered is found out and made again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from io import BytesIO
from itertools import chain
from pathlib import Path
from uuid import uuid4

import numpy as np
import numpy.typing as npt

Embeddings = npt.NDArray[np.float32]

#: Rows in a file of an unfinished set. At 0.1 s an image, an interruption costs a minute at most.
_ROWS_A_PART = 512
_DTYPE = np.dtype("<f4")
_DIGEST_BYTES = hashlib.sha256().digest_size


def load_or_compute(
    folder: str | os.PathLike[str], key: str, count: int, compute: Callable[[int, int], Embeddings]
) -> Embeddings:
    """Return the embeddings [count, d] with a key, memory-mapped and read-only.

    Parameters
    ----------
    folder
        Made if it is not there.
    key
        Hash of everything that the embeddings depend on; the name of the file.
    count
        n.
    compute
        Given ``first, end``, computes the rows first..end-1, float32 [end - first, d]. Called for
        what is not on disk.

    Raises
    ------
    OSError
        A folder that cannot be made or written.
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
    """Write parts as one array with its checksum, all at once or not at all, and map it."""
    header = BytesIO()
    shape = (sum(len(part) for part in parts), parts[0].shape[1])
    np.lib.format.write_array_header_1_0(
        header, {"descr": _DTYPE.str, "fortran_order": False, "shape": shape}
    )
    # A file of one's own; in the same folder, as a rename is atomic within a file system only.
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            digest = hashlib.sha256()
            bodies = (part.astype(_DTYPE).tobytes() for part in parts)
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
    """Map the rows of a file, or return None where it is absent or not what was written."""
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
    if rows.ndim != 2 or len(rows) != count or rows.dtype != _DTYPE:
        return None
    return rows


def _mapped(path: Path) -> Embeddings:
    rows: Embeddings = np.load(path, mmap_mode="r", allow_pickle=False)
    return rows
