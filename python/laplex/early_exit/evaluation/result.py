"""What `evaluate` found, as arrays, a table, a picture and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Array
from ..costs import aligned
from ..metrics.per_exit import PerExit
from ..metrics.reliability_diagram import Reliability
from ..plain_json import as_json, from_json, number, numbers, plain
from .curves import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMAT = "laplex.early_exit.Evaluation"
_PER_EXIT = ("accuracy", "nll", "brier", "ece", "auroc", "aurc", "fpr95", "eefp")
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
class Evaluation:
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
    """

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

    @property
    def accuracy_at_budgets(self) -> Array:
        """Accuracy of `curve` at `budgets`, ndarray [B]; NaN below its cheapest point."""
        return self.curve.accuracy_at(self.budgets)

    @property
    def area(self) -> float:
        """Area under `curve`, see `Curve.area`."""
        return self.curve.area

    @property
    def mean_ece(self) -> float:
        """Mean of `ece` over the exits before the last, whose scores decide who leaves."""
        return _mean(self.ece)

    @property
    def mean_auroc(self) -> float:
        """Mean of `auroc` over the exits before the last, where it is defined."""
        return _mean(self.auroc)

    @property
    def mean_eefp(self) -> float:
        """Mean of `eefp` over the exits before the last, where it is defined."""
        return _mean(self.eefp)

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
        exits = [
            [name, f"{cost:.1%}", f"{right:.1%}", *map(_shown, rest)]
            for name, cost, right, *rest in zip(
                self.exit_names,
                self.costs,
                *(getattr(self, name) for name in _PER_EXIT),
                strict=True,
            )
        ]
        means = [_mean(getattr(self, name)) for name in _PER_EXIT]
        exits.append(["mean, last left out", "", f"{means[0]:.1%}", *map(_shown, means[1:])])
        head = ["exit", "cost", "accuracy", "NLL", "Brier", "ECE", "AUROC", "AURC", "FPR95", "EEFP"]
        curves = [getattr(self, name) for name in _CURVES]
        at = np.stack([curve.accuracy_at(self.budgets) for curve in curves], axis=1)
        budgets = [
            [f"{budget:.0%}", *map(_percent, row)]
            for budget, row in zip(self.budgets, at, strict=True)
        ]
        budgets.append(["area", *(_percent(curve.area) for curve in curves)])
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

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return (
            f"Evaluation({self.policy}, calibration: {self.calibration}; {len(self.exit_names)} "
            f"exits, {self.samples:,} samples; full accuracy {self.accuracy[-1]:.1%}, area "
            f"{_percent(self.area)}; print it for the table)"
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

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers, lists and strings, for JSON: NaN as None; `from_dict` reads it.

        What follows from the rest (`area`, means, accuracies at budgets) is added for readers.
        """
        values: dict[str, Any] = plain(self)
        derived = ("accuracy_at_budgets", "area", "mean_ece", "mean_auroc", "mean_eefp")
        return {"kind": _FORMAT, **values, **{name: plain(getattr(self, name)) for name in derived}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `to_dict` wrote.

        Raises
        ------
        ValueError
            `values` come from elsewhere.
        """
        try:
            if values["kind"] != _FORMAT:
                raise ValueError(f"they are a {values['kind']}")
            point = values["operating_point"]
            per_exit: dict[str, Any] = {name: numbers(values[name]) for name in _PER_EXIT}
            curves: dict[str, Any] = {name: _curve(values[name]) for name in _CURVES}
            found = cls(
                exit_names=tuple(str(name) for name in values["exit_names"]),
                policy=str(values["policy"]),
                calibration=str(values["calibration"]),
                protocol=str(values["protocol"]),
                samples=int(values["samples"]),
                validation_samples=int(values["validation_samples"]),
                costs=numbers(values["costs"]),
                **per_exit,
                reliability=_reliability(values["reliability"]),
                **curves,
                budgets=numbers(values["budgets"]),
                operating_point=None if point is None else _point(point),
                conventions={str(key): str(one) for key, one in values["conventions"].items()},
            )
            if any(getattr(found, name).shape != found.costs.shape for name in _PER_EXIT):
                raise ValueError("sizes differ")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"values are not those of Evaluation.to_dict ({error!r}): pass what it returned"
            ) from error
        return found

    def to_json(self, path: str | Path | None = None) -> str:
        """`to_dict` as JSON; also written to `path` where one is given.

        Raises
        ------
        OSError
            It can't be written there.
        """
        return as_json(self.to_dict(), path)

    @classmethod
    def from_json(cls, source: str | Path) -> Evaluation:
        """The evaluation of a text or file that `to_json` wrote.

        Raises
        ------
        ValueError
            It holds something else.
        OSError
            There is no such file.
        """
        return cls.from_dict(from_json(source))

    def _protocol(self) -> str:
        if self.protocol == "validation":
            return f"thresholds fitted on {self.validation_samples:,} validation samples"
        return "thresholds swept on the test samples themselves: p1-test-sweep"


def _curve(values: Mapping[str, Any]) -> Curve:
    parts = {name: numbers(values[name]) for name in ("cost", "accuracy", "shares", "cuts")}
    return Curve(**parts, low=number(values["low"]))


def _reliability(values: Mapping[str, Any]) -> Reliability:
    edges, confidence, accuracy = (
        numbers(values[name]) for name in ("edges", "confidence", "accuracy")
    )
    counts = numbers(values["counts"]).astype(np.int64)
    return Reliability(edges, counts, confidence, accuracy)


def _point(values: Mapping[str, Any]) -> OperatingPoint:
    return OperatingPoint(
        str(values["policy"]),
        number(values["accuracy"]),
        number(values["cost"]),
        numbers(values["shares"]),
    )


def _mean(values: Array) -> float:
    # The last exit's score decides nothing, and a score learned for deciding may be one constant
    # there: its AUROC of 0.5 would hide what the others do.
    return PerExit(values[:-1]).mean


def _shown(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1%}"
