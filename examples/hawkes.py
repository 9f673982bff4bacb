"""Fit a Hawkes process, whose events make further events more likely, in linear time.

    python examples/hawkes.py [--end 4000] [--out DIR]

The intensity is mu + alpha beta sum_{t_j < t} exp(-beta (t - t_j)): events arrive at the rate mu,
and each of them triggers alpha more on average, within a time of order 1 / beta. The script
simulates events, computes the log likelihood by laplex.matvec(side="left") and by the recursion of
Ozaki (1979), and fits the three parameters by exact gradients, with standard errors from exact
second derivatives. It writes hawkes.png.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.stats
import torch
from matplotlib.figure import Figure
from torch import Tensor

import laplex

NAMES = ("mu", "alpha", "beta")
TRUTH = (0.5, 0.7, 2.0)


def simulated(mu: float, alpha: float, beta: float, end: float, seed: int = 0) -> Tensor:
    """Draw the events of a process that starts at 0, in ascending order.

    Each event has a Poisson number of children, at exponential times after it.
    """
    generator = np.random.default_rng(seed)
    parents = generator.uniform(0, end, generator.poisson(mu * end))
    events = [parents]
    while len(parents):
        parents = np.repeat(parents, generator.poisson(alpha, len(parents)))
        parents = parents + generator.exponential(1 / beta, len(parents))
        parents = parents[parents < end]
        events.append(parents)
    return torch.from_numpy(np.sort(np.concatenate(events)))


def intensity(times: Tensor, events: Tensor, parameters: Tensor) -> Tensor:
    """Return the intensity [m] just after each of some times [m]."""
    mu, alpha, beta = parameters
    sums = laplex.matvec(torch.ones_like(events), times, events, lengthscale=1 / beta, side="left")
    return mu + alpha * beta * sums


def log_likelihood(events: Tensor, end: float, parameters: Tensor) -> Tensor:
    """Return the log likelihood of events between 0 and `end`."""
    mu, alpha, beta = parameters
    before = intensity(events, events, parameters) - alpha * beta  # without the event itself
    expected = mu * end - alpha * torch.expm1(beta * (events - end)).sum()
    return before.log().sum() - expected


def by_recursion(events: np.ndarray, end: float, mu: float, alpha: float, beta: float) -> float:
    """Return the same log likelihood by the recursion over the events."""
    total, triggered, last = -mu * end, 0.0, -math.inf
    for event in events:
        decay = math.exp(-beta * (event - last))
        triggered = decay * (triggered + 1) if decay else 0.0
        total += math.log(mu + alpha * beta * triggered) + alpha * math.expm1(beta * (event - end))
        last = event
    return total


def fitted(events: Tensor, end: float) -> Tensor:
    """Maximise the likelihood by L-BFGS in the logarithms of the parameters, and return these."""
    rate = len(events) / end
    logarithms = torch.tensor([rate / 2, 0.5, rate], dtype=torch.float64).log().requires_grad_(True)
    optimiser = torch.optim.LBFGS([logarithms], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = -log_likelihood(events, end, logarithms.exp()) / len(events)
        value.backward()
        return value

    optimiser.step(closure)
    return logarithms.detach()


def rescaled(events: Tensor, parameters: Tensor) -> np.ndarray:
    """Return the expected numbers of events between events: exponential if the model is right."""
    mu, alpha, _ = parameters
    after = (intensity(events, events, parameters) - mu) / parameters[1:].prod()
    count = torch.arange(1, len(events) + 1, dtype=torch.float64)
    expected = mu * events + alpha * (count - after)
    return np.diff(expected.numpy(), prepend=0.0)


def timed(function: Callable[[], float]) -> tuple[float, float]:
    """Return a result and the milliseconds that it takes, the least of five."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return result, 1e3 * min(seconds)


def main() -> None:
    """Simulate, fit, print results and draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--end", type=float, default=4000.0, help="length of the record (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(), help="folder for the figure (default: current folder)"
    )
    options = parser.parse_args()
    truth, end = torch.tensor(TRUTH, dtype=torch.float64), options.end
    events = simulated(*TRUTH, end)
    print(f"{len(events)} events")
    ours, ours_took = timed(lambda: float(log_likelihood(events, end, truth)))
    theirs, theirs_took = timed(lambda: by_recursion(events.numpy(), end, *TRUTH))
    print(f"log likelihood: {ours:.9f} by Laplex in {ours_took:.1f} ms,")
    print(f"{theirs:.9f} by the recursion in Python in {theirs_took:.1f} ms")

    best = fitted(events, end)
    hessian = torch.autograd.functional.hessian(
        lambda logarithms: -log_likelihood(events, end, logarithms.exp()), best
    )
    errors = torch.linalg.inv(hessian).diagonal().sqrt()  # of the logarithms: relative
    for name, true, value, error in zip(NAMES, TRUTH, best.exp(), errors, strict=True):
        print(f"{name:5s} {true:.3f}, fitted {value:.3f} ± {value * error:.3f}")
    steps = rescaled(events, best.exp())
    test = scipy.stats.kstest(steps, "expon")
    print(f"expected events between events are exponential: p = {test.pvalue:.2f}")

    window = (end / 2, end / 2 + 60)
    grid = torch.linspace(*window, 3000, dtype=torch.float64)
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2.5, 1])
    left.plot(grid, intensity(grid, events, truth), color="#888888", label="true intensity")
    left.plot(grid, intensity(grid, events, best.exp()), "--", color="C0", label="fitted")
    shown = events[(events > window[0]) & (events < window[1])]
    left.plot(shown, torch.zeros_like(shown), "|", color="black", label="events")
    left.set(xlabel="time", ylabel="events per unit of time", title="A simulated Hawkes process")
    left.legend()
    quantiles = scipy.stats.expon.ppf((np.arange(len(steps)) + 0.5) / len(steps))
    right.plot(quantiles, np.sort(steps), ".", markersize=3)
    right.axline((0, 0), slope=1, color="#888888", linewidth=1)
    right.set(xlabel="quantiles of exponential numbers", title="Expected events between events")
    options.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out / "hawkes.png", dpi=110)


if __name__ == "__main__":
    main()
