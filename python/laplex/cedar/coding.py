"""Codes of a stream of embeddings, batch by batch: what `CEDAR.transform` does, in O(1) memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .drift import Drift
from .rows import Rows, as_rows

if TYPE_CHECKING:
    from .estimator import CEDAR


def rows_for(cedar: CEDAR, embeddings: Any, *, once: bool = True) -> Rows:
    """Embeddings as batches in the model's precision.

    Raises
    ------
    ValueError
        They have another number of columns than those of the fit.
    """
    dtype = torch.as_tensor(cedar.mean_).dtype
    rows = as_rows(embeddings, name="embeddings", device=cedar.device, dtype=dtype, once=once)
    if rows.dim != cedar.n_features_in_:
        raise ValueError(
            f"embeddings have {rows.dim} columns, but the model was fitted to "
            f"{cedar.n_features_in_}: embed them as those of the fit were"
        )
    return rows


def coded_batches(cedar: CEDAR, rows: Rows, ks: tuple[int, ...]) -> Iterator[tuple[Tensor, ...]]:
    """For each batch the embeddings [b, d], then their codes [b, d] of each size in ks.

    Warns
    -----
    DriftWarning
        As `CEDAR.transform`, after the last batch.
    """
    centre = torch.as_tensor(cedar.mean_).to(rows.device)
    basis = cedar.basis_.to(rows.device, rows.dtype)
    drift = Drift(cedar)
    for batch in rows.batches():
        z = batch - centre
        drift.see(z)
        yield (batch, *(basis.encode(z, k) for k in ks))
    drift.warn()


def restored(cedar: CEDAR, codes: Tensor) -> Tensor:
    """Reconstructions [b, d] of codes [b, d]."""
    basis = cedar.basis_.to(codes.device, codes.dtype)
    return basis.synthesise(codes) + torch.as_tensor(cedar.mean_).to(codes.device)
