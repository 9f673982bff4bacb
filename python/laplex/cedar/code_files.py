"""Codes of many embeddings in files, written and read in memory that does not grow with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from laplex._support.complete_files import replacing
from laplex._support.npy_files import check_archive
from laplex._support.optional import require
from laplex._support.progress import progress_bar

from .coding import coded_batches, entries_of, joined, rows_for, sparse_matrix
from .estimator import CEDAR
from .settings import checked_ks

Array = npt.NDArray[Any]

#: The note in a parquet file that says how many axes the codes have.
_AXES = b"laplex.cedar.axes"


def write_codes(
    cedar: CEDAR,
    embeddings: object,
    out: str | os.PathLike[str],
    k: int | None = None,
    *,
    modality: str | None = None,
    progress: bool = False,
) -> int:
    """Write the signed codes of embeddings to a file, which appears when it is complete.

    Parameters
    ----------
    cedar : CEDAR
        A fitted model.
    embeddings : array-like, Tensor, path, table or batches ``[n, d]``
        Embeddings, of the same kind as those of the fit, in any form of `Embeddings`; a generator
        is accepted.
    out : path
        * A ``.parquet`` file holds a row for each code, with a column ``indices`` of lists of axes
          and a column ``values`` of lists of their coordinates, without zeros.
        * A ``.npz`` file holds a CSR matrix for ``scipy.sparse.load_npz``; its entries, at most n k
          of them, are in memory until they are written.
        * A ``.npy`` file holds all n d numbers, in the precision of the model.
    k : int, optional
        Number of nonzero entries; by default that of the fit.
    modality : str, optional
        Name of the kind of rows, as in ``CEDAR.transform``.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    int
        The number of rows n.

    Raises
    ------
    ImportError
        If pyarrow is missing for a ``.parquet`` file.
    ValueError
        If the number of columns is another, a value is not finite, or the suffix of ``out`` is
        another.
    """
    path = Path(out).expanduser()
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        raise ValueError(f"out must end in {', '.join(_WRITERS)}, got {path}")
    if suffix == ".parquet":
        require("pyarrow.parquet", extra="parquet", feature=f"writing {path.name}")
    fitted = cedar.fitted_.around(modality)
    rows = rows_for(fitted, embeddings, device=cedar.device)
    (entries,) = checked_ks(cedar.k_ if k is None else k, rows.dim)
    done = 0
    with replacing(path) as part, progress_bar(progress, extra="cedar") as report:

        def blocks() -> Iterator[Array]:
            nonlocal done
            for _, codes in coded_batches(fitted, rows, (entries,)):
                yield codes.cpu().numpy()
                done += len(codes)
                report("computing codes", done, rows.count, "")

        _WRITERS[suffix](part, blocks(), fitted.axes, entries)
    return done


def read_codes(path: str | os.PathLike[str]) -> Any:
    """Read codes that `write_codes` wrote.

    Parameters
    ----------
    path : path
        A ``.parquet``, ``.npz`` or ``.npy`` file.

    Returns
    -------
    scipy.sparse.csr_array or memory map ``[n, d]``
        The codes; those of a ``.npy`` file stay on the disk.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the suffix is another, or the file is not one of codes.
    """
    path = Path(path).expanduser()
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        raise ValueError(f"path must end in {', '.join(_WRITERS)}, got {path}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    other = f"{path} does not hold codes of CEDAR: write them with write_codes"
    try:
        if suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if suffix == ".npz":
            check_archive(path)
            loaded = scipy.sparse.load_npz(path)
            if loaded.format != "csr":  # to convert others is to trust their indices
                raise ValueError(other)
            codes = scipy.sparse.csr_array(loaded)
        else:
            parquet = require("pyarrow.parquet", extra="parquet", feature=f"reading {path.name}")
            codes = _from_table(parquet.read_table(path))
        codes.check_format()  # in full: an axis beyond the last one would be a read out of bounds
    except ImportError:
        raise
    except Exception as error:  # there are as many kinds as there are ways to be damaged
        raise ValueError(other) from error
    return codes


def _from_table(table: Any) -> Any:
    axes = int(table.schema.metadata[_AXES])
    indices, values = (table.column(name).combine_chunks() for name in ("indices", "values"))
    starts = np.concatenate([[0], np.cumsum(indices.value_lengths().to_numpy())])
    flat = (values.flatten().to_numpy(), indices.flatten().to_numpy(), starts)
    return scipy.sparse.csr_array(flat, shape=(len(table), axes))


def _write_npy(path: Path, blocks: Iterator[Array], dim: int, k: int) -> None:
    """Write the blocks one after the other, and their number of rows at last."""
    header = np.lib.format.write_array_header_1_0
    count = 0
    with path.open("wb") as file:
        for block in blocks:
            form = {"descr": block.dtype.str, "fortran_order": False}
            if not count:  # NumPy leaves room for any number of rows in it
                header(file, {**form, "shape": (0, dim)})
            block.tofile(file)
            count += len(block)
        file.seek(0)
        header(file, {**form, "shape": (count, dim)})


def _write_npz(path: Path, blocks: Iterator[Array], dim: int, k: int) -> None:
    entries = joined((entries_of(block, k) for block in blocks), None)
    with path.open("wb") as file:
        scipy.sparse.save_npz(file, sparse_matrix(entries, dim))


def _write_parquet(path: Path, blocks: Iterator[Array], dim: int, k: int) -> None:
    arrow = require("pyarrow", extra="parquet")
    parquet = require("pyarrow.parquet", extra="parquet")
    writer = None
    try:
        for block in blocks:
            codes = sparse_matrix(entries_of(block, k), dim)
            starts = codes.indptr.astype(np.int32)
            parts = {"indices": codes.indices.astype(np.int32), "values": codes.data}
            lists = {one: arrow.ListArray.from_arrays(starts, parts[one]) for one in parts}
            table = arrow.table(lists).replace_schema_metadata({_AXES: str(dim)})
            if writer is None:
                writer = parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


_WRITERS = {".parquet": _write_parquet, ".npz": _write_npz, ".npy": _write_npy}
