"""Exit rules by name for the command line: a policy and what its scores are calibrated with."""

from __future__ import annotations

from dataclasses import dataclass

from ..costs import Costs
from ..evaluation.outputs import Outputs
from ..evaluation.thresholds import fit_cuts
from ..metrics.score_heads import ScoreHeads
from ..metrics.temperature import TemperatureScaling
from ..policies import POLICIES, named_policy
from ..policies.base import Policy
from ..policies.learned import LearnedScore

_TARGETS = {"eefp": "eefp", "correct": "correct"}


@dataclass(frozen=True)
class FittedRule:
    """A rule that can be used.

    Attributes
    ----------
    judged : Policy or str
        For `evaluate`, together with the next.
    calibration : TemperatureScaling, ScoreHeads or None
    policy : Policy or None
        For real exits; None where there is no such policy.
    """

    judged: Policy | str
    calibration: TemperatureScaling | ScoreHeads | None
    policy: Policy | None

    def real(self) -> Policy:
        """The policy for `MultiExitModel.predict`.

        Raises
        ------
        ValueError
            Real exits can't follow this rule.
        """
        if self.policy is None:
            raise ValueError(
                "entropy and margin with calibration temperature are judged offline only: real "
                "exits take max-softmax with it, or another calibration"
            )
        return self.policy

    def for_budget(self, budget: float, unseen: Outputs, costs: Costs) -> Policy:
        """The policy with thresholds fitted to a mean cost on held-out samples.

        Raises
        ------
        ValueError
            Even the first exit costs more.
        """
        if budget < costs.relative[0]:
            raise ValueError(
                f"budget {budget:g} is below {costs.relative[0]:.4g}, what the first exit costs in "
                "units of the plain backbone"
            )
        policy = self.real()
        scores = policy.scores(unseen.logits)
        return policy.with_cuts(fit_cuts(scores, costs.relative, budget, strict=policy.strict))


@dataclass(frozen=True)
class ExitRule:
    """A policy and a calibration by name.

    Parameters
    ----------
    policy : str
        A name of `laplex.early_exit.policies.POLICIES`.
    calibration : str
        ``"none"``; ``"temperature"``; ``"eefp"`` or ``"correct"``, the target of score heads.
        ``"learned"`` without a calibration means score heads with the target ``"eefp"``.
    threshold : float, optional
        In the policy's own units.

    Raises
    ------
    ValueError
        They don't go together.
    """

    policy: str
    calibration: str = "none"
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.policy == "learned" and self.calibration == "temperature":
            raise ValueError(
                "policy learned brings a score of its own, which a temperature does not change: "
                "take calibration eefp or correct, or another policy"
            )
        if self.policy not in ("learned", POLICIES.default) and self.calibration in _TARGETS:
            raise ValueError(
                f"calibration {self.calibration} brings a score of its own, which takes the place "
                f"of {self.policy}: leave the policy out"
            )

    def fitted(self, unseen: Outputs | None) -> FittedRule:
        """The rule, with what is to be fitted fitted to held-out samples.

        Raises
        ------
        ValueError
            There are none, but something is to be fitted.
        """
        target = _TARGETS.get(self.calibration, "eefp" if self.policy == "learned" else None)
        if target is None and self.calibration == "none":
            return FittedRule(self._judged(), None, self._plain())
        if unseen is None:
            raise ValueError(
                f"calibration {self.calibration if target is None else target} is fitted on the "
                "validation images, so the run can't be judged on them: take --split test"
            )
        if target is None:
            scaling = TemperatureScaling().fit(unseen.logits, unseen.labels)
            return FittedRule(self._judged(), scaling, self._plain().scaled(scaling))
        heads = ScoreHeads(target="eefp" if target == "eefp" else "correct")
        heads.fit(unseen.logits, unseen.labels)
        policy = LearnedScore(heads, 0.5 if self.threshold is None else self.threshold)
        if self.threshold is None:
            return FittedRule(str(POLICIES.default), heads, policy)
        return FittedRule(policy, None, policy)

    def _plain(self) -> Policy:
        return named_policy(self.policy, self.threshold)

    def _judged(self) -> Policy | str:
        return self.policy if self.threshold is None else self._plain()
