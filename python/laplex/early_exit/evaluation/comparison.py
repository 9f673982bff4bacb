"""Several evaluations side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..._support.results import Result
from ..._support.text_tables import aligned
from ..arrays import Array
from .correlations import Correlations as Correlations
from .correlations import correlation
from .result import Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The measure of each run that is to tell its area, and the property it is.
_PROXIES = {"mean ECE": "mean_ece", "mean AUROC": "mean_auroc", "mean EEFP": "mean_eefp"}


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Result):
    """Result of `compare`; printing it prints the table.

    Attributes
    ----------
    groups : dict of str to tuple of Evaluation
        Runs by group, such as seeds by strategy.
    """

    _kind: ClassVar = "laplex.early_exit.Comparison"
    _derived: ClassVar = ("values", "correlations")

    groups: dict[str, tuple[Evaluation, ...]]

    @property
    def budgets(self) -> Array:
        """Mean costs that all evaluations tell the accuracy at, ndarray [B]."""
        return next(iter(self.groups.values()))[0].budgets

    def values(self) -> dict[str, dict[str, Array]]:
        """What the table is made of: group -> column -> a number of each run, ndarray [runs]."""
        return {
            name: {
                **{
                    f"at {budget:.0%}": np.array([run.accuracy_at_budgets[i] for run in runs])
                    for i, budget in enumerate(self.budgets)
                },
                "area": np.array([run.area for run in runs]),
                "full": np.array([run.accuracy[-1] for run in runs]),
                **{
                    label: np.array([getattr(run, name) for run in runs])
                    for label, name in _PROXIES.items()
                },
            }
            for name, runs in self.groups.items()
        }

    def table(self) -> str:
        """One aligned text, a line for each group: mean ± standard deviation over its runs.

        A dash where some run has no such number.
        """
        values = self.values()
        columns = list(next(iter(values.values())))
        body = [
            [
                name,
                str(len(self.groups[name])),
                *(spread(row[column], parts=column not in _PROXIES) for column in columns),
            ]
            for name, row in values.items()
        ]
        lines = [
            "Accuracy at mean cost in parts of the plain backbone, area under the curve, accuracy "
            "of the last exit",
            aligned(["", "runs", *columns], body),
        ]
        if any(len(runs) > 1 for runs in self.groups.values()):
            lines.append("mean ± standard deviation over runs")
        protocols = sorted({run.protocol for runs in self.groups.values() for run in runs})
        lines.append(
            f"thresholds by {protocols[0]}"
            if len(protocols) == 1
            else f"Mind that thresholds come from different protocols: {', '.join(protocols)}"
        )
        return "\n".join(lines)

    def __repr__(self) -> str:
        runs = sum(map(len, self.groups.values()))
        return f"Comparison of {runs} runs in {len(self.groups)} groups; print it for the table"

    def correlations(self) -> Correlations:
        """Pearson and Spearman correlations of three measures with the area, over all runs.

        arXiv 2508.21495 says in its abstract that failure prediction tells the performance of early
        exits better than calibration does: this looks whether it does so here. A measure that
        tells it has a correlation near 1; the calibration error, which is better when lower, near
        -1.

        Returns
        -------
        Correlations
        """
        runs = [run for group in self.groups.values() for run in group]
        area = np.array([run.area for run in runs])
        return Correlations(
            tuple(
                correlation(label, np.array([getattr(run, name) for run in runs]), area)
                for label, name in _PROXIES.items()
            )
        )

    def plot(self) -> Figure:
        """A matplotlib Figure, not shown: each group's mean curve, and a band from least to most.

        Raises
        ------
        ImportError
            matplotlib is not there; the message names the extra that brings it.
        """
        from .plots import comparison_figure

        return comparison_figure(self)

    def _check(self) -> None:
        compare(self.groups)


def compare(results: Mapping[str, Evaluation | Sequence[Evaluation]]) -> Comparison:
    """Set evaluations side by side.

    Parameters
    ----------
    results : mapping of str to Evaluation, or to a sequence of them
        Runs that differ in their seed only under one name: what is shown is their mean and spread.

    Returns
    -------
    Comparison

    Raises
    ------
    TypeError
        Something else than evaluations.
    ValueError
        No evaluations, or budgets that differ.
    """
    if not isinstance(results, Mapping):
        raise TypeError(
            f"results must map names to evaluations, got {type(results).__name__}: pass "
            '{"joint": evaluation, ...}'
        )
    groups: dict[str, tuple[Evaluation, ...]] = {}
    for name, given in results.items():
        runs = (given,) if isinstance(given, Evaluation) else tuple(given)
        for run in runs:
            if not isinstance(run, Evaluation):
                raise TypeError(
                    f"results[{name!r}] must hold Evaluations, got {type(run).__name__}: pass what "
                    "evaluate returned"
                )
        if not runs:
            raise ValueError(f"results[{name!r}] is empty: leave it out")
        groups[str(name)] = runs
    if not groups:
        raise ValueError("results is empty: pass at least one evaluation")
    first = next(iter(groups.values()))[0]
    for name, runs in groups.items():
        if any(not np.array_equal(run.budgets, first.budgets) for run in runs):
            raise ValueError(
                f"results[{name!r}] has other budgets than the first: evaluate all with the same"
            )
    return Comparison(groups)


def spread(values: Array, *, parts: bool, percent: str = "%", missing: str = "-") -> str:
    """Mean and, of several runs, standard deviation; `missing` where a run has no such number."""
    if np.isnan(values).any():
        return missing
    scale, digits = (100, 1) if parts else (1, 3)
    mean = f"{scale * values.mean():.{digits}f}"
    if len(values) > 1:
        mean += f" ± {scale * values.std(ddof=1):.{digits}f}"
    return mean + (percent if parts else "")
