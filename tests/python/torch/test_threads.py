"""Threads that share the cache of plans get the bits that one thread gets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

import laplex

THREADS, ROUNDS = 6, 40


@pytest.fixture
def many_switches() -> Iterator[None]:
    """Threads take turns as often as the interpreter can; the cache has its bound afterwards."""
    interval, bound = sys.getswitchinterval(), laplex.plan_cache.info().max_bytes
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)
    laplex.plan_cache.set_max_bytes(bound)


def step(anchors: Tensor, values: Tensor) -> tuple[Tensor, ...]:
    """The product and its gradients, from leaves of this thread alone."""
    leaves = [anchors.clone().requires_grad_(), values.clone().requires_grad_()]
    product = laplex.matvec(leaves[1], leaves[0], lengthscale=0.1)
    return (product.detach(), *torch.autograd.grad(product.square().sum(), leaves))


@pytest.mark.usefixtures("many_switches")
def test_threads_share_the_cache_of_plans() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(257, generator=generator, dtype=torch.float64)
    values = torch.randn(3, 257, generator=generator, dtype=torch.float64)
    # Each is a step of training away from the one before, so plans are found, updated and made.
    trained = [start + 1e-5 * k for k in range(8)]
    expected = [step(anchors, values) for anchors in trained]

    def work(thread: int) -> int:
        wrong = 0
        for turn in range(ROUNDS):
            k = (3 * thread + turn) % len(trained)
            found = step(trained[k], values)
            wrong += not all(map(torch.equal, found, expected[k]))
            if thread == 0 and turn % 5 == 0:
                laplex.plan_cache.clear()
            elif thread == 1:
                laplex.plan_cache.set_max_bytes(10_000 if turn % 4 == 0 else 10**9)
        return wrong

    with ThreadPoolExecutor(THREADS) as pool:
        assert sum(pool.map(work, range(THREADS))) == 0
