"""Log densities and gradients of many points beside a dense matrix and celerite2."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cells import table
from gram_forms import FORMS, Problem
from gram_laplex import laplex_gradients
from gram_rivals import HAS_JAX, jax_model

#: What celerite2 has, but for its Matern-3/2, which approximates.
FORMS_OF_CELERITE = ("real", "cosine", "sho", "celerite", "rotation")


def dense_gradients(p: Problem) -> tuple[float, dict[str, Any]]:
    """By torch's Cholesky and autograd, of the formula."""
    x = torch.from_numpy(p.x).requires_grad_()
    y = torch.from_numpy(p.y).requires_grad_()
    leaves = {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for name, value in p.parameters.items()
    }
    gaps = x[:, None] - x[None, :]
    matrix = p.model.value(torch, leaves, gaps.abs())
    matrix = matrix + leaves["noise"] * torch.eye(p.n, dtype=x.dtype)
    if p.model.trend:
        matrix = matrix + leaves["slope"] * torch.outer(x, x)
    factor = torch.linalg.cholesky(matrix)
    white = torch.linalg.solve_triangular(factor, y[:, None], upper=False)[:, 0]
    value = -0.5 * white.square().sum() - factor.diagonal().log().sum()
    value = value - 0.5 * p.n * math.log(2 * math.pi)
    inputs = {**leaves, "anchors": x, "values": y}
    gradients = torch.autograd.grad(value, list(inputs.values()))
    return float(value.detach()), dict(zip(inputs, gradients, strict=True))


def measured(quick: bool) -> list[list[str]]:
    """The rows of the table."""
    rows = []
    for form in FORMS:
        for n in (300,) if quick else (300, 2000):
            p = Problem.draw(n, form)
            rows.append(_row(p, "dense", laplex_gradients(p, True), dense_gradients(p)))
    for form in FORMS_OF_CELERITE if HAS_JAX else ():
        for n in (10**4,) if quick else (10**4, 10**6):
            p = Problem.draw(n, form)
            theirs = jax_model(p, "celerite2 through jax")(True)
            rows.append(_row(p, "celerite2", laplex_gradients(p), theirs))
    print("agreement: done", flush=True)
    return rows


def _row(p: Problem, reference: str, ours: Any, theirs: Any) -> list[str]:
    (value, by_ours), (expected, by_theirs) = ours, theirs
    if by_ours["noise"].dim():
        by_ours["noise"] = by_ours["noise"].sum()
    parameters = [
        np.array([float(found[name]) * given for name, given in p.parameters.items()])
        for found in (by_ours, by_theirs)
    ]
    cells = [f"{_error(value, expected):.0e}", f"{_error(*parameters):.0e}"]
    for name in ("anchors", "values"):
        given = name in by_ours and name in by_theirs
        cells.append(f"{_error(by_ours[name], by_theirs[name]):.0e}" if given else "")
    return [reference, p.model.title, f"{p.n:,}", *cells]


def _error(ours: Any, theirs: Any) -> float:
    """Largest difference, in units of the largest number."""
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))


def section(rows: list[list[str]], folder: Path) -> str:
    head = ["reference", "term", "n", "log_prob", "by parameters", "by anchors", "by values"]
    return table(head, rows)
