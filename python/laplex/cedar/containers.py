"""Files of embeddings, which are read in slices and never as a whole.

A file is opened as a *part*: it has a ``shape`` [n, d] and a ``dtype``, and ``part[a:b]`` reads
rows. A part with a method ``read`` is read faster in order. An archive has no number of rows; it is
opened as a `Stream`.
"""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from laplex._support.npy_files import check_member, from_bytes, read_header
from laplex._support.optional import require

from .files import find_files
from .tables import DatasetRows, columns_of, matrix, one_of

Array = npt.NDArray[Any]

#: What files may say that they hold, so that a few bytes cannot ask for all memory.
MOST_ROWS, MOST_COLUMNS, MOST_MEMBER = 2**40, 2**26, 2**30


@dataclass(frozen=True)
class Stream:
    """Rows that can only be read in their order, such as those of a loader.

    Attributes
    ----------
    dim : int
        Number of columns d.
    dtype : numpy or torch dtype
        Type of the numbers.
    read : callable
        ``read(size)`` returns arrays or tensors [b, d] of all rows, anew each time; where the
        number b is free it is at most ``size``.
    columns : list of str or None
        Names of the columns, if the first batch has any.
    """

    dim: int
    dtype: Any
    read: Callable[[int], Iterable[Any]]
    columns: list[str] | None = None


def open_files(source: Any, key: str | None) -> list[Any]:
    """Open the files that a path, a folder, a glob pattern or a list of them stands for.

    Parameters
    ----------
    source : str, path or sequence of them
        As in `laplex.cedar.Embeddings`.
    key : str, optional
        Name of the tensor, data set or column of lists in each file; not needed if there is only
        one.

    Returns
    -------
    list
        Parts and streams, all of the same width.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If the package is missing that reads them; the message names it.
    ValueError
        If a file holds no embeddings, or several; the message says what to do.
    """
    parts: list[Any] = []
    dim = 0
    found = find_files(source)
    for path in found:
        part = _opener(path)(path, key)
        if not isinstance(part, Stream):
            empty = part.shape[:1] == (0,) and (parts or path != found[-1])
            if empty:  # a shard that was left over
                continue
            _check(path, part.shape, part.dtype)
        width = part.dim if isinstance(part, Stream) else part.shape[1]
        if parts and width != dim:
            raise ValueError(
                f"{path} has {width} columns and the files before it have {dim}: all must have the "
                "same number"
            )
        if parts and getattr(part, "columns", None) != getattr(parts[0], "columns", None):
            raise ValueError(
                f"{path} has columns of other names, or in another order, than the files before "
                "it: write all with the same columns"
            )
        parts.append(part)
        dim = width
    return parts


def _opener(path: Path) -> Callable[[Path, str | None], Any]:
    if path.name.lower().endswith((".tar", ".tar.gz", ".tgz")):
        return _tar
    if path.is_dir() and path.suffix.lower() != ".zarr":
        return _dataset
    return {
        ".npy": _npy,
        ".npz": _Npz,
        ".safetensors": _Safetensors,
        ".parquet": _Parquet,
        ".h5": _Hdf5,
        ".hdf5": _Hdf5,
        ".zarr": _zarr,
    }[path.suffix.lower()]


def _check(path: Path, shape: Sequence[int], dtype: Any) -> None:
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"{path} must hold embeddings [n, d], one in each row, got shape {list(shape)}"
        )
    if isinstance(dtype, np.dtype) and dtype.kind not in "fiu":
        raise ValueError(f"{path} must hold real numbers, got {dtype}")
    if shape[1] > MOST_COLUMNS or shape[0] > MOST_ROWS:
        raise ValueError(
            f"{path} says that it holds {shape[0]} rows of {shape[1]} numbers: at most {MOST_ROWS} "
            f"rows of at most {MOST_COLUMNS} numbers are read"
        )


