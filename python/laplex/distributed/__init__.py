"""Laplace kernels whose line of anchors is spread over processes, on torch.distributed or MPI.

`ShardedPlan` multiplies NumPy arrays; `matvec` multiplies torch tensors and can be differentiated
twice. Both compute on the CPU. `RankDiedError` is what the other ranks raise when one dies.
``matvec`` needs PyTorch and is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._support.communicator import RankDiedError
from .._support.optional import installed, require
from .plan import ShardedPlan

if TYPE_CHECKING:
    from .functional import matvec as matvec

__all__ = ["RankDiedError", "ShardedPlan", "matvec"]

if not installed("torch"):  # a star import must not fail on names that need torch
    __all__.remove("matvec")


def __getattr__(name: str) -> Any:
    if name != "matvec":
        raise AttributeError(f"module 'laplex.distributed' has no attribute {name!r}")
    require("torch", "torch", feature="laplex.distributed.matvec")
    from .functional import matvec

    globals()[name] = matvec
    return matvec


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
