"""Compare the operator with its floors and with other libraries; write JSON, a page and plots.

    python bench/python/run.py [--quick] [--binary build/release/bench/cpp/laplex_bench]

`make bench` runs this in an environment that has the other libraries; the page names those that are
missing. Benchmarks run on one thread unless stated otherwise. The results are
bench/results/<processor>.json, docs/measurements/benchmarks.md and its plots.
"""

from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before NumPy and torch read it
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import argparse  # noqa: E402
import datetime  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import re  # noqa: E402
import resource  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from importlib import metadata  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

import laplex  # noqa: E402
import laplex.nn  # noqa: E402
import report  # noqa: E402
from laplex import _core  # noqa: E402
from machine import processor  # noqa: E402
from measure import measure  # noqa: E402
from peers import ELL, PACKAGES, Problem, missing, tasks_for  # noqa: E402

ROOT = Path(__file__).parents[2]


def say(text: str) -> None:
    """Report progress."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def run_binary(binary: Path, sizes: list[int], quick: bool) -> dict[str, dict[str, float]]:
    """Run the C++ benchmarks and return minima in seconds, {name: {n: seconds}}."""
    times: dict[str, dict[str, float]] = {}
    for n in sizes:  # one process a size: the inputs of the largest take a gigabyte
        say(f"C++ benchmarks at n = {n:,}")
        repetitions = 5 if quick or n > 10**6 else 15
        with tempfile.NamedTemporaryFile(suffix=".json") as out:
            command = [
                str(binary), str(n), f"--benchmark_repetitions={repetitions}",
                "--benchmark_enable_random_interleaving=true", f"--benchmark_out={out.name}",
                "--benchmark_out_format=json",
            ]  # fmt: skip
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            found = json.loads(Path(out.name).read_text())
        for entry in found["benchmarks"]:
            if entry.get("aggregate_name") != "min":
                continue
            name = entry["run_name"].split("/")[0]
            key = "real_time" if "wall" in name else "cpu_time"
            times.setdefault(name, {})[str(n)] = entry[key] * 1e-9
    return times


def run_peers(sizes: list[int], failures: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Run our tasks and the peers', interleaved: {"float32 1000": {task: {seconds, error}}}."""
    found: dict[str, dict[str, Any]] = {}
    for dtype in ("float32", "float64"):
        for n in sizes:
            say(f"peers, {dtype}, n = {n:,}")
            problem = Problem.draw(n, dtype)
            tasks = tasks_for(problem, failures)
            errors = {}
            for task in tasks:
                if task.kind is not None:
                    with np.errstate(all="ignore"):
                        errors[task.name] = problem.error(np.asarray(task.run()), task)
            times = measure({task.name: task.run for task in tasks})
            found[f"{dtype} {n}"] = {
                name: {"seconds": seconds, "error": errors.get(name)}
                for name, seconds in times.items()
            }
    return found


def run_batches(sizes: list[int]) -> dict[str, dict[str, float]]:
    """Run batches of 1, 64 and 256 rows: {"n 64": {task: seconds}}."""
    found = {}
    for n in sizes:
        rng = np.random.default_rng(0)
        x, y = rng.random((2, n)).astype(np.float32)
        plan = laplex.Plan(x, y, lengthscale=ELL, num_threads=1)
        for rows in (1, 64, 256):
            v = rng.standard_normal((rows, n)).astype(np.float32)
            out, copy = np.empty_like(v), np.empty_like(v)
            u = plan.apply(v)
            tasks = {
                "forward": lambda plan=plan, v=v, out=out: plan.apply(v, out),
                "forward + gradients": lambda plan=plan, v=v, u=u: (plan.apply(v), plan.vjp(v, u)),
                "copy of V": lambda v=v, copy=copy: np.copyto(copy, v),
            }
            if n <= 1000:
                matrix = plan.to_dense().T.copy()
                tasks["dense V @ K"] = lambda v=v, m=matrix, out=out: np.matmul(v, m, out=out)
            found[f"{n} {rows}"] = measure(tasks, rounds=7)
    return found


def run_overhead() -> dict[str, dict[str, float]]:
    """Measure whole small calls in microseconds: {"64": {call: microseconds}}."""
    found = {}
    compiled = torch.compile(lambda v, x: laplex.matvec(v, x, lengthscale=ELL))
    for n in (64, 256, 1024, 4096):
        x, v = torch.rand(n), torch.randn(n)
        leaf_x, leaf_v = x.clone().requires_grad_(), v.clone().requires_grad_()
        plan = laplex.Plan(x.numpy(), lengthscale=ELL)
        v_numpy, out, grad = v.numpy(), np.empty(n, np.float32), torch.ones(n)

        def without(v: torch.Tensor = v, x: torch.Tensor = x) -> None:
            with torch.no_grad():
                laplex.matvec(v, x, lengthscale=ELL)

        def recorded(v: torch.Tensor = leaf_v, x: torch.Tensor = leaf_x) -> None:
            laplex.matvec(v, x, lengthscale=ELL)

        def backward(
            v: torch.Tensor = leaf_v, x: torch.Tensor = leaf_x, grad: torch.Tensor = grad
        ) -> None:
            v.grad = x.grad = None
            laplex.matvec(v, x, lengthscale=ELL).backward(grad)

        def under_compile(v: torch.Tensor = v, x: torch.Tensor = x) -> None:
            with torch.no_grad():
                compiled(v, x)

        tasks: dict[str, Any] = {
            "Plan.apply": lambda p=plan, v=v_numpy, out=out: p.apply(v, out),
            "matvec, no grad": without,
            "matvec, recorded": recorded,
            "matvec and backward": backward,
        }
        try:
            under_compile()
            tasks["matvec under torch.compile"] = under_compile
        except Exception as error:  # no compiler for inductor, say
            say(f"torch.compile: {error}".splitlines()[0])
        found[str(n)] = {k: 1e6 * t for k, t in measure(tasks, rounds=15).items()}
    return found


