"""Times of kernel sums in three dimensions, beside simple_torch_NFFT, KeOps and dense torch."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import laplex
from cells import power, seconds, table
from sliced_errors import dense

D = 3
SIZES = (10**4, 10**5)
DIRECTIONS = {10**4: (16, 64, 256, 1024), 10**5: (16, 64, 256)}
#: Of how many targets the exact sums are computed, where all would take minutes.
SUBSET = 1000
#: The number of directions with which gradients are measured.
WITH_GRADIENTS = 64
#: The errors at which times are compared.
ERRORS = (1e-2, 1e-3, 2e-4)
SLICED = "laplex.sliced"


@dataclass(frozen=True)
class Problem:
    """Values at sources `[n, 3]`, standard normal like the targets; the lengthscale is 1."""

    values: Tensor
    targets: Tensor
    sources: Tensor

    @classmethod
    def draw(cls, n: int) -> Problem:
        generator = torch.Generator().manual_seed(n)
        targets, sources = torch.randn(2, n, D, generator=generator)
        return cls(torch.rand(n, generator=generator), targets, sources)

    def leaves(self) -> list[Tensor]:
        """The same numbers, to be differentiated by."""
        given = (self.values, self.targets, self.sources)
        return [each.clone().requires_grad_() for each in given]


#: A sum over sources: values, targets, sources and the number of directions.
Sum = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def sliced_sums() -> dict[str, Sum]:
    """Those with directions, which are new ones in every call, so that nothing is found again."""
    generator = torch.Generator().manual_seed(0)

    def ours(v: Tensor, x: Tensor, y: Tensor, count: int) -> Tensor:
        return laplex.sliced.matvec(v, x, y, projections=count, generator=generator)

    found: dict[str, Sum] = {SLICED: ours}
    if importlib.util.find_spec("simple_torch_NFFT"):
        from simple_torch_NFFT import Fastsum

        def add(mode: str) -> None:
            fast = Fastsum(D, kernel="Laplace", device="cpu", slicing_mode=mode, no_compile=True)
            found[f"simple_torch_NFFT, {mode.replace('_', ' ')}"] = lambda v, x, y, count: fast(
                y, x, v, 1.0, count
            )

        add("orthogonal")
        add("spherical_design")
    return found


def exact_sums() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    def torch_sum(v: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([dense("laplace", 1.0, rows, y) @ v for rows in x.split(500)])

    found = {"dense torch": torch_sum}
    if importlib.util.find_spec("pykeops"):
        from pykeops.torch import LazyTensor

        def keops(v: Tensor, x: Tensor, y: Tensor) -> Tensor:
            distance = ((LazyTensor(x[:, None]) - LazyTensor(y[None])) ** 2).sum(-1).sqrt()
            return ((-distance).exp() @ v[:, None])[:, 0]

        found["KeOps"] = keops
    return found


def rounds(tasks: dict[str, Callable[[], Any]], budget: float) -> dict[str, float]:
    """The minimum of CPU seconds, in interleaved rounds; a task ends with its share of seconds."""
    best = dict.fromkeys(tasks, float("inf"))
    spent = dict.fromkeys(tasks, 0.0)
    for number in range(6):
        for name, task in tasks.items():
            if number < 1 or spent[name] < budget:
                start = time.process_time()
                task()
                took = time.process_time() - start
                spent[name] += took
                best[name] = min(best[name], took)
    return best


def measured_size(n: int, counts: tuple[int, ...], budget: float, draws: int) -> list[list[Any]]:
    """Rows of library, directions, seconds, seconds with gradients, error."""
    p = Problem.draw(n)
    few = p.targets[: min(SUBSET, n)]
    truth = dense("laplace", 1.0, few.double(), p.sources.double()) @ p.values.double()

    def error(found: Tensor) -> float:
        return float((found.double() - truth).abs().sum() / truth.abs().sum())

    def with_gradients(run: Callable[..., Tensor], *more: Any) -> Callable[[], Any]:
        leaves = p.leaves()
        return lambda: torch.autograd.grad(run(*leaves, *more).sum(), leaves)

    tasks: dict[str, Callable[[], Any]] = {}
    errors: dict[str, float] = {}
    for who, run in sliced_sums().items():
        for count in counts:
            key = f"{who} / {count}"
            found = [error(run(p.values, few, p.sources, count)) for _ in range(draws)]
            errors[key] = sum(found) / len(found)
            given = (p.values, p.targets, p.sources, count)
            tasks[key] = lambda run=run, given=given: run(*given)
            if count == WITH_GRADIENTS:
                tasks[f"{key} / gradients"] = with_gradients(run, count)
    best = rounds(tasks, budget)
    rows = [
        [*key.split(" / "), best[key], best.get(f"{key} / gradients"), errors[key]]
        for key in errors
    ]
    exact = {
        who: lambda run=run: run(p.values, few, p.sources) for who, run in exact_sums().items()
    }
    for who, took in rounds(exact, budget).items():
        rows.append([who, "", took * n / len(few), None, error(exact[who]())])
    print(f"times, n = {n}: done", flush=True)
    return rows


def measured(quick: bool) -> dict[str, list[list[Any]]]:
    if quick:
        return {"1000": measured_size(1000, (4, 16), 0.1, 1)}
    return {str(n): measured_size(n, DIRECTIONS[n], 5.0, 3) for n in SIZES}


def section(found: dict[str, list[list[Any]]], folder: Path) -> str:
    draw(found, folder)
    parts = [equal_errors(found)]
    for n, rows in found.items():
        head = [f"n = {power(int(n))}", "P", "sum", "sum and gradients", "relative error"]
        cells = [
            [who, count, seconds(took), seconds(both), f"{error:.1e}"]
            for who, count, took, both, error in rows
        ]
        parts.append(table(head, cells))
    return "\n".join(parts)


def equal_errors(found: dict[str, list[list[Any]]]) -> str:
    """The least time of each library within an error."""
    table_rows = []
    for n, rows in found.items():
        for limit in ERRORS:
            least: dict[str, float] = {}
            for who, count, took, _, error in rows:
                if error <= limit and count:
                    least[who] = min(least.get(who, float("inf")), took)
            ours = least.get(SLICED)
            for who, took in least.items():
                ratio = f"{took / ours:.1f}" if ours else ""
                table_rows.append([power(int(n)), f"{limit:.0e}", who, seconds(took), ratio])
    head = ["n", "error at most", "", "least time of a sum", "over that of laplex.sliced"]
    return table(head, table_rows)


def draw(found: dict[str, list[list[Any]]], folder: Path) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    for ax, (n, rows) in zip(axes, found.items(), strict=True):
        for who in dict.fromkeys(row[0] for row in rows):
            points = [(row[2], row[4]) for row in rows if row[0] == who]
            ax.plot(*zip(*points, strict=True), "o-" if who == SLICED else "x-", label=who)
        ax.set(xscale="log", yscale="log", xlabel="CPU seconds", title=f"n = {power(int(n))}")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("relative error")
    axes[-1].legend(fontsize=8)
    figure.savefig(folder / "sliced_times.png", dpi=100)
