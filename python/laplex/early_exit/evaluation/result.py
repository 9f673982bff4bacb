"""What `evaluate` found, as arrays, a table, a picture and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..._support.results import Result, to_plain
from ..._support.text_tables import aligned, cell
from ..arrays import Array
from ..metrics import METRICS
from ..metrics.base import Metric
from ..metrics.per_exit import PerExit
from ..metrics.reliability_diagram import Reliability
from .curves import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CURVES = ("curve", "static", "random", "oracle")


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """What a policy gets with its own thresholds.

    Attributes
    ----------
    policy : str
    accuracy : float
    cost : float
        Mean cost of a sample, in units of the plain backbone.
    shares : ndarray [K]
        Parts of the samples for which computing stopped at each exit.
    """

    policy: str
    accuracy: float
    cost: float
    shares: Array


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Result):
    """Result of `evaluate`, of K exits; printing it prints the table.

    Attributes
    ----------
    exit_names : tuple of str
        The last one is ``"output"``.
    policy, calibration, protocol : str
    samples : int
    validation_samples : int
        0 where there were none.
    costs : ndarray [K]
        Of a sample that leaves at exit k, in units of the plain backbone.
    accuracy, nll, brier, ece : ndarray [K]
        Of each exit on all samples.
    auroc, aurc, fpr95, eefp : ndarray [K]
        How well the policy's scores tell failures; NaN where undefined.
    mean_ece, mean_auroc, mean_eefp, ... : float
        Mean of each of these over the exits before the last, whose scores decide who leaves, where
        it is defined.
    reliability : Reliability
        The bins of `ece`, [K, bins].
    curve : Curve
        Accuracy against mean cost.
    static, random, oracle : Curve
        Each exit alone; exits by chance; the bound for every policy.
    budgets : ndarray [B]
    operating_point : OperatingPoint or None
        Where a policy with thresholds was given.
    conventions : dict of str to str
        What every number means.
    others : dict of str to ndarray [K]
        Metrics that were registered from outside, see `laplex.early_exit.metrics.METRICS`. They are
        attributes too.

    Notes
    -----
    `to_dict` adds for readers what follows from the rest: `area`, means, accuracies at budgets.
    """

    _kind: ClassVar = "laplex.early_exit.Evaluation"
    _derived: ClassVar = ("accuracy_at_budgets", "area")

    exit_names: tuple[str, ...]
    policy: str
    calibration: str
    protocol: str
    samples: int
    validation_samples: int
    costs: Array
    accuracy: Array
    nll: Array
    brier: Array
    ece: Array
    auroc: Array
    aurc: Array
    fpr95: Array
    eefp: Array
    reliability: Reliability
    curve: Curve
    static: Curve
    random: Curve
    oracle: Curve
    budgets: Array
    operating_point: OperatingPoint | None
    conventions: dict[str, str]
    others: dict[str, Array] = field(default_factory=dict)

    @property
    def accuracy_at_budgets(self) -> Array:
        """Accuracy of `curve` at `budgets`, ndarray [B]; NaN below its cheapest point."""
        return self.curve.accuracy_at(self.budgets)

    @property
    def area(self) -> float:
        """Area under `curve`, see `Curve.area`."""
        return self.curve.area

    @property
    def metrics(self) -> dict[str, Array]:
        """All metrics by their names, ndarray [K] each, in the order of tables."""
        known = {**vars(self), **self.others}
        return {name: known[name] for name in METRICS if name in known}

    def __getattr__(self, name: str) -> Any:
        others = vars(self).get("others", {})
        if name in others:
            return others[name]
        if name.startswith("mean_") and name[5:] in METRICS:
            return _mean(getattr(self, name[5:]))
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers, lists and strings, for JSON: NaN as None; `from_dict` reads it."""
        found = super().to_dict()
        found.update(found.pop("others"))
        means = [f"mean_{name}" for name in proxies() if name in self.metrics]
        return {**found, **{name: to_plain(getattr(self, name)) for name in means}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `to_dict` wrote.

        Raises
        ------
        ValueError
            `values` come from elsewhere, or disagree.
        """
        if isinstance(values, Mapping):
            own = {one.name for one in fields(cls)}
            others = [name for name in METRICS if name in values.keys() - own]
            values = {**values, "others": {name: values[name] for name in others}}
        return super().from_dict(values)

    def cuts_at(self, budget: float) -> Array:
        """Thresholds for a mean cost, in units of scores: ``policy.with_cuts(found.cuts_at(0.5))``.

        Parameters
        ----------
        budget : float
            In units of the plain backbone.

        Returns
        -------
        ndarray [K - 1]
            Those of the dearest point of `curve` that costs no more.

        Raises
        ------
        ValueError
            Even the cheapest point costs more.
        """
        within = np.flatnonzero(self.curve.cost <= budget)
        if not len(within):
            raise ValueError(
                f"budget must be at least {self.curve.cost.min():.4g}, the cost of the first exit, "
                f"got {budget}"
            )
        cuts: Array = self.curve.cuts[within[np.argmax(self.curve.cost[within])]]
        return cuts

    def table(self) -> str:
        """Two aligned tables: a line for each exit, and one for each budget."""
        kinds = [METRICS[name] for name in self.metrics]
        columns = [
            [cell(one, ".1%" if kind.percent else ".4f") for one in (*values, _mean(values))]
            for kind, values in zip(kinds, self.metrics.values(), strict=True)
        ]
        names = [*self.exit_names, "mean, last left out"]
        costs = [*(f"{cost:.1%}" for cost in self.costs), ""]
        exits = list(zip(names, costs, *columns, strict=True))
        head = ["exit", "cost", *(kind.label for kind in kinds)]
        curves = [getattr(self, name) for name in _CURVES]
        at = np.stack([curve.accuracy_at(self.budgets) for curve in curves], axis=1)
        budgets = [
            [f"{budget:.0%}", *(cell(one, ".1%") for one in row)]
            for budget, row in zip(self.budgets, at, strict=True)
        ]
        budgets.append(["area", *(cell(curve.area, ".1%") for curve in curves)])
        parts = [
            f"{self.policy}, calibration: {self.calibration}, {self.samples:,} samples; "
            "cost in parts of the plain backbone",
            aligned(head, exits),
            "",
            f"Accuracy at mean cost ({self._protocol()})",
            aligned(["budget", "policy", "one exit", "by chance", "oracle"], budgets),
        ]
        if self.operating_point is not None:
            point = self.operating_point
            shares = ", ".join(f"{share:.1%}" for share in point.shares)
            parts += [
                "",
                f"{point.policy}: accuracy {point.accuracy:.1%} at cost {point.cost:.1%}; leaving "
                f"by exit: {shares}",
            ]
        return "\n".join(parts)

    def _summary(self) -> str:
        return (
            f"{self.policy}, calibration: {self.calibration}; {len(self.exit_names)} exits, "
            f"{self.samples:,} samples; full accuracy {self.accuracy[-1]:.1%}, area "
            f"{cell(self.area, '.1%')}"
        )

    def plot(self) -> Figure:
        """A matplotlib Figure, not shown: the curve, and each exit's accuracy, reliability, share.

        Raises
        ------
        ImportError
            matplotlib is not there; the message names the extra that brings it.
        """
        from .plots import evaluation_figure

        return evaluation_figure(self)

    def _check(self) -> None:
        if any(values.shape != self.costs.shape for values in self.metrics.values()):
            raise ValueError("sizes differ")

    def _protocol(self) -> str:
        if self.protocol == "validation":
            return f"thresholds fitted on {self.validation_samples:,} validation samples"
        return "thresholds swept on the test samples themselves: p1-test-sweep"


def proxies() -> dict[str, type[Metric]]:
    """The metrics whose mean is set beside the area under the curve, by name."""
    return {name: kind for name, kind in METRICS.items() if kind.proxy}


def _mean(values: Array) -> float:
    # The last exit's score decides nothing, and a score learned for deciding may be one constant
    # there: its AUROC of 0.5 would hide what the others do.
    return PerExit(values[:-1]).mean
