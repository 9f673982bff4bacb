"""Writes docs/measurements/exactness.md: the largest error in units of sum |K||v|.

    python bench/python/exactness.py [--quick] [--out docs/measurements/exactness.md]

The table has one row per form and precision and one column per size. The script compares results
with the extended-precision reference of tests/python/reference.py. It takes half an hour on two
processors. With --quick it leaves out the sizes from 10^5 on, takes two minutes and prints the page
unless --out is given.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "python"))

import laplex  # noqa: E402
from exactness_cases import ANCHORS, FORMS, PHASED, PROMISE, error, kernel, values  # noqa: E402
from machine import processor  # noqa: E402

EVERY = tuple(10.0**k for k in range(-6, 7))
SOME = (1e-6, 0.3, 1e6)
SIZES = (0, 1, 2, 7, 1000)


@dataclass(frozen=True)
class Column:
    """The cases of one column of the table, each tried with every kind of anchors."""

    name: str
    pairs: tuple[tuple[int, int], ...]
    lengthscales: tuple[float, ...]
    self_lengthscales: tuple[float, ...]
    """The lengthscales of the self case, for n = m."""
    mixed_pairs: tuple[tuple[int, int], ...] = ()
    """Pairs tried only at lengthscale 0.3, because the reference is slow at large sizes."""
    adjoint: bool = False


def small(largest: int) -> tuple[tuple[int, int], ...]:
    """Return every pair of sizes up to `largest`; above 7, only pairs with a size above 7."""
    pairs = [p for p in itertools.product(SIZES, repeat=2) if max(p) <= largest]
    return tuple(p for p in pairs if largest <= 7 or max(p) > 7)


COLUMNS = (
    Column("0..7", small(7), EVERY, EVERY, adjoint=True),
    Column("1000", small(1000), EVERY, EVERY, adjoint=True),
    Column(
        "10^5",
        ((100_000, 100_000),),
        SOME,
        (0.3,),
        tuple((100_000, m) for m in SIZES) + tuple((n, 100_000) for n in SIZES),
    ),
    Column("10^6", ((1_000_000, 999_999),), (1e-6, 0.3), ()),
)
GRIDS = ((1_000, 2_000), (10_000, 1_000), (100_000, 200), (1_000_000, 20), (10_000_000, 3))
LARGE = 2  # --quick leaves out the columns from this one on


def cases(column: Column) -> Iterator[tuple[int, int, str, float, bool]]:
    """Yield a column's cases: n, m, kind of anchors, lengthscale, whether it is the self case."""
    for (n, m), kind in itertools.product(column.pairs, ANCHORS):
        yield from ((n, m, kind, ell, False) for ell in column.lengthscales)
        if n == m:
            yield from ((n, m, kind, ell, True) for ell in column.self_lengthscales)
    for (n, m), kind in itertools.product(column.mixed_pairs, ANCHORS):
        yield n, m, kind, 0.3, False


def row(form: str, dtype: str, is_complex: bool, columns: int) -> tuple[list[float], int]:
    """Return the largest error of each column, and the number of results compared."""
    worst = []
    tried = 0
    for number, column in enumerate(COLUMNS[:columns]):
        rng = np.random.default_rng(number)
        errors = []
        for n, m, kind, ell, own in cases(column):
            k = kernel(form, kind, n, m, ell, dtype, rng, self_case=own)
            errors.append(error(k, values(m, dtype, is_complex, rng), dtype))
            if column.adjoint:
                errors.append(error(k, values(n, dtype, is_complex, rng), dtype, adjoint=True))
        worst.append(max(errors))
        tried += len(errors)
    return worst, tried


