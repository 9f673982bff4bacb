"""Write the page and the plots of the benchmarks from their JSON.

python bench/python/report.py bench/results/NAME.json [FOLDER]

The default folder is docs/measurements.
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

Results = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A ratio and its limit. `ratio` raises KeyError if it was not measured."""

    what: str
    limit: float
    at_most: bool
    ratio: Callable[[Results], float]
    unit: str = "x"

    def row(self, results: Results) -> tuple[str, str, str, bool | None]:
        """Return the name, the target, the measured value and whether the target is met."""
        sign = "<=" if self.at_most else ">="
        target = f"{sign} {self.limit:g}{self.unit}"
        try:
            value = self.ratio(results)
        except KeyError:
            return self.what, target, "not measured", None
        met = value <= self.limit if self.at_most else value >= self.limit
        return self.what, target, f"{value:.3g}{self.unit}", met


def cpp(results: Results, name: str, n: int) -> float:
    """Return the seconds of a C++ benchmark."""
    return float(results["cpp"][name][str(n)])


def peer(results: Results, dtype: str, name: str, n: int) -> float:
    """Return the seconds of a task of the Python suite."""
    return float(results["peers"][f"{dtype} {n}"][name]["seconds"])


def _cpp(
    what: str, ours: str, theirs: str, limits: dict[int, float], *, at_most: bool = False
) -> list[Target]:
    """Targets of C++ benchmarks: our speed-up, or with `at_most` our time, over theirs."""

    def ratio(results: Results, n: int) -> float:
        times = cpp(results, ours, n), cpp(results, theirs, n)
        return times[0] / times[1] if at_most else times[1] / times[0]

    return [
        Target(f"{what}, n = {n:.0e}", limit, at_most, partial(ratio, n=n))
        for n, limit in limits.items()
    ]


def _peer(what: str, dtype: str, ours: str, theirs: str, limits: dict[int, float]) -> list[Target]:
    """Targets of the Python suite: our speed-up over theirs."""
    return [
        Target(
            f"{what}, n = {n:.0e}",
            limit,
            False,
            lambda r, n=n: peer(r, dtype, theirs, n) / peer(r, dtype, ours, n),
        )
        for n, limit in limits.items()
    ]


_LARGE = (10**5, 10**6, 10**7)
# fmt: off
TARGETS = [
    *_cpp("forward, sorted, vs memcpy of 28n bytes", "forward, sorted", "memcpy 28n",
          dict.fromkeys(_LARGE, 2), at_most=True),
    *_cpp("forward, random, vs gather + scatter", "forward, random", "gather + scatter",
          {10**6: 1.3, 10**7: 1.1}, at_most=True),
    *_cpp("forward + all gradients vs forward", "forward + gradients, random", "forward, random",
          dict.fromkeys(_LARGE, 2.3), at_most=True),
    *_cpp("new plan vs radix sort of the same pairs", "new plan", "radix sort of 2n",
          dict.fromkeys(_LARGE, 1.5), at_most=True),
    *_cpp("update after a small step vs new plan", "update, small step", "new plan",
          dict.fromkeys(_LARGE, 0.5), at_most=True),
    *(
        Target(f"new plan vs torch.sort of both, n = {n:.0e}", 8, False, lambda r, n=n: (
            peer(r, "float32", "torch.sort of both", n) / cpp(r, "new plan", n)
        ))
        for n in _LARGE
    ),
    *_peer("forward vs celerite2, f64, self", "float64", "laplex, self", "celerite2, self",
           {10**5: 30, 10**6: 15}),
    *_peer("forward vs torch.fft.rfft(n)", "float32", "laplex, sorted", "torch.fft.rfft",
           {10**5: 8, 10**6: 4, 10**7: 5}),
    *_peer("forward vs jax associative_scan, self", "float32", "laplex, self",
           "jax associative_scan, self", {10**5: 20}),
    *_peer("forward vs tinygp, f64, self", "float64", "laplex, self", "tinygp, self", {10**5: 50}),
    *_peer("forward vs numba loop, sorted", "float32", "laplex, sorted", "numba loop, sorted",
           {10**5: 3.5}),
    *_cpp("forward vs scalar C++ loop, sorted", "forward, sorted", "scalar loop, sorted",
          {10**5: 10}),
    *_peer("forward + gradients vs torch cumsum autograd, self", "float32",
           "laplex, self: forward + gradients", "torch cumsum(exp) and backward, self",
           {10**5: 15}),
    *_cpp("64 rows vs memcpy of V", "forward, 64 rows", "memcpy of 64 rows", {10**5: 2},
          at_most=True),
    *_cpp("cosine forward vs real forward", "forward, cosine", "forward, random",
          dict.fromkeys(_LARGE, 2.2), at_most=True),
    *_cpp("two threads vs one (wall time)", "forward, random, wall, threads 2",
          "forward, random, wall, threads 1", dict.fromkeys((10**6, 10**7), 1.8)),
    Target("whole laplex.matvec call, n = 64, no gradients", 15, True,
           lambda r: float(r["overhead"]["64"]["matvec, no grad"]), " us"),
]
# fmt: on


