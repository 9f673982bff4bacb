"""Runs a function on several processes that form a group of torch.distributed (gloo)."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

LIMIT = 120.0  # seconds: nothing in these tests may hang


@cache
def _context() -> ForkServerContext:
    """Processes are forked from one that has imported what takes seconds: torch, scikit-learn."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "torch.distributed.fsdp",
            "torch.distributed.tensor.parallel",
            "laplex.cedar.estimator",
            "laplex.nn",
            "rank_cases",
        ]
    )
    return context


def _run(
    pipe: Connection,
    rank: int,
    size: int,
    store: str,
    timeout: float,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ["LAPLEX_NUM_THREADS"] = "1"
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=timeout),
    )
    try:
        pipe.send((True, function(rank, size, *arguments)))
    except BaseException as error:
        pipe.send((False, (type(error).__name__, str(error), traceback.format_exc())))
    finally:
        pipe.close()
        dist.destroy_process_group()


class RankError(Exception):
    """What went wrong on each rank: the name of the error, its message and the traceback.

    A rank that died without a word has ``("Died", "", "")``.
    """

    def __init__(self, errors: dict[int, tuple[str, str, str]]) -> None:
        super().__init__("\n".join(f"rank {r}: {e[2] or e[0]}" for r, e in sorted(errors.items())))
        self.errors = errors


def run_ranks(
    function: Callable[..., Any],
    size: int,
    *arguments: Any,
    limit: float = LIMIT,
    timeout: float = 60.0,
) -> list[Any]:
    """Call ``function(rank, size, *arguments)`` on `size` processes; their results in rank order.

    The function belongs to a module; its results are pickled. All processes end within `limit`
    seconds; `timeout` is that of the group's collectives.

    Raises
    ------
    RankError
        If the function raises on a rank, or a rank dies.
    TimeoutError
        If a process has not ended by then; it is killed.
    """
    context = _context()
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        processes, pipes = [], []
        for rank in range(size):
            mine, its = context.Pipe(duplex=False)
            process = context.Process(
                target=_run, args=(its, rank, size, store, timeout, function, arguments)
            )
            process.start()
            its.close()
            processes.append(process)
            pipes.append(mine)
        results: dict[int, Any] = {}
        errors: dict[int, tuple[str, str, str]] = {}
        end = time.monotonic() + limit
        try:
            waiting = dict(enumerate(pipes))
            while waiting:
                ready = wait(list(waiting.values()), timeout=max(0.0, end - time.monotonic()))
                if not ready:
                    raise TimeoutError(f"ranks {sorted(waiting)} hang; so far: {errors}")
                for rank in [rank for rank, pipe in waiting.items() if pipe in ready]:
                    try:
                        succeeded, outcome = waiting.pop(rank).recv()
                        (results if succeeded else errors)[rank] = outcome
                    except EOFError:
                        errors[rank] = ("Died", "", "")
            for process in processes:
                process.join(max(0.0, end - time.monotonic()))
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()
            for pipe in pipes:
                pipe.close()
    if errors:
        raise RankError(errors)
    return [results[rank] for rank in range(size)]
