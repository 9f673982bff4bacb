"""One pass over embeddings before any training: mean, size, a sample, and whether they will do."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from .rows import Rows


class ConstantColumnWarning(UserWarning):
    """Some columns of the embeddings have the same value in every row."""


@dataclass(frozen=True)
class Statistics:
    """What a pass over embeddings [n, d] tells.

    Attributes
    ----------
    count : int
        n.
    mean : Tensor [d]
        float64.
    scale : float
        Root of the mean square norm of centred rows: the root of their total variance.
    sample : Tensor [m, d]
        Rows drawn uniformly without replacement, in their order; all of them when there are no
        more than asked for.
    """

    count: int
    mean: Tensor
    scale: float
    sample: Tensor


def gather(rows: Rows, sample_size: int, generator: torch.Generator) -> Statistics:
    """Go once through embeddings.

    Raises
    ------
    ValueError
        NaN or an infinity, fewer than two rows, or rows that are all the same.

    Warns
    -----
    ConstantColumnWarning
    """
    count = 0
    shift: Tensor | None = None
    for batch in rows.batches():
        exact = batch.double()
        if shift is None:  # sums of differences to the first row: a common mean does not cancel
            shift = exact[0].clone()
            total = torch.zeros_like(shift)
            square = torch.zeros((), dtype=torch.float64, device=batch.device)
            low, high = batch.amin(0), batch.amax(0)
            keys = torch.empty(0, dtype=torch.float64)
            kept = batch[:0]
        exact = exact - shift
        total += exact.sum(0)
        square += exact.square().sum()
        low, high = torch.minimum(low, batch.amin(0)), torch.maximum(high, batch.amax(0))
        # The rows with the smallest of n random keys are a uniform sample, in one pass.
        drawn = torch.rand(len(batch), generator=generator, dtype=torch.float64)
        keys, kept = torch.cat((keys, drawn)), torch.cat((kept, batch))
        if len(keys) > sample_size:
            chosen = keys.topk(sample_size, largest=False).indices.sort().values
            keys, kept = keys[chosen], kept[chosen.to(kept.device)]
        count += len(batch)
    if shift is None or count < 2:
        raise ValueError(
            f"{rows.name} has {count} sample(s), n_samples = {count}, but a change of basis is "
            "learned from at least 2 rows: pass more embeddings"
        )
    offset = total / count
    variance = float(square / count - offset.square().sum())
    if not bool((low < high).any()) or variance <= 0:
        raise ValueError(
            f"all {count} rows of {rows.name} are the same: there is nothing to learn from"
        )
    constant = (low == high).nonzero()[:, 0].tolist()
    if constant:
        named = ", ".join(map(str, constant[:5])) + (", ..." if len(constant) > 5 else "")
        warnings.warn(
            f"{rows.name} has {len(constant)} constant columns ({named}): they carry no "
            "information; remove them, or know that as many axes stay without use",
            ConstantColumnWarning,
            stacklevel=4,
        )
    return Statistics(count, shift + offset, variance**0.5, kept)
