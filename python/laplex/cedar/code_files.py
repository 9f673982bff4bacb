"""Writing the codes of many embeddings to a file, in memory that does not grow with them."""

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
    """Write the signed codes of embeddings to a file, which appears when it is complete.

    Parameters
    ----------
    cedar : CEDAR
        A fitted model.
    embeddings : array, Tensor or memory map ``[n, d]``
        Embeddings, of the same kind as those of the fit.
    out : Path
        A ``.npy`` file holds all n d numbers, in the precision of the model. A ``.npz`` file holds
        a CSR matrix for ``scipy.sparse.load_npz``; its entries, at most n k of them, are in memory
        until they are written.
    k : int, optional
        Number of nonzero entries; by default that of the fit.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    int
        The number of rows n.

    Raises
    ------
    ValueError
        If the number of columns is another, a value is not finite, or the number of rows is
        unknown.
    """
    rows = rows_for(cedar.fitted_, embeddings, device=cedar.device)
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
        for _, codes in coded_batches(cedar.fitted_, rows, (entries,)):
            block = codes.cpu().numpy()
            if whole_file is not None:
                whole_file[done : done + len(block)] = block
            else:
                sparse.append(scipy.sparse.csr_array(block))
            done += len(block)
            report("computing codes", done, rows.count, "")
        if whole_file is not None:
            whole_file.flush()  # type: ignore[attr-defined]
            del whole_file
        else:
            with part.open("wb") as file:
                scipy.sparse.save_npz(file, scipy.sparse.vstack(sparse, format="csr"))
    return done
