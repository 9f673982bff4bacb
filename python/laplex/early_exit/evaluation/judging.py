"""The evaluation itself: what `evaluate` does after it has run the model."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from ..arrays import Array, as_labels, finite
from ..costs import Costs
from ..metrics import METRICS
from ..metrics.reliability_diagram import reliability
from ..metrics.score_heads import ScoreHeads
from ..metrics.temperature import TemperatureScaling
from ..policies.base import Policy
from ..policies.learned import LearnedScore
from .arguments import Arguments, relative_costs
from .curves import AREA, BETWEEN, Curve, curve, oracle_exits, random_exits, static_exits
from .gathering import Shard
from .outputs import Outputs
from .reduction import Rule, of_metric, reduced
from .result import Evaluation, OperatingPoint
from .thresholds import fit_cuts, shared_cuts, unit_cuts

# Points of a curve of fitted thresholds: equally spaced budgets from the first to the last exit.
_POINTS = 30


def judge_outputs(
    arguments: Arguments, outputs: Outputs, costs: Costs | Any, validation: Outputs | None
) -> Evaluation:
    """Evaluate logits that have been collected.

    Raises
    ------
    TypeError, ValueError
        As in `evaluate_outputs`.
    """
    outputs = checked("outputs", outputs)
    prices = relative_costs(costs, len(outputs.exit_names))
    fitting = None if validation is None else checked("validation", validation)
    if fitting is not None:
        check_same_shape(fitting, len(outputs.logits), outputs.logits.shape[2])
    rule = fitted_rule(arguments, fitting)
    unseen = None if fitting is None else reduced(fitting, rule.reduce_scores)
    test = reduced(outputs, rule.reduce_all)
    return judge(arguments, rule, test, unseen, outputs.exit_names, prices, costs)


def judge(
    arguments: Arguments,
    rule: Rule,
    test: Shard,
    unseen: Shard | None,
    exit_names: tuple[str, ...],
    prices: Array,
    costs: Costs | Any,
) -> Evaluation:
    """Carry out an evaluation of what was kept of the logits.

    Parameters
    ----------
    arguments : Arguments
    rule : Rule
    test : Shard
        From `Rule.reduce_all`, for the test samples.
    unseen : Shard or None
        From `Rule.reduce_scores`, for the validation samples.
    exit_names : tuple of str
    prices : ndarray [K]
        The costs, in units of the plain backbone.
    costs : Costs or sequence of float
        The costs as they were given.
    """
    policy = rule.policy
    known = rule.judged(test, arguments.bins)
    scores = None if unseen is None else unseen.arrays["scores"]

    def points(cuts: Any) -> Curve:
        return curve(known.scores, known.correct, prices, cuts, policy=policy)

    own = None
    if arguments.thresholds_given:
        point = points([policy.cuts(len(exit_names)).numpy()])
        own = OperatingPoint(
            repr(policy), float(point.accuracy[0]), float(point.cost[0]), point.shares[0]
        )
    metrics = {
        name: np.asarray(kind.per_exit(of_metric(name, known, test)))
        for name, kind in METRICS.items()
    }
    return Evaluation(
        exit_names=tuple(exit_names),
        policy=_name(policy),
        calibration=rule.name,
        protocol=arguments.protocol,
        samples=len(test),
        validation_samples=0 if unseen is None else len(unseen),
        costs=prices,
        **{one.name: metrics.pop(one.name) for one in fields(Evaluation) if one.name in metrics},
        reliability=reliability(known.confidence, known.correct, arguments.bins),
        curve=points(_cuts(arguments, rule, known.scores, scores, prices)),
        static=static_exits(known.correct, prices),
        random=random_exits(known.correct, prices),
        oracle=oracle_exits(known.correct, prices),
        budgets=arguments.budgets,
        operating_point=own,
        conventions=_conventions(arguments, rule, costs, known.scores[:-1]),
        others=metrics,
        evaluated=(policy, rule.calibration),
        validation_scores=scores if arguments.protocol == "validation" else None,
    )


def fitted_rule(arguments: Arguments, validation: Outputs | None) -> Rule:
    """The policy with its calibration, fitted to validation samples if it is given by name."""
    chosen = arguments.calibration
    if isinstance(chosen, str):
        assert validation is not None
        given = validation.logits, validation.labels
        if chosen == "temperature":
            chosen = TemperatureScaling().fit(*given)
        else:
            chosen = ScoreHeads(target="eefp" if chosen == "eefp" else "correct").fit(*given)
    if isinstance(chosen, TemperatureScaling):
        return Rule(arguments.policy, chosen, "temperature")
    if isinstance(chosen, ScoreHeads):
        return Rule(LearnedScore(chosen, 0.5), chosen, f"score heads ({chosen.target})")
    return Rule(arguments.policy, None, "none")


def checked(name: str, outputs: Outputs) -> Outputs:
    """Check logits and labels, without a copy of the logits.

    Raises
    ------
    TypeError, ValueError
        If logits are not finite, or labels are out of range.
    """
    logits = finite(f"{name}.logits", outputs.logits, 3, "[exits, samples, classes]")
    labels = as_labels(f"{name}.labels", outputs.labels, *logits.shape[1:])
    return Outputs(logits, labels, outputs.exit_names)


def check_same_shape(validation: Outputs, exits: int, classes: int) -> None:
    """Check that validation samples have the exits and the classes of the test samples.

    Raises
    ------
    ValueError
        If they have not.
    """
    shape = validation.logits.shape
    if shape[::2] != (exits, classes):
        raise ValueError(
            f"validation has {shape[0]} exits and {shape[2]} classes, the test samples have "
            f"{exits} and {classes}: both must have the same exits and classes"
        )


def _cuts(
    arguments: Arguments, rule: Rule, test: Array, unseen: Array | None, prices: Array
) -> Any:
    """The thresholds of the curve, according to the protocol."""
    if arguments.protocol == "p1-test-sweep":
        return unit_cuts(rule.policy.strict) if rule.is_confidence else shared_cuts(test)
    assert unseen is not None
    return [
        fit_cuts(unseen, prices, float(budget), strict=rule.policy.strict)
        for budget in np.linspace(prices[0], prices[-1], _POINTS)
    ]


def _name(policy: Policy) -> str:
    return str(vars(type(policy)).get("label", type(policy).__name__.lower()))


def _conventions(arguments: Arguments, rule: Rule, costs: Any, scores: Array) -> dict[str, str]:
    policy = rule.policy
    counted = costs.convention if isinstance(costs, Costs) else "as given"
    if arguments.protocol == "validation":
        thresholds = (
            f"one for each exit, fitted on validation samples to {_POINTS} equally spaced budgets "
            "with shares proportional to q^k, and applied to the test samples"
        )
    elif rule.is_confidence:
        thresholds = (
            "one for all exits: 100 equally spaced values from 0 to 1, which a score must exceed; "
            "evaluated on these samples themselves"
        )
    else:
        thresholds = (
            "one for all exits: 100 equally spaced values between the scores of the evaluated "
            "samples themselves, and both extremes"
        )
    leaving = f"a sample leaves if its score is {'>' if policy.strict else '>='} the threshold; "
    leaving += "the last exit" if policy.fallback == "last" else "the most confident exit"
    leaving += " answers for a sample that reaches no threshold"
    return {
        "cost": f"{counted}, in units of the plain backbone; includes the heads of earlier exits",
        "thresholds": thresholds,
        "leaving": leaving,
        "scores": f"{'probabilities ' if rule.is_confidence else ''}from {scores.min():.3g} to "
        f"{scores.max():.3g} at the exits before the last",
        "accuracy_at_budgets": BETWEEN,
        "area": AREA,
        "confidence": "the learned score"
        if isinstance(policy, LearnedScore) and rule.is_confidence
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
