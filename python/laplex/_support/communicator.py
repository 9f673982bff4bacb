"""The collectives that everything on several processes is made of, on torch.distributed or MPI.

All of them take and give NumPy arrays in the memory of the host. They are collective: every rank of
the group calls them, in the same order, also the ranks that have nothing to give.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from laplex._support.optional import require

if TYPE_CHECKING:
    from mpi4py import MPI
    from torch.distributed import ProcessGroup

Item = TypeVar("Item", bound=np.generic)
Result = TypeVar("Result")


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

    def exchange(
        self, array: NDArray[Item], sizes: Sequence[int], counts: Sequence[int]
    ) -> NDArray[Item]:
        """The same where all numbers are known and the parts are one after another, uncopied."""

    def all_gather_object(self, item: Any) -> list[Any]:
        """An object of each rank, in rank order. For what is small and rare."""


class OneProcess:
    """A group of one."""

    rank = 0
    size = 1

    def all_reduce(self, array: NDArray[Item], operation: str = "sum") -> NDArray[Item]:
        return np.array(array)

    def all_gather(
        self, array: NDArray[Item], counts: Sequence[int] | None = None
    ) -> list[NDArray[Item]]:
        return [array.copy()]

    def all_to_all(
        self, parts: Sequence[NDArray[Item]], counts: Sequence[int] | None = None
    ) -> list[NDArray[Item]]:
        return [parts[0].copy()]

    def exchange(
        self, array: NDArray[Item], sizes: Sequence[int], counts: Sequence[int]
    ) -> NDArray[Item]:
        return np.array(array)

    def all_gather_object(self, item: Any) -> list[Any]:
        return [item]


class RankDiedError(RuntimeError):
    """A process of the group died, or left it, during a collective."""


class TorchCommunicator:
    """A process group of torch.distributed; NCCL's collectives go through the current GPU.

    All of them are made of one exchange, in which every rank talks to every other one. So all ranks
    notice at once when one of them dies, and sums have the same bits everywhere.
    """

    def __init__(self, group: ProcessGroup | None = None) -> None:
        import torch
        import torch.distributed as dist

        self._dist = dist
        self._group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self._backend = dist.get_backend(group)
        self._device = torch.device("cuda" if self._backend == "nccl" else "cpu")

    def all_reduce(self, array: NDArray[Item], operation: str = "sum") -> NDArray[Item]:
        function = {"sum": np.add, "max": np.maximum, "min": np.minimum}[operation]
        flat = array.ravel()
        ends = [flat.size * rank // self.size for rank in range(1, self.size)]
        parts = np.split(flat, ends)  # each rank reduces one of them
        mine = self.all_to_all(parts, [parts[self.rank].size] * self.size)
        reduced = function.reduce(np.stack(mine), axis=0, dtype=array.dtype)
        everything = self.all_gather(reduced, [part.size for part in parts])
        return np.concatenate(everything).reshape(array.shape)

    def all_gather(
        self, array: NDArray[Item], counts: Sequence[int] | None = None
    ) -> list[NDArray[Item]]:
        return self.all_to_all([array] * self.size, counts)

    def all_to_all(
        self, parts: Sequence[NDArray[Item]], counts: Sequence[int] | None = None
    ) -> list[NDArray[Item]]:
        sizes = [part.size for part in parts]
        if counts is None:
            ones = [1] * self.size
            counts = self.exchange(np.array(sizes), ones, ones).tolist()
        arrived = self.exchange(np.concatenate(parts), sizes, counts)
        return np.split(arrived, np.cumsum(counts)[:-1])

    def exchange(
        self, array: NDArray[Item], sizes: Sequence[int], counts: Sequence[int]
    ) -> NDArray[Item]:
        """Send bytes, because gloo does not know all types of numbers."""
        import torch

        width = array.itemsize
        # torch warns of memory that it may not write to. Its own takes longer to be cleared than
        # NumPy's, which is in huge pages.
        given = np.require(array, requirements=["C", "W"])
        mine = torch.from_numpy(given.view(np.uint8)).to(self._device)
        result = np.empty(sum(counts), array.dtype)
        host = torch.from_numpy(result.view(np.uint8))
        on_host = self._device.type == "cpu"
        arrived = host if on_host else torch.empty_like(host, device=self._device)
        there, here = [width * size for size in sizes], [width * count for count in counts]
        try:
            self._dist.all_to_all_single(arrived, mine, here, there, group=self._group)
        except RuntimeError as error:
            raise self._explained(error) from error
        if not on_host:
            host.copy_(arrived)
        return result

    def _explained(self, error: RuntimeError) -> RuntimeError:
        """Say which ranks died, or that one does not come, if that is why a collective failed."""
        import torch

        if self._backend != "gloo":
            return error
        if "imed out" in str(error):
            return RuntimeError(
                "not all processes came to this collective call within the timeout of their group: "
                "one is stuck or leaves out the call, or needs a longer timeout, which "
                "torch.distributed.init_process_group(timeout=...) sets"
            )
        time.sleep(0.2)  # until the deaths of others have been noticed, too
        dead = []
        for rank in range(self.size):
            try:
                if rank != self.rank:
                    self._dist.irecv(torch.empty(1), group=self._group, group_src=rank)
            except RuntimeError:  # which a closed connection raises without waiting
                dead.append(rank)
        if not dead:
            return error
        who = f"rank {dead[0]}" if len(dead) == 1 else f"ranks {', '.join(map(str, dead))}"
        return RankDiedError(
            f"{who} died or left the process group: look for the reason in the log of that process"
        )

    def all_gather_object(self, item: Any) -> list[Any]:
        pickled = np.frombuffer(pickle.dumps(item), np.uint8)
        # Between the processes of one job, which torch and MPI send pickles to as well.
        return [pickle.loads(each.tobytes()) for each in self.all_gather(pickled)]  # noqa: S301


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
        mine = np.array(array, order="C")
        result = np.empty_like(mine)
        self._comm.Allreduce(mine, result, operations[operation])
        return result

    def all_gather(
        self, array: NDArray[Item], counts: Sequence[int] | None = None
    ) -> list[NDArray[Item]]:
        if counts is None:
            counts = self._comm.allgather(array.size)
        everything = np.empty(sum(counts), array.dtype)
        with self._type(array.dtype) as kind:
            mine = np.ascontiguousarray(array)
            self._comm.Allgatherv([mine, mine.size, kind], [everything, list(counts), kind])
        return np.split(everything, np.cumsum(counts)[:-1])

    def all_to_all(
        self, parts: Sequence[NDArray[Item]], counts: Sequence[int] | None = None
    ) -> list[NDArray[Item]]:
        sizes = [part.size for part in parts]
        if counts is None:
            counts = self._comm.alltoall(sizes)
        arrived = self.exchange(np.concatenate(parts), sizes, counts)
        return np.split(arrived, np.cumsum(counts)[:-1])

    def exchange(
        self, array: NDArray[Item], sizes: Sequence[int], counts: Sequence[int]
    ) -> NDArray[Item]:
        arrived = np.empty(sum(counts), array.dtype)
        with self._type(array.dtype) as kind:
            self._comm.Alltoallv([array, list(sizes), kind], [arrived, list(counts), kind])
        return arrived

    @contextmanager
    def _type(self, dtype: np.dtype[Any]) -> Iterator[Any]:
        """MPI's type for an entry, as bytes, because MPI does not know all types of numbers."""
        kind = self._mpi.BYTE.Create_contiguous(dtype.itemsize).Commit()
        try:
            yield kind
        finally:
            kind.Free()

    def all_gather_object(self, item: Any) -> list[Any]:
        return list(self._comm.allgather(item))