_PLOTS = {
    "benchmarks_floors.png": "Time per n of Laplex and of the floors, over n",
    "benchmarks_peers_float32.png": "Time per n of Laplex and other libraries in float32, over n",
    "benchmarks_peers_float64.png": "Time per n of Laplex and other libraries in float64, over n",
}


def paragraph(*parts: str) -> list[str]:
    """Return the lines of a paragraph."""
    return [*textwrap.wrap(" ".join(parts), 100, break_on_hyphens=False), ""]


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def number(value: float | None) -> str:
    """Return three digits, or nothing for what was not measured."""
    return "" if value is None or math.isnan(value) else f"{value:.3g}"


def exponent(times: dict[str, float], sizes: list[int]) -> float:
    """Return the slope of log time over log n, by least squares."""
    points = [(math.log(n), math.log(times[str(n)])) for n in sizes if str(n) in times]
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum(
        (x - mean_x) ** 2 for x, _ in points
    )


def page(results: Results, plots: list[str] | None = None) -> str:
    """Return the page in Markdown."""
    rows = [target.row(results) for target in TARGETS]
    measured = [row for row in rows if row[3] is not None]
    lines = [
        "# Benchmarks",
        "",
        *paragraph(
            "`make bench` writes this page. [Performance on the",
            "CPU](../explanation/performance.md) explains the figures. Unless stated otherwise,",
            "benchmarks run on one thread in float32. Times are process CPU times, the minimum",
            "over interleaved rounds. The machine is shared: compare ratios rather than times.",
        ),
        *paragraph(
            "There are n targets and n sources, uniform on [0, 1], and the lengthscale is 0.1.",
            "*Sorted* and *random* are the order in which the anchors are given. *Self* means",
            "that the sources are the targets. *Forward* is a product with an existing plan.",
        ),
        *paragraph(
            f"Processor: {results['processor']}, instruction set {results['instruction_set']}.",
            f"Compiler: {results['compiler']}. Commit {results['commit']}, {results['date']}.",
            "Versions: " + ", ".join(f"{k} {v}" for k, v in results["versions"].items()) + ".",
        ),
        "## Targets",
        "",
        *table(
            ["ratio", "target", "measured", "met"],
            [
                [what, target, got, "" if met is None else "yes" if met else "**no**"]
                for what, target, got, met in rows
            ],
        ),
        f"{sum(bool(row[3]) for row in measured)} of {len(measured)} targets are met.",
        "",
    ]
    for plot in plots or []:
        lines += [f"![{_PLOTS[plot]}]({plot})", ""]

    sizes = sorted({int(n) for times in results["cpp"].values() for n in times})
    lines += [
        "## C++ benchmarks",
        "",
        *paragraph(
            "The table shows nanoseconds per n. A batch of 64 rows counts as one n. *Exponent* is",
            "the power of n that fits the columns best, by least squares. It is above 1 where",
            "larger arrays no longer fit a cache.",
        ),
    ]
    lines += table(
        ["", *(f"n = {n:.0e}" for n in sizes), "exponent"],
        [
            [
                name,
                *(number(times[str(n)] / n * 1e9) if str(n) in times else "" for n in sizes),
                f"{exponent(times, sizes):.2f}" if len(times) > 1 else "",
            ]
            for name, times in sorted(results["cpp"].items())
        ],
    )
    lines += [
        "## Comparison with other libraries",
        "",
        *paragraph(
            "The tables show nanoseconds per n, and the largest error over all sizes. The unit of",
            "errors is `sum_j |K_ij| |v_j|`.",
        ),
    ]
    for dtype in ("float32", "float64"):
        columns = [key.split()[1] for key in results["peers"] if key.startswith(dtype)]
        names = list(
            dict.fromkeys(name for n in columns for name in results["peers"][f"{dtype} {n}"])
        )
        lines += [f"### {dtype}", ""]
        body = []
        for name in names:
            found = [results["peers"][f"{dtype} {n}"].get(name) for n in columns]
            errors = [f["error"] for f in found if f and f["error"] is not None]
            cells = [
                number(f["seconds"] / int(n) * 1e9) if f else ""
                for f, n in zip(found, columns, strict=True)
            ]
            worst = max(errors, key=lambda e: math.inf if math.isnan(e) else e, default=None)
            body.append([name, *cells, "" if worst is None else f"{worst:.2g}"])
        lines += table(["", *(f"n = {int(n):.0e}" for n in columns), "error"], body)
    if results["missing"]:
        lines += [
            "Not measured: " + "; ".join(f"{k} ({v})" for k, v in results["missing"].items()) + ".",
            "",
        ]
    lines += [
        "## Batches of vectors",
        "",
        "The table shows nanoseconds per entry of the batch, in float32.",
        "",
    ]
    tasks = list(dict.fromkeys(t for found in results["batches"].values() for t in found))
    lines += table(
        ["n, rows", *tasks],
        [
            [key.replace(" ", ", ")]
            + [
                number(found[t] / (int(key.split()[0]) * int(key.split()[1])) * 1e9)
                if t in found
                else ""
                for t in tasks
            ]
            for key, found in results["batches"].items()
        ],
    )
    lines += [
        "## Small calls",
        "",
        "The table shows microseconds of a whole call. *Recorded* means with gradients requested.",
        "",
    ]
    tasks = list(next(iter(results["overhead"].values())))
    lines += table(
        ["n", *tasks],
        [[n, *(number(found.get(t)) for t in tasks)] for n, found in results["overhead"].items()],
    )
    lines += ["A layer from 784 to 256 features, on a batch of 256:", ""]
    lines += table(["call", "microseconds"], [[k, number(v)] for k, v in results["layer"].items()])
    lines += [
        "## Updates",
        "",
        *paragraph(
            "The table shows the time of `Plan.update`, divided by the time of a new plan. Every",
            "anchor moves by lr in one direction or the other, as in Adam's first steps.",
        ),
    ]
    tasks = [t for t in next(iter(results["updates"].values())) if t != "new plan"]
    lines += table(
        ["n", *tasks],
        [
            [n, *(number(found[t] / found["new plan"]) for t in tasks)]
            for n, found in results["updates"].items()
        ],
    )
    lines += [
        "## Threads together with torch",
        "",
        *paragraph(
            "The table shows milliseconds of wall time, with two threads each, for a product with",
            "n = 10^6 and a matrix product of 700 x 700. *In turns* means one call of each after",
            "the other, so that torch's threads are warm when ours start.",
        ),
    ]
    lines += table(
        ["call", "milliseconds"], [[k, number(1e3 * v)] for k, v in results["pool"].items()]
    )
    if "huge" in results:
        h = results["huge"]
        gib = 2**30
        lines += [
            "## A hundred million points",
            "",
            *paragraph(
                f"With {h['n']:,} targets and as many sources, in float32 on all threads,",
                f"a new plan takes {h['plan']['wall']:.1f} s and a product",
                f"{h['forward again']['wall']:.1f} s",
                f"({h['forward']['wall']:.1f} s the first time). The plan holds",
                f"{h['plan_bytes'] / h['n'] / 2:.1f} bytes an anchor,",
                f"{h['plan_bytes'] / gib:.1f} GiB. The peak memory of the process is",
                f"{h['peak_plan'] / gib:.1f} GiB while the plan is built and",
                f"{h['peak_forward'] / gib:.1f} GiB in all, of which",
                f"{h['inputs_bytes'] / gib:.1f} GiB are inputs. The largest error of four entries,",
                f"compared with sums of all pairs in float64, is {h['error']:.1e}.",
            ),
        ]
    return "\n".join(lines)


