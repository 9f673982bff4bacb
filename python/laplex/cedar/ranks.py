"""What all ranks of a fit do together: agree on their rows, on their arguments and on errors."""

from __future__ import annotations

import io
from typing import Any, TypeVar

import numpy as np
import torch

from laplex._support.communicator import Communicator

from .rows import Rows

Result = TypeVar("Result")


def same(comm: Communicator, **given: Any) -> None:
    """Check that values are the same on all ranks."""
    everyone = comm.all_gather_object(given)
    for rank, theirs in enumerate(everyone):
        for name, value in theirs.items():
            if value != everyone[0][name]:
                raise ValueError(
                    f"rank {rank}: {name} is {value!r}, but {everyone[0][name]!r} on rank 0: pass "
                    "the same on all ranks"
                )


def of_first(comm: Communicator, item: Result, device: torch.device) -> Result:
    """Return the item of rank 0, its tensors on the given device of this rank."""
    if comm.size == 1:
        return item
    buffer = io.BytesIO()
    if comm.rank == 0:
        torch.save(item, buffer)
    mine = np.frombuffer(buffer.getvalue(), np.uint8)  # empty but on rank 0
    arrived = io.BytesIO(comm.all_gather(mine)[0].tobytes())
    found: Result = torch.load(arrived, map_location=device, weights_only=False)
    return found


def aligned(comm: Communicator, rows: Rows, names: Any) -> tuple[Rows, Any]:
    """Check that all ranks have rows of one kind; a rank without rows takes it from the others.

    Parameters
    ----------
    comm : Communicator
        The ranks.
    rows : Rows
        The rows of this rank, perhaps none.
    names : ndarray of str, or None
        Names of its columns.

    Returns
    -------
    tuple of Rows and names
    """
    named = None if names is None else list(names)
    kinds = comm.all_gather_object((rows.dim, rows.dtype, named) if rows.count != 0 else None)
    there = [(rank, kind) for rank, kind in enumerate(kinds) if kind is not None]
    if not there:
        raise ValueError(f"{rows.name} has no rows on any rank: pass rows on one of them at least")
    first, expected = there[0]
    for rank, kind in there[1:]:
        for what, theirs, ours in zip(
            ("number of columns", "dtype", "names of columns"), kind, expected, strict=True
        ):
            if theirs != ours:
                raise ValueError(
                    f"rank {rank}: {rows.name} has the {what} {theirs}, but {ours} on rank "
                    f"{first}: pass rows of one kind on all ranks"
                )
    if rows.count != 0:
        return rows, names
    dim, dtype, named = expected
    nothing = torch.empty(0, dim, dtype=dtype, device=rows.device)
    made = Rows([nothing], dtype, name=rows.name, device=rows.device)
    return made, None if named is None else np.array(named, dtype=object)
