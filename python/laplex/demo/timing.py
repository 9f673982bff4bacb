"""Time the operator, an FFT of the same length and a dense product."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from laplex import Plan

#: The largest dense matrix to build. A side of 10^4 takes 400 MB in float32; 10^5 would take 40 GB.
LARGEST_DENSE = 10_000
#: The CPU seconds to spend on each measurement, which runs at least three times.
BUDGET = 0.3


@dataclass(frozen=True)
class Timing:
    """CPU seconds of one thread for n targets and n sources in float32.

    Attributes
    ----------
    n : int
        The number of targets and of sources.
    sort : float
        ``Plan(...)``: sorting both sets of anchors and computing the tables.
    new_forward : float
        ``Plan(...).apply``: the same and a first product.
    moved_forward : float
        ``Plan.update`` and a product, after every anchor has moved by up to one mean distance
        between neighbours. This is the cost of a training step.
    forward : float
        Another ``Plan.apply`` for one vector.
    forward_backward : float
        ``Plan.apply`` and all gradients (values, targets, sources, lengthscale).
    fft : float
        ``torch.fft.rfft`` of n values.
    dense, dense_build : float or None
        One product with the dense matrix, and forming that matrix; None if it is too large.
    """

    n: int
    sort: float
    new_forward: float
    moved_forward: float
    forward: float
    forward_backward: float
    fft: float
    dense: float | None
    dense_build: float | None


def time_operator(n: int, seed: int = 0, budget: float = BUDGET) -> Timing:
    """Measure one row of the table: n targets and n sources, uniform on [0, 1], in random order."""
    rng = np.random.default_rng(seed)
    targets, sources = rng.random((2, n), dtype=np.float32)
    values, grad = rng.standard_normal((2, n), dtype=np.float32)
    lengthscale = 100 / n

    def build() -> Plan:
        return Plan(targets, sources, lengthscale=lengthscale, num_threads=1)

    plan = build()
    steps = rng.uniform(-1 / n, 1 / n, (2, n)).astype(np.float32)
    positions = ((targets + steps[0], sources + steps[1]), (targets, sources))
    turn = 0

    def move() -> None:  # alternates between two positions, so that every move is small
        nonlocal turn
        plan.update(*positions[turn % 2])
        turn += 1
        plan.apply(values)

    signal = torch.from_numpy(values)
    with one_thread():
        sort = cpu_seconds(build, budget)
        new_forward = cpu_seconds(lambda: build().apply(values), budget)
        moved_forward = cpu_seconds(move, budget)
        plan.apply(values), plan.vjp(values, grad)  # computes the tables of both directions
        forward = cpu_seconds(lambda: plan.apply(values), budget)
        both = cpu_seconds(lambda: (plan.apply(values), plan.vjp(values, grad)), budget)
        fft = cpu_seconds(lambda: torch.fft.rfft(signal), budget)
        dense = dense_build = None
        if n <= LARGEST_DENSE:
            matrix = torch.empty(n, n)
            x, y = torch.from_numpy(targets), torch.from_numpy(sources)

            def fill() -> None:
                torch.sub(x[:, None], y, out=matrix)
                matrix.abs_().div_(-lengthscale).exp_()

            dense_build = cpu_seconds(fill, budget)
            dense = cpu_seconds(lambda: matrix @ signal, budget)
    return Timing(n, sort, new_forward, moved_forward, forward, both, fft, dense, dense_build)


def cpu_seconds(call: Callable[[], object], budget: float) -> float:
    """Return the smallest CPU time of a call that is repeated for about ``budget`` seconds."""
    best = float("inf")
    runs = 0
    begin = time.process_time()
    while runs < 3 or (time.process_time() - begin < budget and runs < 1000):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
        runs += 1
    return best


@contextmanager
def one_thread() -> Iterator[None]:
    """Restrict torch to one thread, so that the CPU time does not include waiting threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
