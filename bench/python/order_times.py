"""Times of soft sorting and ranking with gradients: the tables, the ratios and the picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from cells import power, seconds, table
from measure import measure
from order_methods import OPERATIONS, Method, Problem, of_operation

SIZES = (10**2, 10**3, 10**4, 10**5, 10**6)
#: Rows and length of the batch.
BATCH = (1024, 64)
SORT = "torch.sort, no gradients"
#: The largest quotient of the time of laplex and that of torch.sort, at 10^6 scores.
TARGETS = {"soft_rank": 0.6, "softsort": 1.0}
#: Temperatures, in the spread of the scores, at which soft_rank is measured.
TAUS = (1e-6, 1e-4, 1e-2, 1.0)

#: Seconds by operation, library and size, of which the last is the batch.
Times = dict[str, dict[str, dict[str, float]]]


def task(method: Method, problem: Problem) -> Callable[[], Any]:
    """Run a method and the gradients by all its arguments."""
    leaves = problem.leaves(method.operation)
    weights = torch.randn_like(method.run(problem))
    return lambda: torch.autograd.grad(method.run(problem), leaves, weights)


def measured_size(n: int, rows: int, quick: bool) -> dict[str, dict[str, float]]:
    """Seconds by operation and library."""
    problem = Problem.draw(n, rows)
    found: dict[str, dict[str, float]] = {}
    for operation in OPERATIONS:
        # Those with n x n matrices sweep the caches: rounds of their own.
        groups: dict[bool, dict[str, Callable[[], Any]]] = {False: {}, True: {}}
        groups[False][SORT] = partial(torch.sort, problem.scores.detach())
        for method in of_operation(operation):
            if n <= method.largest:
                quadratic = rows == 1 and n >= 1000 and method.largest < 10**6
                groups[quadratic][method.who] = task(method, problem)
        for quadratic, group in groups.items():
            rounds, budget = (2, 1.0) if quick else (15, 3.0 if quadratic else 6.0)
            found.setdefault(operation, {}).update(measure(group, rounds=rounds, budget=budget))
    return found


def measured(quick: bool) -> Times:
    """Measure all libraries at all sizes, in interleaved rounds."""
    times: Times = {}
    shapes = [(n, 1) for n in (SIZES[:2] if quick else SIZES)]
    for n, rows in [*shapes, (BATCH[1], 16 if quick else BATCH[0])]:
        for operation, by_who in measured_size(n, rows, quick).items():
            for who, value in by_who.items():
                key = str(n) if rows == 1 else "batch"
                times.setdefault(operation, {}).setdefault(who, {})[key] = value
        print(f"times, {rows} x {n}: done", flush=True)
    return times


def measured_temperatures(quick: bool) -> dict[str, Any]:
    """Seconds of laplex and torch.sort, by temperature."""
    n = 1000 if quick else 10**6
    tasks: dict[str, Callable[[], Any]] = {}
    for tau in TAUS:
        problem = Problem.draw(n, tau=tau)
        for operation in OPERATIONS:
            method = next(m for m in of_operation(operation) if m.who == "laplex")
            tasks[f"{operation} {tau}"] = task(method, problem)
    tasks[SORT] = partial(torch.sort, Problem.draw(n).scores.detach())
    return {"n": n, "times": measure(tasks, rounds=2 if quick else 5, budget=40.0)}


def section(times: Times, folder: Path) -> str:
    """The tables; the picture is written into the folder."""
    draw(times, folder)
    return "\n".join([targets(times), *(one_table(name, times[name]) for name in times)])


def targets(times: Times) -> str:
    head = ["time of laplex over that of torch.sort", "target", *_head(_keys(times))]
    rows = []
    for operation, by_who in times.items():
        ours, theirs = by_who["laplex"], by_who[SORT]
        quotients = {key: ours[key] / theirs[key] for key in ours}
        limit = TARGETS.get(operation)
        cells = []
        for key in _keys(times):
            missed = limit is not None and key == str(10**6) and quotients[key] > limit
            cells.append(f"**{quotients[key]:.2f}**" if missed else f"{quotients[key]:.2f}")
        text = f"at most {limit:g} at n = 10^6" if limit else ""
        rows.append([f"{operation} and gradients", text, *cells])
    return table(head, rows)


def one_table(operation: str, by_who: dict[str, dict[str, float]]) -> str:
    keys = _keys({operation: by_who})
    rows = [[who, *(seconds(points.get(key)) for key in keys)] for who, points in by_who.items()]
    rows.sort(key=lambda row: (row[0] != SORT, row[0] != "laplex"))
    return table([f"{operation} and gradients", *_head(keys)], rows)


def section_temperatures(found: dict[str, Any], folder: Path) -> str:
    times = found["times"]
    rows = [
        [operation, *(f"{times[f'{operation} {tau}'] / times[SORT]:.2f}" for tau in TAUS)]
        for operation in OPERATIONS
    ]
    head = [f"time over that of torch.sort, n = {power(found['n'])}"]
    return table([*head, *(f"tau = {tau:g}" for tau in TAUS)], rows)


def _keys(times: Times) -> list[str]:
    found = {key for by_who in times.values() for points in by_who.values() for key in points}
    return [*sorted(found - {"batch"}, key=int), "batch"]


def _head(keys: list[str]) -> list[str]:
    rows, n = BATCH
    return [f"{rows} x {n}" if key == "batch" else f"n = {power(int(key))}" for key in keys]


def draw(times: Times, folder: Path) -> None:
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    names = list(dict.fromkeys(who for by_who in times.values() for who in by_who))
    axes = figure.subplots(1, len(times), sharex=True, sharey=True)
    labels: dict[str, Any] = {}
    for ax, (operation, by_who) in zip(axes, times.items(), strict=True):
        for who, points in by_who.items():
            sizes = sorted((key for key in points if key != "batch"), key=int)
            number = names.index(who)
            dots = "--" if who == SORT else ":" if number > 10 else "-"  # there are ten colours
            style = {
                "color": "k" if who == SORT else f"C{number - 1}",
                "marker": "" if who == SORT else "o" if who == "laplex" else "x",
                "linestyle": dots,
            }
            x, y = [int(n) for n in sizes], [points[n] / int(n) * 1e9 for n in sizes]
            (line,) = ax.plot(x, y, ms=4, **style)
            labels.setdefault(who, line)
        ax.set(xscale="log", yscale="log", title=operation, xlabel="n")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("nanoseconds of CPU time per score")
    figure.legend(
        list(labels.values()), list(labels), loc="outside lower center", ncols=5, fontsize=9
    )
    figure.savefig(folder / "order_times.png", dpi=100)
