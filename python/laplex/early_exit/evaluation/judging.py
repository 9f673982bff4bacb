"""Evaluation of logits: what `evaluate` does after it has run the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from ..arrays import Array, Integers, as_labels, as_logits, correctness
from ..costs import Costs
from ..metrics import METRICS
from ..metrics.base import Judged
from ..metrics.reliability_diagram import reliability
from ..metrics.score_heads import ScoreHeads
from ..metrics.temperature import TemperatureScaling
from ..policies.base import Policy
from ..policies.learned import LearnedScore
from ..policies.max_softmax import MaxSoftmax
from .arguments import Arguments, relative_costs
from .curves import AREA, BETWEEN, Curve, curve, oracle_exits, random_exits, static_exits
from .outputs import Outputs
from .real_policies import Calibration
from .result import Evaluation, OperatingPoint
from .thresholds import fit_cuts, shared_cuts

# Points of a curve of fitted thresholds: equally spaced budgets from the first to the last exit.
_POINTS = 30


def judge(
    arguments: Arguments, outputs: Outputs, costs: Costs | Any, validation: Outputs | None
) -> Evaluation:
    """Carry out an evaluation.

    Raises
    ------
    TypeError, ValueError
        As in `evaluate_outputs`.
    """
    logits, labels = _arrays("outputs", outputs)
    prices = relative_costs(costs, len(logits))
    fitting = None if validation is None else _arrays("validation", validation)
    if fitting is not None and fitting[0].shape[::2] != logits.shape[::2]:
        raise ValueError(
            f"validation has logits {list(fitting[0].shape)} and outputs {list(logits.shape)}: "
            "both must have the same exits and classes"
        )
    policy, calibration, change, how = _calibration(arguments, fitting)
    test = _scored(policy, change, logits, labels, arguments.bins)
    unseen = None if fitting is None else _scored(policy, change, *fitting, arguments.bins).scores

    def points(cuts: Any) -> Curve:
        return curve(test.scores, test.correct, prices, cuts, policy=policy)

    own = None
    if arguments.thresholds_given:
        point = points([policy.cuts(len(logits)).numpy()])
        own = OperatingPoint(
            repr(policy), float(point.accuracy[0]), float(point.cost[0]), point.shares[0]
        )
    metrics = {name: np.asarray(kind.per_exit(test)) for name, kind in METRICS.items()}
    return Evaluation(
        exit_names=tuple(outputs.exit_names),
        policy=_name(policy),
        calibration=how,
        protocol=arguments.protocol,
        samples=len(labels),
        validation_samples=0 if validation is None else len(validation),
        costs=prices,
        **{one.name: metrics.pop(one.name) for one in fields(Evaluation) if one.name in metrics},
        reliability=reliability(test.confidence, test.correct, arguments.bins),
        curve=points(_cuts(arguments, policy, test.scores, unseen, prices)),
        static=static_exits(test.correct, prices),
        random=random_exits(test.correct, prices),
        oracle=oracle_exits(test.correct, prices),
        budgets=arguments.budgets,
        operating_point=own,
        conventions=_conventions(arguments, policy, costs),
        others=metrics,
        evaluated=(policy, calibration),
        validation_scores=unseen if arguments.protocol == "validation" else None,
    )


def _cuts(
    arguments: Arguments, policy: Policy, test: Array, unseen: Array | None, prices: Array
) -> Any:
    """The thresholds of the curve, according to the protocol."""
    if arguments.protocol == "p1-test-sweep":
        return shared_cuts(test)
    assert unseen is not None
    return [
        fit_cuts(unseen, prices, float(budget), strict=policy.strict)
        for budget in np.linspace(prices[0], prices[-1], _POINTS)
    ]


def _calibration(
    arguments: Arguments, fitting: tuple[Array, Integers] | None
) -> tuple[Policy, Calibration, Callable[[Array], Array], str]:
    """The policy, the fitted calibration, the function that calibrates logits, and its name."""
    chosen = arguments.calibration
    if isinstance(chosen, str):
        assert fitting is not None
        if chosen == "temperature":
            chosen = TemperatureScaling().fit(*fitting)
        else:
            chosen = ScoreHeads(target="eefp" if chosen == "eefp" else "correct").fit(*fitting)
    if isinstance(chosen, TemperatureScaling):
        scaling = chosen
        return (
            arguments.policy,
            scaling,
            lambda logits: as_logits("logits", scaling.transform(logits)),
            "temperature",
        )
    if isinstance(chosen, ScoreHeads):
        named = f"score heads ({chosen.target})"
        return LearnedScore(chosen, 0.5), chosen, lambda logits: logits, named
    return arguments.policy, None, lambda logits: logits, "none"


def _scored(
    policy: Policy, change: Callable[[Array], Array], logits: Array, labels: Integers, bins: int
) -> Judged:
    changed = change(logits)
    tensor = torch.from_numpy(changed)
    with torch.no_grad():
        scores = policy.scores(tensor).cpu().numpy().astype(np.float64)
    confidence = scores if _is_probability(policy) else MaxSoftmax(0.5).scores(tensor).numpy()
    # Rounding may put a probability above 1.
    confidence = np.minimum(confidence, 1.0)
    return Judged(changed, labels, correctness(logits, labels), scores, confidence, bins)


def _is_probability(policy: Policy) -> bool:
    """Whether the scores of a policy are learned probabilities."""
    return isinstance(policy, LearnedScore) and isinstance(
        policy.scorer, (ScoreHeads, TemperatureScaling)
    )


def _arrays(name: str, outputs: Outputs) -> tuple[Array, Integers]:
    logits = as_logits(f"{name}.logits", outputs.logits)
    return logits, as_labels(f"{name}.labels", outputs.labels, *logits.shape[1:])


def _name(policy: Policy) -> str:
    return str(vars(type(policy)).get("label", type(policy).__name__.lower()))


def _conventions(arguments: Arguments, policy: Policy, costs: Any) -> dict[str, str]:
    counted = costs.convention if isinstance(costs, Costs) else "as given"
    thresholds = (
        f"one for each exit, fitted on validation samples to {_POINTS} equally spaced budgets with "
        "shares proportional to q^k, and applied to the test samples"
        if arguments.protocol == "validation"
        else "one for all exits: 100 equally spaced values between the scores of the test samples "
        "themselves, and both extremes"
    )
    rule = f"a sample leaves if its score is {'>' if policy.strict else '>='} the threshold; "
    rule += "the last exit" if policy.fallback == "last" else "the most confident exit"
    rule += " answers for a sample that reaches no threshold"
    return {
        "cost": f"{counted}, in units of the plain backbone; includes the heads of earlier exits",
        "thresholds": thresholds,
        "leaving": rule,
        "accuracy_at_budgets": BETWEEN,
        "area": AREA,
        "confidence": "the learned score"
        if _is_probability(policy)
        else "the largest softmax probability",
        "ece": f"{arguments.bins} bins of equal width, weighted mean of absolute differences; a "
        "bin includes its upper edge",
        "nll": "natural logarithm, mean over samples",
        "brier": "sum over classes, mean over samples",
        "failure prediction": "scores of the policy against correctness, for each exit on all "
        "samples; ties at midranks",
        "means": "over the exits before the last for which the metric is defined",
        "eefp": "AUROC of the scores of the policy, where the positive samples are those that the "
        "exit or no later exit gets right; undefined for the last exit; our reading of arXiv "
        "2508.21495",
        "random": "random exits with shares proportional to q^k, in expectation",
        "oracle": "a sample leaves at the first exit that is right, the cheapest samples first; at "
        "the first exit if none is right",
    }
