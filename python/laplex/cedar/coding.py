"""Codes of a stream of embeddings, batch by batch, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .drift import Drift
from .fitted import Fitted, Modality
from .rows import Rows, as_rows
from .statistics import gather

#: Rows on which the loss of a modality is measured.
_SAMPLE = 4096


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


def modality_of(fitted: Fitted, rows: Rows) -> Modality:
    """Return the mean, scale and loss of rows of another kind, from one pass over them.

    Raises
    ------
    ValueError
        If there are fewer than two rows, or all are the same.
    """
    known = gather(rows, _SAMPLE, torch.Generator().manual_seed(0))
    mean = known.mean.to("cpu", fitted.dtype)
    found = Modality(mean, known.scale, 0.0, known.count)
    there = replace(fitted, modalities={"": found}).around("")
    basis, centre = there.placed(rows.device)
    z = known.sample - centre
    error = z - basis.synthesise(basis.encode(z, fitted.k))
    spread = (known.sample - known.sample.mean(0)).double().square().sum()
    return replace(found, loss=float(error.double().square().sum() / spread))
