"""Evaluate a model with exits: every exit alone, and accuracy against mean cost under a policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..._support.communicator import OneProcess, agreed, check_group, communicator
from ..activations import first_rows, map_tensors
from ..batches import check_loader, check_model
from ..costs import Convention, Costs, count_costs
from ..metrics.score_heads import ScoreHeads
from ..metrics.temperature import TemperatureScaling
from ..model import MultiExitModel
from ..policies.base import Policy
from .arguments import CalibrationName, Protocol, checked_arguments, relative_costs
from .gathering import Shard, of_first
from .judging import check_same_shape, checked, fitted_rule, judge, judge_outputs
from .outputs import Outputs, check_outputs, collect, of_all, run_batches
from .reduction import Reducer, reduced
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
        Batches of test samples, such as a DataLoader. The labels of tokens are [batch, tokens], as
        in `collect`; each token is a sample then.
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
        calibration. A name needs the logits of all validation samples at once, see below.
    validation : iterable of (x, labels), or Outputs, optional
        Validation samples, which must be neither in the training set nor in `loader`.
    protocol : "validation" or "p1-test-sweep", optional
        Where the thresholds of the curve come from. With ``"validation"``, a threshold for each
        exit is fitted to budgets on the validation samples, as for MSDNet, and applied to the test
        samples. With ``"p1-test-sweep"``, one threshold for all exits is swept on the test samples
        themselves, as the public benchmark code for arXiv 2407.14320 does it: it takes the values
        ``linspace(0, 1, 100)``, and a sample leaves at the first exit whose largest probability is
        strictly greater (else at the last, with the default fallback of a policy). This is also how
        learned scores and temperatures are swept. Scores that are no confidences (entropy, margin,
        patience, your own) have other ranges: their threshold takes 100 equally spaced values
        between the scores of the test samples, and both extremes.
        The default is ``"validation"`` if there are validation samples.
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

    Notes
    -----
    Logits are reduced batch by batch, and none are kept. What is kept of N test samples and K exits
    takes 25 K N + 8 N bytes: the score, the NLL and the Brier score of each sample at each exit (8
    bytes each), whether it is right (1 byte), and its label. Confidences that are not the scores,
    as with the policies entropy, margin and patience, take 8 K N bytes more, and a metric of your
    own what its `laplex.early_exit.metrics.Metric.per_sample` returns. Of M validation samples the
    scores and labels take 8 K M + 8 M bytes. The measured peak is about twice as much, some 50 K N
    bytes, besides some 10 MiB for the chunk of logits at hand.

    A calibration that is fitted here needs the logits of all validation samples at once: 4 K M C
    bytes for C classes, and up to three times as much again in float64 while it is fitted to them.

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
        check_loader(loader)
        if validation is not None and not isinstance(validation, Outputs):
            check_loader(validation, "validation")
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
    first: list[Any] = []

    def passed(samples: Iterable[Any], reduce: Any) -> Shard:
        """What is kept of samples; the first of them all, to count its cost."""

        def run() -> Shard:
            reducer = Reducer(reduce)

            def take(x: Any, logits: Any, labels: Any) -> None:
                if not first and len(labels):
                    # The loader cannot be read twice: it may be exhausted, or draw other samples.
                    first.append(map_tensors(Tensor.clone, first_rows(x, 1, "x")))
                reducer.take(logits, labels)

            run_batches(model, samples, device, progress, take, group)
            return reducer.result(model.num_exits)

        return of_all(group, samples, run)

    fitting = validation
    if isinstance(arguments.calibration, str) and not isinstance(fitting, Outputs | None):
        fitting = collect(model, fitting, device=device, progress=progress, group=group)
    if isinstance(fitting, Outputs):
        fitting = checked("validation", fitting)
    rule = fitted_rule(arguments, fitting if isinstance(fitting, Outputs) else None)
    test = passed(loader, rule.reduce_all)
    unseen: Shard | None = None
    if isinstance(fitting, Outputs):
        check_same_shape(fitting, test.exits, test.classes)
        unseen = reduced(fitting, rule.reduce_scores)
    elif fitting is not None:
        unseen = passed(fitting, rule.reduce_scores)
    if costs is None:
        with agreed(comm):
            costs = count_costs(model, first[0], convention=cost_convention) if first else None
        costs = of_first(comm, costs)  # of a rank that had a sample
    prices = relative_costs(costs, model.num_exits)
    return judge(arguments, rule, test, unseen, model.output_names, prices, costs)


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
    check_outputs(outputs, validation)
    arguments = checked_arguments(
        policy,
        calibration,
        protocol,
        budgets,
        bins,
        validated=validation is not None,
        exits=len(outputs.exit_names),
    )
    return judge_outputs(arguments, outputs, costs, validation)
