"""Correlation of metrics with the area under the curve."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.stats

from ..._support.results import Result
from ..._support.text_tables import aligned, cell
from ..arrays import Array, Integers
from ..metrics import METRICS

# With fewer runs than this a correlation says little, as its table says.
_FEW = 10
# Up to this number of runs, p-values are those of all permutations: 8! = 40,320.
_PERMUTED = 8
# With fewer degrees of freedom than this, p-values hang on the normal distribution: there are none.
_FREE = 3
# Relative size of what a regression leaves by rounding alone.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Correlation:
    """Correlation of one metric with the area under the curve.

    Coefficients are NaN where there are too few runs, or no variation is left. `partial_p` and
    `within_p` are those of Student's t, and NaN with fewer than 3 degrees of freedom.

    Attributes
    ----------
    measure : str
        Name of the metric.
    pearson, spearman : float
        Correlation coefficients; of three runs or more.
    pearson_p, spearman_p : float
        Two-sided p-values, which assume independent runs. Of up to 8 runs they are exact: the share
        of all n! pairings of the values whose coefficient is at least as large in size, so that of
        3 runs is at least 1/3. Of more runs, they are those of Student's t.
    runs : int
        Number of runs for which the metric and the area are defined.
    partial, partial_p : float
        Partial Pearson correlation given the mean accuracy: that of what linear regressions on the
        mean accuracy leave of metric and area; of four runs or more.
    within, within_p : float
        Pearson correlation within groups: that of the differences from the means of the own group.
        There must be at least two runs more than groups.
    within_runs : int
        Number of runs in groups of two or more, which `within` uses.
    """

    measure: str
    pearson: float
    pearson_p: float
    spearman: float
    spearman_p: float
    runs: int
    partial: float
    partial_p: float
    within: float
    within_p: float
    within_runs: int


@dataclass(frozen=True)
class Correlations(Result):
    """Result of `Comparison.correlations`. Printing it prints the table.

    Attributes
    ----------
    rows : tuple of Correlation
        One entry for each metric: as baselines the mean accuracy of the exits before the last and
        the accuracy of the first exit, then the mean ECE, the mean AUROC and the mean EEFP.
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
                cell(row.pearson, ".3f"),
                _p(row.pearson_p),
                cell(row.spearman, ".3f"),
                _p(row.spearman_p),
                str(row.runs),
                cell(row.partial, ".3f"),
                _p(row.partial_p),
                cell(row.within, ".3f"),
                _p(row.within_p),
                str(row.within_runs),
            ]
            for row in self.rows
        ]
        head = ["metric", "Pearson", "p", "Spearman", "p", "runs"]
        head += ["given accuracy", "p", "within groups", "p", "runs"]
        lower = ", ".join(
            one.label for one in METRICS.values() if one.proxy and one.better == "lower"
        )
        return (
            f"Correlation with the area under the curve, over runs ({lower}: lower is better)\n"
            + aligned(head, body)
            + f"\n{self.note}"
        )


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else cell(value, ".3f")


def correlation(
    label: str, measure: Array, area: Array, accuracy: Array, groups: Integers
) -> Correlation:
    """Correlate a metric with the area; runs where one of them is NaN are left out.

    Parameters
    ----------
    label : str
    measure, area, accuracy : ndarray [runs]
        The metric, the area under the curve, and the mean accuracy, which is held fixed for the
        partial correlation.
    groups : ndarray [runs]
        Number of the group of each run.
    """
    there = np.isfinite(measure) & np.isfinite(area)
    x, y, given = measure[there], area[there], accuracy[there]
    _, group, sizes = np.unique(groups[there], return_inverse=True, return_counts=True)
    pearson = spearman = (float("nan"), float("nan"))
    if len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0:
        with warnings.catch_warnings():
            # scipy warns of values that differ by little more than rounding.
            warnings.simplefilter("ignore", scipy.stats.NearConstantInputWarning)
            first, second = scipy.stats.pearsonr(x, y), scipy.stats.spearmanr(x, y)
        pearson = float(first.statistic), float(first.pvalue)
        spearman = float(second.statistic), float(second.pvalue)
        if len(x) <= _PERMUTED:
            pearson = pearson[0], _permutation_p(x, y)
            spearman = spearman[0], _permutation_p(*map(scipy.stats.rankdata, (x, y)))
    partial = _of_residuals(x, y, np.stack([np.ones_like(given), given], axis=1))
    within = _of_residuals(x, y, np.eye(len(sizes))[group])
    alone = int((sizes == 1).sum())
    return Correlation(label, *pearson, *spearman, len(x), *partial, *within, len(x) - alone)


def _permutation_p(x: Array, y: Array) -> float:
    """Share of all pairings of x and y whose correlation is at least as far from 0."""
    x, y = x - x.mean(), y - y.mean()
    orders = np.array(list(itertools.permutations(range(len(x)))))
    sums = np.abs(y[orders] @ x)
    # Pairings of equal correlation differ by rounding.
    return float(np.mean(sums >= abs(y @ x) - _ROUNDING * np.linalg.norm(x) * np.linalg.norm(y)))


def _of_residuals(x: Array, y: Array, regressors: Array) -> tuple[float, float]:
    """Pearson correlation, and its p-value, of what regressors [runs, any] leave of x and y."""
    free = len(x) - regressors.shape[1] - 1  # degrees of freedom of Student's t
    if free < 1:
        return float("nan"), float("nan")
    left = [one - regressors @ np.linalg.lstsq(regressors, one, rcond=None)[0] for one in (x, y)]
    sizes = [float(np.linalg.norm(one)) for one in left]
    # Nothing but rounding is left where the regressors explain everything.
    if any(
        size <= _ROUNDING * np.linalg.norm(one) for size, one in zip(sizes, (x, y), strict=True)
    ):
        return float("nan"), float("nan")
    r = min(max(float(left[0] @ left[1]) / (sizes[0] * sizes[1]), -1.0), 1.0)
    if free < _FREE:
        return r, float("nan")
    t = np.inf if abs(r) == 1 else abs(r) * np.sqrt(free / (1 - r**2))
    return r, float(2 * scipy.stats.t.sf(t, free))
