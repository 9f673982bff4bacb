"""Average an irregular time series with exponential weights, and learn their half-life.

    python examples/irregular_average.py [--readings 20000] [--out DIR]

The readings are simulated: a sensor reports in bursts, with pauses between them, what wanders
slowly, with errors. The script compares the average of laplex.matvec(side="left") with that of
pandas' ewm(halflife=, times=). It then finds the half-life whose average predicts the next reading
best, by gradients, and compares it with a search over a grid by pandas. It writes
irregular_average.png.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

import laplex

HOUR = 3_600_000_000_000  # in nanoseconds, the unit of pandas' times


def simulated(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw the times of n readings, int64 nanoseconds, and the readings."""
    generator = np.random.default_rng(seed)
    pauses = np.where(generator.random(n) < 0.01, 6.0, 0.05) * generator.exponential(size=n)
    times = np.cumsum(np.maximum(pauses * HOUR, 1).astype(np.int64))
    hours = np.diff(times, prepend=times[0]) / HOUR
    level = np.cumsum(np.sqrt(0.2 * hours) * generator.standard_normal(n))
    return times, 20 + level + 0.5 * generator.standard_normal(n)


def average(values: Tensor, hours: Tensor, half_life: Tensor | float) -> Tensor:
    """Return the weighted mean [n] of each value and the ones before it."""
    both = torch.stack((values, torch.ones_like(values)))
    total, weight = laplex.matvec(both, hours, lengthscale=half_life / math.log(2), side="left")
    return total / weight


def loss(values: Tensor, hours: Tensor, half_life: Tensor) -> Tensor:
    """Return the mean squared error of each average as a prediction of the next value."""
    return (average(values, hours, half_life)[:-1] - values[1:]).square().mean()


def learned(values: Tensor, hours: Tensor, start: float = 1.0) -> float:
    """Find the half-life of the smallest loss by L-BFGS in its logarithm."""
    logarithm = torch.tensor(math.log(start), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logarithm], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(values, hours, logarithm.exp())
        value.backward()
        return value

    optimiser.step(closure)
    return math.exp(logarithm.item())


def timed(function: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """Return a result and the milliseconds that it takes, the least of five."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return result, 1e3 * min(seconds)


def main() -> None:
    """Average, learn the half-life, print results and draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--readings", type=int, default=20_000, help="number of readings (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(), help="folder for the figure (default: current folder)"
    )
    options = parser.parse_args()
    times, readings = simulated(options.readings)
    series, stamps = pd.Series(readings), pd.to_datetime(times)
    values = torch.from_numpy(readings)
    hours = torch.from_numpy((times - times[0]) / HOUR)

    ours, ours_took = timed(lambda: average(values, hours, 1.0).numpy())
    theirs, theirs_took = timed(lambda: series.ewm(halflife="1h", times=stamps).mean().to_numpy())
    print(f"{len(values)} readings, averaged with a half-life of one hour:")
    print(f"{ours_took:.1f} ms by Laplex, {theirs_took:.1f} ms by pandas")
    print(f"largest relative difference: {np.max(np.abs(ours / theirs - 1)):.1e}")

    best = learned(values, hours)
    smallest = float(loss(values, hours, torch.tensor(best, dtype=torch.float64)))
    print(f"half-life by gradients: {best:.4f} h, root mean square error {smallest**0.5:.5f}")
    grid = np.geomspace(0.05, 20, 41)
    errors = []
    for half_life in grid:
        means = series.ewm(halflife=pd.Timedelta(hours=half_life), times=stamps).mean().to_numpy()
        errors.append(np.mean((means[:-1] - readings[1:]) ** 2) ** 0.5)
    print(f"best of {len(grid)} by pandas: {grid[np.argmin(errors)]:.4f} h, {min(errors):.5f}")

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    shown = hours < 24
    left.plot(hours[shown], values[shown], ".", color="#888888", markersize=3, label="readings")
    for half_life, colour in ((0.05, "C1"), (best, "C0"), (20.0, "C2")):
        means = average(values, hours, half_life)
        left.step(
            hours[shown],
            means[shown],
            where="post",
            color=colour,
            label=f"average, half-life {half_life:.2g} h",
        )
    left.set(xlabel="time / h", ylabel="reading", title="The first day of a simulated sensor")
    left.legend(fontsize=8)
    right.semilogx(grid, errors, ".-", color="#888888", label="grid, by pandas")
    right.plot(best, smallest**0.5, "o", color="C0", label="by gradients, with Laplex")
    right.set(xlabel="half-life / h", title="Error of the prediction of the next reading")
    right.legend(fontsize=8)
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "irregular_average.png", dpi=110)


if __name__ == "__main__":
    main()
