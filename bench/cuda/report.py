"""Write the page of a GPU's benchmarks, beside the JSON that laplex_cuda_bench --json wrote.

python bench/cuda/report.py bench/results/NAME.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Results = dict[str, Any]


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


def by_size(
    measurements: list[dict[str, Any]], cell: Callable[[dict[str, Any]], float | None]
) -> list[str]:
    """Return a table with a row per task and a column per size, for tasks that have any cells."""
    cells = {(m["name"], m["n"]): value for m in measurements if (value := cell(m)) is not None}
    names = dict.fromkeys(name for name, _ in cells)
    sizes = sorted({n for _, n in cells})
    return table(
        ["", *(f"n = {size(n)}" for n in sizes)],
        [[name, *(number(cells.get((name, n))) for n in sizes)] for name in names],
    )


def page(results: Results, source: str) -> str:
    """Return the page in Markdown."""
    device = results["device"]
    lines = [
        f"# GPU benchmarks: {device['name']}",
        "",
        f"`bench/cuda/report.py` writes this page from `{source}`, which `tools/gpu.sh` measures.",
        "There are n targets and n sources, uniform on [0, n / 100], and the lengthscale is 1.",
        "Data are in float32 unless stated otherwise. A time is that of one call, the minimum of",
        f"{results['repetitions']} samples, interleaved with the calls that it is compared with:",
        "compare ratios rather than times.",
        "",
        f"{device['name']}, compute capability {device['compute_capability']}, "
        f"{device['multiprocessors']} multiprocessors, {device['memory_bytes'] / 2**30:.0f} GiB, "
        f"L2 cache {device['l2_bytes'] / 2**20:.0f} MiB; driver {results['driver']}, CUDA runtime "
        f"{results['runtime']}, nvcc {results['nvcc']}; commit {results['commit']}, "
        f"{results['date']}.",
        "",
    ]
    judged = [c for c in results["comparisons"] if c["limit"] is not None]
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
            for c in results["comparisons"]
            if c["limit"] is None
        ],
    )
    lines += [
        "## Times in milliseconds",
        "",
        *by_size(results["measurements"], lambda m: m["minimum_ms"]),
    ]
    lines += [
        "## Memory throughput in GB/s",
        "",
        "This counts the bytes that must be read and written, including those found in a cache.",
        "",
        *by_size(
            results["measurements"],
            lambda m: m["bytes"] / m["minimum_ms"] * 1e-6 if m["bytes"] is not None else None,
        ),
        "## Errors",
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
            for c in results["checks"]
        ],
    )
    if "huge" in results:
        huge = results["huge"]
        lines += [
            f"## n = {size(huge['n'])}",
            "",
            f"Plan, forward, gradients and update take {huge['peak_bytes'] / 1e9:.1f} GB of device "
            f"memory at their peak, including inputs and results. The plan holds "
            f"{huge['plan_bytes'] / 1e9:.1f} GB of it, "
            f"{huge['plan_bytes'] / huge['n'] / 2:.1f} bytes an anchor.",
            "",
        ]
    if results["notes"]:
        lines += ["## Not measured", "", *(f"- {note}" for note in results["notes"]), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.with_suffix(".md").write_text(page(json.loads(path.read_text()), path.name))
