"""Correlation of metrics with the area under the curve."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.stats

from ..._support.results import Result
from ..._support.text_tables import aligned, cell
from ..arrays import Array
from ..metrics import METRICS

# With fewer runs than this a correlation says little, as its table says.
_FEW = 10


@dataclass(frozen=True)
class Correlation:
    """Correlation of one metric with the area under the curve.

    Attributes
    ----------
    measure : str
        Name of the metric.
    pearson, spearman : float
        Correlation coefficients; NaN with fewer than three runs, or if all runs have one value.
    pearson_p, spearman_p : float
        Two-sided p-values, which assume independent runs.
    runs : int
        Number of runs for which the metric and the area are defined.
    """

    measure: str
    pearson: float
    pearson_p: float
    spearman: float
    spearman_p: float
    runs: int


@dataclass(frozen=True)
class Correlations(Result):
    """Result of `Comparison.correlations`. Printing it prints the table.

    Attributes
    ----------
    rows : tuple of Correlation
        One entry for each metric: the mean ECE, the mean AUROC and the mean EEFP.
    """

    _derived: ClassVar = ("note",)

    rows: tuple[Correlation, ...]

    @property
    def note(self) -> str:
        """A caution for readers of the table."""
        runs = min(row.runs for row in self.rows)
        if runs < _FEW:
            return (
                f"Only {runs} run{'s' if runs != 1 else ''}: with fewer than {_FEW}, correlations "
                "say little."
            )
        return "p-values assume independent runs; runs of one group or one seed are not."

    def table(self) -> str:
        """Format the correlations as aligned text, one line for each metric."""
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
        lower = ", ".join(
            one.label for one in METRICS.values() if one.proxy and one.better == "lower"
        )
        return (
            f"Correlation with the area under the curve, over runs ({lower}: lower is better)\n"
            + aligned(["metric", "Pearson", "p", "Spearman", "p", "runs"], body)
            + f"\n{self.note}"
        )


def correlation(label: str, measure: Array, area: Array) -> Correlation:
    """Correlate a metric with the area, both ndarray [runs]; runs with NaN are left out."""
    there = np.isfinite(measure) & np.isfinite(area)
    x, y = measure[there], area[there]
    nothing = float("nan")
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(label, nothing, nothing, nothing, nothing, len(x))
    with warnings.catch_warnings():
        # scipy warns of values that differ by little more than rounding.
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
