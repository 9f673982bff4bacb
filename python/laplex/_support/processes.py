"""What this process is among others: of torch.distributed, of torchrun, or of MPI.

Nothing is imported for the answer: who has set up a group has imported what it needs, and launchers
tell their processes by environment variables.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from laplex._support.communicator import torch_is_distributed


class Processes(NamedTuple):
    """The processes that run together with this one.

    Attributes
    ----------
    rank : int
        The number of this process.
    size : int
        The number of processes.
    how : str
        What connects them, in words.
    """

    rank: int
    size: int
    how: str


#: Environment variables for the rank and the number of processes, and who sets them.
_LAUNCHERS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "MPI, launched by Open MPI"),
    ("PMI_RANK", "PMI_SIZE", "MPI, launched by MPICH or Slurm"),
    ("RANK", "WORLD_SIZE", "launched by torchrun, no process group yet"),
)


def processes() -> Processes | None:
    """The default group of torch.distributed, else MPI's world, else those of a launcher.

    None if this process runs alone, as far as it knows.
    """
    if torch_is_distributed():
        dist = sys.modules["torch.distributed"]
        how = f"torch.distributed, backend {dist.get_backend()}"
        return Processes(dist.get_rank(), dist.get_world_size(), how)
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        world = mpi.COMM_WORLD
        if world.Get_size() > 1:
            return Processes(world.Get_rank(), world.Get_size(), "MPI")
    for rank, size, how in _LAUNCHERS:
        found = os.environ.get(rank, ""), os.environ.get(size, "")
        if all(one.isdecimal() for one in found):
            return Processes(int(found[0]), int(found[1]), how)
    return None


def is_first_process() -> bool:
    """Whether this process has the rank 0, or runs alone: it alone talks to the user."""
    found = processes()
    return found is None or found.rank == 0
