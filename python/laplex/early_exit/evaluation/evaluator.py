"""Evaluate a model with exits: every exit alone, and accuracy against mean cost under a policy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ..._support.communicator import OneProcess, agreed, check_group, communicator
from ..activations import map_tensors
from ..batches import check_model
from ..costs import Convention, Costs, count_costs
from ..metrics.score_heads import ScoreHeads
from ..metrics.temperature import TemperatureScaling
from ..model import MultiExitModel
from ..policies.base import Policy
from .arguments import CalibrationName, Protocol, checked_arguments, relative_costs
from .gathering import of_first
from .judging import judge
from .outputs import Outputs, collect
from .result import Evaluation

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


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
    group: ProcessGroup | None = None,
) -> Evaluation:
    """Run a model over test samples and evaluate it.

    Exit decisions are computed offline from the logits of all exits; they are the decisions of
    `MultiExitModel.predict`.

    Parameters
    ----------
    model : MultiExitModel
        The model.
    loader : iterable of (x, labels)
        Batches of test samples, such as a DataLoader.
    policy : str or Policy
        The exit policy. A name selects one from `laplex.early_exit.policies.POLICIES`:
        ``"max-softmax"``, ``"entropy"``, ``"margin"``, ``"patience"``, or one of your own. For a
        `Policy`, the curve uses its score, comparison and fallback, and
        `Evaluation.operating_point` uses its own thresholds.
    calibration : "temperature", "eefp", "correct", TemperatureScaling or ScoreHeads, optional
        Calibration of the scores. ``"temperature"`` fits a `TemperatureScaling` on the validation
        samples. ``"eefp"`` and ``"correct"`` fit `ScoreHeads` with that target on the validation
        samples; their score replaces that of the policy. You can also pass an object of either
        class that is already fitted. `Evaluation.policy_at` returns the policy with this
        calibration.
    validation : iterable of (x, labels), or Outputs, optional
        Validation samples, which must be neither in the training set nor in `loader`.
    protocol : "validation" or "p1-test-sweep", optional
        Where the thresholds of the curve come from. With ``"validation"``, a threshold for each
        exit is fitted to budgets on the validation samples, as for MSDNet, and applied to the test
        samples. With ``"p1-test-sweep"``, one threshold for all exits takes 100 equally spaced
        values between the scores of the test samples themselves, as in arXiv 2407.14320. The
        default is ``"validation"`` if there are validation samples.
    budgets : sequence of float
        Mean costs at which the accuracy is reported, in units of the plain backbone.
    costs : Costs or sequence of K float, optional
        Cost of a sample that leaves at exit k, in units of the plain backbone. By default
        `count_costs` counts it on the first sample.
    bins : int
        Number of bins of the calibration error.
    cost_convention : "multiply-adds" or "flops"
        Unit for `count_costs`.
    device : torch.device or str, optional
        Device that batches are moved to; by default that of the model's first parameter.
    progress : bool
        Whether to show progress bars.
    group : torch.distributed.ProcessGroup, optional
        Processes that each run a part of the samples; see `collect`. All of them call this function
        with loaders of their parts, and all get the evaluation of all samples, with thresholds and
        calibration fitted to all validation samples. Validation samples given as `Outputs` are
        taken for all samples, as `collect` gathers them.

    Returns
    -------
    Evaluation

    Raises
    ------
    TypeError, ValueError
        If a name is unknown, the thresholds are for another number of exits, or the calibration or
        the protocol needs validation samples and there are none. `collect` may raise these, too.

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
    check_group(group)
    comm = OneProcess() if group is None else communicator(group)
    with agreed(comm):
        check_model(model, otherwise="to evaluate logits, use evaluate_outputs")
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
                "validation is the loader itself: pass other samples, because thresholds must not "
                "be fitted to the test samples"
            )
    with _first_sample(model) as first:
        outputs = collect(model, loader, device=device, progress=progress, group=group)
    if costs is None:
        with agreed(comm):
            costs = count_costs(model, first[0], convention=cost_convention) if first else None
        costs = of_first(comm, costs)  # of a rank that had a sample
    if validation is not None and not isinstance(validation, Outputs):
        validation = collect(model, validation, device=device, progress=progress, group=group)
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
    """Evaluate logits that have already been computed.

    Parameters
    ----------
    outputs : Outputs
        Logits and labels of the test samples, from `collect` or from your own arrays.
    costs : Costs or sequence of K float
        Cost of a sample that leaves at exit k, in units of the plain backbone; must not decrease.
    policy, calibration
        As in `evaluate`.
    validation : Outputs, optional
        Logits and labels of the validation samples.
    protocol, budgets, bins
        As in `evaluate`.

    Returns
    -------
    Evaluation

    Raises
    ------
    TypeError, ValueError
        As in `evaluate`, or if logits are not finite or labels are out of range.
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
    """Keep the first sample that goes into a model, so that its cost can be counted.

    The loader cannot be read twice: it may be exhausted, or draw other samples.
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
