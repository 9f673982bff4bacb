"""Writes docs/measurements/distributed.md: a line over processes beside the same line in one.

    python bench/python/distributed.py [--sizes 1e6 1e7] [--ranks 2] [--order user line] [--quick]

Starts the processes itself; they talk by gloo, on this machine. Each has an equal share of n
targets and n sources, at random, in float32 with one row, and one thread. Tasks take turns, with a
barrier before each: all ranks together, then one rank alone with a `laplex.Plan` of the whole line.
The minimum over the rounds counts, of the rank that takes longest.
"""

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before NumPy and torch read it, here and in the processes

import argparse  # noqa: E402
import datetime  # noqa: E402
import json  # noqa: E402
import multiprocessing  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

import laplex.distributed  # noqa: E402
from laplex import _core  # noqa: E402
from machine import processor  # noqa: E402

ROOT = Path(__file__).parents[2]
LENGTHSCALE = 0.1
TASKS = ("product", "gradients", "plan")
CLOCKS = ("cpu", "wall")


def line(n: int) -> tuple[np.ndarray, ...]:
    """Targets, sources, values and cotangents, the same in every process."""
    rng = np.random.default_rng(0)
    return tuple(rng.random(n, dtype=np.float32) for _ in range(4))


def work(rank: int, size: int, n: int, order: str, rounds: int, folder: str) -> None:
    """What a process does; it writes its times to a file."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size
    )
    x, y, v, g = line(n)
    if order == "line":
        x.sort()
        y.sort()
    mine = slice(n * rank // size, n * (rank + 1) // size)
    my_x, my_y = x[mine].copy(), y[mine].copy()
    options: dict[str, Any] = {"lengthscale": LENGTHSCALE, "num_threads": 1}

    def make() -> Any:
        return laplex.distributed.ShardedPlan(my_x, my_y, group=dist.group.WORLD, **options)

    plan = make()
    my_v, my_g = v[mine].copy(), g[mine].copy()
    if order == "line":
        my_v, my_g = plan.to_line(my_v), plan.to_line(my_g, side="targets")
    together: dict[str, Callable[[], Any]] = {
        "product": lambda: plan.apply(my_v, order=order),
        "gradients": lambda: plan.vjp(my_v, my_g, order=order),
        "plan": make,
    }
    alone: dict[str, Callable[[], Any]] = {}
    if rank == 0:
        whole = laplex.Plan(x, y, **options)
        alone = {  # results in new memory, as those of a ShardedPlan are
            "product": lambda: whole.apply(v),
            "gradients": lambda: whole.vjp(v, g),
            "plan": lambda: laplex.Plan(x, y, **options),
        }
        np.save(f"{folder}/expected.npy", whole.apply(v))
    else:
        del x, y, v, g
    dist.barrier()
    found = together["product"]()
    if order == "line":
        found = plan.from_line(found)
    expected = np.load(f"{folder}/expected.npy", mmap_mode="r")[mine]
    best = {"same bits": float(np.array_equal(found, expected))}
    for number in range(rounds + 1):
        for who, tasks in (("all", together), ("one", alone)):
            for what in TASKS:
                dist.barrier()
                if what not in tasks:
                    continue  # on to the next barrier, where waiting costs no time of the processor
                cpu, wall = time.process_time(), time.perf_counter()
                tasks[what]()
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                if number:  # the first round only fills caches
                    for clock, seconds in (("cpu", cpu), ("wall", wall)):
                        key = f"{what}, {who}, {clock}"
                        best[key] = min(best.get(key, np.inf), seconds)
    Path(folder, f"{rank}.json").write_text(json.dumps(best))
    dist.barrier()
    dist.destroy_process_group()


def measure(n: int, size: int, order: str, rounds: int) -> dict[str, float]:
    """Start the processes; the largest of the ranks' minima in seconds, and whether bits agree."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        started = [
            context.Process(target=work, args=(rank, size, n, order, rounds, folder))
            for rank in range(size)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join()
        if any(process.exitcode for process in started):
            raise SystemExit("a process failed: see its error above")
        each = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(size)]
    found = {key: max(one.get(key, 0.0) for one in each) for one in each for key in one}
    found["same bits"] = min(one["same bits"] for one in each)
    return found


def row(n: int, size: int, order: str, found: dict[str, float]) -> str:
    cells = [f"{n:,}", str(size), order]
    for what in TASKS:
        alone = found[f"{what}, one, cpu"]
        ratios = [
            found[f"{what}, all, {clock}"] / found[f"{what}, one, {clock}"] for clock in CLOCKS
        ]
        cells += [f"{alone * 1e3:,.3g} ms" if alone < 1 else f"{alone:.3g} s"]
        cells += [f"{ratio:.2f}" for ratio in ratios]
    cells.append("yes" if found["same bits"] else "NO")
    return f"| {' | '.join(cells)} |"


def page(rows: list[str]) -> str:
    """The page, from the lines of its table."""
    head = ["n = m", "processes", "order"]
    for what in TASKS:
        head += [f"{what}, one process", "each CPU", "wall"]
    head.append("same bits")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    text = [
        "# A line over processes",
        "",
        "The columns *one process* are the CPU times of a `laplex.Plan` of the whole line on one",
        "thread: of a product, of all gradients, and of a new plan. Beside each stand, as a part",
        "of it, the CPU time of each process of a `laplex.distributed.ShardedPlan` (of the one",
        "that takes longest), and in the same way the wall time. In *user* order, values travel to",
        "the ranks that own their anchors, and results travel back; in *line* order they are",
        "sorted and stay. *Same bits* says whether the products are equal to the last bit.",
        "",
        "All processes run on one machine, so nothing here says what a network costs. CPU time",
        "leaves out the time that a process waits for others. Wall time means little if there are",
        "more processes than idle processors.",
        "[The guide](../guides/distributed.md) has a model of times on many GPUs.",
        "",
        f"| {' | '.join(head)} |",
        f"|{' --: |' * len(head)}",
        *rows,
        "",
        f"{processor()}, instruction set `{_core.info()['isa']}`, commit {commit},",
        f"{datetime.date.today()}. `python bench/python/distributed.py` writes this page.",
    ]
    return "\n".join(text) + "\n"


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", nargs="+", type=float, default=[1e6, 1e7], help="n (default: 1e6 1e7)"
    )
    parser.add_argument(
        "--ranks", nargs="+", type=int, default=[2], help="numbers of processes (default: 2)"
    )
    parser.add_argument(
        "--order", nargs="+", choices=("user", "line"), default=["user", "line"],
        help="order of values (default: both)",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: %(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="measure n = 10^5 only, and write no file"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT,
        help="the folder that holds docs/measurements (default: the repository)",
    )  # fmt: skip
    options = parser.parse_args()
    rows = []
    for n in [10**5] if options.quick else [int(one) for one in options.sizes]:
        for size in options.ranks:
            for order in options.order:
                rows.append(row(n, size, order, measure(n, size, order, options.rounds)))
                print(rows[-1], flush=True)
    text = page(rows)
    if options.quick:
        print(text)
    else:
        (options.out / "docs" / "measurements" / "distributed.md").write_text(text)


if __name__ == "__main__":
    main()
