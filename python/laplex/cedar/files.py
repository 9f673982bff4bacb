"""Finding files of embeddings, models and pictures, and reading lines of text."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._support.model_files import CONFIG, TENSORS

#: Suffixes of files of embeddings; see `laplex.cedar.containers`.
SUFFIXES = (
    ".npy",
    ".npz",
    ".safetensors",
    ".parquet",
    ".h5",
    ".hdf5",
    ".zarr",
    ".tar",
    ".tar.gz",
    ".tgz",
)
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def find_files(source: Any) -> list[Path]:
    """List the files of embeddings that a path stands for, in the order of their names.

    Numbers in names count by their value: p2.npy comes before p10.npy.

    Parameters
    ----------
    source : str, path or sequence of them
        A file; a folder of them; a pattern such as ``shards/*.npy``, where ``**`` stands for any
        folders; or several of these, which keep their order. A ``.zarr`` folder and a folder that
        ``datasets.Dataset.save_to_disk`` wrote count as files.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If one has another suffix, or the files of a folder have several.
    """
    if isinstance(source, Sequence) and not isinstance(source, str):
        return [path for one in source for path in find_files(one)]
    path = Path(source).expanduser()
    if path.is_dir() and path.suffix.lower() != ".zarr" and not (path / "state.json").is_file():
        found = sorted(filter(_is_readable, path.iterdir()), key=_natural)
        kinds = sorted({one.suffix.lower() for one in found})
        if len(kinds) > 1:
            raise ValueError(
                f"{path} holds files of several kinds ({', '.join(kinds)}): pass a pattern, such "
                f"as {path / ('*' + kinds[0])}"
            )
    elif not path.exists() and glob.has_magic(str(path)):
        found = sorted(map(Path, glob.glob(str(path), recursive=True)), key=_natural)
    else:
        _check_file(path, folder=True)
        found = [path]
    if not found:
        deeper = path.is_dir() and any(one.is_dir() for one in path.iterdir())
        more = f": pass {path / '**' / '*.npy'} for those in its folders" if deeper else ""
        raise FileNotFoundError(
            f"there is no file of embeddings at {path} ({', '.join(SUFFIXES)}){more}"
        )
    for one in found:
        if not _is_readable(one) and not (one / "state.json").is_file():
            raise ValueError(
                f"{one} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}: numpy.save "
                "writes a .npy file"
            )
    return found


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
    """List the pictures in a folder, in the order of their names, with numbers by value.

    Raises
    ------
    NotADirectoryError, ValueError
        If there is no such folder, or no picture in it.
    """
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file: pass a folder")
    if not folder.is_dir():
        raise NotADirectoryError(f"there is no folder {folder}")
    pictures = (path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    found = sorted(pictures, key=_natural)
    if not found:
        raise ValueError(f"{folder} holds no pictures ({', '.join(PICTURES)})")
    return found


# --- inside ---------------------------------------------------------------------------------------


def _is_readable(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def _natural(path: Path) -> tuple[list[Any], str]:
    """Order names with the numbers in them by value; equal ones by their text."""
    pieces = re.split(r"(\d+)", str(path))
    return [int(one) if one.isdecimal() else one for one in pieces], str(path)


def _check_file(path: Path, *, folder: bool = False) -> None:
    """Check that a file exists, or a folder if that is right too."""
    if path.is_dir() and not folder:
        raise IsADirectoryError(f"{path} is a folder: pass a file")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