def _npy(path: Path, key: str | None) -> Array:
    if key is not None:
        raise ValueError(f"{path} holds one array: leave out the key {key!r}")
    with _reading(path, "a readable .npy file of numbers"):
        with path.open("rb") as file:
            read_header(file, path.stat().st_size)
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Name the file in errors: libraries raise as many kinds as there are ways to be damaged."""
    try:
        yield
    except (ImportError, MemoryError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(f"{path} is not {kind}, or it is damaged: {error}") from error


class _Npz:
    """An array of a .npz file, read from the archive as its rows are needed."""

    def __init__(self, path: Path, key: str | None) -> None:
        self._path = path
        with self._file() as archive:
            names = [name[:-4] for name in archive.namelist() if name.endswith(".npy")]
            self._member = one_of(str(path), "array", names, key) + ".npy"
            self.shape, by_column, self.dtype, self._start = check_member(archive, self._member)
        if by_column and min(self.shape, default=0) > 1:
            raise ValueError(
                f"{path} holds its array in Fortran order: write numpy.ascontiguousarray of it"
            )

    @contextmanager
    def _file(self) -> Iterator[zipfile.ZipFile]:
        with _reading(self._path, "a .npz file"), zipfile.ZipFile(self._path) as archive:
            yield archive

    def read(self, size: int) -> Iterator[Array]:
        """Yield the rows in their order, so that what is compressed is read once."""
        with self._file() as archive, archive.open(self._member) as file:
            file.seek(self._start)
            for start in range(0, self.shape[0], size):
                yield self._rows(file, min(size, self.shape[0] - start))

    def __getitem__(self, rows: slice) -> Array:
        start, stop, _ = rows.indices(self.shape[0])
        with self._file() as archive, archive.open(self._member) as file:
            file.seek(self._start + start * self.shape[1] * self.dtype.itemsize)
            return self._rows(file, stop - start)

    def _rows(self, file: Any, count: int) -> Array:
        content = file.read(count * self.shape[1] * self.dtype.itemsize)
        return np.frombuffer(content, self.dtype).reshape(count, self.shape[1])


class _Safetensors:
    """A tensor of a .safetensors file; each slice maps the file anew, so no pages stay behind."""

    def __init__(self, path: Path, key: str | None) -> None:
        self._path = path
        with self._file() as file:
            self._name = one_of(str(path), "tensor", sorted(file.keys()), key)
            part = file.get_slice(self._name)
            self.shape = tuple(part.get_shape())
            self.dtype = part[:1].dtype if self.shape else None

    def __getitem__(self, rows: slice) -> Any:
        with self._file() as file:
            return file.get_slice(self._name)[rows]

    @contextmanager
    def _file(self) -> Iterator[Any]:
        from safetensors import safe_open

        with (
            _reading(self._path, "a .safetensors file"),
            safe_open(self._path, framework="pt") as file,
        ):
            yield file


class _Parquet:
    """Columns of a .parquet file."""

    def __init__(self, path: Path, key: str | None) -> None:
        parquet = require("pyarrow.parquet", extra="parquet", feature=f"reading {path.name}")
        self._path = path
        with _reading(path, "a .parquet file"), parquet.ParquetFile(path) as file:
            self._chosen = columns_of(file.schema_arrow, key, str(path))
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            self._ends = np.cumsum([group.num_rows for group in groups])
            count = file.metadata.num_rows
        self.columns = None if isinstance(self._chosen, str) else self._chosen
        first = next(self.read(1), np.empty((0, 0)))
        self.shape, self.dtype = (count, first.shape[1]), first.dtype

    def read(self, size: int, groups: list[int] | None = None) -> Iterator[Array]:
        """Yield the rows of the file, or of some of its row groups, in their order."""
        parquet = require("pyarrow.parquet", extra="parquet")
        columns = [self._chosen] if isinstance(self._chosen, str) else self._chosen
        # With buffers, of 8 MiB together, a row group is read page by page and not as a whole.
        buffer = max(2**12, 2**23 // len(columns))
        with (
            _reading(self._path, "a .parquet file"),
            parquet.ParquetFile(self._path, pre_buffer=False, buffer_size=buffer) as file,
        ):
            for batch in file.iter_batches(
                size, columns=columns, row_groups=groups, use_threads=False
            ):
                yield matrix(batch, self._chosen, str(self._path))

    def __getitem__(self, rows: slice) -> Array:
        start, stop, _ = rows.indices(self.shape[0])
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right").tolist()
        place = int(self._ends[first - 1]) if first else 0
        parts = []
        for block in self.read(2**13, list(range(first, last + 1))):
            if place >= stop:
                break
            if place + len(block) > start:
                parts.append(block[max(0, start - place) : stop - place])
            place += len(block)
        return np.concatenate(parts)


class _Hdf5:
    """A data set of an HDF5 file."""

    def __init__(self, path: Path, key: str | None) -> None:
        h5py = require("h5py", extra="hdf5", feature=f"reading {path.name}")
        self._path = path
        names: list[str] = []
        key = (key or "").strip("/") or None

        def see(name: str, found: Any) -> None:
            if isinstance(found, h5py.Dataset) and (found.ndim == 2 or name == key):
                names.append(name)

        with _reading(path, "an HDF5 file"), h5py.File(path, "r") as file:
            file.visititems(see)
            if key and key in file and key not in names:  # a group
                names, key = [name for name in names if name.startswith(f"{key}/")], None
            self._name = one_of(str(path), "data set", names, key)
            self.shape, self.dtype = file[self._name].shape, file[self._name].dtype

    def __getitem__(self, rows: slice) -> Array:
        h5py = require("h5py", extra="hdf5")
        with _reading(self._path, "an HDF5 file"), h5py.File(self._path, "r") as file:
            found: Array = file[self._name][rows]
            return found


def _zarr(path: Path, key: str | None) -> Any:
    zarr = require("zarr", extra="zarr", feature=f"reading {path.name}")
    with _reading(path, "a zarr folder"):
        found = zarr.open(str(path), mode="r")
    if hasattr(found, "shape"):
        if key is not None:
            raise ValueError(f"{path} holds one array: leave out the key {key!r}")
        return found
    return found[one_of(str(path), "array", sorted(name for name, _ in found.arrays()), key)]


def _dataset(path: Path, key: str | None) -> DatasetRows:
    datasets = require("datasets", extra="datasets", feature=f"reading {path}")
    return DatasetRows(datasets.load_from_disk(str(path)), key, str(path))


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Read a file of rows; as nothing is written, the names in an archive do no harm."""
    if member.size > MOST_MEMBER:
        raise ValueError(
            f"{member.name} says that it has {member.size} bytes: put at most {MOST_MEMBER} into "
            "one file"
        )
    file = archive.extractfile(member) if member.isfile() else None
    if file is None:
        raise ValueError(f"{member.name} is a link or a folder")
    return file.read()


