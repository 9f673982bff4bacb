"""Writes docs/measurements/exactness.md: the largest error in units of sum |K||v|.

    python bench/python/exactness.py [--quick] [--out docs/measurements/exactness.md]

The first table has one row per form and precision and one column per size. Others are about moments
and Matern kernels. The script compares results with the extended-precision reference of
tests/python/reference.py. It takes an hour on two processors. With --quick it leaves out the sizes
from 10^5 on, takes three minutes and prints the page unless --out is given.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "python"))

import laplex  # noqa: E402
from exactness_cases import (  # noqa: E402
    ANCHORS,
    FORMS,
    MOMENTS,
    PHASED,
    PROMISE,
    beside,
    error,
    kernel,
    moment_errors,
    values,
)
from machine import processor  # noqa: E402

EVERY = tuple(10.0**k for k in range(-6, 7))
MANY = (1e-6, 1e-3, 0.3, 1e3, 1e6)
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
#: The columns of moments and Matern kernels, whose reference takes longer.
FEWER = (
    Column("0..7", small(7), MANY, MANY, adjoint=True),
    Column("1000", ((1000, 1000), (7, 1000), (1000, 7)), MANY, MANY, adjoint=True),
    Column("10^5", ((100_000, 100_000),), (0.3,), ()),
)
PARITIES = ("even", "odd", "strict")
#: The kernels and forms of the table of Matern kernels.
MATERN = tuple(itertools.product(("matern12", "matern32", "matern52"), ("real", "cosine"), PROMISE))
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


def row(
    form: str,
    dtype: str,
    is_complex: bool,
    columns: tuple[Column, ...],
    shape: str = "matern12",
) -> tuple[list[float], int]:
    """Return the largest error of each column, and the number of results compared."""
    worst = []
    tried = 0
    for number, column in enumerate(columns):
        rng = np.random.default_rng(number)
        errors = []
        for n, m, kind, ell, own in cases(column):
            k = kernel(form, kind, n, m, ell, dtype, rng, self_case=own, shape=shape)
            errors.append(error(k, values(m, dtype, is_complex, rng), dtype))
            if column.adjoint:
                errors.append(error(k, values(n, dtype, is_complex, rng), dtype, adjoint=True))
        worst.append(max(errors))
        tried += len(errors)
    return worst, tried


Moments = dict[tuple[int, int], float]


def moments_row(
    form: str, dtype: str, is_complex: bool, columns: tuple[Column, ...]
) -> tuple[Moments, int]:
    """Return the largest error of each moment, and the number of results compared.

    Half of the values are zero but for one. Where n = m there is another case, with every target
    beside a source: its distances are powers of ten below the width of a cell, and a moment that is
    shifted from elsewhere in the cell loses the digits of such distances.
    """
    worst = dict.fromkeys(MOMENTS, 0.0)
    tried = 0
    for number, column in enumerate(columns):
        rng = np.random.default_rng(number)
        for n, m, kind, ell, own in cases(column):
            k = kernel(form, kind, n, m, ell, dtype, rng, self_case=own)
            kernels = (k, beside(k, rng)) if n == m and not own else (k,)
            ways = (False, True) if column.adjoint else (False,)
            for each, adjoint, hot in itertools.product(kernels, ways, (False, True)):
                count = n if adjoint else m
                v = values(count, dtype, is_complex, rng)
                if hot:
                    v[np.arange(count) != count // 2] = 0
                for moment, found in moment_errors(each, v, dtype, adjoint).items():
                    worst[moment] = max(worst[moment], found)
                tried += len(MOMENTS)
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


@dataclass(frozen=True)
class Found:
    """All errors."""

    table: dict[tuple[str, str, bool], list[float]]
    moments: dict[tuple[str, str, bool], Moments]
    matern: dict[tuple[str, str, str], list[float]]
    grids: dict[tuple[int, int], tuple[float, float]]
    tried: int
    """The number of results of the tables but that of grids."""

    def kept(self) -> bool:
        """Whether every error is within the promise."""
        return (
            all(max(errors) <= PROMISE["float64"] for errors in self.grids.values())
            and all(e <= PROMISE[key[1]] for key, errors in self.table.items() for e in errors)
            and all(e <= PROMISE[k[1]] for k, by in self.moments.items() for e in by.values())
            and all(e <= PROMISE[key[2]] for key, errors in self.matern.items() for e in errors)
        )


def named(dtype: str, is_complex: bool) -> str:
    """Return the type of values."""
    return {"float64": "complex128", "float32": "complex64"}[dtype] if is_complex else dtype


def table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def page(found: Found, seconds: float, quick: bool) -> str:
    """Return the page in Markdown."""
    names = [column.name for column in COLUMNS[: LARGE if quick else len(COLUMNS)]]
    lines = [
        "# Exactness: measurements",
        "",
        "The tables show the largest error of a product in units of `sum_j |K_ij| |v_j|`,",
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
        *table(
            ["form", "values", *(f"max(n, m) = {name}" for name in names)],
            (
                [form, named(dtype, is_complex), *(f"{e:.1e}" for e in errors)]
                for (form, dtype, is_complex), errors in found.table.items()
            ),
        ),
        "",
        "## Moments",
        "",
        "Derivatives are sums over the kernel times a power p of the scaled distance",
        "`r = |x_i - y_j| / lengthscale` and a power of the sign of `x_i - y_j`: none (*even*),",
        "the first (*odd*) or the second (*strict*, which leaves out ties). The unit of the errors",
        "is that of the moment's own kernel: `sum_j r^p exp(-r) |v_j|`. The anchors are those",
        "above, and for n = m also targets that are 1e-12 to 10 lengthscales from a source. In",
        "half of the cases all values but one are zero.",
        "",
        "Sizes up to 1000 are tried with `apply` and `adjoint` at lengthscales 1e-6, 1e-3, 0.3,",
        "1e3 and 1e6, with and without separate sources"
        + ("." if quick else "; 10^5 with `apply` at lengthscale 0.3."),
        "",
        *table(
            ["p", "sign", *(f"{k[0]}, {named(k[1], k[2])}" for k in found.moments)],
            (
                [
                    str(power),
                    PARITIES[parity],
                    *(f"{by[parity, power]:.1e}" for by in found.moments.values()),
                ]
                for parity, power in MOMENTS
            ),
        ),
        "",
        "## Matern kernels",
        "",
        "Products with `kernel=`, in units of `sum_j |K_ij| |v_j|` with that kernel's K. Sizes",
        "and lengthscales are those of the moments. The lengthscale divided by the square root of",
        "3 or 5 is a number in float64, for the library and for the reference. (An exact quotient",
        "would change an entry of exp(-100) by 1e-14 of itself.)",
        "",
        *table(
            [
                "kernel",
                "form",
                "values",
                *(f"max(n, m) = {c.name}" for c in FEWER[: LARGE if quick else len(FEWER)]),
            ],
            ([*key, *(f"{e:.1e}" for e in errors)] for key, errors in found.matern.items()),
        ),
        "",
        "## One value on a grid",
        "",
        "Random values hide errors, because the rounding errors of many terms cancel. The",
        "worst known pattern is a single nonzero value on a regular grid ([Why the results",
        "are exact](../explanation/exactness.md) gives the reason). The next table shows it",
        "in float64, with lengthscales from 0.03 n to 10 n and frequencies that turn by 0.1",
        "to 10,000 radians over the grid:",
        "",
        *table(
            ["n", "drawn", "real", "oscillating"],
            (
                [f"{n:,}", str(k), f"{real:.1e}", f"{osc:.1e}"]
                for (n, k), (real, osc) in found.grids.items()
            ),
        ),
        "",
        f"The tables above the last one show {found.tried:,} results. In all tables,",
        f"{'every' if found.kept() else 'NOT every'} error is within the promise.",
        "",
        f"Measured with laplex {laplex.__version__}, NumPy {np.__version__}, Python",
        f"{platform.python_version()} on {processor()};",
        f"`python bench/python/exactness.py{' --quick' if quick else ''}`, {seconds:.0f} s.",
        "",
    ]
    return "\n".join(lines)


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
    os.environ.setdefault("LAPLEX_NUM_THREADS", "1")  # one process per processor is enough
    draws = ((1_000, 200), (10_000, 200)) if options.quick else GRIDS
    columns, fewer = (COLUMNS[:LARGE], FEWER[:LARGE]) if options.quick else (COLUMNS, FEWER)
    forms = (("real", False), (PHASED, True))
    with ProcessPoolExecutor() as pool:
        on_grids = {draw: pool.submit(one_value, *draw) for draw in draws}
        futures = {
            case: pool.submit(row, *case, columns)
            for case in itertools.product((*FORMS, PHASED), PROMISE, (False, True))
        }
        of_moments = {
            (form, dtype, is_complex): pool.submit(moments_row, form, dtype, is_complex, fewer)
            for dtype in PROMISE
            for form, is_complex in forms
        }
        of_matern = {
            (shape, form, dtype): pool.submit(row, form, dtype, False, fewer, shape)
            for shape, form, dtype in MATERN
        }
        total = 0

        def collected(futures: dict[Any, Future[tuple[Any, int]]]) -> dict[Any, Any]:
            nonlocal total
            errors = {}
            for case, future in futures.items():
                errors[case], tried = future.result()
                total += tried
                print(f"{time.monotonic() - start:6.0f} s  {case}: {errors[case]}", flush=True)
            return errors

        parts = [collected(each) for each in (futures, of_moments, of_matern)]
        grids = {draw: future.result() for draw, future in on_grids.items()}
    found = Found(*parts, grids, total)
    text = page(found, time.monotonic() - start, options.quick)
    if out is None:
        print(text)
    else:
        out.write_text(text)
        print(f"written: {out}")
    if not found.kept():
        raise SystemExit("at least one error exceeds the promise")


if __name__ == "__main__":
    main()