def run_layers() -> dict[str, dict[str, float]]:
    """Measure layers of one head on a batch of 256, in microseconds: {"784 -> 256": {call: us}}."""
    found = {}
    for ins, outs in ((64, 64), (784, 256)):
        torch.manual_seed(0)
        layer, dense = laplex.nn.LaplexLinear(ins, outs), torch.nn.Linear(ins, outs)
        images, grad = torch.randn(256, ins), torch.ones(256, outs)
        rng = np.random.default_rng(0)
        plan = laplex.Plan(
            rng.random(outs).astype(np.float32), rng.random(ins).astype(np.float32), num_threads=1
        )
        v, out = images.numpy(), np.empty((256, outs), np.float32)

        def forward(module: torch.nn.Module, images: torch.Tensor = images) -> None:
            with torch.no_grad():
                module(images)

        def both(
            module: torch.nn.Module, images: torch.Tensor = images, grad: torch.Tensor = grad
        ) -> None:
            module.zero_grad()
            module(images).backward(grad)

        tasks = {
            "LaplexLinear forward": lambda m=layer, run=forward: run(m),
            "LaplexLinear forward + backward": lambda m=layer, run=both: run(m),
            "Plan.apply of one head": lambda plan=plan, v=v, out=out: plan.apply(v, out),
            "torch.nn.Linear forward": lambda m=dense, run=forward: run(m),
            "torch.nn.Linear forward + backward": lambda m=dense, run=both: run(m),
        }
        times = measure(tasks, rounds=15)
        found[f"{ins} -> {outs}"] = {k: 1e6 * t for k, t in times.items()}
    return found


def run_gram(sizes: list[int], failures: dict[str, str]) -> dict[str, dict[str, float]]:
    """Measure densities with one real term: {"50": {"laplex, log_prob": seconds}}."""
    try:
        import gram_forms
        import gram_rivals
    except ImportError as error:
        failures["Gaussian models"] = str(error)
        return {}
    found = {}
    for n in sizes:
        problem = gram_forms.Problem.draw(n, "real")
        tasks = gram_rivals.tasks(problem, dict.fromkeys(gram_rivals.DENSE, 0))
        found[str(n)] = measure(
            {
                f"{who}, {what}": task
                for (who, what), task in tasks.items()
                if who in ("laplex", "celerite2", "tinygp")
            },
            rounds=15,
        )
    return found


def run_start(rounds: int) -> dict[str, float]:
    """Measure whole processes, in seconds of CPU time, the system's included."""
    commands = {
        "python -c pass": ["-c", "pass"],
        "import numpy": ["-c", "import numpy"],
        "import laplex": ["-c", "import laplex"],
        "laplex exits report NOTHING": ["-m", "laplex", "exits", "report", "NOTHING"],
    }

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    best = dict.fromkeys(commands, float("inf"))
    for _ in range(rounds):
        for name, arguments in commands.items():
            start = spent()
            subprocess.run([sys.executable, *arguments], check=False, capture_output=True)
            best[name] = min(best[name], spent() - start)
    return best


def run_pool(n: int) -> dict[str, float]:
    """Measure the wall time of two threads of ours and two of torch's, alone and in turns."""
    torch.set_num_threads(2)
    rng = np.random.default_rng(0)
    x, v = rng.random(n).astype(np.float32), rng.standard_normal(n).astype(np.float32)
    plan = laplex.Plan(x, lengthscale=ELL, num_threads=2)
    out = np.empty_like(v)
    a = torch.randn(700, 700)

    def alone_ours() -> float:
        start = time.perf_counter()
        plan.apply(v, out)
        return time.perf_counter() - start

    def alone_torch() -> float:
        start = time.perf_counter()
        a @ a
        return time.perf_counter() - start

    def shortest(*calls: Any) -> list[float]:
        best = [float("inf")] * len(calls)
        for _ in range(25):
            for k, call in enumerate(calls):
                best[k] = min(best[k], call())
        return best

    (ours,) = shortest(alone_ours)
    (theirs,) = shortest(alone_torch)
    ours_in_turn, theirs_in_turn = shortest(alone_ours, alone_torch)
    torch.set_num_threads(1)
    return {
        "laplex alone": ours,
        "torch matmul alone": theirs,
        "laplex in turns": ours_in_turn,
        "torch matmul in turns": theirs_in_turn,
    }


