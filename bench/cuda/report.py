"""Write the page of a GPU's measurements, from what tools/gpu_run.sh left in its folder.

python bench/cuda/report.py build/gpu_kit/results

It writes bench/results/<device>.md, and beside it what the page was made from: <device>.jsonl and,
if there is a profile, <device>-counters.csv.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
Entry = dict[str, Any]

#: The hardware counters of the page, and their headings.
COUNTERS = {
    "gpu__time_duration.sum": "time",
    "dram__bytes_read.sum": "DRAM bytes read",
    "dram__bytes_write.sum": "DRAM bytes written",
    "smsp__inst_executed.sum": "warp instructions",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issue slots used",
    "sm__inst_executed_pipe_fp64.avg.pct_of_peak_sustained_active": "FP64 pipe",
    "lts__t_sectors_op_red.sum": "RED sectors",
}


def number(value: float | None) -> str:
    """Return three digits, or nothing for what was not counted."""
    return "" if value is None else f"{value:.3g}"


def size(n: int) -> str:
    """Format a size: 4096, 1e+08."""
    return str(n) if n < 100_000 else f"{n:.3g}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def by_size(measurements: list[Entry], cell: Callable[[Entry], float | None]) -> list[str]:
    """Return a table with a row per task and a column per size, for tasks that have any cells."""
    cells = {(m["name"], m["n"]): value for m in measurements if (value := cell(m)) is not None}
    names = dict.fromkeys(name for name, _ in cells)
    sizes = sorted({n for _, n in cells})
    return table(
        ["", *(f"n = {size(n)}" for n in sizes)],
        [[name, *(number(cells.get((name, n))) for n in sizes)] for name in names],
    )


def read(path: Path) -> dict[str, list[Entry]]:
    """Return the entries by their kind.

    The last line of a run that was cut off may be half a line.
    """
    entries = defaultdict(list)
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        entries[entry["kind"]].append(entry)
    return entries


def profile(path: Path) -> list[str]:
    """Return the table of hardware counters, with a row per kernel launch."""
    # ncu writes its own messages, a line of names, one of units, and a line per launch.
    lines = [line for line in path.read_text().splitlines() if line.startswith('"')]
    if len(lines) < 3:
        return []
    units, *launches = csv.DictReader(lines)
    columns = [name for name in COUNTERS if name in units]
    return [
        "## Hardware counters of each kernel",
        "",
        "Measured by Nsight Compute, which runs each kernel several times: its times are not those",
        "above.",
        "",
        *table(
            ["kernel", *(f"{COUNTERS[name]} ({units[name] or '1'})" for name in columns)],
            [
                [f"`{kernel_name(launch['Kernel Name'])}`", *(launch[name] for name in columns)]
                for launch in launches
            ],
        ),
    ]


def kernel_name(signature: str) -> str:
    """Return a kernel's name without namespaces, template arguments and parameters."""
    return re.split(r"[<(]", signature.replace("void ", "").replace("<unnamed>::", ""))[0].split(
        "::"
    )[-1]


