"""Codes of many embeddings as a file, in memory that does not grow with their number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.sparse

from laplex._support.complete_files import replacing
from laplex._support.progress import progress_bar

from .coding import coded_batches, rows_for
from .estimator import CEDAR
from .settings import checked_ks


def write_codes(
    cedar: CEDAR, embeddings: object, out: Path, k: int | None = None, *, progress: bool = False
) -> int:
    """Write the signed codes [n, d] of embeddings [n, d]; the file appears when it is complete.

    Parameters
    ----------
    embeddings : array, Tensor or memory map ``[n, d]``
    out
        ``.npy``: all n d numbers, in the model's precision. ``.npz``: a CSR matrix for
        `scipy.sparse.load_npz`; its at most n k entries are in memory until they are written.
    k
        None: that of the fit.

    Returns
    -------
    int
        n.

    Raises
    ------
    ValueError
        Another number of columns, values that are not finite, or a count of rows that is unknown.
    """
    rows = rows_for(cedar, embeddings)
    if rows.count is None:
        raise ValueError(
            "embeddings come in batches, so their number is unknown: pass an array instead"
        )
    (entries,) = checked_ks(cedar.k_ if k is None else k, rows.dim)
    dtype = cedar.mean_.dtype
    with replacing(out) as part, progress_bar(progress, extra="cedar") as report:
        whole_file: npt.NDArray[np.floating] | None = None
        sparse: list[scipy.sparse.csr_array] = []
        if out.suffix == ".npy":
            whole_file = np.lib.format.open_memmap(
                part, mode="w+", dtype=dtype, shape=(rows.count, rows.dim)
            )
        done = 0
        for _, codes in coded_batches(cedar, rows, (entries,)):
            block = codes.cpu().numpy()
            if whole_file is not None:
                whole_file[done : done + len(block)] = block
            else:
                sparse.append(scipy.sparse.csr_array(block))
            done += len(block)
            report("codes", done, rows.count, "")
        if whole_file is not None:
            whole_file.flush()  # type: ignore[attr-defined]
            del whole_file
        else:
            with part.open("wb") as file:
                scipy.sparse.save_npz(file, scipy.sparse.vstack(sparse, format="csr"))
    return done
