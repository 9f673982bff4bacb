"""Codes of a stream of embeddings, batch by batch, in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from torch import Tensor

from .drift import Drift
from .fitted import Fitted, Modality
from .metrics import Reconstruction
from .rows import Rows, as_rows
from .statistics import gather

#: Rows on which the loss of a modality is measured.
_SAMPLE = 4096

Array = npt.NDArray[Any]


def rows_for(fitted: Fitted, embeddings: Any, *, device: Any = None, once: bool = True) -> Rows:
    """Return embeddings as batches in the precision of the model.

    Raises
    ------
    ValueError
        If the number of columns is not that of the fit, or their names or order are not.
    """
    rows = as_rows(embeddings, name="embeddings", device=device, dtype=fitted.dtype, once=once)
    if rows.dim != fitted.dim:
        raise ValueError(
            f"embeddings have {rows.dim} columns, but the model was fitted to {fitted.dim}: use "
            "the encoder of the fit"
        )
    rows.check_columns(fitted.columns)
    return rows


def coded_batches(fitted: Fitted, rows: Rows, ks: tuple[int, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Yield for each batch the embeddings [b, d], then their codes [b, d] for each k in ks.

    Warns
    -----
    DriftWarning
        After the last batch, as ``CEDAR.transform`` does.
    """
    basis, centre = fitted.placed(rows.device)
    drift = Drift(fitted)
    for batch in rows.batches():
        z = batch - centre
        drift.see(z)
        yield (batch, *(basis.encode(z, k) for k in ks))
    drift.warn()


def restored(fitted: Fitted, codes: Tensor) -> Tensor:
    """Return the reconstructions [b, d] of codes [b, d]."""
    basis, centre = fitted.placed(codes.device)
    return basis.synthesise(codes) + centre


def entries_of(codes: Array, k: int) -> tuple[Array, Array]:
    """Return the axes [b, k] as int32, in ascending order, and the values [b, k] of codes [b, d].

    A code with fewer than k nonzero entries is filled up with zeros on other axes.
    """
    kept = codes != 0
    if bool((kept.sum(1) == k).all()):
        axes = kept.nonzero()[1].reshape(-1, k)
    else:
        axes = (~kept).argsort(1, kind="stable")[:, :k]
    return axes.astype(np.int32), np.take_along_axis(codes, axes, 1)


def sparse_matrix(entries: Sequence[Array], dim: int) -> Any:
    """Return axes [n, k] and values [n, k] as a CSR array [n, d], without entries that are 0."""
    indices, values = entries
    count, k = indices.shape
    starts = np.arange(count + 1, dtype=np.int64) * k
    found = scipy.sparse.csr_array((values.ravel(), indices.ravel(), starts), shape=(count, dim))
    found.eliminate_zeros()
    found.sort_indices()
    return found


class SparseRows:
    """A SciPy matrix [n, d] whose slices are dense."""

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix.tocsr()
        self.shape, self.dtype = matrix.shape, matrix.dtype

    def __getitem__(self, rows: slice) -> Array:
        found: Array = self._matrix[rows].toarray()
        return found


def joined(blocks: Iterable[Sequence[Array]], count: int | None) -> list[Array]:
    """Join blocks of arrays [b, ...], which belong together, along their rows.

    If their number is known, each block is copied to its place as it comes, so that no more than
    the result and a block are in memory; else the result grows in place, by a half at a time.
    """
    found: list[Array] = []
    done = 0
    for block in blocks:
        size = len(block[0])
        if not found:
            found = [np.empty((count or size, *one.shape[1:]), one.dtype) for one in block]
        if done + size > len(found[0]):
            for one in found:
                one.resize((max(done + size, done + done // 2), *one.shape[1:]), refcheck=False)
        for one, part in zip(found, block, strict=True):
            one[done : done + size] = part
        done += size
    for one in found:
        if done < len(one):
            one.resize((done, *one.shape[1:]), refcheck=False)
    return found


def measured(fitted: Fitted, rows: Rows, ks: tuple[int, ...]) -> dict[int, Reconstruction]:
    """Measure the reconstructions at each k, in one pass; warn as `coded_batches` does."""
    found = {k: Reconstruction() for k in ks}
    for batch, *codes in coded_batches(fitted, rows, ks):
        for one, entries in zip(found.values(), codes, strict=True):
            one.update(batch, restored(fitted, entries))
    return found


def modality_of(fitted: Fitted, rows: Rows) -> Modality:
    """Return the mean, scale and loss of rows of another kind, from one pass over them.

    Raises
    ------
    ValueError
        If there are fewer than two rows, or all are the same.
    """
    known = gather(rows, _SAMPLE, torch.Generator().manual_seed(0))
    mean = known.mean.to("cpu", fitted.dtype)
    found = Modality(mean, known.scale, 0.0, known.count, known.log_norms)
    there = replace(fitted, modalities={"": found}).around("")
    basis, centre = there.placed(rows.device)
    z = known.sample - centre
    error = z - basis.synthesise(basis.encode(z, fitted.k))
    spread = (known.sample - known.sample.mean(0)).double().square().sum()
    return replace(found, loss=float(error.double().square().sum() / spread))