def _tar(path: Path, key: str | None) -> Stream:
    """Open an archive of .npy files, one for each row or batch, as WebDataset writes them."""

    def arrays() -> Iterator[tuple[str, Array]]:
        with _reading(path, "a .tar file"), tarfile.open(path, "r|*") as archive:
            for member in archive:
                # What follows the first dot names the kind of a file, and what precedes it the row.
                kind = os.path.basename(member.name).partition(".")[2]
                if kind.endswith("npy") and key in (None, kind, kind[:-4]):
                    yield kind, from_bytes(_content(archive, member))

    chosen, first = next(arrays(), ("", None))
    if first is None:
        raise ValueError(
            f"{path} has no .npy files" + (f" of the kind {key!r}: change the key" if key else "")
        )
    first = np.atleast_2d(first)
    _check(path, first.shape, first.dtype)

    def read(size: int) -> Iterator[Array]:
        rows: list[Array] = []
        for kind, array in arrays():
            if kind != chosen:
                one_of(str(path), "kind of .npy file", [chosen, kind], None)
            if array.ndim != 1:
                yield array
                continue
            rows.append(array)
            if len(rows) == size:
                yield np.stack(rows)
                rows = []
        if rows:
            yield np.stack(rows)

    return Stream(first.shape[1], first.dtype, read)
