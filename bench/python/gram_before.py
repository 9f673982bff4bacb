"""Sums of Ornstein-Uhlenbeck and cosine terms beside another version of Laplex, interleaved.

Each version runs in its own process (see `small_calls`).
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch

from cells import power, table
from gram_forms import FORMS, NOISE, Problem
from gram_laplex import compiled_gradients, compiled_value, laplex_gradients, laplex_value
from laplex.gram import LaplaceGram, Term
from small_calls import OWN, Task, Worker, measure, work

SIZES = (50, 10**3, 10**4, 10**5, 10**6)
SUM = "Sum of a real and a cosine term"
Times = dict[str, dict[str, float]]


def tasks() -> dict[str, dict[str, Task]]:
    """What both versions compute, by name."""
    found: dict[str, Task] = {}
    for n in SIZES:
        for form in ("real", "cosine"):
            p = Problem.draw(n, form)
            for what, task in (
                ("log_prob", laplex_value),
                ("log_prob and gradients", laplex_gradients),
                ("log_prob, compiled function", compiled_value),
                ("log_prob and gradients, compiled function", compiled_gradients),
            ):
                found[f"{FORMS[form].title} / {what} / {n}"] = partial(task, p)
        for what, recorded in (("log_prob", False), ("log_prob and gradients", True)):
            p = Problem.draw(n, "real")
            found[f"{SUM} / {what} / {n}"] = partial(_sum, p, recorded)
    return {name: {OWN: task} for name, task in found.items()}


def _sum(p: Problem, recorded: bool) -> None:
    numbers = torch.tensor([1.0, 1.5, 0.5, 0.8, 3.0], dtype=torch.float64, requires_grad=recorded)
    one, two = Term(*numbers[:2]), Term(*numbers[2:])
    gram = LaplaceGram(torch.from_numpy(p.x), terms=[one, two], noise=NOISE)
    density = gram.log_prob(torch.from_numpy(p.y))
    if recorded:
        density.backward()


def measured(folder: Path, quick: bool) -> Times:
    """Seconds by task and version: "before", of the folder, and "after"."""
    workers = {"before": Worker(folder, __file__), "after": Worker(None, __file__)}
    found = measure(workers, 2 if quick else 15, "")
    print("before: done", flush=True)
    return found


def section(times: Times, folder: Path) -> str:
    rows: dict[tuple[str, str], list[str]] = {}
    for name, by_version in times.items():
        term, what, _ = name.split(" / ")
        ratio = by_version["after"] / by_version["before"]
        rows.setdefault((term, what), []).append(f"{ratio:.2f}")
    head = ["time after / time before", "", *(f"n = {power(n)}" for n in SIZES)]
    return table(head, [[*names, *cells] for names, cells in rows.items()])


if __name__ == "__main__" and "--work" in sys.argv:
    torch.set_num_threads(1)
    work(tasks())
