"""Curves of accuracy against mean cost, for a policy and for the baselines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..._support.arguments import whole
from ..arrays import Array, Booleans, as_correct, as_scores, same_shape
from ..policies.base import Policy
from .thresholds import as_costs, geometric_shares

#: The meaning of `Curve.area`, for results to quote.
AREA = (
    "mean height of the curve, linear between its points, from the cost of the first exit to that "
    "of the plain backbone (1.0)"
)
#: The meaning of `Curve.accuracy_at`, for results to quote.
BETWEEN = (
    "linear between points, as if one of two thresholds were chosen at random for each sample; "
    "undefined below the cheapest point; constant above the most expensive point"
)


@dataclass(frozen=True, eq=False, repr=False)
class Curve:
    """A curve of accuracy against mean cost: T points, for K exits.

    Attributes
    ----------
    cost : ndarray [T]
        Mean cost of a sample at each point, in units of the plain backbone.
    accuracy : ndarray [T]
        Accuracy at each point.
    shares : ndarray [T, K]
        Fraction of the samples for which computing stops at each exit.
    cuts : ndarray [T, K - 1]
        Thresholds in units of scores, for ``policy.with_cuts``; [T, 0] if there are none.
    low : float
        Cost of the first exit, where `area` starts.
    """

    cost: Array
    accuracy: Array
    shares: Array
    cuts: Array
    low: float

    def accuracy_at(self, budgets: Any) -> Array:
        """Interpolate the accuracy at given mean costs.

        The interpolation is linear between the points of the curve, which is what you get by
        choosing one of two thresholds at random for each sample. Points of equal cost are averaged.

        Parameters
        ----------
        budgets : array
            Mean costs, in units of the plain backbone.

        Returns
        -------
        ndarray of the shape of `budgets`
            Accuracies. NaN below the cheapest point; above the most expensive point, its accuracy.
        """
        at = np.asarray(budgets, dtype=np.float64)
        cost, accuracy = self._sorted()
        found: Array = np.asarray(np.interp(at, cost, accuracy))
        found[at < cost[0]] = np.nan
        return found

    @property
    def area(self) -> float:
        """Mean accuracy over costs from `low` to 1; NaN if the curve does not cover `low`."""
        return self.area_from(self.low)

    def area_from(self, low: float) -> float:
        """Mean accuracy over another range of costs, for curves with a first exit of another cost.

        Parameters
        ----------
        low : float
            Cost at which the range starts; it ends at 1, the plain backbone.

        Returns
        -------
        float
            Mean height of the curve, linear between its points; NaN if it does not cover `low`, or
            `low` is not below 1.
        """
        cost, accuracy = self._sorted()
        if not cost[0] <= low < 1.0:
            return float("nan")
        inside = (cost > low) & (cost < 1.0)
        x = np.concatenate([[low], cost[inside], [1.0]])
        y = np.interp(x, cost, accuracy)
        return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / (1.0 - low))

    def __len__(self) -> int:
        return len(self.cost)

    def __repr__(self) -> str:
        return (
            f"Curve({len(self)} points; cost {self.cost.min():.1%} to {self.cost.max():.1%}, "
            f"accuracy {self.accuracy.min():.1%} to {self.accuracy.max():.1%})"
        )

    def _sorted(self) -> tuple[Array, Array]:
        """Distinct costs in ascending order, and their accuracies."""
        cost, where = np.unique(self.cost, return_inverse=True)
        return cost, np.bincount(where, self.accuracy) / np.bincount(where)


def curve(
    scores: Any, correct: Any, costs: Any, cuts: Iterable[Any], *, policy: Policy | None = None
) -> Curve:
    """Compute the curve of a policy for a sequence of thresholds, offline.

    Parameters
    ----------
    scores : array or Tensor [K, N]
        Scores; higher is more confident.
    correct : array or Tensor [K, N] of bool
        Whether each exit is right about each sample.
    costs : array [K]
        Cost of a sample that leaves at exit k, in units of the plain backbone; must not decrease.
    cuts : iterable of float, or of array [K - 1]
        Thresholds in units of scores, one or K - 1 for each point. They may be infinite.
    policy : Policy, optional
        The policy whose comparison and fallback are used; its own thresholds are not. By default
        the comparison is ``>=`` and the fallback is the last exit.

    Returns
    -------
    Curve
        One point for each entry of `cuts`, in the same order.

    Raises
    ------
    ValueError
        If the shapes differ, a threshold has the wrong length or is NaN, or there are no
        thresholds.

    Examples
    --------
    >>> from laplex.early_exit.evaluation.curves import curve
    >>> found = curve([[0.9, 0.6], [0.9, 0.9]], [[1, 0], [1, 1]], [0.5, 1.0], [0.5, 0.8])
    >>> found.cost, found.accuracy
    (array([0.5 , 0.75]), array([0.5, 1. ]))
    """
    found, right, prices = _checked(scores, correct, costs)
    exits, samples = found.shape
    rule = Policy(0.0) if policy is None else policy
    points = threshold_rows(cuts, exits)
    tensor = torch.from_numpy(found)
    cost, accuracy, shares = [], [], []
    for point in points:
        answers, stopped = (one.numpy() for one in rule.with_cuts(point).decide(tensor))
        shares.append(np.bincount(stopped, minlength=exits) / samples)
        cost.append(float(shares[-1] @ prices))
        accuracy.append(float(right[answers, np.arange(samples)].mean()))
    return Curve(np.array(cost), np.array(accuracy), np.stack(shares), points, float(prices[0]))


def static_exits(correct: Any, costs: Any) -> Curve:
    """Compute the baseline of single exits: all samples leave at the same exit, K points.

    Parameters
    ----------
    correct, costs
        As in `curve`.
    """
    right, prices = _right(correct, costs)
    return _without_cuts(right.mean(1), np.eye(len(prices)), prices)


def random_exits(correct: Any, costs: Any, count: int = 30) -> Curve:
    """Compute the baseline of random exits: what an uninformative policy achieves.

    The result is the expected value; nothing is drawn. The share of exit k is proportional to q^k,
    as in `fit_cuts`.

    Parameters
    ----------
    correct, costs
        As in `curve`.
    count : int
        Number of points, at equally spaced costs.
    """
    right, prices = _right(correct, costs)
    budgets = np.linspace(prices[0], prices[-1], whole("count", count, 2))
    shares = np.stack([geometric_shares(prices, float(one)) for one in budgets])
    return _without_cuts(shares @ right.mean(1), shares, prices)


def oracle_exits(correct: Any, costs: Any) -> Curve:
    """Compute the bound of an oracle that knows which exits are right. No policy exceeds it.

    At point k, each sample that exit k or an earlier one gets right leaves at the first exit that
    is right about it. All other samples leave at the first exit, where a mistake is cheapest. The
    last point is the oracle without a budget.

    Parameters
    ----------
    correct, costs
        As in `curve`.
    """
    right, prices = _right(correct, costs)
    exits, samples = right.shape
    earliest = np.where(right.any(0), right.argmax(0), 0)
    shares = []
    for k in range(exits):
        leaves = np.where(earliest <= k, earliest, 0)
        shares.append(np.bincount(leaves, minlength=exits) / samples)
    accuracy = np.array([right[: k + 1].any(0).mean() for k in range(exits)])
    return _without_cuts(accuracy, np.stack(shares), prices)


def _without_cuts(accuracy: Array, shares: Array, costs: Array) -> Curve:
    return Curve(shares @ costs, accuracy, shares, np.empty((len(shares), 0)), float(costs[0]))


def _checked(scores: Any, correct: Any, costs: Any) -> tuple[Array, Booleans, Array]:
    found = as_scores("scores", scores)
    right, prices = _right(correct, costs)
    same_shape("scores", found, "correct", right)
    return found, right, prices


def _right(correct: Any, costs: Any) -> tuple[Booleans, Array]:
    right = as_correct("correct", correct)
    return right, as_costs(costs, len(right))


def threshold_rows(cuts: Iterable[Any], exits: int) -> Array:
    """Thresholds as ndarray [T, exits - 1]; a single number holds for all exits.

    Raises
    ------
    ValueError
        If one of them has the wrong length or is NaN, or there are none.
    """
    points = [_cuts(one, exits) for one in cuts]
    if not points:
        raise ValueError("cuts is empty: pass at least one threshold")
    return np.stack(points)


def _cuts(given: Any, exits: int) -> Array:
    found = np.asarray(given, dtype=np.float64)
    if found.ndim == 0:
        found = np.full(exits - 1, float(found))
    if found.shape != (exits - 1,):
        raise ValueError(
            f"cuts must be one threshold or {exits - 1}, one for each exit but the last, got "
            f"shape {list(found.shape)}"
        )
    if np.isnan(found).any():
        raise ValueError("cuts must be numbers, got NaN")
    return found
