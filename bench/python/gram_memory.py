"""Peak memory of log densities and gradients, each measured in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from cells import table
from gram_forms import FORMS, Problem
from gram_rivals import (
    celerite_gradients,
    celerite_value,
    gpytorch_kernel,
    gpytorch_model,
    laplex_gradients,
    laplex_value,
)

SHOWN = ("real", "sho", "matern52", "rotation")
CHOLESKY = "GPyTorch, Cholesky, gradients"


MEMORY: dict[str, Any] = {
    "laplex, log_prob": laplex_value,
    "laplex, every gradient": partial(laplex_gradients, everything=True),
    "celerite2, log_prob": lambda p: celerite_value(p, p.form),
    "celerite2, every gradient": lambda p: celerite_gradients(p, p.form),
    CHOLESKY: lambda p: gpytorch_model(p, gpytorch_kernel(p, ours=False), cholesky=True)(True),
}


def _exists(name: str, form: str) -> bool:
    if name == CHOLESKY:
        return form == "real"
    return "celerite2" not in name or FORMS[form].celerite2 is not None


def print_peak(name: str, n: int, form: str) -> None:
    """Print by how many bytes a task raises the most that this process held."""
    MEMORY[name](Problem.draw(100, form))
    p = Problem.draw(n, form)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
    before = _high_water()
    MEMORY[name](p)
    print(_high_water() - before)


def _high_water() -> int:
    """The most bytes that this process held. (What getrusage says, it inherits.)"""
    kib = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert kib
    return 1024 * int(kib[1])


def measured(quick: bool, script: str) -> list[list[str]]:
    """The rows of the table; the script runs `print_peak` if given --peak."""
    rows = []
    for name in MEMORY:
        n = 4000 if name == CHOLESKY else 10**5 if quick else 10**6
        cells = []
        for form in SHOWN:
            if not _exists(name, form):
                cells.append("")
                continue
            command = [sys.executable, script, "--peak", json.dumps([name, n, form])]
            peak = int(subprocess.run(command, capture_output=True, check=True).stdout)
            cells.append(f"{peak / 1e6:.3g} MB, {peak / n:.0f} n")
        rows.append([name, f"{n:,}", *cells])
    print("memory: done", flush=True)
    return rows


def section(rows: list[list[str]], folder: Path) -> str:
    titles = [FORMS[form].title for form in SHOWN]
    return table(["memory beyond the data", "n", *titles], rows)
