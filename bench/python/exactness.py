"""Writes docs/exactness.md: the largest error in units of sum |K||v|, per form, precision and size.

    python bench/python/exactness.py [--quick] [--out docs/exactness.md]

Errors are against the extended-precision reference of tests/python/reference.py. Takes about forty
minutes; --quick, half a minute, leaves out sizes from 10^5.
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

import laplex  # noqa: E402
from exactness_cases import ANCHORS, FORMS, PROMISE, error, kernel, values  # noqa: E402
from machine import processor  # noqa: E402

LENGTHSCALES = tuple(10.0**k for k in range(-6, 7))
Sizes = list[tuple[int, int]]


def columns(quick: bool) -> dict[str, list[tuple[Sizes, tuple[float, ...]]]]:
    """Return the columns of the table: the sizes (n, m) and lengthscales that each one tries."""
    # the reference is the cost: at large sizes fewer lengthscales, the extremes among them
    sizes = [0, 1, 2, 7, 1000] if quick else [0, 1, 2, 7, 1000, 100_000]
    chosen: dict[str, list[tuple[Sizes, tuple[float, ...]]]] = {}
    for largest, name in ((7, "0..7"), (1000, "1000"), (100_000, "10^5")):
        pairs = [
            pair
            for pair in itertools.product(sizes, repeat=2)
            if max(pair) == largest or max(pair) < largest == 7
        ]
        square = [(largest, largest)] if largest == 100_000 else pairs
        if pairs:
            chosen[name] = [(square, LENGTHSCALES)]
            mixed = [pair for pair in pairs if pair not in square]
            if mixed:
                chosen[name].append((mixed, (0.3,)))
    if not quick:
        chosen["10^6"] = [([(1_000_000, 999_999)], (1e-6, 0.3, 1e6))]
    return chosen


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "exactness.md")
    options = parser.parse_args()
    start = time.monotonic()
    chosen = columns(options.quick)
    table: dict[tuple[str, str, bool], list[float]] = {}
    tried = 0
    for form, dtype, is_complex in itertools.product(FORMS, PROMISE, (False, True)):
        row = []
        for number, parts in enumerate(chosen.values()):
            rng = np.random.default_rng(number)
            worst = 0.0
            for pairs, lengthscales in parts:
                for (n, m), kind, ell in itertools.product(pairs, ANCHORS, lengthscales):
                    k = kernel(form, kind, n, m, ell, dtype, rng)
                    worst = max(worst, error(k, values(m, dtype, is_complex, rng), dtype))
                    tried += 1
            row.append(worst)
        table[form, dtype, is_complex] = row
        print(
            f"{time.monotonic() - start:6.0f} s  {form} {dtype} complex={is_complex}: {row}",
            flush=True,
        )

    lines = [
        "# Exactness, measured",
        "",
        "Largest error of `Plan.apply` in units of `sum_j |K_ij| |v_j|`, against an independent",
        "reference in 80-bit extended precision",
        "([tests/python/reference.py](../tests/python/reference.py)). The promise is 1e-14 for",
        f"float64 and 1e-6 for float32. Anchors: {', '.join(ANCHORS)}.",
        "Lengthscales: 1e-6, 1e-5, ..., 1e6 (at 10^5 with n different from m: 0.3; at 10^6: 1e-6,",
        "0.3, 1e6). Sizes: every pair (n, m) of 0, 1, 2, 7, 1000, 10^5, in the column of the",
        "larger; the last column is 1,000,000 x 999,999.",
        "",
        "| form | values | " + " | ".join(f"max(n, m) = {name}" for name in chosen) + " |",
        "|---|---|" + "---|" * len(chosen),
    ]
    for (form, dtype, is_complex), row in table.items():
        kind = {"float64": "complex128", "float32": "complex64"}[dtype] if is_complex else dtype
        lines.append(f"| {form} | {kind} | " + " | ".join(f"{e:.1e}" for e in row) + " |")
    kept = all(e <= PROMISE[dtype] for (_, dtype, _), row in table.items() for e in row)
    lines += [
        "",
        f"{tried} cases, {'all' if kept else 'NOT all'} within the promise.",
        "",
        f"Measured with laplex {laplex.__version__}, NumPy {np.__version__}, Python",
        f"{platform.python_version()} on {processor()};",
        f"`python bench/python/exactness.py`, {time.monotonic() - start:.0f} s.",
        "",
    ]
    options.out.write_text("\n".join(lines))
    print(f"written: {options.out}")
    if not kept:
        raise SystemExit("an error is beyond the promise")


if __name__ == "__main__":
    main()
