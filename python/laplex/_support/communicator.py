"""The collectives that everything on several processes is made of, on torch.distributed or MPI.

All of them take and give NumPy arrays in the memory of the host. They are collective: every rank of
the group calls them, in the same order, also the ranks that have nothing to give.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from laplex._support.optional import require

if TYPE_CHECKING:
    import torch
    from mpi4py import MPI
    from torch.distributed import ProcessGroup

Item = TypeVar("Item", bound=np.generic)


class Communicator(Protocol):
    """The processes of a group, seen from one of them."""

    @property
    def rank(self) -> int:
        """The number of this process in the group."""

    @property
    def size(self) -> int:
        """The number of processes of the group."""

    def all_reduce(self, array: NDArray[Item], operation: str = "sum") -> NDArray[Item]:
        """The ``"sum"``, ``"max"`` or ``"min"`` of every entry over all ranks; equal shapes."""

    def all_gather(
        self, array: NDArray[Item], counts: Sequence[int] | None = None
    ) -> list[NDArray[Item]]:
        """The vector of each rank, in rank order.

        `counts`, where all ranks know them, saves a message.
        """

    def all_to_all(
        self, parts: Sequence[NDArray[Item]], counts: Sequence[int] | None = None
    ) -> list[NDArray[Item]]:
        """What each rank has for this one, in rank order; `parts` is what this has for each."""

    def all_gather_object(self, item: Any) -> list[Any]:
        """An object of each rank, in rank order. For what is small and rare."""


class OneProcess:
    """A group of one."""

    rank = 0
    size = 1

    def all_reduce(self, array: NDArray[Item], operation: str = "sum") -> NDArray[Item]:
        return array.copy()

    def all_gather(
        self, array: NDArray[Item], counts: Sequence[int] | None = None
    ) -> list[NDArray[Item]]:
        return [array.copy()]

    def all_to_all(
        self, parts: Sequence[NDArray[Item]], counts: Sequence[int] | None = None
    ) -> list[NDArray[Item]]:
        return [parts[0].copy()]

    def all_gather_object(self, item: Any) -> list[Any]:
        return [item]


class TorchCommunicator:
    """A process group of torch.distributed; NCCL's collectives go through the current GPU."""

    def __init__(self, group: ProcessGroup | None = None, timeout: timedelta | None = None) -> None:
        import torch
        import torch.distributed as dist

        self._dist = dist
        self._group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        backend = dist.get_backend(group)
        self._device = torch.device("cuda" if backend == "nccl" else "cpu")

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        import torch

        return torch.from_numpy(np.array(array, order="C")).to(self._device)

    def all_reduce(self, array: NDArray[Item], operation: str = "sum") -> NDArray[Item]:
        tensor = self._tensor(array)
        operations = {
            "sum": self._dist.ReduceOp.SUM,
            "max": self._dist.ReduceOp.MAX,
            "min": self._dist.ReduceOp.MIN,
        }
        self._dist.all_reduce(tensor, operations[operation], group=self._group)
        return cast("NDArray[Item]", tensor.cpu().numpy())

    def all_gather(
        self, array: NDArray[Item], counts: Sequence[int] | None = None
    ) -> list[NDArray[Item]]:
        if counts is None:
            counts = self._gather_equal(np.array([array.size]), 1).ravel().tolist()
        most = max(counts)
        padded = np.zeros(most, array.dtype)
        padded[: array.size] = array
        all_parts = self._gather_equal(padded, most)
        return [part[:count] for part, count in zip(all_parts, counts, strict=True)]

    def _gather_equal(self, array: NDArray[Item], count: int) -> NDArray[Item]:
        """Vectors of the same length, ``[size, count]``."""
        if count == 0:
            return np.empty((self.size, 0), array.dtype)
        mine = self._tensor(array)
        everything = mine.new_empty(self.size * count)
        self._dist.all_gather_single(everything, mine, group=self._group)
        return cast("NDArray[Item]", everything.cpu().numpy()).reshape(self.size, count)

    def all_to_all(
        self, parts: Sequence[NDArray[Item]], counts: Sequence[int] | None = None
    ) -> list[NDArray[Item]]:
        sizes = [part.size for part in parts]
        if counts is None:
            counts = self._exchange(np.array(sizes), [1] * self.size, [1] * self.size).tolist()
        arrived = self._exchange(np.concatenate(parts), sizes, counts)
        return np.split(arrived, np.cumsum(counts)[:-1])

    def _exchange(
        self, array: NDArray[Item], sizes: Sequence[int], counts: Sequence[int]
    ) -> NDArray[Item]:
        mine = self._tensor(array)
        arrived = mine.new_empty(sum(counts))
        self._dist.all_to_all_single(arrived, mine, list(counts), list(sizes), group=self._group)
        return cast("NDArray[Item]", arrived.cpu().numpy())

    def all_gather_object(self, item: Any) -> list[Any]:
        items: list[Any] = [None] * self.size
        self._dist.all_gather_object(items, item, group=self._group)
        return items


