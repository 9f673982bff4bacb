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
    """A ratio, or a time, and its limit. `ratio` raises KeyError if it was not measured."""

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


def power(n: int) -> str:
    """Return n as a power of ten, if it is one."""
    exponent = round(math.log10(n))
    return f"10^{exponent}" if n >= 1000 and 10**exponent == n else f"{n:,}"


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
        Target(f"{what}, n = {power(n)}", limit, at_most, partial(ratio, n=n))
        for n, limit in limits.items()
    ]


def _peer(
    what: str,
    dtype: str,
    ours: str,
    theirs: str,
    limits: dict[int, float],
    *,
    at_most: bool = False,
) -> list[Target]:
    """Targets of the Python suite: our speed-up, or with `at_most` our time, over theirs."""

    def ratio(results: Results, n: int) -> float:
        times = peer(results, dtype, ours, n), peer(results, dtype, theirs, n)
        return times[0] / times[1] if at_most else times[1] / times[0]

    return [
        Target(f"{what}, n = {power(n)}", limit, at_most, partial(ratio, n=n))
        for n, limit in limits.items()
    ]


def _gram(what: str, name: str, limits: dict[int, float]) -> list[Target]:
    """Targets of Gaussian models: our speed-up over celerite2."""

    def ratio(results: Results, n: int) -> float:
        found = results["gram"][str(n)]
        return float(found[f"celerite2, {name}"] / found[f"laplex, {name}"])

    return [
        Target(f"{what} vs celerite2, n = {power(n)}", limit, False, partial(ratio, n=n))
        for n, limit in limits.items()
    ]


def _layer(shape: str, limit: float) -> Target:
    """A target of a layer: our time over that of a dense one."""

    def ratio(results: Results) -> float:
        found = results["layers"][shape]
        ours = found["LaplexLinear forward + backward"]
        return float(ours / found["torch.nn.Linear forward + backward"])

    return Target(
        f"LaplexLinear {shape} vs nn.Linear, batch 256, one head, forward + backward",
        limit,
        True,
        ratio,
    )


def _value(what: str, limit: float, unit: str, *keys: str) -> Target:
    """A target of a time itself, which `keys` lead to."""

    def value(results: Results) -> float:
        found: Any = results
        for key in keys:
            found = found[key]
        return float(found)

    return Target(what, limit, True, value, unit)


_LARGE = (10**5, 10**6, 10**7)


def has_avx512(results: Results) -> bool:
    """Whether the results were measured with AVX-512."""
    return bool(results["instruction_set"] == "avx512")


