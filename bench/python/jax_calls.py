#!/usr/bin/env python3
"""Print the times of docs/guides/jax.md: calls of laplex.jax beside NumPy, PyTorch and tinygp.

Run it in build/bench/venv, which has all of them, on one thread:

    LAPLEX_NUM_THREADS=1 OMP_NUM_THREADS=1 build/bench/venv/bin/python bench/python/jax_calls.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch

import laplex
import laplex.jax
from laplex.gram import LaplaceGram

SECONDS = 1.0
LENGTHSCALE, NOISE = 0.1, 0.1


def least(call: Callable[[], Any]) -> float:
    """The least time of a call, in microseconds: other work on the machine only adds to it."""
    call()
    call()
    times = []
    end = time.perf_counter() + SECONDS
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e6 * min(times)


def products(n: int) -> list[tuple[str, Callable[[], Any]]]:
    """Products and their gradients by all arguments; the anchors stay, the values do too."""
    rng = np.random.default_rng(0)
    x, v = rng.random(n), rng.standard_normal(n)
    plan = laplex.Plan(x, lengthscale=LENGTHSCALE)
    tensors = [torch.from_numpy(each).requires_grad_() for each in (v, x)]
    ell = torch.tensor(LENGTHSCALE, dtype=torch.float64, requires_grad=True)
    arrays = [*map(jax.numpy.asarray, (v, x)), jax.numpy.asarray(LENGTHSCALE)]

    def of_jax(v: Any, x: Any, ell: Any) -> Any:
        return laplex.jax.matvec(v, x, lengthscale=ell)

    product = jax.jit(of_jax)
    gradient = jax.jit(jax.grad(lambda *args: of_jax(*args).sum(), (0, 1, 2)))

    def by_torch() -> Any:
        u = laplex.matvec(tensors[0], tensors[1], lengthscale=ell)
        return torch.autograd.grad(u.sum(), (*tensors, ell))

    def product_of_torch() -> Any:
        with torch.no_grad():
            return laplex.matvec(tensors[0], tensors[1], lengthscale=ell)

    return [
        ("product, laplex.Plan", lambda: plan.apply(v)),
        ("product, laplex.matvec", product_of_torch),
        ("product, laplex.jax", lambda: product(*arrays).block_until_ready()),
        ("gradients, laplex.matvec", by_torch),
        ("gradients, laplex.jax", lambda: jax.block_until_ready(gradient(*arrays))),
    ]


def densities(n: int) -> list[tuple[str, Callable[[], Any]]]:
    """Log densities with their gradients by lengthscale, variance and noise."""
    from tinygp import GaussianProcess
    from tinygp.kernels import quasisep

    rng = np.random.default_rng(0)
    x, v = np.sort(rng.random(n)), rng.standard_normal(n)
    jx, jv = map(jax.numpy.asarray, (x, v))
    tx, tv = map(torch.from_numpy, (x, v))
    numbers = jax.numpy.asarray([LENGTHSCALE, 1.0, NOISE])
    own = [torch.tensor(float(each), dtype=torch.float64, requires_grad=True) for each in numbers]

    def ours(p: Any) -> Any:
        return laplex.jax.log_prob(jv, jx, lengthscale=p[0], variance=p[1], noise=p[2])

    def theirs(p: Any) -> Any:
        kernel = p[1] * quasisep.Exp(scale=p[0])
        return GaussianProcess(kernel, jx, diag=p[2], assume_sorted=True).log_probability(jv)

    def by_torch() -> Any:
        gram = LaplaceGram(tx, lengthscale=own[0], variance=own[1], noise=own[2])
        return torch.autograd.grad(gram.log_prob(tv), own)

    gradients = {name: jax.jit(jax.value_and_grad(f)) for name, f in (("j", ours), ("t", theirs))}
    np.testing.assert_allclose(gradients["j"](numbers)[1], gradients["t"](numbers)[1], rtol=1e-8)
    return [
        ("log density, laplex.jax", lambda: jax.block_until_ready(gradients["j"](numbers))),
        ("log density, laplex.gram", by_torch),
        ("log density, tinygp", lambda: jax.block_until_ready(gradients["t"](numbers))),
    ]


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)
    for n in (64, 1000, 100_000):
        for name, call in products(n) + densities(n):
            print(f"{n:7} {name:28} {least(call):12.1f} us", flush=True)


if __name__ == "__main__":
    main()
