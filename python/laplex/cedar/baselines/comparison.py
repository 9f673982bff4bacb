"""What `compare` measured, as records, a table, a picture and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, ClassVar, Literal

from laplex._support.results import Result
from laplex._support.text_tables import aligned

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Null = Literal["isotropic null", "covariance null"]
Block = Literal["equal k", "equal bits", Null]

_NULLS: dict[Null, tuple[str, str]] = {
    "isotropic null": ("Null control: isotropic Gaussian", "random rotation"),
    "covariance null": ("Null control: Gaussian with the data's covariance", "PCA, per-row top k"),
}


@dataclass(frozen=True)
class Measurement:
    """One fitted method with codes of one size on held-out rows.

    Attributes
    ----------
    block : str
        "equal k", "equal bits", "isotropic null" or "covariance null".
    method : str
    seed : int
        Of the split and of the fit.
    fit_k : int or None
        What the method was fitted for; None where it was not told any k by `compare`.
    column : int
        k of the table's column: that of CEDAR's codes whose bits are the budget, in "equal bits".
    k : int
        Entries that this method's codes may have: `column`, but in "equal bits".
    axes : int
    bits : float
        Of a code.
    fve, cosine, l0 : float
    dead : int
        As of `laplex.cedar.metrics.Reconstruction`, cosines about the mean of the training rows.
    fit_seconds : float
        nan where the model came fitted.
    """

    block: Block
    method: str
    seed: int
    fit_k: int | None
    column: int
    k: int
    axes: int
    bits: float
    fve: float
    cosine: float
    l0: float
    dead: int
    fit_seconds: float


@dataclass(frozen=True)
class _Line:
    """Measurements that stand in one line of a table, or make one curve."""

    label: str
    rows: list[Measurement]

    def at(self, column: int) -> list[Measurement]:
        return [row for row in self.rows if row.column == column]

    def values(self, column: int, of: Callable[[Measurement], float]) -> list[float]:
        return [of(row) for row in self.at(column)]


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Result):
    """Result of `compare`; printing it prints the table.

    Attributes
    ----------
    rows : list of Measurement
    k : tuple of int
        The table's columns.
    dim, train_rows, test_rows : int
        Of the embeddings.
    seeds : int
    """

    _written: ClassVar = ("k", "dim", "train_rows", "test_rows", "seeds", "rows")

    rows: list[Measurement]
    k: tuple[int, ...]
    dim: int
    train_rows: int
    test_rows: int
    seeds: int

    def __repr__(self) -> str:
        methods = len({row.method for row in self.rows if row.block == "equal k"})
        return (
            f"Comparison of {methods} methods at k={list(self.k)}, seeds={self.seeds}, "
            f"{self.train_rows} + {self.test_rows} rows of {self.dim}; print it for the table"
        )

    @property
    def title(self) -> str:
        """What the numbers are of."""
        seeds = f", mean ± standard deviation of {self.seeds} seeds" if self.seeds > 1 else ""
        return (
            f"Fraction of variance explained on held-out rows ({self.train_rows:,} training rows, "
            f"{self.test_rows:,} held out, d = {self.dim}{seeds})"
        )

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        """Columns and rows for equal k, equal bits, null controls; mean ± deviation over seeds."""
        middle = self.k[len(self.k) // 2]
        found = []

        head = ["Equal k", *(f"k={k}" for k in self.k), "axes"]
        head += [f"{what} (k={middle})" for what in ("cosine", "L0", "dead")] + ["fit (s)"]
        body = []
        for line in self._lines("equal k"):
            aside = line.at(middle)
            body.append(
                [
                    line.label,
                    *(_spread(line.values(k, _fve)) for k in self.k),
                    str(line.rows[0].axes),
                    _spread([row.cosine for row in aside]),
                    _number([row.l0 for row in aside], 1),
                    _number([row.dead for row in aside], 0),
                    _number([row.fit_seconds for row in line.rows], 1),
                ]
            )
        found.append((head, body))

        lines = self._lines("equal bits")
        if lines:
            budgets = {row.column: row.bits for row in self.rows if _is_reference(row)}
            head = ["Equal bits (entries kept)", *(f"{budgets[k]:.0f} bits" for k in self.k)]
            body = []
            for line in lines:
                cells = []
                for k in self.k:
                    kept = {row.k for row in line.at(k)}
                    entries = f" ({', '.join(map(str, sorted(kept)))})" if kept else ""
                    cells.append(_spread(line.values(k, _fve)) + entries)
                body.append([line.label, *cells])
            found.append((head, body))

        for block, (title, reference) in _NULLS.items():
            lines = self._lines(block)
            if lines:
                body = [
                    [line.label, *(_spread(line.values(k, _fve)) for k in self.k)] for line in lines
                ]
                gains = [_spread(self.null_gains(block, k), sign=True) for k in self.k]
                body.append([f"CEDAR minus {reference}", *gains])
                found.append(([title, *(f"k={k}" for k in self.k)], body))
        return found

    def table(self) -> str:
        """One aligned text: the title and all `tables`."""
        texts = [aligned(head, body, rule="whole") for head, body in self.tables()]
        return "\n\n".join([self.title, *texts])

    def null_gains(self, block: Null, column: int) -> list[float]:
        """FVE of CEDAR less that of what it must not beat, of each seed, on a null control.

        That is a random rotation of isotropic rows, and per-row PCA of those with a covariance.
        """
        _, reference = _NULLS[block]
        found = {
            (row.method, row.seed): row.fve
            for row in self.rows
            if row.block == block and row.column == column
        }
        seeds = sorted({seed for _, seed in found})
        return [found["CEDAR", seed] - found[reference, seed] for seed in seeds]

    def plot(self) -> Figure:
        """Held-out FVE against k, and against bits of a code; bars are deviations over seeds."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 4.5), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for line in self._lines("equal k"):
            columns = [k for k in self.k if line.at(k)]
            height = [fmean(line.values(k, _fve)) for k in columns]
            bars = [_deviation(line.values(k, _fve)) for k in columns]
            ours = line.label.startswith("CEDAR")
            style = {"marker": "o", "markersize": 4, "linewidth": 2.2 if ours else 1.2}
            left.errorbar(columns, height, bars, label=line.label, **style)
            right.errorbar([line.at(k)[0].bits for k in columns], height, bars, **style)
        for panel, label in ((left, "k, entries of a code"), (right, "bits of a code")):
            panel.set_xscale("log", base=2)
            panel.set_xlabel(label)
            panel.grid(alpha=0.3)
        left.set_xticks(self.k, [str(k) for k in self.k])
        left.set_ylabel("fraction of variance explained, held out")
        figure.legend(loc="outside right upper", fontsize="small")
        return figure

    # --- inside -----------------------------------------------------------------------------------

    def _lines(self, block: Block) -> list[_Line]:
        """Lines of a block, in order; of methods fitted for several k one of them all, one of one.

        The one is fitted for the upper median: chosen beforehand, not by its result.
        """
        rows = [row for row in self.rows if row.block == block]
        lines = []
        for method in dict.fromkeys(row.method for row in rows):
            mine = [row for row in rows if row.method == method]
            fits = sorted({row.fit_k for row in mine if row.fit_k is not None})
            if not fits:
                lines.append(_Line(method, mine))
                continue
            if len(fits) > 1:
                own = [row for row in mine if row.fit_k == row.column]
                lines.append(_Line(f"{method}, fitted at each k", own))
            one = fits[len(fits) // 2]
            label = f"{method}, fitted at k={one}"
            lines.append(_Line(label, [row for row in mine if row.fit_k == one]))
        return [line for line in lines if line.rows]


def _fve(row: Measurement) -> float:
    return row.fve


def _is_reference(row: Measurement) -> bool:
    return row.block == "equal k" and row.method == "CEDAR"


def _deviation(values: Sequence[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def _spread(values: Sequence[float], *, sign: bool = False) -> str:
    if not values:
        return "-"
    mean = f"{fmean(values):+.3f}" if sign else f"{fmean(values):.3f}"
    return f"{mean} ± {stdev(values):.3f}" if len(values) > 1 else mean


def _number(values: Sequence[float], digits: int) -> str:
    known = [value for value in values if value == value]
    return f"{fmean(known):.{digits}f}" if known else "-"
