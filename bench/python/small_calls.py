"""Compare the time of small calls with another version and with other libraries; list their frames.

    python bench/python/small_calls.py [--before FOLDER] [--rounds N] [--only WORD]
    python bench/python/small_calls.py --frames [--before FOLDER]

The script prints a Markdown table of microseconds. FOLDER contains another version of the package
`laplex` and is put first on the path. Each version runs in its own process. The processes take
turns, task by task, in rounds, and the minimum of the rounds counts, in process CPU time on one
thread. A peer (another library) runs in all processes, in the same rounds. "Recorded" means with
gradients requested, for values and targets; a peer is asked for the gradient of the matrix.

--frames lists the Python functions that one recorded `laplex.matvec` of 64 float64 numbers enters,
and those that its backward pass enters, after warming up. These are the "call" events of
`sys.setprofile`. Calls of C functions by Python ("c_call") are counted separately. A generator
counts once for each of its items.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Task = Callable[[], object]
OWN, PEER = "laplex", "peer"
SECONDS = 4e-3  # of a task in a round, at least, after as many runs that fill the caches again
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


# --- what is measured, in a worker ---------------------------------------------------------------


def tasks() -> dict[str, dict[str, Task]]:
    """Return tasks by name: the call, and that of a peer if there is one."""
    import celerite2
    import numpy as np
    import torch

    import laplex

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, Task]] = {}

    def pass_back(result: Any, leaves: list[Any]) -> None:
        result.backward(torch.ones_like(result))
        for leaf in leaves:
            leaf.grad = None

    def product(n: int, dtype: torch.dtype, recorded: bool, backward: bool) -> dict[str, Task]:
        v, x = torch.randn(n, dtype=dtype), torch.rand(n, dtype=dtype)
        K, w = laplex.LaplaceOperator(x, lengthscale=0.1).to_dense(), v.clone()
        leaves = [v.requires_grad_(recorded), x.requires_grad_(recorded)]
        K.requires_grad_(recorded)
        if backward:
            return {
                OWN: lambda: pass_back(laplex.matvec(v, x, lengthscale=0.1), leaves),
                PEER: lambda: pass_back(K @ w, [K]),
            }
        return {OWN: lambda: laplex.matvec(v, x, lengthscale=0.1), PEER: lambda: K @ w}

    def layer(ins: int, outs: int, backward: bool) -> dict[str, Task]:
        rows = torch.randn(64, ins)
        own, dense = laplex.nn.LaplexLinear(ins, outs), torch.nn.Linear(ins, outs)
        if backward:
            own_leaves, dense_leaves = list(own.parameters()), list(dense.parameters())
            return {
                OWN: lambda: pass_back(own(rows), own_leaves),
                PEER: lambda: pass_back(dense(rows), dense_leaves),
            }
        return {OWN: lambda: own(rows), PEER: lambda: dense(rows)}

    def applied(dtype: Any) -> dict[str, Task]:
        x, v = rng.random(64).astype(dtype), rng.standard_normal(64).astype(dtype)
        plan = laplex.Plan(x, lengthscale=0.1)
        K = plan.to_dense()
        return {OWN: lambda: plan.apply(v), PEER: lambda: K @ v}

    def density(frequency: float | None, gradients: bool) -> dict[str, Task]:
        n = 50
        x, y = np.sort(rng.uniform(0, n / 30, n)), rng.standard_normal(n)
        given = {"lengthscale": 1.0, "variance": 1.5, "noise": 0.1}
        given |= {"frequency": frequency} if frequency else {}

        def own() -> float:
            gram = laplex.gram.LaplaceGram(torch.from_numpy(x), **given)
            return float(gram.log_prob(torch.from_numpy(y)))

        def own_gradients() -> Any:
            leaves = {
                name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
                for name, value in given.items()
            }
            gram = laplex.gram.LaplaceGram(torch.from_numpy(x), **leaves)
            return torch.autograd.grad(gram.log_prob(torch.from_numpy(y)), list(leaves.values()))

        def celerite() -> float:
            term = celerite2.terms.RealTerm(a=1.5, c=1.0)
            if frequency:
                term = celerite2.terms.ComplexTerm(a=1.5, b=0.0, c=1.0, d=frequency)
            process = celerite2.GaussianProcess(term)
            process.compute(x, diag=np.full(n, 0.1))
            return float(process.log_likelihood(y))

        return {OWN: own_gradients} if gradients else {OWN: own, PEER: celerite}

    single, double = torch.float32, torch.float64
    for n, dtypes in ((64, (single, double)), (4096, (double,))):
        for dtype in dtypes:
            name = f"n = {n}, {str(dtype).removeprefix('torch.')}"
            if n == 64:
                found[f"matvec, {name}"] = product(n, dtype, False, False)
            found[f"matvec, recorded, {name}"] = product(n, dtype, True, False)
            found[f"matvec and backward, {name}"] = product(n, dtype, True, True)
    for ins, outs in ((64, 64), (784, 256)):
        found[f"LaplexLinear({ins}, {outs}), 64 rows"] = layer(ins, outs, False)
        found[f"LaplexLinear({ins}, {outs}) and backward"] = layer(ins, outs, True)
    for dtype in (np.float32, np.float64):
        found[f"Plan.apply, n = 64, {dtype.__name__}"] = applied(dtype)
    for form, frequency in (("real", None), ("cosine", 3.0)):
        found[f"Gram log density, n = 50, {form}"] = density(frequency, False)
        found[f"Gram log density and gradients, n = 50, {form}"] = density(frequency, True)
    return found


def frames() -> dict[str, Any]:
    """Return the functions that a recorded product and its backward pass enter."""
    import torch

    import laplex

    torch.set_num_threads(1)
    torch.manual_seed(0)
    v, x = (torch.rand(64, dtype=torch.float64).requires_grad_() for _ in range(2))
    ones = torch.ones(64, dtype=torch.float64)
    root = Path(laplex.__file__).parents[1]

    def watched(call: Task) -> tuple[Any, dict[str, Any]]:
        entered: list[str] = []
        builtins: list[str] = []
        depth = 0

        def watch(frame: Any, event: str, argument: Any) -> None:
            nonlocal depth
            if event == "call":
                code = frame.f_code
                place = Path(code.co_filename)
                place = place.relative_to(root) if place.is_relative_to(root) else place
                entered.append(f"{'  ' * depth}{code.co_qualname}  {place}:{code.co_firstlineno}")
                depth += 1
            elif event == "return":
                depth -= 1
            elif event == "c_call" and argument is not sys.setprofile:
                own = "pybind11" in argument.__qualname__
                builtins.append(argument.__name__ if own else argument.__qualname__)

        sys.setprofile(watch)
        result = call()
        sys.setprofile(None)
        return result, {"python": entered[1:], "c": builtins}  # without `call` itself

    found = {}
    for _ in range(3):  # the last counts
        result, found["forward"] = watched(lambda: laplex.matvec(v, x, lengthscale=0.1))
        _, found["backward"] = watched(lambda result=result: result.backward(ones))
    return {"version": str(root), **found}


def work(known: dict[str, dict[str, Task]]) -> None:
    """Answer lines of JSON (a task, ours or the peer's, a number of runs) with seconds per run."""
    print(json.dumps({name: list(group) for name, group in known.items()}), flush=True)
    for line in sys.stdin:
        name, who, count = json.loads(line)
        task = known[name][who]
        for _ in range(count):
            task()
        start = time.process_time()
        for _ in range(count):
            task()
        print((time.process_time() - start) / count, flush=True)


# --- the parent ----------------------------------------------------------------------------------


class Worker:
    """A worker process with one version of the package, in which a script calls `work`."""

    def __init__(self, folder: Path | None, script: str = __file__) -> None:
        self.process = start(folder, "--work", script)
        self.tasks: dict[str, list[str]] = self._read()

    def seconds(self, name: str, who: str, count: int) -> float:
        self.process.stdin.write(json.dumps([name, who, count]) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            sys.exit("error: a worker process ended unexpectedly; its output is above")
        return json.loads(line)


def start(folder: Path | None, what: str, script: str = __file__) -> subprocess.Popen[str]:
    path = [str(folder.resolve())] if folder else []
    path += [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return subprocess.Popen(
        [sys.executable, script, what],
        env=os.environ | ONE_THREAD | {"PYTHONPATH": os.pathsep.join(path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def measure(workers: dict[str, Worker], rounds: int, word: str) -> dict[str, dict[str, float]]:
    """Return seconds by task, and by version or peer."""
    names = next(iter(workers.values())).tasks
    best: dict[str, dict[str, float]] = {name: {} for name in names if word in name}
    counts: dict[tuple[str, str, str], int] = {}
    for number in range(rounds + 2):  # of which two warm up and find out how often to repeat
        for name in best:
            for who in names[name]:
                for version, worker in workers.items():
                    count = counts.get((name, who, version), 1)
                    seconds = worker.seconds(name, who, count)
                    if number < 2:
                        counts[name, who, version] = max(1, min(3000, int(SECONDS / seconds)))
                        continue
                    column = PEER if who == PEER else version
                    best[name][column] = min(best[name].get(column, seconds), seconds)
    return best


def table(best: dict[str, dict[str, float]], versions: list[str]) -> str:
    """Return a table of microseconds and ratios."""
    last = versions[-1]
    head = ["call", *(f"{version}, us" for version in versions)]
    head += [f"{last} / {versions[0]}"] if versions[1:] else []
    lines = [[*head, "peer, us", f"{last} / peer"]]
    lines.append(["---", *["--:"] * (len(lines[0]) - 1)])
    for name, times in best.items():
        cells = [name, *(f"{times[version] * 1e6:.1f}" for version in versions)]
        if versions[1:]:
            cells.append(f"{times[last] / times[versions[0]]:.2f}")
        if PEER in times:
            cells += [f"{times[PEER] * 1e6:.1f}", f"{times[last] / times[PEER]:.2f}"]
        lines.append(cells + [""] * (len(lines[0]) - len(cells)))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def listed(found: dict[str, Any]) -> str:
    lines = [found["version"]]
    for way in ("forward", "backward"):
        python, c = found[way]["python"], found[way]["c"]
        own = sum("  laplex/" in each for each in python)
        lines += ["", f"{way}: {len(python)} Python frames, {own} of them laplex's own"]
        lines += [f"{number:4}  {each}" for number, each in enumerate(python, 1)]
        lines.append(f"{len(c)} calls of C functions: {', '.join(c)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--before",
        type=Path,
        metavar="FOLDER",
        help="a folder with another version to compare with",
    )
    parser.add_argument(
        "--rounds", type=int, default=40, help="rounds of measurement (default: %(default)s)"
    )
    parser.add_argument(
        "--only", default="", metavar="WORD", help="measure only tasks whose name contains WORD"
    )
    parser.add_argument(
        "--frames", action="store_true", help="list Python functions instead of measuring times"
    )
    for what in ("--work", "--list"):
        parser.add_argument(what, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(tasks())
    if options.list:
        return print(json.dumps(frames()))
    folders = {"before": options.before, "after": None} if options.before else {"laplex": None}
    if options.frames:
        for folder in folders.values():
            print(listed(json.loads(start(folder, "--list").communicate()[0])), end="\n\n")
        return None
    workers = {version: Worker(folder) for version, folder in folders.items()}
    print(table(measure(workers, options.rounds, options.only), list(workers)))
    return None


if __name__ == "__main__":
    main()
