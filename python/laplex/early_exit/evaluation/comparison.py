"""Comparison of several evaluations."""

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
from .result import Evaluation, proxies

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# First exits whose costs differ by less have areas that can be compared as they are.
_ALIKE = 0.005


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Result):
    """Result of `compare`. Printing it prints the table.

    Attributes
    ----------
    groups : dict of str to tuple of Evaluation
        The evaluations of each group, for instance several seeds of one training strategy.
    """

    _kind: ClassVar = "laplex.early_exit.Comparison"
    _derived: ClassVar = ("values", "correlations", "notes")

    groups: dict[str, tuple[Evaluation, ...]]

    @property
    def low(self) -> float:
        """Cost at which the areas start: that of the dearest first exit of all evaluations."""
        return max(run.curve.low for run in self._runs())

    @property
    def notes(self) -> list[str]:
        """Reasons why the evaluations may not be comparable, as sentences."""
        runs = self._runs()
        found = []
        protocols = sorted({run.protocol for run in runs})
        if len(protocols) > 1:
            found.append(f"thresholds come from different protocols: {', '.join(protocols)}")
        counts = sorted({run.samples for run in runs})
        if len(counts) > 1:
            found.append(
                f"the evaluations are of different samples ({', '.join(map(str, counts))} of them)"
            )
        lows = [run.curve.low for run in runs]
        if max(lows) - min(lows) > _ALIKE:
            found.append(
                f"first exits cost {min(lows):.1%} to {max(lows):.1%}, so all areas are over the "
                f"costs that all networks reach, {max(lows):.1%} to 100%"
            )
        return found

    def _runs(self) -> list[Evaluation]:
        return [run for runs in self.groups.values() for run in runs]

    @property
    def budgets(self) -> Array:
        """Mean costs at which all evaluations report the accuracy, ndarray [B]."""
        return next(iter(self.groups.values()))[0].budgets

    def values(self) -> dict[str, dict[str, Array]]:
        """Return the numbers behind the table: group -> column -> ndarray [runs].

        Areas are over one range of costs, from `low` to 1, which all curves cover. So they differ
        from `Evaluation.area` where the first exits of the networks differ in cost.
        """
        return {
            name: {
                **{
                    f"at {budget:.0%}": np.array([run.accuracy_at_budgets[i] for run in runs])
                    for i, budget in enumerate(self.budgets)
                },
                "area": np.array([run.curve.area_from(self.low) for run in runs]),
                "full": np.array([run.accuracy[-1] for run in runs]),
                **{f"mean {kind.label}": _means(name, runs) for name, kind in proxies().items()},
            }
            for name, runs in self.groups.items()
        }

    def table(self) -> str:
        """Format the comparison as aligned text, one line for each group.

        Numbers are the mean ± standard deviation over the runs of a group. A dash stands where the
        number is undefined for some run.
        """
        values = self.values()
        columns = list(next(iter(values.values())))
        body = [
            [
                name,
                str(len(self.groups[name])),
                *(spread(row[column], parts=not column.startswith("mean ")) for column in columns),
            ]
            for name, row in values.items()
        ]
        lines = [
            "Accuracy at a mean cost (relative to the plain backbone), area under the curve, and "
            "accuracy of the last exit (full)",
            aligned(["", "runs", *columns], body),
        ]
        if any(len(runs) > 1 for runs in self.groups.values()):
            lines.append("mean ± standard deviation over runs")
        lines += [f"Note: {one}" for one in self.notes]
        protocols = {run.protocol for run in self._runs()}
        if len(protocols) == 1:
            lines.append(f"threshold protocol: {protocols.pop()}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        runs = sum(map(len, self.groups.values()))
        return f"Comparison of {runs} runs in {len(self.groups)} groups; print it for the table"

    def correlations(self) -> Correlations:
        """Correlate metrics with the area under the curve, over all runs.

        The abstract of arXiv 2508.21495 says that failure prediction indicates the performance of
        early exits better than calibration does. These Pearson and Spearman correlations show
        whether it does so here. A good indicator has a correlation near 1, or near -1 if lower is
        better, as for the calibration error.

        The accuracy of the exits before the last is the baseline: it goes with the area by
        construction, so a metric that merely follows the accuracy correlates with the area, too.
        Partial correlations hold the mean accuracy fixed. Correlations within groups leave out the
        differences between groups, such as strategies of training. Areas are those of `values`,
        over one range of costs.

        Returns
        -------
        Correlations
        """
        runs = self._runs()
        groups = np.repeat(np.arange(len(self.groups)), [len(one) for one in self.groups.values()])
        area = np.array([run.curve.area_from(self.low) for run in runs])
        accuracy = _means("accuracy", runs)
        measures = {
            "mean accuracy": accuracy,
            "first exit's accuracy": np.array([run.accuracy[0] for run in runs]),
            **{f"mean {kind.label}": _means(name, runs) for name, kind in proxies().items()},
        }
        return Correlations(
            tuple(
                correlation(name, values, area, accuracy, groups)
                for name, values in measures.items()
            )
        )

    def plot(self) -> Figure:
        """Plot the mean curve of each group, with a band from the smallest to the largest run.

        Returns
        -------
        matplotlib.figure.Figure
            The figure. It is not shown; save it with ``savefig``.

        Raises
        ------
        ImportError
            If matplotlib is not installed; the message names the extra that installs it.
        """
        from .plots import comparison_figure

        return comparison_figure(self)

    def _check(self) -> None:
        compare(self.groups)


def _means(name: str, runs: Sequence[Evaluation]) -> Array:
    """The mean of a metric in each run; NaN where a run was evaluated without it."""
    return np.array([getattr(run, f"mean_{name}", np.nan) for run in runs])


def compare(results: Mapping[str, Evaluation | Sequence[Evaluation]]) -> Comparison:
    """Compare evaluations.

    Parameters
    ----------
    results : mapping of str to Evaluation, or to a sequence of Evaluation
        Evaluations by name of their group. Put runs that differ only in their seed into one group;
        the comparison reports their mean and spread.

    Returns
    -------
    Comparison

    Raises
    ------
    TypeError
        If `results` holds anything but evaluations.
    ValueError
        If there are no evaluations, or their budgets differ.
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
                f"results[{name!r}] has other budgets than the first group: evaluate all runs with "
                "the same budgets"
            )
    return Comparison(groups)


def spread(values: Array, *, parts: bool, percent: str = "%", missing: str = "-") -> str:
    """Mean and, for several runs, standard deviation; `missing` if the number is undefined."""
    if np.isnan(values).any():
        return missing
    scale, digits = (100, 1) if parts else (1, 3)
    mean = f"{scale * values.mean():.{digits}f}"
    if len(values) > 1:
        mean += f" ± {scale * values.std(ddof=1):.{digits}f}"
    return mean + (percent if parts else "")
