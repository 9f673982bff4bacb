"""Codes of a stream of embeddings, batch by batch, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from .drift import Drift
from .fitted import Fitted
from .rows import Rows, as_rows


def rows_for(fitted: Fitted, embeddings: Any, *, device: Any = None, once: bool = True) -> Rows:
    """Return embeddings as batches in the precision of the model.

    Raises
    ------
    ValueError
        If the number of columns is not that of the fit.
    """
    rows = as_rows(embeddings, name="embeddings", device=device, dtype=fitted.dtype, once=once)
    if rows.dim != fitted.dim:
        raise ValueError(
            f"embeddings have {rows.dim} columns, but the model was fitted to {fitted.dim}: use "
            "the encoder of the fit"
        )
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