def targets(results: Results) -> list[Target]:
    """Return the targets for the instruction set of the results."""
    # fmt: off
    return [
        *_cpp("forward, sorted, vs memcpy of 28n bytes", "forward, sorted", "memcpy 28n",
              dict.fromkeys(_LARGE, 1.5), at_most=True),
        *_cpp("forward, random, vs gather + scatter", "forward, random", "gather + scatter",
              {10**6: 2, 10**7: 0.8}, at_most=True),
        *_cpp("forward + all gradients vs forward", "forward + gradients, random",
              "forward, random", dict.fromkeys(_LARGE, 2.6), at_most=True),
        *_cpp("moment 1 vs moment 0", "forward, moment 1, random", "forward, random",
              {10**5: 2, 10**6: 2}, at_most=True),
        *_cpp("moment 2 vs moment 0", "forward, moment 2, random", "forward, random",
              {10**5: 3, 10**6: 3}, at_most=True),
        *_peer("Matern-3/2 vs Matern-1/2", "float32", "laplex, random, Matern-3/2",
               "laplex, random", {10**5: 2, 10**6: 2}, at_most=True),
        *_peer("Matern-5/2 vs Matern-1/2", "float32", "laplex, random, Matern-5/2",
               "laplex, random", {10**5: 3, 10**6: 3}, at_most=True),
        *_peer("double backward vs forward + gradients, self", "float32",
               "laplex.matvec, double backward, self", "laplex.matvec and backward, self",
               {10**5: 3, 10**6: 3}, at_most=True),
        *_cpp("64 rows vs memcpy of V", "forward, 64 rows", "memcpy of 64 rows", {10**5: 2.2},
              at_most=True),
        *_cpp("cosine forward vs real forward", "forward, cosine", "forward, random",
              dict.fromkeys(_LARGE, 2.2), at_most=True),
        *_cpp("two threads vs one (wall time)", "forward, random, wall, threads 2",
              "forward, random, wall, threads 1", dict.fromkeys((10**6, 10**7), 1.8)),
        *_cpp("new plan vs radix sort of the same pairs", "new plan", "radix sort of 2n",
              dict.fromkeys(_LARGE, 1.1), at_most=True),
        *_cpp("update after a small step vs new plan", "update, small step", "new plan",
              dict.fromkeys(_LARGE, 0.6), at_most=True),
        _value("recorded laplex.matvec, n = 64", 30, " us", "overhead", "64", "matvec, recorded"),
        _value("recorded laplex.matvec and backward, n = 64", 90, " us", "overhead", "64",
               "matvec and backward"),
        _layer("64 -> 64", 2),
        _layer("784 -> 256", 0.5),
        *_peer("forward vs celerite2, f64, self", "float64", "laplex, self", "celerite2, self",
               {10**5: 30, 10**6: 15} if has_avx512(results) else {10**5: 8, 10**6: 4}),
        *_gram("log density", "log_prob", {50: 1, 10**3: 1, 10**5: 2, 10**6: 2}),
        *_gram("log density + gradients", "log_prob and gradients",
               dict.fromkeys((50, 10**3, 10**5, 10**6), 1)),
        *_peer("forward vs torch.fft.rfft(n)", "float32", "laplex, sorted", "torch.fft.rfft",
               {10**5: 8, 10**6: 4, 10**7: 5}),
        *_peer("forward vs jax associative_scan, self", "float32", "laplex, self",
               "jax associative_scan, self", {10**5: 20}),
        *_peer("forward vs tinygp, f64, self", "float64", "laplex, self", "tinygp, self",
               {10**5: 50}),
        *_peer("forward + gradients vs torch cumsum autograd, self", "float32",
               "laplex, self: forward + gradients", "torch cumsum(exp) and backward, self",
               {10**5: 15}),
        *_cpp("forward vs scalar C++ loop, sorted", "forward, sorted", "scalar loop, sorted",
              {10**5: 10}),
        _value("CPU time of a process that imports laplex", 0.15, " s", "start", "import laplex"),
        _value("CPU time of a command with a mistyped path", 0.5, " s", "start",
               "laplex exits report NOTHING"),
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
    rows = [target.row(results) for target in targets(results)]
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
            "that the sources are the targets. *Forward* is a product with an existing plan, and",
            "*moment p* is the product with the kernel times the p-th power of the distance in",
            "lengthscales. An *odd* moment also has the sign of x - y as a factor.",
        ),
        *paragraph(
            f"Processor: {results['processor']}, instruction set {results['instruction_set']}.",
            f"Compiler: {results['compiler']}. Commit {results['commit']}, {results['date']}.",
            "Versions: " + ", ".join(f"{k} {v}" for k, v in results["versions"].items()) + ".",
        ),
        "## Targets",
        "",
        *table(
            ["ratio or time", "target", "measured", "met"],
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
            "The table shows nanoseconds per n. A batch of 64 rows counts as one n. On a *sparse*",
            "line the mean gap between neighbours among all 2n anchors is 100 lengthscales, and",
            "almost every anchor has a cell of its own. *Exponent* is the power of n that fits the",
            "columns best, by least squares. It is above 1 where larger arrays no longer fit a",
            "cache.",
        ),
    ]
    lines += table(
        ["", *(f"n = {power(n)}" for n in sizes), "exponent"],
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
            "errors is `sum_j |K_ij| |v_j|`. Results are compared with ours in float64, whose own",
            "errors are measured in [Exactness](exactness.md).",
        ),
        *paragraph(
            "*Regular* anchors are equally spaced, and each is both a target and a source. SciPy's",
            "`lfilter` runs forwards and backwards over them. A *one-sided mean* is the mean of",
            "all values up to an anchor, each weighted by `exp(-distance / lengthscale)`. It is",
            "the ratio of two half sums, and pandas computes it with `ewm(times=...).mean()`. Its",
            "errors are in units of the same mean of `|v_j|`. *Double",
            "backward* is the time of the gradients of all gradients by all inputs, without that",
            "of the forward and backward passes before it.",
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
        lines += table(["", *(f"n = {power(int(n))}" for n in columns), "error"], body)
    if results["missing"]:
        lines += [
            "Not measured: " + "; ".join(f"{k} ({v})" for k, v in results["missing"].items()) + ".",
            "",
        ]
    for name, section in _SECTIONS.items():
        if results.get(name):
            lines += section(results[name])
    return "\n".join(lines)


def batches_section(found: Results) -> list[str]:
    """Return the section on batches."""
    tasks = _names(found)
    return [
        "## Batches of vectors",
        "",
        "The table shows nanoseconds per entry of the batch, in float32.",
        "",
        *table(
            ["n, rows", *tasks],
            [
                [key.replace(" ", ", "), *_cells(times, tasks, 1e9 / math.prod(_integers(key)))]
                for key, times in found.items()
            ],
        ),
    ]


def overhead_section(found: Results) -> list[str]:
    """Return the section on small calls."""
    tasks = _names(found)
    return [
        "## Small calls",
        "",
        "The table shows microseconds of a whole call. *Recorded* means with gradients requested.",
        "",
        *table(["n", *tasks], [[n, *_cells(times, tasks)] for n, times in found.items()]),
    ]


def layers_section(found: Results) -> list[str]:
    """Return the section on layers."""
    return [
        "## Layers",
        "",
        *paragraph(
            "The table shows microseconds of a call with a batch of 256 and one head. The anchors",
            "do not move between calls, so that their plan is found again.",
        ),
        *table(
            ["call", *found],
            [[call, *(number(found[k].get(call)) for k in found)] for call in _names(found)],
        ),
    ]


def gram_section(found: Results) -> list[str]:
    """Return the section on Gaussian models."""
    return [
        "## Gaussian models",
        "",
        *paragraph(
            "The table shows microseconds from sorted points and values to the log density of a",
            "covariance with one real term and noise, in float64, factorisation included.",
            "*Gradients* are those by lengthscale, variance and noise.",
            "[Gaussian models](gram.md) has more forms and libraries.",
        ),
        *table(
            ["", *(f"n = {power(int(n))}" for n in found)],
            [
                [name, *(number(1e6 * found[n][name]) if name in found[n] else "" for n in found)]
                for name in sorted(_names(found), key=lambda name: "gradients" in name)
            ],
        ),
    ]


def updates_section(found: Results) -> list[str]:
    """Return the section on updates."""
    tasks = [name for name in _names(found) if name != "new plan"]
    return [
        "## Updates",
        "",
        *paragraph(
            "The table shows the time of `Plan.update`, divided by the time of a new plan. Every",
            "anchor moves by lr in one direction or the other, as in Adam's first steps.",
        ),
        *table(
            ["n", *tasks],
            [[n, *_cells(times, tasks, 1 / times["new plan"])] for n, times in found.items()],
        ),
    ]


def pool_section(found: Results) -> list[str]:
    """Return the section on threads."""
    return [
        "## Threads together with torch",
        "",
        *paragraph(
            "The table shows milliseconds of wall time, with two threads each, for a product with",
            "n = 10^6 and a matrix product of 700 x 700. *In turns* means one call of each after",
            "the other, so that torch's threads are warm when ours start.",
        ),
        *table(["call", "milliseconds"], [[k, number(1e3 * v)] for k, v in found.items()]),
    ]


def start_section(found: Results) -> list[str]:
    """Return the section on starting."""
    return [
        "## Starting",
        "",
        *paragraph(
            "The table shows seconds of CPU time of a whole process, with that of the system. The",
            "last command names a folder that does not exist.",
        ),
        *table(["process", "seconds"], [[f"`{k}`", number(v)] for k, v in found.items()]),
    ]


def huge_section(h: Results) -> list[str]:
    """Return the section on the largest product."""
    gib = 2**30
    return [
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


#: The sections after the comparisons, each of one part of the results.
_SECTIONS = {
    "batches": batches_section,
    "overhead": overhead_section,
    "layers": layers_section,
    "gram": gram_section,
    "updates": updates_section,
    "pool": pool_section,
    "start": start_section,
    "huge": huge_section,
}


def _integers(key: str) -> list[int]:
    return [int(word) for word in key.split()]


def _names(found: Results) -> list[str]:
    """Return the tasks of a table of tables, those of all its rows."""
    return list(dict.fromkeys(name for times in found.values() for name in times))


def _cells(times: dict[str, float], tasks: list[str], unit: float = 1.0) -> list[str]:
    return [number(times[name] * unit) if name in times else "" for name in tasks]


# What the plots leave out: other problems than the plain product, and more than twenty curves.
_NOT_BESIDE_FLOORS = ("rows", "wall", "f64", "odd", "moment 3", "moment 4")
_NOT_BESIDE_PEERS = ("Matern", "mean", "regular")


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
        if len(times) > 1 and not any(word in name for word in _NOT_BESIDE_FLOORS)
    }
    files = [figure("benchmarks_floors.png", "Laplex and floors, float32, one thread", floors)]
    for dtype in ("float32", "float64"):
        curves: dict[str, dict[int, float]] = {}
        for key, found in results["peers"].items():
            if key.startswith(dtype):
                n = int(key.split()[1])
                for name, entry in found.items():
                    if not any(word in name for word in _NOT_BESIDE_PEERS):
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
