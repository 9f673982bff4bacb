"""Write docs/measurements/cedar_wide.md: both solvers of CEDAR on wide embeddings.

    python bench/python/cedar_wide.py [--quick]

This takes about fifteen minutes on one core. --quick uses small sizes, takes half a minute, and
writes into build/cedar. Each fit runs in a process of its own on one thread, so its peak memory is
its own, and times are processor seconds. Fits that are in build/cedar/wide.jsonl are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from laplex.cedar import CEDAR
from laplex.cedar.metrics import mcc
from laplex.cedar.moments import Moments, solved, sweep
from laplex.cedar.topk import top_k
from machine import processor

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "build/cedar/wide.jsonl"
HELD_OUT = 2_000


@dataclass(frozen=True)
class Case:
    """Rows of a width, the passes of procrustes, and the steps that time adam."""

    name: str
    kind: str
    dim: int
    rows: int
    k: int
    passes: int
    steps: int  # of adam, to time one


FULL = (
    Case("1,152 columns, planted", "planted", 1152, 20_000, 8, 40, 3),
    Case("1,152 columns, mixed", "mixed", 1152, 20_000, 32, 40, 3),
    Case("4,096 columns, planted", "planted", 4096, 8_192, 8, 10, 1),
)
QUICK = (Case("96 columns, mixed", "mixed", 96, 2_000, 8, 20, 3),)


def data(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, held-out rows and the true atoms [d, d], which are at right angles.

    "planted" has k of d equally strong normal causes a row. In "mixed" the strength of the causes
    falls as a power law, and a quarter of the variance is a Gaussian with such a covariance.
    """
    random = np.random.default_rng(0)
    count = case.rows + HELD_OUT
    atoms, _ = np.linalg.qr(random.standard_normal((case.dim, case.dim)).astype(np.float32))
    rows = np.empty((count, case.dim), np.float32)
    strength = np.ones(case.dim, np.float32)
    if case.kind == "mixed":
        strength = (1 + np.arange(case.dim, dtype=np.float32)) ** -0.5
        other, _ = np.linalg.qr(random.standard_normal(atoms.shape).astype(np.float32))
    for start in range(0, count, 1024):
        shape = (min(1024, count - start), case.dim)
        fires = random.random(shape, np.float32) < case.k / case.dim
        causes = random.standard_normal(shape, np.float32) * fires * strength
        part = causes @ atoms
        if case.kind == "mixed":
            level = (case.k / case.dim / 3) ** 0.5
            part += level * (random.standard_normal(shape, np.float32) * strength) @ other
        rows[start : start + len(part)] = part
    return rows[: case.rows], rows[case.rows :], atoms


def judged(model: CEDAR, test: np.ndarray, atoms: np.ndarray) -> dict[str, Any]:
    return {"fve": model.score(test), "mcc": mcc(model.atoms_, atoms)}


def parts_of_a_pass(case: Case, rows: np.ndarray) -> dict[str, float]:
    """Return the seconds of the products, of the selection and of the polar factor."""
    rotation = torch.linalg.qr(torch.randn(case.dim, case.dim))[0]
    part = torch.from_numpy(rows[:2048])
    scale = float(part.square().sum(1).mean().sqrt())
    seconds = {}

    def timed(name: str, share: float, work: Any) -> Any:
        started = time.process_time()
        found = work()
        seconds[name] = share * (time.process_time() - started)
        return found

    share = len(rows) / len(part)
    coordinates = timed("products", share, lambda: part @ rotation.T)
    codes = timed("selection", share, lambda: top_k(coordinates, case.k))
    again = timed("second", share, lambda: codes.T @ part)
    seconds["products"] += seconds.pop("second")
    del again
    found: Moments = sweep([part], rotation, torch.zeros(case.dim), (case.k,), scale)
    timed("polar factor, float32", 1, lambda: solved(found.correlation, rotation))
    timed("polar factor, float64", 1, lambda: solved(found.correlation, rotation.double()))
    return seconds


def measured(case: Case, what: str, steps: int) -> dict[str, Any]:
    """Fit in this process; of "parts" the times alone."""
    torch.set_num_threads(1)
    rows, test, atoms = data(case)
    if what == "parts":
        return parts_of_a_pass(case, rows)
    CEDAR(k=1, solver=what, max_iter=1).fit(rows[:64, :8])  # so that imports are not timed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    model = CEDAR(k=case.k, solver=what, max_iter=steps, random_state=0).fit(rows)
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": seconds,
        "count": model.n_iter_,
        "loss": model.loss_curve_[-1],
        "gigabytes": (peak - before) / 2**20,
        **judged(model, test, atoms),
    }


