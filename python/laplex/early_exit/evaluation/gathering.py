"""The samples of all ranks of a process group, in the order of one process."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from ..._support.communicator import Communicator, agreed, communicator

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Shard(NamedTuple):
    """What one process has computed for its N samples.

    Attributes
    ----------
    exits, classes : int
        Of the model; 0 classes if there were no samples to tell.
    arrays : dict of str to ndarray [any, N, ...]
        With ``"labels"`` [1, N] among them; without samples, nothing.
    """

    exits: int
    classes: int
    arrays: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return self.arrays["labels"].shape[1] if self.arrays else 0


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
        numbers = sample_numbers(loader)
        mine = run()
        if numbers is not None:
            numbers = numbers[: len(mine)]  # the DataLoader may drop its last batch
            if len(numbers) < len(mine):
                raise ValueError(
                    f"loader yielded {len(mine)} samples, but its DistributedSampler has "
                    f"{len(numbers)}: have it yield the samples that its sampler names"
                )
    # A rank without samples does not know the arrays that the others have.
    kinds = {name: (one.dtype.str, one.shape) for name, one in mine.arrays.items()}
    facts = comm.all_gather_object((mine.exits, mine.classes, len(mine), kinds, numbers is None))
    filled = [fact for fact in facts if fact[2]]
    if any(fact[:2] != filled[0][:2] for fact in filled):
        shapes = [f"rank {rank}: {k} and {c}" for rank, (k, c, n, *_) in enumerate(facts) if n]
        raise ValueError(
            f"model must have the same exits and classes on all ranks, got {', '.join(shapes)}"
        )
    if len({fact[4] for fact in facts}) > 1:
        raise ValueError(
            "loader has a DistributedSampler on some ranks only: give it one on all ranks, or on "
            "none"
        )
    if not filled:
        return mine
    counts = [fact[2] for fact in facts]
    first = None
    if numbers is not None:
        _, first = np.unique(np.concatenate(comm.all_gather(numbers, counts)), return_index=True)
    exits, classes, _, kinds, _ = filled[0]
    together = {}
    for name, (dtype, (lead, _, *rest)) in kinds.items():  # one at a time, as they are large
        given = mine.arrays.pop(name, np.empty(0, dtype)).ravel()
        sizes = [math.prod([lead, count, *rest]) for count in counts]
        parts = comm.all_gather(given, sizes)
        shaped = [
            part.reshape(lead, count, *rest) for part, count in zip(parts, counts, strict=True)
        ]
        found = np.concatenate(shaped, axis=1)
        # In C order, which decides in what order sums are added up: found[:, first] may have
        # another.
        together[name] = found if first is None else found.take(first, axis=1)
    return Shard(exits, classes, together)


def of_first(comm: Communicator, found: Any) -> Any:
    """The object of the first rank that has one, not None, or None."""
    return next((one for one in comm.all_gather_object(found) if one is not None), None)


def sample_numbers(loader: Any) -> NDArray[np.int64] | None:
    """The numbers of the samples of this rank in the data set, if the loader has them."""
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return None
    return np.array(list(sampler), np.int64)  # the same in every pass of an epoch
