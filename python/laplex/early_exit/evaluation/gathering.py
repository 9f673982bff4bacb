"""The samples of all ranks of a process group, in the order of one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from ..._support.communicator import Communicator, agreed, communicator

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Shard(NamedTuple):
    """What one process has computed.

    Attributes
    ----------
    logits : ndarray [K, N, C], float32
    labels : ndarray [N], int64
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]


def gathered(group: ProcessGroup, loader: Any, run: Callable[[], Shard]) -> Shard:
    """Run a function on all ranks of a group and put together what they have found.

    With a DistributedSampler the result has the order of the data set, each sample once; otherwise
    it has the order of the ranks.

    Raises
    ------
    Exception
        What the function raises on a rank, on all ranks.
    ValueError
        If the ranks do not match.
    """
    comm = communicator(group)
    with agreed(comm):
        numbers = _numbers(loader)
        mine = run()
        if numbers is not None:
            numbers = numbers[: len(mine.labels)]  # the DataLoader may drop its last batch
            if len(numbers) < len(mine.labels):
                raise ValueError(
                    f"loader yielded {len(mine.labels)} samples, but its DistributedSampler has "
                    f"{len(numbers)}: have it yield the samples that its sampler names"
                )
    exits, samples, classes = mine.logits.shape
    sizes = np.stack(comm.all_gather(np.array([exits, samples, classes, numbers is not None])))
    filled = sizes[sizes[:, 1] > 0]
    if (filled[:, [0, 2]] != filled[:1, [0, 2]]).any():
        shapes = [f"rank {rank}: {k} and {c}" for rank, (k, n, c, _) in enumerate(sizes) if n]
        raise ValueError(
            f"model must have the same exits and classes on all ranks, got {', '.join(shapes)}"
        )
    if sizes[:, 3].min() != sizes[:, 3].max():
        raise ValueError(
            "loader has a DistributedSampler on some ranks only: give it one on all ranks, or on "
            "none"
        )
    counts = sizes[:, 1].tolist()
    parts = comm.all_gather(mine.logits.ravel(), (sizes[:, :3].prod(1)).tolist())
    logits = [
        part.reshape(k, n, c)
        for part, (k, n, c) in zip(parts, sizes[:, :3], strict=True)
        if n  # a rank without samples does not know the classes
    ]
    if not logits:
        return mine
    together = Shard(
        np.concatenate(logits, axis=1), np.concatenate(comm.all_gather(mine.labels, counts))
    )
    if numbers is None:
        return together
    _, first = np.unique(np.concatenate(comm.all_gather(numbers, counts)), return_index=True)
    # In C order, which decides in what order sums are added up: logits[:, first] may have another.
    return Shard(together.logits.take(first, axis=1), together.labels[first])


def of_first(comm: Communicator, found: Any) -> Any:
    """The object of the first rank that has one, not None, or None."""
    return next((one for one in comm.all_gather_object(found) if one is not None), None)


def _numbers(loader: Any) -> NDArray[np.int64] | None:
    """The numbers of the samples of this rank in the data set, if the loader has them."""
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return None
    return np.array(list(sampler), np.int64)  # the same in every pass of an epoch
