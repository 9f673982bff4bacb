"""Errors of sliced kernel sums beside dense ones in float64, and of their error bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import laplex
from cells import power, table

DIMENSIONS = (2, 3, 5, 10, 50)
DIRECTIONS = (16, 64, 256, 1024, 4096)
KERNELS = ("laplace", "matern32", "energy")
SOURCES, TARGETS = 4000, 500

BARS = """\
With `return_error=True`: the relative error, the mean bar over the mean error, and the share of the
targets whose error is at most two bars.
"""

#: By kernel, dimension and lengthscale: the mean entry of the matrix, and rows by P.
Errors = dict[str, dict[str, Any]]


def dense(kernel: str, lengthscale: float, targets: Tensor, sources: Tensor) -> Tensor:
    """The matrix of a kernel."""
    r = torch.cdist(targets, sources, compute_mode="donot_use_mm_for_euclid_dist") / lengthscale
    if kernel == "matern32":
        r = 3**0.5 * r
        return (1 + r) * torch.exp(-r)
    return torch.exp(-r) if kernel == "laplace" else -r


def measured_one(
    kernel: str, d: int, lengthscale: float, counts: tuple[int, ...], n: int = SOURCES
) -> dict[str, Any]:
    """The errors of one kernel in one dimension, by the number of directions.

    They are means over several draws of directions, fewer where there are many.
    """
    generator = torch.Generator().manual_seed(d)
    points = torch.randn(n + TARGETS, d, generator=generator, dtype=torch.float64)
    sources, targets = points[:n], points[n:]
    values = torch.rand(n, generator=generator, dtype=torch.float64)
    matrix = dense(kernel, lengthscale, targets, sources)
    truth = matrix @ values
    rows: dict[str, list[float]] = {}
    for count in counts:
        found = []
        for _ in range(max(2, min(8, 4096 // count))):
            given = {"lengthscale": lengthscale, "kernel": kernel, "projections": count}
            given["generator"] = generator
            plain = laplex.sliced.matvec(values, targets, sources, **given)
            other, bar = laplex.sliced.matvec(values, targets, sources, **given, return_error=True)
            off = (other - truth).abs()
            found.append(
                torch.stack(
                    (
                        (plain - truth).abs().sum() / truth.abs().sum(),
                        off.sum() / truth.abs().sum(),
                        bar.sum() / truth.abs().sum(),
                        (off <= 2 * bar).double().mean(),
                    )
                )
            )
        rows[str(count)] = torch.stack(found).mean(0).tolist()
    return {"entry": float(matrix.mean()), "rows": rows}


def measured(quick: bool) -> Errors:
    """The Laplace kernel at two lengthscales, by dimension and number of directions."""
    counts = (8, 16) if quick else DIRECTIONS
    found: Errors = {}
    for name, scale in (("1", lambda d: 1.0), ("sqrt(d)", lambda d: d**0.5)):
        for d in DIMENSIONS[:2] if quick else DIMENSIONS:
            n = 400 if quick else SOURCES
            by_dimension = found.setdefault(name, {})
            by_dimension[str(d)] = measured_one("laplace", d, scale(d), counts, n)
            print(f"errors, d = {d}, lengthscale {name}: done", flush=True)
    return found


def measured_kernels(quick: bool) -> Errors:
    """All kernels with one number of directions."""
    counts, n = ((16,), 400) if quick else ((256,), SOURCES)
    dimensions = DIMENSIONS[:2] if quick else DIMENSIONS
    return {
        kernel: {str(d): measured_one(kernel, d, d**0.5, counts, n) for d in dimensions}
        for kernel in KERNELS
    }


def section(errors: Errors, folder: Path) -> str:
    """A table for each lengthscale; the picture is written into the folder."""
    draw(errors, folder)
    parts = []
    for name, by_dimension in errors.items():
        counts = list(next(iter(by_dimension.values()))["rows"])
        head = [f"lengthscale {name}", "mean entry", *(f"P = {power(int(n))}" for n in counts)]
        rows = [
            [f"d = {d}", f"{found['entry']:.1e}", *(f"{found['rows'][n][0]:.1e}" for n in counts)]
            for d, found in by_dimension.items()
        ]
        parts.append(table(head, rows))
    return "\n".join([*parts, BARS, *bars(errors)])


def bars(errors: Errors) -> list[str]:
    """Tables of the error bars."""
    parts = []
    for name, by_dimension in errors.items():
        counts = list(next(iter(by_dimension.values()))["rows"])
        head = [f"lengthscale {name}", *(f"P = {power(int(n))}" for n in counts)]
        rows = []
        for d, found in by_dimension.items():
            cells = []
            for n in counts:
                _, error, bar, share = found["rows"][n]
                cells.append(f"{error:.1e}, {bar / error:.2f}, {100 * share:.0f}%")
            rows.append([f"d = {d}", *cells])
        parts.append(table(head, rows))
    return parts


def section_kernels(errors: Errors, folder: Path) -> str:
    rows = []
    for kernel, by_dimension in errors.items():
        cells = [f"{next(iter(found['rows'].values()))[0]:.1e}" for found in by_dimension.values()]
        rows.append([kernel, *cells])
    by_dimension = next(iter(errors.values()))
    count = next(iter(next(iter(by_dimension.values()))["rows"]))
    return table([f"P = {count}", *(f"d = {d}" for d in by_dimension)], rows)


def draw(errors: Errors, folder: Path) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(1, len(errors), sharey=True)
    for ax, (name, by_dimension) in zip(axes, errors.items(), strict=True):
        for number, (d, found) in enumerate(by_dimension.items()):
            counts = [int(n) for n in found["rows"]]
            error, _, _, _ = zip(*found["rows"].values(), strict=True)
            ax.plot(counts, error, "o-", ms=4, color=f"C{number}", label=f"d = {d}")
            bars = [row[2] for row in found["rows"].values()]
            ax.plot(counts, bars, ":", color=f"C{number}")
        ax.set(xscale="log", yscale="log", xlabel="directions P", title=f"lengthscale {name}")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("relative error (solid), returned bar (dotted)")
    axes[-1].legend(fontsize=9)
    figure.savefig(folder / "sliced_errors.png", dpi=100)
