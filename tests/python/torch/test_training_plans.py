"""The plans of `laplex.matvec` along training: each step takes over that of the step before."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import laplex


@pytest.fixture(autouse=True)
def empty_cache() -> Iterator[None]:
    laplex.plan_cache.clear()
    yield
    laplex.plan_cache.clear()


def product(x: torch.Tensor, lengthscale: torch.Tensor) -> torch.Tensor:
    """Multiply, and compare with a plan that is built anew."""
    values = torch.ones(len(x), requires_grad=True)
    result = laplex.matvec(values, x, lengthscale=lengthscale)
    fresh = laplex.Plan(x.detach().numpy(), lengthscale=lengthscale.detach().numpy())
    assert np.array_equal(result.detach().numpy(), fresh.apply(np.ones(len(x), np.float32)))
    return result.sum()


def step(parameter: torch.Tensor, by: float) -> None:
    with torch.no_grad():
        parameter += by * torch.randn_like(parameter)


def leaf(values: torch.Tensor) -> torch.Tensor:
    return values.clone().requires_grad_()


def test_moving_anchors_keep_one_plan() -> None:
    x, lengthscale = leaf(torch.rand(300)), leaf(torch.tensor(0.3))
    for _ in range(6):
        product(x, lengthscale).backward()
        step(x, 1e-3)
    info = laplex.plan_cache.info()
    assert (info.plans, info.misses) == (1, 6)


def test_a_moving_lengthscale_keeps_one_plan() -> None:
    x, lengthscale = torch.rand(300), leaf(torch.tensor(0.3))
    for _ in range(6):
        product(x, lengthscale).backward()
        step(lengthscale, 1e-2)
    assert laplex.plan_cache.info().plans == 1


def test_other_anchors_get_another_plan() -> None:
    for _ in range(3):
        product(torch.rand(300), torch.tensor(0.3)).backward()
    assert laplex.plan_cache.info().plans == 3


def test_layers_alike_find_their_own() -> None:
    """A layer that learns does not take the plan of a frozen one, close as their anchors are."""
    start = torch.rand(300)
    learned, frozen, also = leaf(start), start + 1e-4, leaf(start - 1e-4)
    lengthscale = torch.tensor(0.3)
    for _ in range(6):
        sum(product(x, lengthscale) for x in (learned, frozen, also)).backward()
        step(learned, 1e-3)
        step(also, 1e-3)
    info = laplex.plan_cache.info()
    assert (info.plans, info.hits) == (3, 5)


def test_without_gradients_every_kernel_keeps_its_plan() -> None:
    start = torch.rand(300)
    with torch.no_grad():
        for _ in range(2):
            for k in range(3):
                laplex.matvec(torch.ones(300), start + 1e-4 * k)
    info = laplex.plan_cache.info()
    assert (info.plans, info.hits) == (3, 3)


def test_a_plan_in_use_is_left_alone() -> None:
    """What autograd has recorded keeps its plan until its backward pass."""
    x, lengthscale = leaf(torch.rand(300)), torch.tensor(0.3)
    results = []
    for _ in range(3):
        results.append(product(x, lengthscale))
        results[0].backward(retain_graph=True)
        x = leaf(x.detach() + 1e-3)
    assert laplex.plan_cache.info().plans == 3


def test_a_full_cache_uses_the_memory_of_old_plans() -> None:
    """Where there is no room for one more plan, that of anchors long gone becomes the new one."""
    lengthscale = torch.tensor(0.3)
    before = laplex.plan_cache.info().max_bytes
    try:
        product(torch.rand(300), lengthscale)
        one = laplex.plan_cache.info().bytes
        laplex.plan_cache.set_max_bytes(int(2.5 * one))
        for _ in range(6):
            product(torch.rand(300), lengthscale)
        info = laplex.plan_cache.info()
        assert (info.hits, info.misses) == (0, 7)
        assert 0 < info.bytes <= info.max_bytes
    finally:
        laplex.plan_cache.set_max_bytes(before)


def test_a_full_cache_leaves_a_plan_in_use_alone() -> None:
    x, lengthscale = leaf(torch.rand(300)), torch.tensor(0.3)
    before = laplex.plan_cache.info().max_bytes
    result = product(x, lengthscale)
    (expected,) = torch.autograd.grad(result, x, retain_graph=True)
    try:
        laplex.plan_cache.set_max_bytes(laplex.plan_cache.info().bytes)
        product(torch.rand(300), lengthscale)
        (gradient,) = torch.autograd.grad(result, x)
        assert torch.equal(gradient, expected)
    finally:
        laplex.plan_cache.set_max_bytes(before)
