"""Results of `compare` as records, a table, a figure and JSON."""

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
    """Measurement of one fitted method with codes of one size, on held-out rows.

    Attributes
    ----------
    block : str
        "equal k", "equal bits", "isotropic null" or "covariance null".
    method : str
        Name of the method.
    seed : int
        Seed of the split and of the fit.
    fit_k : int or None
        The k that the method was fitted for; None if ``compare`` gave it no k.
    column : int
        The k of the column of the table. In "equal bits", the CEDAR code with this k sets the
        budget.
    k : int
        Number of nonzero entries that a code may have: equal to ``column``, except in "equal bits".
    axes : int
        Length of a code.
    bits : float
        Cost of a code in bits.
    fve, cosine, l0 : float
        As in `laplex.cedar.metrics.Reconstruction`; cosines are about the mean of the training
        rows.
    dead : int
        Number of axes that were 0 in every row.
    fit_seconds : float
        Time of the fit in seconds; nan if the model came fitted.
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
    """Measurements that form one line of a table, or one curve."""

    label: str
    rows: list[Measurement]

    def at(self, column: int) -> list[Measurement]:
        return [row for row in self.rows if row.column == column]

    def values(self, column: int, of: Callable[[Measurement], float]) -> list[float]:
        return [of(row) for row in self.at(column)]


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Result):
    """Result of `compare`; print it for the table.

    Attributes
    ----------
    rows : list of Measurement
        All measurements.
    k : tuple of int
        The values of k, which are the columns of the table.
    dim : int
        Number of columns of the embeddings.
    train_rows, test_rows : int
        Numbers of rows for training and for the test.
    seeds : int
        Number of repetitions.
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
        """The title of the table: what was measured, and on which rows."""
        seeds = f", mean ± standard deviation of {self.seeds} seeds" if self.seeds > 1 else ""
        return (
            f"Fraction of variance explained on held-out rows ({self.train_rows:,} training rows, "
            f"{self.test_rows:,} held out, d = {self.dim}{seeds})"
        )

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        """Return columns and rows of the tables for equal k, equal bits and the null controls.

        Entries are means ± standard deviations over the seeds.
        """
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
        """Return the title and all tables as aligned text."""
        texts = [aligned(head, body, rule="whole") for head, body in self.tables()]
        return "\n\n".join([self.title, *texts])

    def null_gains(self, block: Null, column: int) -> list[float]:
        """Return the gain in FVE of CEDAR on a null control, for each seed.

        The gain is over the method that CEDAR must not beat: a random rotation on isotropic rows,
        and PCA with per-row top k on rows with a covariance.

        Parameters
        ----------
        block : "isotropic null" or "covariance null"
            The null control.
        column : int
            The k of the column of the table.

        Returns
        -------
        list of float
            The gains, in the order of the seeds.
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
        """Plot the held-out FVE against k and against the bits of a code.

        Error bars are standard deviations over the seeds.
        """
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
        """Return the lines of a block, in order.

        A method that is fitted for several k has two lines: one for the fits at each k, and one for
        the fit at the upper median, which is chosen beforehand and not by its result.
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
