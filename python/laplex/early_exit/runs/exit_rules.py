"""Exit rules by name for the command line: a policy and the calibration of its scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..costs import Costs
from ..evaluation.evaluator import evaluate_outputs
from ..evaluation.outputs import Outputs
from ..evaluation.real_policies import real_policy
from ..metrics.score_heads import ScoreHeads
from ..metrics.temperature import TemperatureScaling
from ..policies import POLICIES, named_policy
from ..policies.base import Policy
from ..policies.learned import LearnedScore

_TARGETS = ("eefp", "correct")


@dataclass(frozen=True)
class ExitRule:
    """A policy and a calibration by name, and a threshold in the units of the policy.

    The calibration is ``"none"``, ``"temperature"``, or the target of score heads, ``"eefp"`` or
    ``"correct"``. The policy ``"learned"`` alone uses score heads with the target ``"eefp"``.
    """

    policy: str
    calibration: str = "none"
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.policy == "learned" and self.calibration == "temperature":
            raise ValueError(
                "the policy learned has its own score, which a temperature does not change: use "
                "calibration eefp or correct, or another policy"
            )
        if self.policy not in ("learned", POLICIES.default) and self.calibration in _TARGETS:
            raise ValueError(
                f"calibration {self.calibration} has its own score, which replaces that of the "
                f"policy {self.policy}: leave the policy out"
            )

    def check_real(self) -> None:
        """Raise a ValueError if prediction with early exits cannot use this rule."""
        if self.calibration == "temperature":
            real_policy(named_policy(self.policy), TemperatureScaling())

    def arguments(self, unseen: Outputs | None) -> dict[str, Any]:
        """The arguments ``policy`` and ``calibration`` of `evaluate`, which fits on `unseen`.

        Raises
        ------
        ValueError
            If there are no held-out samples, but a calibration has to be fitted.
        """
        name = None if self.calibration == "none" else self.calibration
        policy = self.policy
        if policy == "learned":
            policy, name = str(POLICIES.default), name or "eefp"
        if name is not None and unseen is None:
            raise ValueError(
                f"calibration {name} is fitted on the validation samples, so the run cannot be "
                "evaluated on them: use --split test"
            )
        if self.threshold is not None:
            if name in _TARGETS and unseen is not None:
                heads = ScoreHeads(target=name).fit(unseen.logits, unseen.labels)  # type: ignore[arg-type]
                return {"policy": LearnedScore(heads, self.threshold), "calibration": None}
            return {"policy": named_policy(policy, self.threshold), "calibration": name}
        return {"policy": policy, "calibration": name}

    def fitted(self, unseen: Outputs, costs: Costs, budget: float | None = None) -> Policy:
        """The policy for `MultiExitModel.predict`, fitted on held-out samples.

        It has the threshold of the rule or, without one, thresholds for a mean cost: `budget`, by
        default 0.5 or the cost of the first exit if that is larger.

        Raises
        ------
        ValueError
            If even the first exit costs more, or prediction cannot use this rule.
        """
        again = unseen.subset(slice(None))  # of the same object, an evaluation would be refused
        found = evaluate_outputs(again, costs, validation=unseen, **self.arguments(unseen))
        if self.threshold is not None and found.evaluated is not None:
            return real_policy(*found.evaluated)
        return found.policy_at(max(0.5, float(costs.relative[0])) if budget is None else budget)