def draw(results: Results, folder: Path) -> list[str]:
    """Draw time over n for Laplex, the floors and the peers; return the names of the files."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    def figure(name: str, title: str, curves: dict[str, dict[int, float]]) -> str:
        fig, axes = plt.subplots(figsize=(8, 5), layout="constrained")
        axes.set_prop_cycle(color=plt.get_cmap("tab20").colors)  # more curves than the usual ten
        for label, curve in curves.items():
            style = "o-" if label.startswith(("laplex", "forward", "new", "update")) else "x--"
            axes.plot(list(curve), list(curve.values()), style, label=label, markersize=4)
        axes.set(xscale="log", yscale="log", xlabel="n", ylabel="ns per n", title=title)
        axes.grid(True, which="major", alpha=0.3)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        fig.savefig(folder / name, dpi=110)
        plt.close(fig)
        return name

    floors = {
        name: {int(n): t / int(n) * 1e9 for n, t in times.items()}
        for name, times in sorted(results["cpp"].items())
        if len(times) > 1 and "rows" not in name and "wall" not in name and "f64" not in name
    }
    files = [figure("benchmarks_floors.png", "Laplex and floors, float32, one thread", floors)]
    for dtype in ("float32", "float64"):
        curves: dict[str, dict[int, float]] = {}
        for key, found in results["peers"].items():
            if key.startswith(dtype):
                n = int(key.split()[1])
                for name, entry in found.items():
                    curves.setdefault(name, {})[n] = entry["seconds"] / n * 1e9
        files.append(
            figure(
                f"benchmarks_peers_{dtype}.png", f"Laplex and peers, {dtype}, one thread", curves
            )
        )
    return files


def write(results: Results, folder: Path) -> None:
    """Write the page and its plots."""
    (folder / "benchmarks.md").write_text(page(results, draw(results, folder)))


if __name__ == "__main__":
    source = Path(sys.argv[1])
    write(
        json.loads(source.read_text()),
        Path(sys.argv[2] if len(sys.argv) > 2 else "docs/measurements"),
    )
