"""The policy for prediction with early exits that has the scores of an evaluation."""

from __future__ import annotations

from ..metrics.score_heads import ScoreHeads
from ..metrics.temperature import TemperatureScaling
from ..policies.base import Policy

Calibration = TemperatureScaling | ScoreHeads | None


def real_policy(policy: Policy, calibration: Calibration) -> Policy:
    """Return the policy for `MultiExitModel.predict` that combines a policy and a calibration.

    Parameters
    ----------
    policy : Policy
        The policy that was evaluated, with its own thresholds. With score heads this is already a
        `LearnedScore`.
    calibration : TemperatureScaling, ScoreHeads or None
        The fitted calibration.

    Raises
    ------
    ValueError
        If prediction with early exits cannot use this policy together with this calibration.
    """
    if not isinstance(calibration, TemperatureScaling):
        return policy
    scaled = policy.scaled(calibration)
    if scaled is None:
        raise ValueError(
            f"the policy {type(policy).__name__} with calibration temperature can only be "
            "evaluated offline: use the policy max-softmax, or another calibration"
        )
    return scaled
