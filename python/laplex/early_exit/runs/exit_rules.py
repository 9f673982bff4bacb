"""Exit rules by name for the command line: a policy and the calibration of its scores."""

from __future__ import annotations

from dataclasses import dataclass

from ..costs import Costs
from ..evaluation.outputs import Outputs
from ..evaluation.real_policies import Calibration, real_policy
from ..evaluation.thresholds import fit_cuts
from ..metrics.score_heads import ScoreHeads
from ..metrics.temperature import TemperatureScaling
from ..policies import POLICIES, named_policy
from ..policies.base import Policy
from ..policies.learned import LearnedScore

_TARGETS = {"eefp": "eefp", "correct": "correct"}


@dataclass(frozen=True)
class FittedRule:
    """An exit rule whose calibration is fitted.

    Attributes
    ----------
    judged : Policy or str
        The policy for `evaluate`, to be used together with `calibration`.
    calibration : TemperatureScaling, ScoreHeads or None
        The calibration for `evaluate`.
    policy : Policy
        The same policy as an object.
    """

    judged: Policy | str
    calibration: Calibration
    policy: Policy

    def real(self) -> Policy:
        """The policy for `MultiExitModel.predict`.

        Raises
        ------
        ValueError
            If prediction with early exits cannot use this rule.
        """
        return real_policy(self.policy, self.calibration)

    def for_budget(self, budget: float, unseen: Outputs, costs: Costs) -> Policy:
        """The policy with thresholds fitted to a mean cost on held-out samples.

        Raises
        ------
        ValueError
            If even the first exit costs more.
        """
        if budget < costs.relative[0]:
            raise ValueError(
                f"budget {budget:g} is below {costs.relative[0]:.4g}, the cost of the first exit "
                "in units of the plain backbone: pass a larger budget"
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
        A name from `laplex.early_exit.policies.POLICIES`.
    calibration : str
        ``"none"``, ``"temperature"``, or the target of score heads: ``"eefp"`` or ``"correct"``.
        The policy ``"learned"`` without a calibration uses score heads with the target ``"eefp"``.
    threshold : float, optional
        Threshold in the units of the policy.

    Raises
    ------
    ValueError
        If the policy and the calibration cannot be combined.
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

    def fitted(self, unseen: Outputs | None) -> FittedRule:
        """Fit the calibration, if there is one, on held-out samples.

        Raises
        ------
        ValueError
            If there are no held-out samples, but a calibration has to be fitted.
        """
        target = _TARGETS.get(self.calibration, "eefp" if self.policy == "learned" else None)
        if target is None and self.calibration == "none":
            return FittedRule(self._judged(), None, self._plain())
        if unseen is None:
            raise ValueError(
                f"calibration {self.calibration if target is None else target} is fitted on the "
                "validation images, so the run cannot be evaluated on them: use --split test"
            )
        if target is None:
            scaling = TemperatureScaling().fit(unseen.logits, unseen.labels)
            return FittedRule(self._judged(), scaling, self._plain())
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
