"""Codes of a stream of embeddings, batch by batch, in constant memory."""

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
    """Return embeddings as batches in the precision of the model.

    Raises
    ------
    ValueError
        If the number of columns is not that of the fit.
    """
    dtype = torch.as_tensor(cedar.mean_).dtype
    rows = as_rows(embeddings, name="embeddings", device=cedar.device, dtype=dtype, once=once)
    if rows.dim != cedar.n_features_in_:
        raise ValueError(
            f"embeddings have {rows.dim} columns, but the model was fitted to "
            f"{cedar.n_features_in_}: use the encoder of the fit"
        )
    return rows


def coded_batches(cedar: CEDAR, rows: Rows, ks: tuple[int, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Yield for each batch the embeddings [b, d], then their codes [b, d] for each k in ks.

    Warns
    -----
    DriftWarning
        After the last batch, as ``CEDAR.transform`` does.
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
    """Return the reconstructions [b, d] of codes [b, d]."""
    basis = cedar.basis_.to(codes.device, codes.dtype)
    return basis.synthesise(codes) + torch.as_tensor(cedar.mean_).to(codes.device)
