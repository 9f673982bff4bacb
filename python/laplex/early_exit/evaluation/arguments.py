"""Checks of the arguments of an evaluation, before anything is computed."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

from ..._support.arguments import one_of, whole
from ..arrays import Array, as_numbers
from ..costs import Costs
from ..metrics.score_heads import ScoreHeads
from ..metrics.temperature import TemperatureScaling
from ..policies import POLICIES, named_policy
from ..policies.base import Policy
from .thresholds import as_costs

CalibrationName = Literal["temperature", "eefp", "correct"]
Protocol = Literal["validation", "p1-test-sweep"]


class Arguments(NamedTuple):
    """The checked arguments of an evaluation.

    Attributes
    ----------
    policy : Policy
    thresholds_given : bool
        Whether the caller gave the thresholds of the policy.
    calibration : str, TemperatureScaling, ScoreHeads or None
        A name stands for a calibration that has yet to be fitted.
    protocol : str
    budgets : ndarray
    bins : int
    """

    policy: Policy
    thresholds_given: bool
    calibration: CalibrationName | TemperatureScaling | ScoreHeads | None
    protocol: Protocol
    budgets: Array
    bins: int


def checked_arguments(
    policy: Any,
    calibration: Any,
    protocol: Any,
    budgets: Any,
    bins: Any,
    *,
    validated: bool,
    exits: int,
) -> Arguments:
    """Check the arguments of an evaluation.

    Parameters
    ----------
    policy, calibration, protocol, budgets, bins
        As in `evaluate`.
    validated : bool
        Whether there are validation samples.
    exits : int
        Number of exits.

    Raises
    ------
    TypeError, ValueError
        As in `evaluate`.
    """
    if isinstance(policy, Policy):
        policy.cuts(exits)
        rule = policy
    else:
        rule = named_policy(policy)  # its threshold is not used
    if isinstance(calibration, str):
        if calibration not in get_args(CalibrationName):
            raise ValueError(
                f"calibration must be one of {get_args(CalibrationName)}, a fitted "
                f"TemperatureScaling or ScoreHeads, or None, got {calibration!r}"
            )
        if not validated:
            raise ValueError(
                f"calibration={calibration!r} is fitted on validation samples: pass them as "
                "validation; they must not be among the test samples"
            )
    elif not isinstance(calibration, (TemperatureScaling, ScoreHeads, type(None))):
        raise TypeError(
            "calibration must be a name, a TemperatureScaling, a ScoreHeads or None, got "
            f"{type(calibration).__name__}"
        )
    else:
        _check_fitted(calibration, exits)
    learned = calibration in ("eefp", "correct") or isinstance(calibration, ScoreHeads)
    if learned and policy != POLICIES.default:
        raise ValueError(
            "calibration by ScoreHeads replaces the score of the policy: pass either a calibration "
            "or a policy, not both"
        )
    if protocol is None:
        protocol = "validation" if validated else "p1-test-sweep"
    one_of("protocol", protocol, Protocol)
    if protocol == "validation" and not validated:
        raise ValueError(
            "protocol='validation' fits thresholds on validation samples: pass validation, or "
            "protocol='p1-test-sweep'"
        )
    limits = as_numbers("budgets", budgets, 1, "a sequence of mean costs")
    if (limits <= 0).any():
        raise ValueError(f"budgets must be positive, got {limits.tolist()}")
    return Arguments(
        rule, isinstance(policy, Policy), calibration, protocol, limits, whole("bins", bins, 1)
    )


def relative_costs(costs: Any, exits: int) -> Array:
    """Costs in units of the plain backbone, ndarray [exits], from `Costs` or numbers."""
    found = as_costs(costs.relative if isinstance(costs, Costs) else costs, exits)
    if not 0.1 < found[-1] < 10:
        raise ValueError(
            f"costs must be in units of the plain backbone, about 1 for the last exit, got "
            f"{found[-1]:g}: divide them by the cost of the backbone"
        )
    if found[0] == found[-1]:
        raise ValueError(
            f"costs must increase from the first exit to the last, got {found.tolist()}: leaving "
            "early saves nothing"
        )
    return found


def _check_fitted(calibration: TemperatureScaling | ScoreHeads | None, exits: int) -> None:
    if calibration is None:
        return
    name = "temperatures_" if isinstance(calibration, TemperatureScaling) else "intercepts_"
    fitted = getattr(calibration, name, None)
    if fitted is None:
        kind = type(calibration).__name__
        raise ValueError(
            f"calibration is a {kind} that is not fitted: call its fit(logits, labels) first, or "
            "pass a name and validation"
        )
    if len(fitted) != exits:
        raise ValueError(
            f"calibration was fitted for {len(fitted)} exits, but the model has {exits}: fit it on "
            "outputs of this model"
        )
