"""Which measure goes with the area under the curve."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.stats

from ..._support.results import Result
from ..._support.text_tables import aligned, cell
from ..arrays import Array

# With fewer runs than this a correlation says little, as its table says.
_FEW = 10


@dataclass(frozen=True)
class Correlation:
    """How one measure goes with the area under the curve.

    Attributes
    ----------
    measure : str
    pearson, spearman : float
        NaN with fewer than three runs, or where all have one value.
    pearson_p, spearman_p : float
        Two-sided p-values, of independent runs.
    runs : int
        Where the measure and the area are defined.
    """

    measure: str
    pearson: float
    pearson_p: float
    spearman: float
    spearman_p: float
    runs: int


@dataclass(frozen=True)
class Correlations(Result):
    """Result of `Comparison.correlations`; printing it prints the table.

    Attributes
    ----------
    rows : tuple of Correlation
        Of the mean ECE, the mean AUROC and the mean EEFP.
    """

    _derived: ClassVar = ("note",)

    rows: tuple[Correlation, ...]

    @property
    def note(self) -> str:
        """What to mind in reading the table."""
        runs = min(row.runs for row in self.rows)
        if runs < _FEW:
            return (
                f"Only {runs} run{'s' if runs != 1 else ''}: with fewer than {_FEW} such numbers "
                "say little."
            )
        return "p-values take runs for independent; runs of one group, or of one seed, are not."

    def table(self) -> str:
        """One aligned text, a line for each measure."""
        body = [
            [
                row.measure,
                *(
                    cell(one, ".3f")
                    for one in (row.pearson, row.pearson_p, row.spearman, row.spearman_p)
                ),
                str(row.runs),
            ]
            for row in self.rows
        ]
        return (
            "Correlation with the area under the curve, over runs (ECE: lower is better)\n"
            + aligned(["measure", "Pearson", "p", "Spearman", "p", "runs"], body)
            + f"\n{self.note}"
        )


def correlation(label: str, measure: Array, area: Array) -> Correlation:
    """The correlation of a measure with the area, both ndarray [runs]; NaN runs are left out."""
    there = np.isfinite(measure) & np.isfinite(area)
    x, y = measure[there], area[there]
    nothing = float("nan")
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(label, nothing, nothing, nothing, nothing, len(x))
    with warnings.catch_warnings():
        # scipy's note that values differ by little more than rounding.
        warnings.simplefilter("ignore", scipy.stats.NearConstantInputWarning)
        pearson, spearman = scipy.stats.pearsonr(x, y), scipy.stats.spearmanr(x, y)
    return Correlation(
        label,
        float(pearson.statistic),
        float(pearson.pvalue),
        float(spearman.statistic),
        float(spearman.pvalue),
        len(x),
    )