def one_value(size: int, tries: int) -> tuple[float, float]:
    """Return the largest errors, real and oscillating, for one value on the grid 0, 1, 2, ...

    The exact result is given by the formula. Its angle is split into two parts that are exact in
    extended precision.
    """
    rng = np.random.default_rng(size)
    grid = np.arange(size, dtype=np.float64)
    worst = [0.0, 0.0]
    for hot in rng.choice([0, size // 2, size - 1], tries):
        v = np.zeros(size)
        v[hot] = 1.0
        distance = np.abs(grid - hot).astype(np.longdouble)
        lengthscale = size * 10 ** rng.uniform(-1.5, 1)
        modulus = np.exp(-distance / np.longdouble(lengthscale))
        for number, frequency in enumerate((0.0, 10 ** rng.uniform(-1, 4) / size)):
            high = np.longdouble(np.float32(frequency))
            exact = modulus.astype(np.clongdouble)
            for part in (high, np.longdouble(frequency) - high):
                exact *= np.cos(distance * part) + 1j * np.sin(distance * part)
            u = laplex.Plan(grid, lengthscale=lengthscale, frequency=frequency).apply(v)
            worst[number] = max(worst[number], float(np.max(np.abs(u - exact) / modulus)))
    return worst[0], worst[1]


def page(
    table: dict[tuple[str, str, bool], list[float]],
    grids: dict[tuple[int, int], tuple[float, float]],
    tried: int,
    seconds: float,
    quick: bool,
) -> str:
    """Return the page in Markdown."""
    names = [column.name for column in COLUMNS[: LARGE if quick else len(COLUMNS)]]
    lines = [
        "# Exactness: measurements",
        "",
        "The table shows the largest error of a product in units of `sum_j |K_ij| |v_j|`,",
        "compared with an independent reference in 80-bit extended precision",
        "([tests/python/reference.py](../../tests/python/reference.py)). The promise is 1e-14",
        "for float64 and 1e-6 for float32.",
        "",
        f"* Anchors: {', '.join(ANCHORS)}.",
        "* Sizes up to 1000: every pair (n, m) of 0, 1, 2, 7 and 1000, in the column of the",
        "  larger size, with `apply` and `adjoint`, with separate sources and (for n = m)",
        "  with the targets as sources, at lengthscales 1e-6, 1e-5, ..., 1e6.",
    ]
    if not quick:
        lines += [
            "* Size 10^5, `apply` only: n = m at lengthscales 1e-6, 0.3 and 1e6; at 0.3 also the",
            "  self case, and 10^5 targets or sources with every smaller size of the other.",
            "* Size 10^6, `apply` only: 1,000,000 x 999,999 at lengthscales 1e-6 and 0.3.",
        ]
    lines += [
        "* The frequency, if there is one, is 3 / lengthscale.",
        "",
        "| form | values | " + " | ".join(f"max(n, m) = {name}" for name in names) + " |",
        "|---|---|" + "---|" * len(names),
    ]
    for (form, dtype, is_complex), errors in table.items():
        kind = {"float64": "complex128", "float32": "complex64"}[dtype] if is_complex else dtype
        lines.append(f"| {form} | {kind} | " + " | ".join(f"{e:.1e}" for e in errors) + " |")
    return "\n".join(
        [
            *lines,
            "",
            f"{tried} results, {'all' if kept(table, grids) else 'NOT all'} within the promise.",
            "",
            "Random values hide errors, because the rounding errors of many terms cancel. The",
            "worst known pattern is a single nonzero value on a regular grid ([Why the results",
            "are exact](../explanation/exactness.md) gives the reason). The next table shows it",
            "in float64, with lengthscales from 0.03 n to 10 n and frequencies that turn by 0.1",
            "to 10,000 radians over the grid:",
            "",
            "| n | drawn | real | oscillating |",
            "|---|---|---|---|",
            *(f"| {n:,} | {k} | {real:.1e} | {osc:.1e} |" for (n, k), (real, osc) in grids.items()),
            "",
            f"Measured with laplex {laplex.__version__}, NumPy {np.__version__}, Python",
            f"{platform.python_version()} on {processor()};",
            f"`python bench/python/exactness.py{' --quick' if quick else ''}`, {seconds:.0f} s.",
            "",
        ]
    )


def kept(
    table: dict[tuple[str, str, bool], list[float]],
    grids: dict[tuple[int, int], tuple[float, float]],
) -> bool:
    """Whether every error is within the promise."""
    within = all(max(errors) <= PROMISE["float64"] for errors in grids.values())
    return within and all(
        e <= PROMISE[dtype] for (_, dtype, _), errors in table.items() for e in errors
    )


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="measure only small sizes, in two minutes"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="file to write (default: docs/measurements/exactness.md, or none with --quick)",
    )
    options = parser.parse_args()
    page_of_docs = ROOT / "docs" / "measurements" / "exactness.md"
    out = options.out or (None if options.quick else page_of_docs)
    start = time.monotonic()
    rows = list(itertools.product((*FORMS, PHASED), PROMISE, (False, True)))
    table: dict[tuple[str, str, bool], list[float]] = {}
    total = 0
    os.environ.setdefault("LAPLEX_NUM_THREADS", "1")  # one process per processor is enough
    draws = ((1_000, 200), (10_000, 200)) if options.quick else GRIDS
    with ProcessPoolExecutor() as pool:
        on_grids = {draw: pool.submit(one_value, *draw) for draw in draws}
        futures = {
            case: pool.submit(row, *case, LARGE if options.quick else len(COLUMNS)) for case in rows
        }
        for case, future in futures.items():
            table[case], tried = future.result()
            total += tried
            print(f"{time.monotonic() - start:6.0f} s  {case}: {table[case]}", flush=True)
        grids = {draw: future.result() for draw, future in on_grids.items()}
    text = page(table, grids, total, time.monotonic() - start, options.quick)
    if out is None:
        print(text)
    else:
        out.write_text(text)
        print(f"written: {out}")
    if not kept(table, grids):
        raise SystemExit("at least one error exceeds the promise")


if __name__ == "__main__":
    main()