def run_updates(sizes: list[int]) -> dict[str, dict[str, float]]:
    """Compare updates with new plans, for steps like Adam's at several learning rates."""
    found = {}
    for n in sizes:
        rng = np.random.default_rng(0)
        x, y = rng.random((2, n)).astype(np.float32)
        tasks: dict[str, Any] = {
            "new plan": lambda x=x, y=y: laplex.Plan(x, y, lengthscale=ELL, num_threads=1)
        }
        for rate in (0.0, 1e-4, 1e-3, 1e-2, 1e-1):
            moved = [
                (z + rate * rng.choice([-1, 1], n)).astype(np.float32) for z in (x, y)
            ]  # Adam's first steps are +-lr
            plan = laplex.Plan(x, y, lengthscale=ELL, num_threads=1)
            turns = [moved, [x, y]]

            def step(plan: Any = plan, turns: list[Any] = turns) -> None:
                plan.update(*turns[0])
                turns.reverse()

            tasks[f"lr {rate:g}"] = step
        found[str(n)] = measure(tasks, rounds=7)
    return found


HUGE = """
import json, resource, sys, time
import numpy as np, laplex
n = int(float(sys.argv[1]))
rng = np.random.default_rng(0)
x, y, v = (rng.random(n, dtype=np.float32) for _ in range(3))
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
found = {"n": n, "inputs_bytes": x.nbytes + y.nbytes + v.nbytes, "peak_inputs": peak()}
def timed(name, call):
    start = time.process_time(); wall = time.perf_counter()
    result = call()
    found[name] = {"cpu": time.process_time() - start, "wall": time.perf_counter() - wall}
    return result
plan = timed("plan", lambda: laplex.Plan(x, y, lengthscale=0.1))
found["plan_bytes"] = plan.nbytes
found["peak_plan"] = peak()
u = timed("forward", lambda: plan.apply(v))
u = timed("forward again", lambda: plan.apply(v, u))
found["peak_forward"] = peak()
# Checked against float64 sums of a few rows.
i = rng.integers(0, n, 4)
error = 0.0
for k in i:
    weights = np.exp(-np.abs(x[k].astype(np.float64) - y) / 0.1)
    error = max(error, abs(float(u[k]) - float(weights @ v)) / float(weights @ np.abs(v)))
found["error"] = error
print(json.dumps(found))
"""


def run_huge(n: int) -> dict[str, Any]:
    """Measure one n x n product in its own process, with its peak memory."""
    say(f"n = {n:,}, with peak memory")
    done = subprocess.run(
        [sys.executable, "-c", HUGE, str(n)], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def versions() -> dict[str, str]:
    """Return the versions of the packages that were measured."""
    found = {"laplex": laplex.__version__, "Python": platform.python_version()}
    for package in ("numpy", "torch", *PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Return the commit of the tree, marked if it has changes."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True,
            check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="measure up to n = 10^5 only, print the page and write no files",
    )
    parser.add_argument(
        "--binary", type=Path, default=ROOT / "build/release/bench/cpp/laplex_bench",
        help="the compiled C++ benchmarks (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT,
        help="the folder that holds bench/results and docs (default: the repository)",
    )
    options = parser.parse_args()
    if not options.binary.exists():
        parser.error(
            f"{options.binary} does not exist: build it with `make bench`, or pass --binary"
        )
    torch.set_num_threads(1)
    quick = options.quick
    failures = dict.fromkeys(missing(), "not installed")
    core = _core.info()
    results: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "processor": processor(),
        "instruction_set": core["isa"],
        "compiler": core["compiler"],
        "versions": versions(),
        "cpp": run_binary(
            options.binary, [10**3, 10**5] if quick else [10**3, 10**4, 10**5, 10**6, 10**7], quick
        ),
        "peers": run_peers([10**k for k in ((3, 5) if quick else range(3, 8))], failures),
        "missing": failures,
    }
    say("batches")
    results["batches"] = run_batches([1000] if quick else [1000, 10**4, 10**5])
    say("call overhead")
    results["overhead"] = run_overhead()
    results["layers"] = run_layers()
    say("Gaussian models")
    results["gram"] = run_gram([50, 1000] if quick else [50, 10**3, 10**5, 10**6], failures)
    say("starting")
    results["start"] = run_start(5 if quick else 20)
    say("two threads beside torch's")
    results["pool"] = run_pool(10**6)
    say("updates")
    results["updates"] = run_updates([10**4] if quick else [10**3, 10**4, 10**5, 10**6])
    if not quick:
        results["huge"] = run_huge(10**8)
    results["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if quick:
        print(report.page(results))
        return
    name = re.sub(r"[^a-z0-9]+", "-", results["processor"].lower()).strip("-")
    out = options.out / "bench" / "results" / f"{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    report.write(results, options.out / "docs" / "measurements")
    say(f"written: {out} and docs/measurements/benchmarks.md")


if __name__ == "__main__":
    main()
