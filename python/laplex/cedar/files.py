"""Reading embeddings, words and pictures from files."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from laplex._support.optional import require

_INDEX = re.compile(r"__index_level_\d+__")
#: The files of a model; see `laplex.cedar.storage`.
CONFIG, TENSORS = "config.json", "model.safetensors"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def read_embeddings(path: Path, key: str | None = None) -> Any:
    """Read embeddings [n, d] from a file.

    Parameters
    ----------
    path : Path
        A ``.npy`` file, which stays on the disk and is memory-mapped; a ``.safetensors`` file; or a
        ``.parquet`` file with columns of numbers, or with one column of lists of equal length.
    key : str, optional
        Name of the tensor or of the column of lists; not needed if there is only one.

    Returns
    -------
    memory map, Tensor or ndarray

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If pyarrow is missing.
    ValueError
        If the file holds no embeddings, or several; the message says what to do.
    """
    check_embeddings(path)
    found = _readers()[path.suffix](path, key)
    if len(found.shape) != 2 or 0 in found.shape:
        raise ValueError(
            f"{path} must hold embeddings [n, d], one in each row, got shape {list(found.shape)}"
        )
    return found


def check_embeddings(path: Path) -> None:
    """Check that a file exists and has a suffix that `read_embeddings` accepts.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If its suffix is another.
    """
    _check_file(path)
    if path.suffix not in _readers():
        raise ValueError(
            f"{path} must end in .npy, .safetensors or .parquet: numpy.save writes a .npy file"
        )


def check_model(folder: Path) -> None:
    """Check that a folder holds the files of a model, without reading them.

    Raises
    ------
    FileNotFoundError
        If one is missing.
    """
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no model of CEDAR: there is no {name} in it")


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file in UTF-8, without their line ends.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not UTF-8.
    """
    _check_file(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: convert it to UTF-8") from error
    # Not splitlines, which also cuts at characters that may stand within a text.
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def list_pictures(folder: Path) -> list[Path]:
    """List the pictures in a folder, in the order of their names.

    Raises
    ------
    NotADirectoryError, ValueError
        If there is no such folder, or no picture in it.
    """
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file: pass a folder")
    if not folder.is_dir():
        raise NotADirectoryError(f"there is no folder {folder}")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not found:
        raise ValueError(f"{folder} holds no pictures ({', '.join(PICTURES)})")
    return found


# --- inside ---------------------------------------------------------------------------------------


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: pass a file")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")


def _readers() -> dict[str, Callable[[Path, str | None], Any]]:
    return {".npy": _npy, ".safetensors": _safetensors, ".parquet": _parquet}


def _npy(path: Path, key: str | None) -> npt.NDArray[Any]:
    if key is not None:
        raise ValueError(f"{path} holds one array: leave out the key {key!r}")
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is not a readable .npy file of numbers: write it with numpy.save"
        ) from error
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{path} must hold real numbers, got {array.dtype}")
    return array


def _safetensors(path: Path, key: str | None) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = sorted(file.keys())
            return file.get_tensor(_one_of(path, "tensor", "", names, key))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a .safetensors file, or it is damaged: {error}") from error


def _parquet(path: Path, key: str | None) -> npt.NDArray[Any]:
    parquet = require("pyarrow.parquet", extra="parquet", feature=f"reading {path.name}")
    arrow = require("pyarrow", extra="parquet")
    compute = require("pyarrow.compute", extra="parquet")
    try:
        file = parquet.ParquetFile(path)
    except (arrow.ArrowException, ValueError) as error:
        raise ValueError(f"{path} is not a .parquet file, or it is damaged: {error}") from error
    types = arrow.types
    schema = {field.name: field.type for field in file.schema_arrow}
    lists = [name for name, kind in schema.items() if _is_list(types, kind)]
    # pandas writes the index of a filtered frame as a column of its own.
    numbers = [
        name
        for name, kind in schema.items()
        if (types.is_floating(kind) or types.is_integer(kind)) and not _INDEX.fullmatch(name)
    ]
    if key is not None or lists:
        name = _one_of(path, "column", "of lists", lists, key)
        column = file.read(columns=[name]).column(name).combine_chunks()
        flat, rows = column.flatten(), len(column)
        if column.null_count or flat.null_count:
            raise ValueError(f"{path} has missing values in {name!r}: remove such rows")
        lengths = set(compute.list_value_length(column).to_pylist())
        if len(lengths) > 1:
            raise ValueError(
                f"{path} has lists of {min(lengths)} to {max(lengths)} numbers in {name!r}: all "
                "lists must have the same length"
            )
        wide = flat.to_numpy(zero_copy_only=False)
        found: npt.NDArray[Any] = wide.reshape(rows, -1) if rows else wide.reshape(0, 0)
    else:
        if not numbers:
            raise ValueError(f"{path} has no columns of numbers and none of lists of numbers")
        whole = [name for name in numbers if types.is_integer(schema[name])]
        if whole and len(whole) < len(numbers):
            warnings.warn(
                f"{path}: columns of integers among columns of floats are taken as parts of the "
                f"embeddings ({', '.join(whole[:5])}). Remove them if they are labels or row "
                "numbers",
                UserWarning,
                stacklevel=2,
            )
        left = [name for name in schema if name not in numbers]
        if left:
            warnings.warn(
                f"{path}: columns that do not hold numbers are left out ({', '.join(left[:5])})",
                UserWarning,
                stacklevel=2,
            )
        table = file.read(columns=numbers)
        empty = [name for name in numbers if table.column(name).null_count]
        if empty:
            raise ValueError(f"{path} has missing values in {empty[0]!r}: remove such rows")
        found = np.column_stack([table.column(name).to_numpy() for name in numbers])
    if found.dtype.kind not in "fiu":
        raise ValueError(f"{path} must hold real numbers, got {found.dtype}")
    return np.ascontiguousarray(found)


def _is_list(types: Any, kind: Any) -> bool:
    listed = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(
        listed and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type))
    )


def _one_of(path: Path, what: str, more: str, names: list[str], key: str | None) -> str:
    """Return the key, or the only name there is."""
    listed = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
    if key is not None:
        if key not in names:
            kind = f"{what} {more}".rstrip()
            there = f"it has {listed}" if names else "it has none at all"
            raise ValueError(f"{path} has no {kind} {key!r} ({there}): change --key")
        return key
    if len(names) != 1:
        raise ValueError(
            f"{path} has {len(names)} {what}s {more}".rstrip()
            + f": {listed or 'none'}"
            + ("; choose one with --key" if names else "")
        )
    return names[0]
