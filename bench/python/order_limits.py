"""What each library for soft sorting can do, tried out.

    python bench/python/order_limits.py OPERATION LIBRARY

The program prints how long a line can get; bench/python/order.py runs it, so that every library
has a process, and its peak of memory, of its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from cells import table
from order_accuracy import outcome
from order_methods import METHODS, Method, Problem, of_operation

SECONDS, BYTES = 2.0, 2**30
"""What the largest line may take."""
LONGEST = 2**21
YES, WRONG, NO = "yes", "**wrong, no error**", "no"


def attempt(trial: Callable[[], bool]) -> str:
    """Whether something works, gives wrong numbers, or is refused with an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return YES if trial() else WRONG
        except GradcheckError as error:
            return WRONG if "mismatch" in str(error).lower() else NO
        except Exception:
            return NO


def with_leaves(method: Method, p: Problem) -> Callable[..., Tensor]:
    """The method as a function of scores, and values if it takes some."""
    return lambda *x: method.run(replace(p, **dict(zip(("scores", "values"), x, strict=False))))


def second_derivatives(method: Method) -> str:
    p = Problem.draw(6, 2, torch.float64, tau=0.7)
    run, leaves = with_leaves(method, p), p.leaves(method.operation)
    return attempt(lambda: torch.autograd.gradgradcheck(run, leaves))


def vmap(method: Method) -> str:
    problems = [Problem.draw(6, rows, torch.float64) for rows in (2, 2, 2)]
    leaves = [p.leaves(method.operation) for p in problems]
    stacked = [torch.stack([x.detach() * (1 + i) for i, x in enumerate(each)])
               for each in zip(*leaves, strict=True)]  # fmt: skip
    run = with_leaves(method, problems[0])

    def trial() -> bool:
        found = torch.vmap(run)(*stacked)
        each = torch.stack([run(*(x[i] for x in stacked)) for i in range(3)])
        return bool(torch.allclose(found, each))

    return attempt(trial)


def leading_dimensions(method: Method) -> str:
    """Which numbers of dimensions are taken, of 1, 2 and 3."""
    p = Problem.draw(6, 6, torch.float64)
    flat = [x.detach() for x in p.leaves(method.operation)]
    run = with_leaves(method, p)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = run(*flat)

    def trial(shape: tuple[int, ...], rows: slice | int) -> bool:
        given = [x[..., rows, :].reshape(*x.shape[:-2], *shape, 6) for x in flat]
        result = run(*given)
        return bool(torch.allclose(result, expected[..., rows, :].reshape(result.shape)))

    taken = [
        count
        for count, shape, rows in ((1, (), 0), (2, (6,), slice(None)), (3, (2, 3), slice(None)))
        if attempt(lambda shape=shape, rows=rows: trial(shape, rows)) == YES
    ]
    return "any" if len(taken) == 3 else " or ".join(map(str, taken))


def by_temperature(method: Method) -> str:
    """Whether the gradient by the temperature or strength is that of differences."""
    p = Problem.draw(6, 2, torch.float64)
    generator = torch.Generator().manual_seed(1)
    step, at = 1e-3, 0.7

    def loss(tau: Tensor) -> Tensor:
        result = method.run(replace(p, tau=tau))
        return (result * torch.randn(result.shape, generator=generator.manual_seed(1))).sum()

    def trial() -> bool:
        tau = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        (found,) = torch.autograd.grad(loss(tau), tau)
        ends = [loss(torch.tensor(at + s, dtype=torch.float64)).item() for s in (step, -step)]
        return abs(found.item() - (ends[0] - ends[1]) / (2 * step)) < 1e-3

    return attempt(trial)


def arguments_unchanged(method: Method) -> str:
    p = replace(Problem.draw(6, 2, torch.float64), tau=torch.tensor(0.1, dtype=torch.float64))
    given = [p.tau, *p.leaves(method.operation)]
    before = [x.detach().clone() for x in given]
    with suppress(Exception):
        outcome(method.run, method.operation, p)
    same = all(torch.equal(x.detach(), b) for x, b in zip(given, before, strict=True))
    return YES if same else "**no**"


def largest_line(method: Method) -> tuple[int, str]:
    """The largest power of two within the limits of time and memory, and which limit ends it."""
    outcome(method.run, method.operation, Problem.draw(32))
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before = _peak()
    n = 64
    while n <= LONGEST:
        start = time.process_time()
        try:
            outcome(method.run, method.operation, Problem.draw(n))
        except Exception as error:
            return n // 2, type(error).__name__
        if time.process_time() - start > SECONDS:
            return n // 2, "time"
        if _peak() - before > BYTES:
            return n // 2, "memory"
        n *= 2
    return n // 2, ""


def _peak() -> int:
    """The most bytes that this process held. (What getrusage says, it inherits.)"""
    kib = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert kib
    return 1024 * int(kib[1])


def measured(quick: bool) -> list[list[Any]]:
    """Rows of operation, library and what was found."""
    rows = []
    for method in METHODS:
        row: list[Any] = [
            method.operation,
            method.who,
            second_derivatives(method),
            vmap(method),
            leading_dimensions(method),
            by_temperature(method),
            arguments_unchanged(method),
            method.cuda,
        ]
        if not quick:
            command = [sys.executable, __file__, method.operation, method.who]
            row += json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        rows.append(row)
        print(f"limits, {method.operation}, {method.who}: done", flush=True)
    return rows


def section(rows: list[list[Any]], folder: Path) -> str:
    head = ["", "", "second derivatives", "vmap", "dimensions", "gradient by temperature",
            "arguments left unchanged", "CUDA, by its sources", "longest line"]  # fmt: skip
    return table(head, [[*row[:8], longest(*row[8:])] for row in rows])


def longest(n: int | None = None, end: str = "") -> str:
    """How the longest line is written, with what ends it."""
    if n is None:
        return "not tried"
    return f"{n:,} ({end})" if end else f"more than {n:,}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    operation, who = sys.argv[1:]
    print(json.dumps(largest_line(next(m for m in of_operation(operation) if m.who == who))))
