"""Errors of soft sorting and ranking, and of the gradients, against float64."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cells import power, table
from order_methods import METHODS, Function, Method, Problem

#: Where a dense reference takes n x n numbers, and where only the method itself is one.
DENSE, LONG = 1000, 10**5


def outcome(run: Function, operation: str, problem: Problem) -> list[Tensor]:
    """A result and the gradients of its product with fixed numbers."""
    result = run(problem)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(result.shape, generator=generator, dtype=torch.float64)
    gradients = torch.autograd.grad(
        result, problem.leaves(operation), weights.to(result.dtype).reshape(result.shape)
    )
    return [result.detach(), *gradients]


def errors_of(method: Method, problem: Problem, reference: Function) -> tuple[float, float]:
    """The largest errors of the value and of a gradient, each in units of the largest entry."""
    found = outcome(method.run, method.operation, problem)
    truth = outcome(reference, method.operation, problem.double())
    errors = [
        float((a.double() - b).abs().max() / b.abs().max())
        for a, b in zip(found, truth, strict=True)
    ]
    return errors[0], max(errors[1:])


def without_ties(n: int, dtype: torch.dtype = torch.float32) -> Problem:
    """A problem whose scores differ: where some are equal, SoftSort has a kink, not a gradient."""
    problems = (Problem.draw(n, dtype=dtype, seed=seed) for seed in count())
    return next(p for p in problems if len(p.scores.unique()) == n)


def measured(quick: bool) -> dict[str, Any]:
    """Rows of operation, library and errors."""
    dense, long = (50, 1000) if quick else (DENSE, LONG)
    rows = []
    for method in METHODS:
        reference = method.reference or method.run
        n = min(dense, method.largest)
        row = [*errors_of(method, without_ties(n), reference)]
        if method.reference:
            row += errors_of(method, without_ties(n, torch.float64), reference)
        else:
            row += [None, None]
        if method.largest >= long:
            row += errors_of(method, Problem.draw(long), method.run)
        else:
            row += [None, None]
        rows.append([method.operation, method.who, n, *row])
        print(f"accuracy, {method.operation}, {method.who}: done", flush=True)
    return {"long": long, "rows": rows}


def section(found: dict[str, Any], folder: Path) -> str:
    head = ["", "", "n", "float32", "gradient", "float64", "gradient"]
    head += [f"float32, n = {power(found['long'])}", "gradient"]
    cells = [
        [operation, who, power(n), *("" if e is None else f"{e:.1e}" for e in errors)]
        for operation, who, n, *errors in found["rows"]
    ]
    return table(head, cells)
