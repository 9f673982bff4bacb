"""Writes docs/first_numbers.md: this version beside the targets of the fast one, and beside peers.

    python bench/python/first_numbers.py [--quick] [--out docs/first_numbers.md]

Everything runs in one process, on one thread unless said, interleaved round by round; a figure is
the minimum of the rounds in process CPU time. Read ratios, not seconds: the machine may be shared.
Peers that are not installed are named. Takes about two minutes; --quick stops at n = 10^5.
"""

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before NumPy and torch read it

import argparse  # noqa: E402
import importlib  # noqa: E402
import platform  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

import laplex  # noqa: E402
from machine import processor  # noqa: E402

ROOT = Path(__file__).parents[2]
ROUNDS = 5


def optional(name: str) -> Any:
    """Return a peer, or None."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def measure(tasks: dict[str, Callable[[], object]], wall: bool = False) -> dict[str, float]:
    """Seconds per task: the minimum over rounds in which every task runs once."""
    clock = time.perf_counter if wall else time.process_time
    best = dict.fromkeys(tasks, float("inf"))
    for _ in range(ROUNDS + 1):  # the first round fills caches; the minimum forgets it
        for name, task in tasks.items():
            start = clock()
            task()
            best[name] = min(best[name], clock() - start)
    return best


def tasks_for(n: int) -> dict[str, Callable[[], object]]:
    """Return our operations and the peers' at one size, in float32."""
    rng = np.random.default_rng(0)
    x, y = (rng.random(n).astype(np.float32) for _ in range(2))
    v = rng.standard_normal(n).astype(np.float32)
    sx, sy = np.sort(x), np.sort(y)
    plan = laplex.Plan(x, y, lengthscale=0.1, num_threads=1)
    ordered = laplex.Plan(sx, sy, lengthscale=0.1, num_threads=1)
    cosine = laplex.Plan(
        x, y, lengthscale=0.1, target_phase=x, source_phase=y, real_part=True, num_threads=1
    )
    own = laplex.Plan(sx, lengthscale=0.1, num_threads=1)
    u = plan.apply(v)
    out = np.empty_like(u)
    index_in, index_out = rng.permutation(n), rng.permutation(n)
    source, sink = np.ones(28 * n // 8), np.empty(28 * n // 8)
    moved = (x + 1e-5 * rng.standard_normal(n)).astype(np.float32)
    flip = [moved, x]
    repaired = laplex.Plan(x, y, lengthscale=0.1, num_threads=1)
    x_torch, y_torch, v_torch = (torch.from_numpy(a) for a in (x, y, v))
    sorted_torch, u_torch = torch.from_numpy(sx).requires_grad_(), torch.from_numpy(u)
    w_torch = v_torch.clone().requires_grad_()

    def gather_scatter() -> None:
        out[index_out] = v[index_in]

    def update_and_forward() -> None:
        repaired.update(flip[0], y)
        flip.reverse()
        repaired.apply(v, out=out)

    def cumsum_autograd() -> None:
        """exp(-x/ell) times a cumulative sum, both ways: what people write for sorted anchors.

        Overflows on ranges from 88 lengthscales on; loses digits long before.
        """
        sorted_torch.grad = w_torch.grad = None
        p = sorted_torch / 0.1
        up, down = torch.exp(p), torch.exp(-p)
        left = down * torch.cumsum(up * w_torch, 0)
        right = up * torch.cumsum((down * w_torch).flip(0), 0).flip(0)
        (left + right - w_torch).backward(u_torch)

    def both_sorts() -> None:
        torch.sort(x_torch)
        torch.sort(y_torch)

    return {
        "forward, sorted": lambda: ordered.apply(v, out=out),
        "forward, random": lambda: plan.apply(v, out=out),
        "forward, cosine": lambda: cosine.apply(v, out=out),
        "forward + gradients": lambda: (plan.apply(v, out=out), plan.vjp(v, u)),
        "new plan (the sort)": lambda: laplex.Plan(x, y, lengthscale=0.1, num_threads=1),
        "new plan and forward": lambda: laplex.Plan(x, y, lengthscale=0.1, num_threads=1).apply(v),
        "update and forward": update_and_forward,
        "self, sorted: forward + gradients": lambda: (own.apply(v), own.vjp(v, u)),
        "memcpy 28n": lambda: np.copyto(sink, source),
        "gather + scatter": gather_scatter,
        "torch.sort of both": both_sorts,
        "numpy.argsort of both": lambda: (np.argsort(x), np.argsort(y)),
        "torch.fft.rfft": lambda: torch.fft.rfft(v_torch),
        "torch cumsum autograd": cumsum_autograd,
    }


def celerite2_tasks(n: int) -> dict[str, Callable[[], object]]:
    """Both in float64 on the self case, which is what celerite2 does; its matrices made before."""
    if optional("celerite2") is None:
        return {}
    from celerite2 import driver
    from celerite2.terms import RealTerm

    rng = np.random.default_rng(0)
    x, v = np.sort(rng.random(n)), rng.standard_normal(n)
    plan = laplex.Plan(x, lengthscale=0.1, num_threads=1)
    c, a, lower, upper = RealTerm(a=1.0, c=10.0).get_celerite_matrices(x, np.zeros(n))
    column = v[:, None]

    def product() -> Any:
        u = a[:, None] * column
        u = driver.matmul_lower(x, c, lower, upper, column, u)
        return driver.matmul_upper(x, c, lower, upper, column, u)

    assert np.abs(product()[:, 0] - plan.apply(v)).max() < 1e-9 * n
    return {"ours, f64": lambda: plan.apply(v), "celerite2": product}


def numba_tasks(n: int) -> dict[str, Callable[[], object]]:
    """Compare with what one would write by hand: a loop over sorted anchors, compiled by numba."""
    numba = optional("numba")
    if numba is None:
        return {}

    @numba.njit
    def half(z: Any, x: Any, v: Any, ell: float, below: bool, u: Any) -> None:
        total, last, k = 0.0, z[0], 0
        for i in range(len(x)):
            while k < len(z) and (z[k] < x[i] or (below and z[k] == x[i])):
                total = total * np.exp((last - z[k]) / ell) + v[k]
                last = z[k]
                k += 1
            if k > 0:
                u[i] += total * np.exp((last - x[i]) / ell)

    rng = np.random.default_rng(0)
    x, y = (np.sort(rng.random(n)).astype(np.float32) for _ in range(2))
    v = rng.standard_normal(n).astype(np.float32)
    plan = laplex.Plan(x, y, lengthscale=0.1, num_threads=1)
    y_down, x_down, v_down = -y[::-1].copy(), -x[::-1].copy(), v[::-1].copy()

    def loop() -> Any:
        u, down = np.zeros(n), np.zeros(n)
        half(y, x, v, 0.1, True, u)
        half(y_down, x_down, v_down, 0.1, False, down)
        return u + down[::-1]

    assert np.abs(loop() - plan.apply(v)).max() < 1e-4 * n
    return {"ours, sorted": lambda: plan.apply(v), "numba loop": loop}


def batch_tasks(n: int) -> dict[str, Callable[[], object]]:
    """Sixty-four rows at once."""
    rng = np.random.default_rng(0)
    v = rng.standard_normal((64, n)).astype(np.float32)
    out = np.empty_like(v)
    sink = np.empty_like(v)
    x, y = rng.random((2, n)).astype(np.float32)
    plan = laplex.Plan(x, y, lengthscale=0.1, num_threads=1)
    return {"batch 64": lambda: plan.apply(v, out=out), "memcpy of V": lambda: np.copyto(sink, v)}


def thread_tasks(n: int) -> dict[str, Callable[[], object]]:
    """One thread and two, to be timed by the clock on the wall."""
    rng = np.random.default_rng(0)
    x, v = rng.random(n).astype(np.float32), rng.standard_normal(n).astype(np.float32)
    one, two = (laplex.Plan(x, lengthscale=0.1, num_threads=k) for k in (1, 2))
    return {"one thread": lambda: one.apply(v), "two threads": lambda: two.apply(v)}


def overhead() -> float:
    """Microseconds of a whole laplex.matvec call at n = 64 without gradients."""
    x, v = torch.rand(64), torch.randn(64)
    best = float("inf")
    with torch.no_grad():
        for _ in range(20):
            start = time.process_time()
            for _ in range(200):
                laplex.matvec(v, x)
            best = min(best, (time.process_time() - start) / 200)
    return best * 1e6


class Targets:
    """The table of targets: rows of what, target, measured and whether the target is met."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, bool]] = []

    def at_most(self, what: str, value: float, target: float, unit: str = "x") -> None:
        """Add a figure that should be small."""
        self.rows.append((what, f"<= {target:g}{unit}", f"{value:.3g}{unit}", value <= target))

    def at_least(self, what: str, value: float, target: float) -> None:
        """Add a figure that should be large."""
        self.rows.append((what, f">= {target:g}x", f"{value:.3g}x", value >= target))


def target_table(times: dict[int, dict[str, float]]) -> Targets:
    """Compare with the targets, and measure what needs tasks of its own."""
    table = Targets()
    for n, t in times.items():
        ours = t["forward, random"]
        # With the decays, which the first product makes.
        plan, update = (t[f"{name} and forward"] - ours for name in ("new plan", "update"))
        at = f"n = {n:.0e}"
        table.at_most(
            f"forward, sorted, vs memcpy of 28n bytes, {at}",
            t["forward, sorted"] / t["memcpy 28n"],
            2.0,
        )
        if n > 10**5:
            target = 1.3 if n == 10**6 else 1.1
            table.at_most(
                f"forward, random, vs gather + scatter, {at}", ours / t["gather + scatter"], target
            )
        table.at_most(
            f"forward + all gradients vs forward, {at}", t["forward + gradients"] / ours, 2.3
        )
        table.at_most(f"anchor update vs new plan, {at}", update / plan, 0.5)
        table.at_least(f"plan vs torch.sort of both, {at}", t["torch.sort of both"] / plan, 8)
        table.at_most(f"cosine forward vs real forward, {at}", t["forward, cosine"] / ours, 2.2)
        target = {10**5: 8, 10**6: 4, 10**7: 5}[n]
        table.at_least(f"forward vs torch.fft.rfft(n), {at}", t["torch.fft.rfft"] / ours, target)
        if n == 10**5:
            table.at_least(
                f"forward + gradients vs torch cumsum autograd, {at}",
                t["torch cumsum autograd"] / t["self, sorted: forward + gradients"],
                15,
            )
            if tasks := numba_tasks(n):
                t = measure(tasks)
                table.at_least(
                    f"forward vs numba loop, {at}", t["numba loop"] / t["ours, sorted"], 3.5
                )
        if n < 10**7 and (tasks := celerite2_tasks(n)):
            t = measure(tasks)
            target = 30 if n == 10**5 else 15
            table.at_least(
                f"forward vs celerite2, f64, {at}", t["celerite2"] / t["ours, f64"], target
            )
    t = measure(batch_tasks(10**5))
    table.at_most("batch 64 vs memcpy of V, n = 1e+05", t["batch 64"] / t["memcpy of V"], 2)
    t = measure(thread_tasks(10**6), wall=True)
    table.at_least(
        "two threads vs one, n = 1e+06 (wall time)", t["one thread"] / t["two threads"], 1.8
    )
    table.at_most("whole laplex.matvec call, n = 64, no gradients", overhead(), 15, " us")
    return table


def page(times: dict[int, dict[str, float]], table: Targets) -> str:
    """Return the page in Markdown."""
    missing = [name for name in ("celerite2", "numba") if optional(name) is None]
    columns = list(times)
    lines = [
        "# First numbers",
        "",
        "This version is plain: double precision inside, no vector instructions beyond the",
        "baseline, no cache blocking. This page measures it against the targets of the version",
        "that will be fast, so that the gain can be seen. One thread, float32 unless said, process",
        "CPU time, minimum of interleaved rounds; an error of a few per cent is usual. Read the",
        "ratios, not the times. Anchors are uniform on [0, 1], the lengthscale is 0.1. *Plan* and",
        "*update* in the targets include the decays, which the first product makes: they are the",
        "time with a product less that of a product.",
        "",
        "| what | target | measured | met |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {what} | {target} | {got} | {'yes' if met else '**no**'} |"
        for what, target, got, met in table.rows
    ]
    lines += [
        "",
        f"{sum(met for *_, met in table.rows)} of {len(table.rows)} targets are met.",
        "",
        "Nanoseconds per element (n targets and n sources count as n):",
        "",
        "| | " + " | ".join(f"n = {n:.0e}" for n in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    lines += [
        f"| {name} | " + " | ".join(f"{times[n][name] / n * 1e9:.1f}" for n in columns) + " |"
        for name in times[columns[0]]
    ]
    if missing:
        lines += ["", f"Peers not installed, so not measured: {', '.join(missing)}."]
    lines += [
        "",
        f"laplex {laplex.__version__}, torch {torch.__version__}, NumPy {np.__version__}, Python",
        f"{platform.python_version()}, {processor()}, shared with other work.",
        "Again: `pip install celerite2 numba`, `python bench/python/first_numbers.py`.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "first_numbers.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [10**5] if options.quick else [10**5, 10**6, 10**7]
    times = {n: measure(tasks_for(n)) for n in sizes}
    text = page(times, target_table(times))
    options.out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