def page(results: dict[str, list[Entry]], source: str, counters: list[str]) -> str:
    """Return the page in Markdown."""
    machine = results["machine"][-1]
    lines = [
        f"# GPU measurements: {machine['device']}",
        "",
        "Every time, ratio, error and amount of memory on this page was measured on this device,",
        "in one run. Only the bytes of the throughputs are counted, from the code.",
        "",
        f"{machine['device']}, compute capability {machine['compute_capability']}, "
        f"{machine['multiprocessors']} multiprocessors, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"L2 cache {machine['l2_bytes'] / 2**20:.0f} MiB; driver {machine['driver']}, CUDA runtime "
        f"{machine['runtime']}, nvcc {machine['nvcc']}; commit {machine['commit']}, "
        f"{machine['date']}.",
        "",
        f"`bench/cuda/report.py` writes this page from `{source}`, which `make gpu` measures.",
        "There are n targets and n sources, uniform on [0, n / 100], and the lengthscale is 1.",
        "Data are in float32 unless stated otherwise. A time is that of one call, the minimum of",
        "several samples, interleaved with the calls that it is compared with: compare ratios",
        "rather than times.",
        "",
    ]
    judged = [c for c in results["comparison"] if c["limit"] is not None]
    met = [c["ratio"] <= c["limit"] for c in judged]
    lines += ["## Targets", ""]
    lines += table(
        ["ratio", "n", "target", "measured", "met"],
        [
            [
                f"{c['ours']} vs {c['theirs']}",
                size(c["n"]),
                f"<= {c['limit']:g}x",
                f"{number(c['ratio'])}x",
                "yes" if good else "**no**",
            ]
            for c, good in zip(judged, met, strict=True)
        ],
    )
    lines += [
        f"{sum(met)} of {len(met)} targets are met. They are meant for n = 1e+08, and those of",
        "batches for n = 4096. A shorter line fits in the cache and does not fill the device.",
        "",
        "## Other ratios",
        "",
    ]
    lines += table(
        ["ratio", "n", "measured"],
        [
            [f"{c['ours']} vs {c['theirs']}", size(c["n"]), f"{number(c['ratio'])}x"]
            for c in results["comparison"]
            if c["limit"] is None
        ],
    )
    lines += [
        "## Times in milliseconds, measured",
        "",
        *by_size(results["measurement"], lambda m: m["minimum_ms"]),
    ]
    lines += [
        "## Memory throughput in GB/s: bytes counted, times measured",
        "",
        "This counts the bytes that must be read and written, including those found in a cache.",
        "",
        *by_size(
            results["measurement"],
            lambda m: m["bytes"] / m["minimum_ms"] * 1e-6 if m["bytes"] is not None else None,
        ),
        "## Errors, measured",
        "",
        "Results are compared with the CPU in double, and for n above 10^6 with sums over all",
        "pairs at 16 entries. The unit of errors is `sum_j |K_ij| |v_j|`, and similarly for",
        "gradients.",
        "",
    ]
    lines += table(
        ["result", "n", "largest error", "allowed error", "verdict"],
        [
            [
                c["name"],
                size(c["n"]),
                "not finite" if c["error"] is None else f"{c['error']:.2g}",
                f"{c['limit']:.2g}",
                "correct" if c["error"] is not None and c["error"] <= c["limit"] else "**wrong**",
            ]
            for c in results["check"]
        ],
    )
    for m in results["memory"]:
        lines += [
            f"## Memory at n = {size(m['n'])}, measured",
            "",
            f"Plan, forward, gradients and update take {m['peak_bytes'] / 1e9:.1f} GB of device "
            f"memory at their peak, including inputs and results. The plan holds "
            f"{m['plan_bytes'] / 1e9:.1f} GB of it, {m['plan_bytes'] / m['n'] / 2:.1f} bytes an "
            "anchor.",
            "",
        ]
    lines += counters
    if results["note"]:
        notes = dict.fromkeys(note["text"] for note in results["note"])
        lines += ["## Not measured", "", *(f"- {note}" for note in notes), ""]
    return "\n".join(lines)


def report(folder: Path, to: Path = RESULTS) -> Path:
    """Write the page of what is in a folder of results, and return its path."""
    if not (folder / "results.jsonl").exists():
        raise SystemExit(f"error: {folder} has no results.jsonl: name the folder that run.sh wrote")
    results = read(folder / "results.jsonl")
    if not results["machine"]:
        raise SystemExit(f"error: nothing was measured in {folder}: see its bench.log")
    name = re.sub("[^a-z0-9]+", "-", results["machine"][-1]["device"].lower()).strip("-")
    path = to / f"{name}.md"
    to.mkdir(exist_ok=True)
    path.with_suffix(".jsonl").write_text((folder / "results.jsonl").read_text())
    counters: list[str] = []
    if (folder / "counters.csv").exists():
        counters = profile(folder / "counters.csv")
        (to / f"{name}-counters.csv").write_text((folder / "counters.csv").read_text())
    path.write_text(page(results, path.with_suffix(".jsonl").name, counters))
    return path


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python bench/cuda/report.py FOLDER")
    print(f"written: {report(Path(sys.argv[1]))}")
