"""Writes docs/exactness.md: the largest error in units of sum |K||v|, per form, precision and size.

    python bench/python/exactness.py [--quick] [--out docs/exactness.md]

Errors are against the extended-precision reference of tests/python/reference.py. Takes about ten minutes; --quick
leaves out sizes from 10^5.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "python"))

from exactness_cases import ANCHORS, FORMS, PROMISE, error, kernel, values  # noqa: E402
from machine import processor  # noqa: E402

import laplex  # noqa: E402

SMALL = (0, 1, 2, 7)
LENGTHSCALES = [10.0**k for k in range(-6, 7)]
# At large sizes the reference is the cost: fewer kinds of anchors and lengthscales.
LARGE_ANCHORS = ("uniform", "coarse grid", "1e-30..1e30")


def cells(quick: bool) -> dict[str, list[tuple[int, int, tuple[str, ...], list[float]]]]:
    """Return the columns of the table: what is tried for each size."""
    columns = {
        "0, 1, 2, 7": [
            (n, m, ANCHORS, LENGTHSCALES) for n, m in itertools.product(SMALL, repeat=2)
        ],
        "1000": [
            (n, m, ANCHORS, LENGTHSCALES) for n, m in [(1000, 1000), (7, 1000), (1000, 1), (1, 1000)]
        ],
    }
    if not quick:
        columns["10^5"] = [(100_000, 100_001, ANCHORS, [1e-3, 0.3])]
        columns["10^6"] = [(1_000_000, 999_999, LARGE_ANCHORS, [0.3])]
    return columns


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "exactness.md")
    options = parser.parse_args()
    start = time.monotonic()
    columns = cells(options.quick)
    table: dict[tuple[str, str, bool], list[float]] = {}
    tried = 0
    for form, dtype, is_complex in itertools.product(FORMS, PROMISE, (False, True)):
        row = []
        for name, cases in columns.items():
            if is_complex and name == "10^6":
                row.append(float("nan"))
                continue
            rng = np.random.default_rng(len(row))
            worst = 0.0
            for n, m, kinds, lengthscales in cases:
                for kind, lengthscale in itertools.product(kinds, lengthscales):
                    k = kernel(form, kind, n, m, lengthscale, dtype, rng)
                    worst = max(worst, error(k, values(m, dtype, is_complex, rng), dtype))
                    tried += 1
            row.append(worst)
        table[form, dtype, is_complex] = row
        print(f"{time.monotonic() - start:6.0f} s  {form} {dtype} complex={is_complex}: {row}", flush=True)

    lines = [
        "# Exactness, measured",
        "",
        "Largest error of `Plan.apply` in units of `sum_j |K_ij| |v_j|`, against an independent reference in",
        "80-bit extended precision ([tests/python/reference.py](../tests/python/reference.py)). The promise is",
        "1e-14 for float64 and 1e-6 for float32. Each entry is the maximum over anchors "
        + ", ".join(ANCHORS)
        + f" and lengthscales 1e-6..1e6 (at 10^5: 1e-3 and 0.3; at 10^6: 0.3, anchors {', '.join(LARGE_ANCHORS)}).",
        "",
        "| form | values | " + " | ".join(f"n, m in {name}" for name in columns) + " |",
        "|---|---|" + "---|" * len(columns),
    ]
    for (form, dtype, is_complex), row in table.items():
        kind = {"float64": "complex128", "float32": "complex64"}[dtype] if is_complex else dtype
        cells_text = ["not run" if np.isnan(e) else f"{e:.1e}" for e in row]
        lines.append(f"| {form} | {kind} | " + " | ".join(cells_text) + " |")
    kept = all(
        np.isnan(e) or e <= PROMISE[dtype] for (_, dtype, _), row in table.items() for e in row
    )
    lines += [
        "",
        f"{tried} cases, {'all' if kept else 'NOT all'} within the promise.",
        "",
        f"Measured with laplex {laplex.__version__}, NumPy {np.__version__}, Python {platform.python_version()}",
        f"on {processor()}; `python bench/python/exactness.py`, {time.monotonic() - start:.0f} s.",
        "",
    ]
    options.out.write_text("\n".join(lines))
    print(f"written: {options.out}")
    if not kept:
        raise SystemExit("an error is beyond the promise")


if __name__ == "__main__":
    main()
