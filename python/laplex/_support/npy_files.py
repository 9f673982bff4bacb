"""Headers of .npy files, compared with the bytes that are there before memory is taken for them."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

#: Deflate makes no more of a byte than this.
_MOST_INFLATED = 1032
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_header(file: IO[bytes], nbytes: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of a .npy file of so many bytes.

    Returns
    -------
    tuple of (shape, whether it is in Fortran order, dtype)

    Raises
    ------
    ValueError
        If it is no header, or one of Python objects or of more numbers than the file has bytes for.
    """
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"its header has the version {version}, which is not one of numbers")
    shape, by_column, dtype = _HEADERS[version](file)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"it must hold numbers, got {dtype} of shape {list(shape)}")
    claimed, left = math.prod(shape) * dtype.itemsize, nbytes - file.tell()
    if claimed > left:
        raise ValueError(f"its header tells of {claimed} bytes of numbers, but there are {left}")
    return shape, by_column, dtype


def from_bytes(content: bytes) -> npt.NDArray[Any]:
    """Return the array in the bytes of a .npy file; errors as in `read_header`."""
    read_header(io.BytesIO(content), len(content))
    found: npt.NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return found


def check_member(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], bool, Any, int]:
    """Read the header of a .npy file in a .npz file.

    Returns
    -------
    tuple of (shape, whether it is in Fortran order, dtype, bytes of the header)

    Raises
    ------
    ValueError, zipfile.BadZipFile
        As in `read_header`, and if the archive cannot hold as much as it says, or not in this way.
    """
    member = archive.getinfo(name)
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in a way that NumPy does not use")
    if member.file_size > _MOST_INFLATED * member.compress_size + 1:
        raise ValueError(f"{name} says that it has {member.file_size} bytes, which do not fit")
    with archive.open(member) as file:
        header = read_header(file, member.file_size)
        return *header, file.tell()


def check_archive(path: Path) -> None:
    """Check the headers of all arrays of a .npz file; errors as in `check_member`."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".npy"):
                check_member(archive, name)