def communicator(group: ProcessGroup | None = None, comm: MPI.Comm | None = None) -> Communicator:
    """The communicator of a process group, by default torch's default one, or of MPI's `comm`.

    Without either, and without an initialised torch.distributed, it is that of one process.
    """
    if comm is not None:
        if group is not None:
            raise TypeError("give group= (torch.distributed) or comm= (MPI), not both")
        if not hasattr(comm, "Get_rank"):
            raise TypeError(f"comm must be a communicator of mpi4py, got {type(comm).__name__}")
        return MpiCommunicator(comm)
    check_group(group)
    if group is None and not torch_is_distributed():
        return OneProcess()
    return TorchCommunicator(group)


def check_group(group: object) -> None:
    """Check that an argument is a process group of torch.distributed or None.

    Raises
    ------
    TypeError
        If it is not.
    """
    if group is None:
        return
    from torch.distributed import ProcessGroup

    if not isinstance(group, ProcessGroup):
        raise TypeError(
            f"group must be a process group, got {type(group).__name__}: pass "
            "torch.distributed.group.WORLD, or None for this process alone"
        )


def torch_is_distributed() -> bool:
    """Whether torch.distributed has been initialised, without importing it."""
    dist = sys.modules.get("torch.distributed")  # nobody has initialised what is not imported
    return dist is not None and dist.is_available() and dist.is_initialized()


