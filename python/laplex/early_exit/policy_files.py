"""Exit policies as plain types of JSON, by their names in the registry of policies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .._support.results import to_plain
from .metrics.score_heads import ScoreHeads
from .metrics.temperature import TemperatureScaling
from .policies import POLICIES
from .policies.base import Policy
from .policies.learned import LearnedScore

_SCORERS: dict[str, type[ScoreHeads | TemperatureScaling]] = {
    "score-heads": ScoreHeads,
    "temperature": TemperatureScaling,
}


def to_dict(policy: object, num_exits: int) -> dict[str, Any]:
    """Return a policy with its thresholds and, for a learned score, its fitted scorer.

    Raises
    ------
    TypeError
        If it is no policy.
    ValueError
        If the policy or its scorer is of a class without a name in files, or for another number of
        exits.
    """
    if not isinstance(policy, Policy):
        raise TypeError(
            f"policy must be a Policy such as MaxSoftmax(0.9), got {type(policy).__name__}"
        )
    policy.cuts(num_exits)
    name = next((one for one, kind in POLICIES.items() if type(policy) is kind), None)
    if name is None:
        raise ValueError(
            f"policy is a {type(policy).__name__}, which has no name: decorate its class with "
            "POLICIES.register, or save the model without it (model.policy = None)"
        )
    found = {
        "name": name,
        "thresholds": to_plain(policy.thresholds),
        "strict": policy.strict,
        "fallback": policy.fallback,
    }
    if isinstance(policy, LearnedScore):
        scorer: Any = policy.scorer
        kind = next((one for one, kind in _SCORERS.items() if type(scorer) is kind), None)
        if kind is None:
            raise ValueError(
                f"the scorer of the policy is a {type(scorer).__name__}: only ScoreHeads and "
                "TemperatureScaling can be saved, so save the model without it (model.policy = "
                "None)"
            )
        found["scorer"] = {"name": kind, "values": scorer.to_dict()}
    return found


def from_dict(values: Mapping[str, Any], num_exits: int) -> Policy:
    """Make a policy from what `to_dict` returned, or from a hostile file.

    Raises
    ------
    ValueError, TypeError, KeyError
        If the values are not those of a policy for a model with this number of exits.
    """
    kind = POLICIES.find(values["name"])
    thresholds = _thresholds(values["thresholds"])
    if not isinstance(values["strict"], bool):
        raise TypeError("strict must be true or false")
    options: Any = {"strict": values["strict"], "fallback": values["fallback"]}
    finite: Any = thresholds
    if isinstance(thresholds, tuple):
        finite = tuple(one if math.isfinite(one) else 0.0 for one in thresholds)
    if kind is LearnedScore:
        scorer = _SCORERS[values["scorer"]["name"]].from_dict(values["scorer"]["values"])
        temperatures = getattr(scorer, "temperatures_", None)
        if temperatures is not None and len(temperatures) != num_exits:
            raise ValueError(f"there are {len(temperatures)} temperatures for {num_exits} exits")
        made: Policy = LearnedScore(scorer, finite, **options)
    else:
        made = kind(finite, **options)
    made.thresholds = thresholds  # infinite ones are those of an evaluation, at which none leaves
    made.cuts(num_exits)
    return made


def _thresholds(values: Any) -> float | tuple[float, ...]:
    if isinstance(values, list):
        return tuple(_threshold(one) for one in values)
    return _threshold(values)


def _threshold(value: Any) -> float:
    if value in ("inf", "-inf"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("thresholds must be numbers")
    return float(value)
