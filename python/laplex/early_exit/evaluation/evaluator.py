"""Judge a model with exits: each exit, and accuracy against mean cost under a policy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..activations import map_tensors
from ..costs import Convention, Costs, count_costs
from ..metrics.score_heads import ScoreHeads
from ..metrics.temperature import TemperatureScaling
from ..model import MultiExitModel
from ..policies.base import Policy
from .arguments import CalibrationName, Protocol, checked_arguments, relative_costs
from .judging import judge
from .outputs import Outputs, collect
from .result import Evaluation


def evaluate(
    model: MultiExitModel,
    loader: Iterable[Any],
    *,
    policy: str | Policy = "max-softmax",
    calibration: CalibrationName | TemperatureScaling | ScoreHeads | None = None,
    validation: Iterable[Any] | Outputs | None = None,
    protocol: Protocol | None = None,
    budgets: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    costs: Costs | Sequence[float] | None = None,
    bins: int = 15,
    cost_convention: Convention = "multiply-adds",
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Evaluation:
    """Run a model over test samples and judge it.

    Decisions are made offline from all exits' logits; `MultiExitModel.predict` makes the same.

    Parameters
    ----------
    model : MultiExitModel
    loader : iterable of (x, labels)
        Batches of test samples, such as a DataLoader's.
    policy : str or Policy
        Whose scores decide: ``"max-softmax"``, ``"entropy"``, ``"margin"``, ``"patience"``, or what
        `laplex.early_exit.policies.POLICIES` has besides. Of a `Policy` the comparison and the
        fallback are used for the curve, and its own thresholds for `Evaluation.operating_point`.
    calibration : "temperature", "eefp", "correct", TemperatureScaling, ScoreHeads or None
        ``"temperature"``: `TemperatureScaling` fitted on validation samples. ``"eefp"``,
        ``"correct"``: `ScoreHeads` with that target fitted on validation samples; their score takes
        the place of the policy's. Or either of the two, fitted already.
    validation : iterable of (x, labels), or Outputs
        Samples that the model was not trained on and that are not in `loader`.
    protocol : "validation" or "p1-test-sweep", optional
        Where thresholds of the curve come from. ``"validation"``: per exit, fitted to budgets on
        validation samples, as MSDNet has it, and applied to the test samples.
        ``"p1-test-sweep"``: one for all exits, 100 even values between the scores of the test
        samples themselves, as arXiv 2407.14320 sweeps them. When not given, the first where there
        are validation samples.
    budgets : sequence of float
        Mean costs at which accuracy is told, in units of the plain backbone.
    costs : Costs or sequence of K float, optional
        Of a sample that leaves at exit k, in units of the plain backbone; counted by `count_costs`
        on the first sample when not given.
    bins : int
        Of the calibration error.
    cost_convention : "multiply-adds" or "flops"
        For `count_costs`.
    device : torch.device or str, optional
        Where batches go; that of the model's first parameter when not given.
    progress : bool
        Show bars.

    Returns
    -------
    Evaluation

    Raises
    ------
    TypeError, ValueError
        An unknown name, thresholds for another number of exits, a calibration or a protocol that
        needs validation samples without any, or what `collect` raises.

    Examples
    --------
    >>> import torch
    >>> from laplex.early_exit import MultiExitModel, evaluate, networks
    >>> backbone = networks.small_mlp(4, 3, seed=0)
    >>> model = MultiExitModel.attach(
    ...     backbone, ["layers.0"], num_classes=3, example=torch.zeros(1, 4), head="linear"
    ... )
    >>> x, y = torch.randn(64, 4), torch.arange(64) % 3
    >>> result = evaluate(model, [(x, y)])
    >>> result.samples, result.protocol
    (64, 'p1-test-sweep')
    """
    if not isinstance(model, MultiExitModel):
        raise TypeError(
            f"model must be a MultiExitModel, got {type(model).__name__}: use evaluate_outputs for "
            "logits"
        )
    arguments = checked_arguments(
        policy,
        calibration,
        protocol,
        budgets,
        bins,
        validated=validation is not None,
        exits=model.num_exits,
    )
    if costs is not None:
        relative_costs(costs, model.num_exits)
    if validation is not None and validation is loader:
        raise ValueError(
            "validation is the loader itself: pass other samples, or thresholds are fitted to "
            "those that they are judged on"
        )
    with _first_sample(model) as first:
        outputs = collect(model, loader, device=device, progress=progress)
    if costs is None:
        costs = count_costs(model, first[0], convention=cost_convention)
    if validation is not None and not isinstance(validation, Outputs):
        validation = collect(model, validation, device=device, progress=progress)
    return judge(arguments, outputs, costs, validation)


def evaluate_outputs(
    outputs: Outputs,
    costs: Costs | Sequence[float],
    *,
    policy: str | Policy = "max-softmax",
    calibration: CalibrationName | TemperatureScaling | ScoreHeads | None = None,
    validation: Outputs | None = None,
    protocol: Protocol | None = None,
    budgets: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    bins: int = 15,
) -> Evaluation:
    """Judge logits that are there already, as `evaluate` does.

    Parameters
    ----------
    outputs : Outputs
        Of test samples; from `collect`, or of your own arrays.
    costs : Costs or sequence of K float
        Of a sample that leaves at exit k, in units of the plain backbone; not falling.
    policy, calibration, protocol, budgets, bins
        As in `evaluate`.
    validation : Outputs, optional

    Returns
    -------
    Evaluation

    Raises
    ------
    TypeError, ValueError
        As `evaluate`; logits that are not finite, labels out of range.
    """
    for name, value in (("outputs", outputs), ("validation", validation)):
        if not isinstance(value, Outputs) and not (name == "validation" and value is None):
            raise TypeError(
                f"{name} must be Outputs, got {type(value).__name__}: use collect(model, loader), "
                "or Outputs(logits, labels, exit_names)"
            )
    arguments = checked_arguments(
        policy,
        calibration,
        protocol,
        budgets,
        bins,
        validated=validation is not None,
        exits=len(outputs.exit_names),
    )
    return judge(arguments, outputs, costs, validation)


@contextmanager
def _first_sample(model: MultiExitModel) -> Iterator[list[Any]]:
    """Note the first sample that goes into a model, for its cost to be counted.

    A loader can't be asked twice: it may be used up, or draw anew.
    """
    seen: list[Any] = []

    def note(module: Any, inputs: tuple[Any, ...]) -> None:
        if not seen:
            seen.append(map_tensors(lambda tensor: tensor[:1].clone(), inputs[0]))

    handle = model.register_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()