#: How many flags `agree` takes.
_MOST_FLAGS = 8


def agree(
    comm: Communicator,
    error: Exception | None,
    facts: Mapping[str, object] | None = None,
    flags: Sequence[bool] = (),
) -> list[bool]:
    """Raise the same error on every rank where one of them has one; its message names the rank.

    Collective: what was checked on each rank, and the outcome is an error or None.

    Parameters
    ----------
    comm
        The group.
    error
        What is wrong on this rank.
    facts
        What must be the same on all ranks, by the names of arguments; they are compared as they
        are printed. A ValueError names the first one that differs, with two of its values.
    flags
        Equally many on all ranks.

    Returns
    -------
    list
        Whether each flag is set on any rank.
    """
    if comm.size == 1:
        if error is not None:
            raise error
        return list(flags)
    shown = {name: repr(value) for name, value in (facts or {}).items()}
    digest = int.from_bytes(blake2b(repr(shown).encode(), digest_size=7).digest(), "little")
    if error is not None:
        digest = 0
    # Of one size, so that ranks that make different calls understand each other.
    outcome = np.zeros(3 + _MOST_FLAGS, np.int64)
    outcome[: 3 + len(flags)] = error is not None, digest, -digest, *flags
    failed, most, least, *agreed = comm.all_reduce(outcome, "max").tolist()
    if not failed and most == -least:
        return list(map(bool, agreed[: len(flags)]))
    known = None if error is None else (_known_kind(error), str(error))
    everyone = comm.all_gather_object((known, shown))
    for rank, (found, _) in enumerate(everyone):
        if found is not None:
            kind, message = found
            raise kind(f"rank {rank}: {message}") from error
    first = everyone[0][1]
    name, rank = next(
        (name, rank)
        for name in {name: None for _, theirs in everyone for name in theirs}
        for rank, (_, theirs) in enumerate(everyone)
        if theirs.get(name) != first.get(name)
    )
    remedy = "make the same calls" if name == "the call" else "pass the same"
    raise ValueError(
        f"{name} is {first.get(name)} on rank 0 but {everyone[rank][1].get(name)} on rank {rank}: "
        f"{remedy} on all ranks"
    )


@contextmanager
def agreed(comm: Communicator) -> Iterator[None]:
    """What is raised inside on one rank is raised on all."""
    error: Exception | None = None
    try:
        yield
    except Exception as found:
        error = found
    agree(comm, error)


def together(comm: Communicator, work: Callable[[], Result]) -> Result:
    """Do work that may fail on one rank only; it then fails on all, with the same error."""
    with agreed(comm):
        return work()


def _known_kind(error: Exception) -> type[Exception]:
    """The nearest kind of error that every rank knows and that is made of a message alone."""
    for kind in type(error).__mro__:
        if kind.__module__.partition(".")[0] in ("builtins", "laplex", "numpy", "torch"):
            with suppress(TypeError):  # as of UnicodeDecodeError, which takes five arguments
                return type(kind(""))
    return Exception