def in_a_process(case: Case, what: str, steps: int) -> dict[str, Any]:
    RUNS.parent.mkdir(parents=True, exist_ok=True)
    for line in RUNS.read_text().splitlines() if RUNS.exists() else ():
        key, found = json.loads(line)
        if key == [asdict(case), what, steps]:
            return dict(found)
    command = [sys.executable, "-W", "ignore", __file__, "--one"]
    given = json.dumps({"case": asdict(case), "what": what, "steps": steps})
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, given], env=environment, stdout=subprocess.PIPE, check=True)
    made: dict[str, Any] = json.loads(done.stdout)
    print(case.name, what, steps, made, file=sys.stderr)
    with RUNS.open("a") as runs:
        runs.write(json.dumps([[asdict(case), what, steps], made]) + "\n")
    return made


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def page(cases: tuple[Case, ...]) -> str:
    lines = [
        "| Data, rows | k | Solver | Passes or steps | Time of one | Time of the fit | Memory | "
        "Held-out FVE | MCC |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    parts = {}
    for case in cases:
        parts[case.name] = in_a_process(case, "parts", 0)
        best = in_a_process(case, "procrustes", case.passes)
        one = in_a_process(case, "adam", case.steps)
        step = one["seconds"] / case.steps
        equal = int(best["seconds"] / step)
        again = one if equal <= case.steps else in_a_process(case, "adam", equal)
        for solver, found, unit in (
            ("procrustes", best, best["seconds"] / best["count"]),
            ("adam, at equal time", again, again["seconds"] / again["count"]),
        ):
            lines.append(
                f"| {case.name}, {case.rows:,} | {case.k} | {solver} | {found['count']} | "
                f"{duration(unit)} | {duration(found['seconds'])} | {found['gigabytes']:.1f} GB | "
                f"{found['fve']:.3f} | {found['mcc']:.3f} |"
            )
        lines.append(
            f"| | | adam, its default | 2000 | {duration(step)} | {duration(2000 * step)} "
            "(extrapolated) | | not run | not run |"
        )
    names = list(next(iter(parts.values())))
    lines += ["", "What one pass of procrustes is made of:", ""]
    lines += ["| Data | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for name, found in parts.items():
        cells = " | ".join(f"{found[part]:.2f} s" for part in names)
        lines.append(f"| {name} | {cells} |")
    return TEXT.format(table="\n".join(lines), processor=processor())


TEXT = """# CEDAR on wide embeddings

Written by [bench/python/cedar_wide.py](../../bench/python/cedar_wide.py) on one thread of
{processor}, in float32. Times are processor seconds; memory is what the fit adds to the rows
themselves. All data are made up: "planted" has k of d equally strong causes a row, at right angles;
in "mixed" their strength falls as a power law, and a quarter of the variance is a Gaussian with a
covariance of that kind. Real embeddings of these widths were not at hand.

{table}

Procrustes is the better choice here, so it is the default up to 4,096 columns. A step of adam needs
the exponential of a d x d matrix and its gradient, whatever the number of rows; a pass of
procrustes needs one polar factor, and the momentum none of its own, because it extrapolates the
sums of the pass and not the rotation. Beyond 512 columns, float32 data get a polar factor in
float32, which is orthogonal to 2e-6; the finished rotation is computed in float64. At 4,096
columns, the factor takes 20 s in float32 and 36 s in float64, and the product of two matrices of
that size 1.4 s in float32.

What this does not show: adam may catch up with more steps than we ran. With more rows a column the
products outweigh the polar factor. Ways around the singular value decomposition do not pay on a
processor: the smallest singular values of the sums are far below the largest, so iterations by
products (Newton-Schulz) need some 24 of them, each a fourteenth of its time, and those by inverses
some six, each a sixth. A first-order step to the polar factor, by five products, lost more in
passes than it gained in time (words, 384 columns: loss .297 after 60 passes, against .293). To
extrapolate the sums in place of the rotation costs nothing in passes: on the same words, both have
.293 after 60.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="use small sizes")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        given = json.loads(options.one)
        print(json.dumps(measured(Case(**given["case"]), given["what"], given["steps"])))
        return
    out = ROOT / ("build/cedar" if options.quick else "docs/measurements")
    out.mkdir(parents=True, exist_ok=True)
    (out / "cedar_wide.md").write_text(page(QUICK if options.quick else FULL))


if __name__ == "__main__":
    main()
