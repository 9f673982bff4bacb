"""Thresholds: one for all exits, swept over a range, or one for each exit, fitted to a budget."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._support.arguments import whole
from ..arrays import Array, Integers, as_numbers, as_scores

# q = t / (1 - t) for t in (0, 1): after 50 bisections the interval is below the rounding of t.
_HALVINGS = 50


def shared_cuts(scores: Any, count: int = 100) -> Array:
    """Equally spaced thresholds shared by all exits, for scores of any range, and both extremes.

    Parameters
    ----------
    scores : array or Tensor [K, N]
        Scores; higher is more confident. The scores of the last exit are ignored, because they
        decide nothing.
    count : int
        Number of equally spaced thresholds, at least 2.

    Returns
    -------
    ndarray [count + 2]
        Minus infinity (all samples leave at the first exit), `count` equally spaced values from the
        smallest to the largest score, and infinity (none leaves before the last exit).

    Raises
    ------
    ValueError
        If there are fewer than two exits or thresholds, or scores are not finite.

    Examples
    --------
    >>> from laplex.early_exit.evaluation.thresholds import shared_cuts
    >>> shared_cuts([[0.5, 1.0], [0.0, 0.0]], count=3)
    array([-inf, 0.5 , 0.75, 1.  ,  inf])
    """
    found = _several(scores)
    asked = found[:-1]
    even = np.linspace(asked.min(), asked.max(), whole("count", count, 2))
    return np.concatenate([[-np.inf], even, [np.inf]])


def unit_cuts(strict: bool) -> Array:
    """The thresholds of the public benchmark for arXiv 2407.14320, for confidences in [0, 1].

    They are ``linspace(0, 1, 100)``, shared by all exits, and a sample leaves at the first exit
    whose score is greater, with a strict comparison. At 0 all samples leave at the first exit, and
    at 1 none before the last.

    Parameters
    ----------
    strict : bool
        Whether the thresholds are for ``score > threshold``. If not, they are the next larger
        floating-point numbers, which ``score >= threshold`` compares with alike.

    Returns
    -------
    ndarray [100]
        The thresholds.
    """
    even = np.linspace(0, 1, 100)
    return even if strict else np.nextafter(even, np.inf)


def fit_cuts(scores: Any, costs: Any, budget: float, *, strict: bool = False) -> Array:
    r"""Fit a threshold for each exit to a mean cost: the protocol of MSDNet.

    The share of the samples that leave at exit k is proportional to :math:`q^k`. Bisection finds q
    such that the mean cost of the samples meets the budget. Each threshold lies halfway between the
    score of the last sample that leaves and that of the next sample, among those that have not left
    before.

    Parameters
    ----------
    scores : array or Tensor [K, N]
        Scores of validation samples; higher is more confident.
    costs : array [K]
        Cost of a sample that leaves at exit k; must not decrease.
    budget : float
        Mean cost of a sample, in the unit of `costs`.
    strict : bool
        Whether the thresholds are for ``score > threshold`` instead of ``>=``.

    Returns
    -------
    ndarray [K - 1]
        Thresholds in units of scores: minus infinity where all remaining samples leave, infinity
        where none does.

    Raises
    ------
    ValueError
        If there are fewer than two exits, costs decrease or are not positive, or the budget is not
        positive.

    Notes
    -----
    Samples with equal scores leave together, which lowers the cost. The mean cost of the samples is
    never above the budget, unless even the first exit costs more; then all samples leave there.

    Examples
    --------
    >>> from laplex.early_exit.evaluation.thresholds import fit_cuts
    >>> fit_cuts([[0.9, 0.8, 0.6, 0.5], [1.0, 1.0, 1.0, 1.0]], [0.5, 1.0], budget=0.75)
    array([0.7])
    """
    found = _several(scores)
    exits = len(found)
    prices = as_costs(costs, exits)
    limit = _budget(budget)
    if limit >= prices[-1]:
        return np.full(exits - 1, np.inf)
    order = np.argsort(-found, axis=1, kind="stable")
    best = np.full(exits - 1, -np.inf)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        cuts, cost = _cuts_for(found, order, _geometric(middle, exits), prices, strict)
        if cost <= limit:
            low, best = middle, cuts
        else:
            high = middle
    return best


def geometric_shares(costs: Any, budget: float) -> Array:
    """Shares of the samples by exit, proportional to q^k, whose mean cost is the budget.

    Parameters
    ----------
    costs : array [K]
        Cost of a sample that leaves at exit k; must not decrease.
    budget : float
        Mean cost, in the unit of `costs`. Below the cost of the first exit, all samples leave
        there; above that of the last exit, none leaves before it.

    Returns
    -------
    ndarray [K]
        The shares, which sum to 1.
    """
    prices = as_costs(costs, None)
    limit = _budget(budget)
    low, high = 0.0, 1.0
    if limit >= prices[-1]:
        low = 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if float(_geometric(middle, len(prices)) @ prices) <= limit:
            low = middle
        else:
            high = middle
    return _geometric(low, len(prices))


def as_costs(costs: Any, exits: int | None) -> Array:
    """Check costs of exits: float64 [exits], positive, finite, not decreasing.

    Raises
    ------
    ValueError
        If they are not, or there are not `exits` of them.
    """
    found = as_numbers("costs", costs, 1, "[exits]")
    if len(found) < 2 or (exits is not None and len(found) != exits):
        wanted = "one number for each exit"
        if exits is not None:
            wanted = f"{exits} numbers, one for each exit"
        raise ValueError(f"costs must be {wanted}, got shape {list(found.shape)}")
    if found[0] <= 0 or (np.diff(found) < 0).any():
        raise ValueError(
            f"costs must be positive and must not decrease from exit to exit, got "
            f"{found.tolist()}: each is the whole cost of a sample that leaves at that exit"
        )
    return found


def _cuts_for(
    scores: Array, order: Integers, shares: Array, costs: Array, strict: bool
) -> tuple[Array, float]:
    """Thresholds for these shares, and their mean cost; `order` sorts the scores, descending."""
    exits, count = scores.shape
    there = np.ones(count, dtype=bool)
    goal = np.floor(count * np.cumsum(shares) + 0.5).astype(np.int64)
    cuts = np.full(exits - 1, -np.inf)
    spent, left = 0.0, 0
    for k in range(exits - 1):
        queue = order[k][there[order[k]]]
        leaving = int(goal[k]) - left
        if leaving <= 0:
            cuts[k] = np.inf
            continue
        ranked = scores[k][queue]
        # Samples with equal scores leave together.
        leaving = int(np.searchsorted(-ranked, -ranked[min(leaving, len(queue)) - 1], side="right"))
        there[queue[:leaving]] = False
        left += leaving
        spent += leaving * costs[k]
        if left == count:
            return cuts, spent / count
        cuts[k] = _between(ranked[leaving], ranked[leaving - 1], strict)
    return cuts, (spent + (count - left) * costs[-1]) / count


def _between(below: float, above: float, strict: bool) -> float:
    middle = below / 2 + above / 2
    if below < middle < above:
        return middle
    return below if strict else above  # they are adjacent floating-point numbers


def _geometric(t: float, exits: int) -> Array:
    """Shares proportional to q^k for q = t / (1 - t)."""
    k = np.arange(exits)
    # Multiplied by (1 - t)^(exits - 1): finite at both ends.
    weights = t**k * (1 - t) ** (exits - 1 - k)
    shares: Array = weights / weights.sum()
    return shares


def _several(scores: Any) -> Array:
    found = as_scores("scores", scores)
    if len(found) < 2:
        raise ValueError("scores must be of at least two exits, got one: no sample can leave early")
    return found


def _budget(budget: float) -> float:
    limit = float(budget)
    if not limit > 0:
        raise ValueError(f"budget must be positive, got {budget}")
    return limit