class MpiCommunicator:
    """A communicator of mpi4py."""

    def __init__(self, comm: MPI.Comm) -> None:
        self._mpi = require("mpi4py.MPI", "mpi", feature="laplex on MPI")
        self._comm = comm
        self.rank = comm.Get_rank()
        self.size = comm.Get_size()

    def all_reduce(self, array: NDArray[Item], operation: str = "sum") -> NDArray[Item]:
        mpi = self._mpi
        operations = {"sum": mpi.SUM, "max": mpi.MAX, "min": mpi.MIN}
        mine = np.ascontiguousarray(array)
        result = np.empty_like(mine)
        self._comm.Allreduce(mine, result, operations[operation])
        return result

    def all_gather(
        self, array: NDArray[Item], counts: Sequence[int] | None = None
    ) -> list[NDArray[Item]]:
        if counts is None:
            counts = self._comm.allgather(array.size)
        everything = np.empty(sum(counts), array.dtype)
        self._comm.Allgatherv(np.ascontiguousarray(array), [everything, list(counts)])
        return np.split(everything, np.cumsum(counts)[:-1])

    def all_to_all(
        self, parts: Sequence[NDArray[Item]], counts: Sequence[int] | None = None
    ) -> list[NDArray[Item]]:
        sizes = [part.size for part in parts]
        if counts is None:
            counts = self._comm.alltoall(sizes)
        arrived = np.empty(sum(counts), parts[0].dtype)
        self._comm.Alltoallv([np.concatenate(parts), sizes], [arrived, list(counts)])
        return np.split(arrived, np.cumsum(counts)[:-1])

    def all_gather_object(self, item: Any) -> list[Any]:
        return list(self._comm.allgather(item))


def communicator(group: ProcessGroup | None = None, comm: MPI.Comm | None = None) -> Communicator:
    """The communicator of a process group, by default torch's default one, or of MPI's `comm`.

    Without either, and without an initialised torch.distributed, it is that of one process.
    """
    if comm is not None:
        if group is not None:
            raise TypeError("give group= (torch.distributed) or comm= (MPI), not both")
        return MpiCommunicator(comm)
    if group is None and not _torch_is_distributed():
        return OneProcess()
    return TorchCommunicator(group)


def _torch_is_distributed() -> bool:
    import sys

    dist = sys.modules.get("torch.distributed")  # nobody has initialised what is not imported
    return dist is not None and dist.is_available() and dist.is_initialized()


def agree(comm: Communicator, error: Exception | None) -> None:
    """Raise the same error on every rank where one of them has one; its message names the rank.

    Collective: what was checked on each rank, and the outcome is an error or None.
    """
    failed = comm.all_reduce(np.array([int(error is not None)], np.int64), "max")
    if not failed[0]:
        return
    known = None if error is None else (_built_in_kind(error), str(error))
    everyone = comm.all_gather_object(known)
    rank, (kind, message) = next((r, e) for r, e in enumerate(everyone) if e is not None)
    raise kind(f"rank {rank}: {message}") from error


def _built_in_kind(error: Exception) -> type[Exception]:
    """The nearest kind of error that every rank knows and that is made of a message alone."""
    for kind in type(error).__mro__:
        if kind.__module__ == "builtins":
            with suppress(TypeError):  # as of UnicodeDecodeError, which takes five arguments
                return type(kind(""))
    return Exception
