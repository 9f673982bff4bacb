"""The result of `evaluate`, as arrays, a table, a figure and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..._support.arguments import positive
from ..._support.results import Result, to_plain
from ..._support.text_tables import aligned, cell
from ..arrays import Array
from ..metrics import METRICS
from ..metrics.base import Metric
from ..metrics.per_exit import PerExit
from ..metrics.reliability_diagram import Reliability
from ..policies.base import Policy
from .curves import Curve
from .real_policies import Calibration, real_policy
from .thresholds import fit_cuts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CURVES = ("curve", "static", "random", "oracle")
_WIDTH = 100
# With fewer samples than this, the table warns of the error of an accuracy.
_FEW = 100
_NOT_IN_FILES = ("evaluated", "validation_scores")


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """Accuracy and cost of a policy with its own thresholds.

    Attributes
    ----------
    policy : str
        The policy, as its ``repr``.
    accuracy : float
        Fraction of the samples that are classified correctly.
    cost : float
        Mean cost of a sample, in units of the plain backbone.
    shares : ndarray [K]
        Fraction of the samples for which computing stops at each exit.
    """

    policy: str
    accuracy: float
    cost: float
    shares: Array


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Result):
    """Result of `evaluate`, for K exits. Printing it prints the table.

    Attributes
    ----------
    exit_names : tuple of str
        Names of the exits; the last one is ``"output"``.
    policy, calibration, protocol : str
        Names of the policy, the calibration and the threshold protocol.
    samples : int
        Number of test samples.
    validation_samples : int
        Number of validation samples; 0 if there were none.
    costs : ndarray [K]
        Cost of a sample that leaves at exit k, in units of the plain backbone.
    accuracy, nll, brier, ece : ndarray [K]
        Accuracy and calibration metrics of each exit on all samples.
    auroc, aurc, eaurc, augrc, fpr95, eefp : ndarray [K]
        Failure prediction metrics of the policy's scores; NaN where undefined.
    mean_ece, mean_auroc, mean_eefp, ... : float
        Mean of a metric over the exits for which it is defined. The last exit is left out, because
        its score decides nothing.
    reliability : Reliability
        The bins of `ece`, [K, bins].
    curve : Curve
        Accuracy of the policy against mean cost.
    static, random, oracle : Curve
        The baselines: each exit alone, random exits, and the upper bound for every policy.
    budgets : ndarray [B]
        Mean costs at which the accuracy is reported, in units of the plain backbone.
    operating_point : OperatingPoint or None
        Accuracy and cost with the policy's own thresholds, if a policy with thresholds was given.
    conventions : dict of str to str
        The meaning of every number.
    others : dict of str to ndarray [K]
        Metrics that you registered in `laplex.early_exit.metrics.METRICS`. Each of them is an
        attribute as well.
    evaluated : (Policy, TemperatureScaling or ScoreHeads or None), or None
        The policy and the fitted calibration that were evaluated, for `policy_at`. Files do not
        hold them: None for an evaluation from `from_dict` or `from_json`.
    validation_scores : ndarray [K, M] or None
        Scores of the M validation samples, to which `cuts_at` and `policy_at` fit thresholds. None
        with the protocol ``"p1-test-sweep"``, and for an evaluation from a file.

    Notes
    -----
    `to_dict` also contains numbers that follow from the others: `area`, the means, and the
    accuracies at the budgets.
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
    eaurc: Array
    augrc: Array
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
    evaluated: tuple[Policy, Calibration] | None = None
    validation_scores: Array | None = None

    @property
    def accuracy_at_budgets(self) -> Array:
        """Accuracy of `curve` at `budgets`, ndarray [B]; NaN below its cheapest point."""
        return self.curve.accuracy_at(self.budgets)

    @property
    def area(self) -> float:
        """Area under `curve`; see `Curve.area`."""
        return self.curve.area

    @property
    def metrics(self) -> dict[str, Array]:
        """All metrics by name, ndarray [K] each, in the order of the tables."""
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
        """Convert to plain numbers, lists and strings, for JSON; NaN becomes None.

        `from_dict` reads the result.
        """
        found = super().to_dict()
        for name in _NOT_IN_FILES:
            del found[name]
        found.update(found.pop("others"))
        means = [f"mean_{name}" for name in proxies() if name in self.metrics]
        return {**found, **{name: to_plain(getattr(self, name)) for name in means}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """Make the evaluation from the output of `to_dict`.

        Parameters
        ----------
        values : mapping
            What `to_dict` returned.

        Returns
        -------
        Evaluation
            A copy with the same contents.

        Raises
        ------
        ValueError
            If `values` are not from `to_dict`, or are inconsistent.
        """
        if isinstance(values, Mapping):
            own = {one.name for one in fields(cls)}
            others = [name for name in METRICS if name in values.keys() - own]
            registered = {name: values[name] for name in others}
            values = {**values, "others": registered, **dict.fromkeys(_NOT_IN_FILES)}
        return super().from_dict(values)

    def cuts_at(self, budget: float) -> Array:
        """Return the thresholds for a mean cost.

        With the protocol ``"validation"``, they are fitted to the budget on the validation samples,
        as those of each point of `curve` are; the test samples have no influence. With
        ``"p1-test-sweep"``, and for an evaluation that was read from a file, there are no
        validation scores: the thresholds are those of the point of `curve` with the largest cost
        within the budget, and that is the mean cost of the *test* samples.

        The thresholds apply to the scores of this evaluation, after its calibration. Do not use
        them with another policy; `policy_at` returns the policy that they belong to.

        Parameters
        ----------
        budget : float
            Mean cost of a sample, in units of the plain backbone.

        Returns
        -------
        ndarray [K - 1]
            Thresholds in units of scores. They may be infinite.

        Raises
        ------
        ValueError
            If the budget is not positive and finite, or even the first exit costs more.
        """
        budget = positive("budget", budget)
        if not budget >= self.costs[0]:
            raise ValueError(
                f"budget must be at least {self.costs[0]:.4g}, the cost of the first exit, "
                f"got {budget}"
            )
        if self.evaluated is not None and self.validation_scores is not None:
            strict = self.evaluated[0].strict
            return fit_cuts(self.validation_scores, self.costs, budget, strict=strict)
        within = np.flatnonzero(self.curve.cost <= budget)
        cuts: Array = self.curve.cuts[within[np.argmax(self.curve.cost[within])]]
        return cuts

    def policy_at(self, budget: float) -> Policy:
        """Return the policy that was evaluated, with thresholds for a mean cost.

        The calibration is part of the policy, so it is ready for `MultiExitModel.predict` and
        `export`.

        Parameters
        ----------
        budget : float
            Mean cost of a sample, in units of the plain backbone.

        Returns
        -------
        Policy
            The policy with the thresholds `cuts_at(budget)`. With the calibration ``"temperature"``
            and a largest probability as the score it is a `LearnedScore` with the fitted
            `TemperatureScaling`, with score heads one with the fitted `ScoreHeads`.

        Raises
        ------
        ValueError
            If even the first exit costs more, the policy and the calibration can only be evaluated
            offline (`Entropy` or `Margin` with a temperature), or the evaluation was read from a
            file.

        Notes
        -----
        With thresholds fitted on validation samples, the mean cost of those samples is at most the
        budget. That of other samples may differ a little. The accuracy that `table` shows at a
        budget is interpolated between two points of `curve`, so it may differ a little as well.
        Samples with equal scores leave together: scores with few values, such as those of
        `Patience`, allow few mean costs, and the cost may be far below the budget.
        """
        cuts = self.cuts_at(budget)
        if self.evaluated is None:
            raise ValueError(
                "this evaluation was read from a file, which holds no policy and no fitted "
                "calibration: evaluate the model again, or call with_cuts(cuts_at(budget)) of a "
                f"policy with the same scores (policy {self.policy}, calibration "
                f"{self.calibration})"
            )
        return real_policy(*self.evaluated).with_cuts(cuts)

    def table(self) -> str:
        """Format aligned tables: one line for each exit, and one for each budget."""
        columns = [["cost", *(f"{cost:.1%}" for cost in self.costs), ""]]
        for name, values in self.metrics.items():
            form = ".1%" if METRICS[name].percent else ".4f"
            numbers = (cell(one, form) for one in (*values, _mean(values)))
            columns.append([METRICS[name].label, *numbers])
        curves = [getattr(self, name) for name in _CURVES]
        at = np.stack([curve.accuracy_at(self.budgets) for curve in curves], axis=1)
        budgets = [
            [f"{budget:.0%}", *(cell(one, ".1%") for one in row)]
            for budget, row in zip(self.budgets, at, strict=True)
        ]
        budgets.append(["area", *(cell(curve.area, ".1%") for curve in curves)])
        parts = [
            f"{self.policy}, calibration: {self.calibration}, {self.samples:,} samples; "
            "cost relative to the plain backbone",
            *_exit_tables(["exit", *self.exit_names, "mean without last"], columns),
            f"Accuracy at mean cost ({self._protocol()})",
            aligned(["budget", "policy", "single exit", "random", "oracle"], budgets),
        ]
        if self.operating_point is not None:
            point = self.operating_point
            shares = ", ".join(f"{share:.1%}" for share in point.shares)
            parts += [
                "",
                f"{point.policy}: accuracy {point.accuracy:.1%} at cost {point.cost:.1%}; samples "
                f"that leave by exit: {shares}",
            ]
            if point.shares[-1] == 1:
                scores = self.conventions.get("scores", "all below the threshold")
                parts.append(f"No sample leaves early; the scores are {scores}")
        parts += [f"Note: {one}" for one in self._notes()]
        return "\n".join(parts)

    def _notes(self) -> list[str]:
        notes = []
        if self.costs[0] >= 1:
            notes.append(
                "the area is undefined, because the first exit costs no less than the plain "
                "backbone"
            )
        if self.samples < _FEW:
            error = 0.5 / math.sqrt(self.samples)  # of a binomial at one half
            notes.append(
                f"with only {self.samples} samples, the standard error of an accuracy is up to "
                f"{100 * error:.0f} percentage points"
            )
        return notes

    def _summary(self) -> str:
        return (
            f"{self.policy}, calibration: {self.calibration}; {len(self.exit_names)} exits, "
            f"{self.samples:,} samples; full accuracy {self.accuracy[-1]:.1%}, area "
            f"{cell(self.area, '.1%')}"
        )

    def plot(self) -> Figure:
        """Plot the curve, and the accuracy, reliability and share of samples of each exit.

        Returns
        -------
        matplotlib.figure.Figure
            The figure. It is not shown; save it with ``savefig``.

        Raises
        ------
        ImportError
            If matplotlib is not installed; the message names the extra that installs it.
        """
        from .plots import evaluation_figure

        return evaluation_figure(self)

    def _check(self) -> None:
        if any(values.shape != self.costs.shape for values in self.metrics.values()):
            raise ValueError("sizes differ")

    def _protocol(self) -> str:
        if self.protocol == "validation":
            return f"thresholds fitted on {self.validation_samples:,} validation samples"
        return "thresholds swept on the evaluated samples themselves, protocol p1-test-sweep"


def proxies() -> dict[str, type[Metric]]:
    """The metrics whose mean is correlated with the area under the curve, by name."""
    return {name: kind for name, kind in METRICS.items() if kind.proxy}


def _exit_tables(names: list[str], columns: list[list[str]]) -> list[str]:
    """The columns beside the names of the exits, in as few tables of at most 100 letters."""
    for tables in range(1, len(columns) + 1):
        each = -(-len(columns) // tables)
        parts = [columns[i : i + each] for i in range(0, len(columns), each)]
        found = [_table([names, *part]) for part in parts]
        if max(map(len, "\n".join(found).splitlines())) <= _WIDTH:
            break
    return [line for table in found for line in (table, "")]


def _table(columns: list[list[str]]) -> str:
    head, *body = zip(*columns, strict=True)
    return aligned(head, body)


def _mean(values: Array) -> float:
    # The score of the last exit decides nothing, and a learned score may be constant there: its
    # AUROC of 0.5 would distort the mean.
    return float(PerExit(values[:-1]).mean)
