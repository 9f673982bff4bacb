"""Writes docs/measurements/updates.md: what an update of a plan costs along runs of training.

    python bench/python/updates.py [--quick]

Adam learns targets, sources and values of a kernel matrix, n of each, whose product is to equal a
given function. `Plan.update` follows the anchors from step to step. The script measures single
steps, along the way and with one thread: how many anchors change their rank among all, and the time
of the update beside that of a new plan. It takes a few minutes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import laplex
from laplex import _core
from machine import processor

ROOT = Path(__file__).parents[2]
SIZES = (10**4, 10**5, 10**6)
RATES = (1e-4, 1e-3, 1e-2, 1e-1)
MEASURED = (1, 2, 5, 10, 20)  # steps
LENGTHSCALE = 0.1
ROUNDS = 5

Array = np.ndarray


class Adam:
    """Adam with its usual moments, in place."""

    def __init__(self, parameters: list[Array], rate: float) -> None:
        self.parameters, self.rate, self.step = parameters, rate, 0
        self.means = [np.zeros_like(each) for each in parameters]
        self.squares = [np.zeros_like(each) for each in parameters]

    def move(self, gradients: list[Array]) -> None:
        self.step += 1
        scale = self.rate * np.sqrt(1 - 0.999**self.step) / (1 - 0.9**self.step)
        for parameter, gradient, mean, square in zip(
            self.parameters, gradients, self.means, self.squares, strict=True
        ):
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            parameter -= (scale * mean / (np.sqrt(square) + 1e-8)).astype(parameter.dtype)


def ranks(x: Array, y: Array) -> Array:
    """Return the rank of each anchor among all."""
    order = np.argsort(np.concatenate([y, x]), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank


def seconds(task: Callable[[], object]) -> float:
    start = time.process_time()
    task()
    return time.process_time() - start


def run(n: int, rate: float) -> tuple[float, float, float]:
    """Train; return medians over the measured steps.

    They are the share of anchors that change rank in a step, by how many places an anchor does, and
    the time of an update over that of a new plan.
    """
    rng = np.random.default_rng(0)
    x, y = rng.random((2, n), dtype=np.float32)
    v = rng.standard_normal(n, dtype=np.float32) / np.float32(n)
    wanted = np.sin(20 * np.arange(n, dtype=np.float32) / np.float32(n))
    adam = Adam([x, y, v], rate)
    plan = laplex.Plan(x, y, lengthscale=LENGTHSCALE, num_threads=1)
    found = []
    for step in range(1, MEASURED[-1] + 1):
        gradients = plan.vjp(v, plan.apply(v) - wanted)
        before = x.copy(), y.copy()
        adam.move([gradients.targets, gradients.sources, gradients.values])
        if step in MEASURED:
            places = np.abs(ranks(x, y) - ranks(*before))
            new, update = [], []
            for _ in range(ROUNDS):
                new.append(
                    seconds(lambda: laplex.Plan(x, y, lengthscale=LENGTHSCALE, num_threads=1))
                )
                update.append(seconds(lambda: plan.update(x, y)))
                plan.update(*before)
            found.append((np.mean(places > 0), np.median(places), min(update) / min(new)))
        plan.update(x, y)
    share, places, ratio = (statistics.median(each) for each in zip(*found, strict=True))
    return float(share), float(places), float(ratio)


def page(sizes: tuple[int, ...]) -> str:
    lines = [
        "# Updates along training",
        "",
        "Adam learns the n targets, n sources and n values of a product that is to equal a given",
        "function, from random anchors on [0, 1], in float32. `Plan.update` follows the anchors.",
        f"Each row has medians over steps {', '.join(map(str, MEASURED))}: the share of anchors",
        "whose rank among all changes in the step, by how many places the median anchor moves, and",
        "the time of the update divided by that of a new plan (whole Python calls, in process CPU",
        f"time on one thread, each the minimum of {ROUNDS} in turns).",
        "",
        "| n | learning rate | anchors that change rank | places | update / new plan |",
        "| --: | --: | --: | --: | --: |",
    ]
    for n in sizes:
        for rate in RATES:
            share, places, ratio = run(n, rate)
            lines.append(f"| {n:,} | {rate:g} | {share:.0%} | {places:,.0f} | {ratio:.2f} |")
            print(lines[-1], flush=True)
    lines += [
        "",
        f"{processor()}, instruction set `{_core.info()['isa']}`. `python bench/python/updates.py`",
        "writes this page; `make bench` runs it.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="train n = 10^4 only, and write no file"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT,
        help="the folder that holds docs/measurements (default: the repository)",
    )
    options = parser.parse_args()
    text = page(SIZES[:1] if options.quick else SIZES)
    if not options.quick:
        (options.out / "docs" / "measurements" / "updates.md").write_text(text)


if __name__ == "__main__":
    main()
