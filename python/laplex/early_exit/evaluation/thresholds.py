"""Thresholds: one for all exits, swept; or one for each exit, fitted to a budget."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._support.arguments import whole
from ..arrays import Array, Integers, as_numbers, as_scores

# q = t / (1 - t) for t in (0, 1): 50 halvings leave nothing between two doubles that matters.
_HALVINGS = 50


def shared_cuts(scores: Any, count: int = 100) -> Array:
    """Even thresholds for all exits alike, as arXiv 2407.14320 sweeps them, and both extremes.

    Parameters
    ----------
    scores : array or Tensor [K, N]
        Higher is surer. The last exit's are not looked at, as nobody asks it whether to leave.
    count : int
        At least 2.

    Returns
    -------
    ndarray [count + 2]
        Minus infinity (all leave at the first exit), `count` even values from the least to the
        largest score, infinity (none leaves before the last exit).

    Raises
    ------
    ValueError
        Fewer than two exits or thresholds, or scores that are not finite.

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


def fit_cuts(scores: Any, costs: Any, budget: float, *, strict: bool = False) -> Array:
    r"""A threshold for each exit, fitted to a mean cost: the protocol of MSDNet.

    The share of samples that leaves at exit k is to be proportional to :math:`q^k`; q is found by
    bisection, so that the mean cost of `scores` meets the budget. Thresholds lie halfway between
    the scores of the last sample that leaves and the next one, of those that are still there.

    Parameters
    ----------
    scores : array or Tensor [K, N]
        Of validation samples; higher is surer.
    costs : array [K]
        Of a sample that leaves at exit k; not falling.
    budget : float
        In the unit of `costs`.
    strict : bool
        The thresholds are for ``score > threshold`` instead of ``>=``.

    Returns
    -------
    ndarray [K - 1]
        In units of scores. Minus infinity where all that are still there leave, infinity where
        none does.

    Raises
    ------
    ValueError
        Fewer than two exits, costs that fall or are not positive, a budget that is not positive.

    Notes
    -----
    Samples of equal scores leave together, which costs less. The mean cost of `scores` is never
    above the budget, unless even the first exit costs more: then everybody leaves there.

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
    """Shares of samples by exit, proportional to q^k, whose mean cost is the budget.

    Parameters
    ----------
    costs : array [K]
        Not falling.
    budget : float
        In the unit of `costs`. Below the first exit's cost all leave there, above the last one's
        none before.

    Returns
    -------
    ndarray [K]
        They sum to 1.
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
    """Costs of exits as float64 [exits]: positive, finite, not falling.

    Raises
    ------
    ValueError
        They are not, or of another number than `exits`.
    """
    found = as_numbers("costs", costs, 1, "[exits]")
    if len(found) < 2 or (exits is not None and len(found) != exits):
        wanted = "a number for each exit" if exits is None else f"{exits} numbers, one an exit"
        raise ValueError(f"costs must be {wanted}, got shape {list(found.shape)}")
    if found[0] <= 0 or (np.diff(found) < 0).any():
        raise ValueError(
            f"costs must be positive and never fall from exit to exit, got {found.tolist()}: each "
            "is of a sample that leaves there, all before it included"
        )
    return found


def _cuts_for(
    scores: Array, order: Integers, shares: Array, costs: Array, strict: bool
) -> tuple[Array, float]:
    """Cuts that let these shares go, and the mean cost they have; `order` sorts scores, falling."""
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
        # With those who leave go the ones whose score is the same.
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
    return below if strict else above  # neighbours among floating-point numbers


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
        raise ValueError("scores must be of at least two exits, got one: nobody can leave early")
    return found


def _budget(budget: float) -> float:
    limit = float(budget)
    if not limit > 0:
        raise ValueError(f"budget must be positive, got {budget}")
    return limit
