"""The evaluation of a run of the command line: accuracies, costs and timing, in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..._support.results import from_plain, to_plain
from ..activations import batch_of
from ..costs import Costs, count_costs
from ..evaluation.arguments import Protocol
from ..evaluation.evaluator import evaluate
from ..evaluation.outputs import collect
from ..evaluation.real_policies import real_policy
from ..evaluation.result import Evaluation
from ..metrics import METRICS
from ..timing import Timing, time_exits
from .datasets import Split
from .exit_rules import ExitRule
from .run import Run, read_json, write_json

FILE = "evaluation.json"
#: Number of samples for `time_exits`, and the mean cost of the policy that it times.
_TIMED, _TIMED_BUDGET = 256, 0.5


@dataclass(frozen=True, eq=False)
class RunEvaluation:
    """Result of ``laplex exits evaluate`` for one run: an evaluation for each calibration."""

    split: str
    evaluations: tuple[Evaluation, ...]
    costs: Costs
    timing: Timing | None

    def write(self, folder: Path) -> None:
        """Write it into the folder of a run."""
        write_json(
            folder / FILE, {"kind": "laplex.early_exit.runs.run_evaluation", **to_plain(self)}
        )

    @classmethod
    def read(cls, folder: Path) -> RunEvaluation | None:
        """Read the evaluation in the folder of a run; None if there is none."""

        def make(values: Any) -> RunEvaluation:
            for one in values["evaluations"]:  # earlier versions knew fewer metrics
                for name in set(METRICS) & {field.name for field in fields(Evaluation)}:
                    one.setdefault(name, [None] * len(one["exit_names"]))
            found: RunEvaluation = from_plain(cls, values)
            return found

        return read_json(folder / FILE, "evaluate", make)  # type: ignore[no-any-return]


def evaluate_run(
    run: Run,
    *,
    policy: str = "max-softmax",
    calibration: Sequence[str] = ("none",),
    split: Split = "test",
    budget: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    protocol: Protocol | None = None,
    threshold: float | None = None,
    timing: bool = False,
    progress: bool = False,
) -> RunEvaluation:
    """Evaluate a run, once for each calibration.

    The arguments are the options of ``laplex exits evaluate``. Prediction is timed at the threshold
    or, without one, at half the cost of the backbone.

    Raises
    ------
    ValueError
        If the policy, the calibration and the split cannot be combined.
    """
    splits, batch = run.splits, run.settings.batch_size
    # Before the work, because this may fail.
    rules = [ExitRule(policy, one, threshold) for one in calibration]
    if timing:
        rules[-1].check_real()
    costs = count_costs(run.model, splits.example())
    unseen = None
    if split != "validation":
        unseen = collect(run.model, splits.loader("validation", batch), progress=progress)
    evaluations = tuple(
        evaluate(
            run.model,
            splits.loader(split, batch),
            **arguments,
            validation=unseen,
            protocol=protocol,
            budgets=tuple(budget),
            costs=costs,
            progress=progress,
        )
        for arguments in [rule.arguments(unseen) for rule in rules]
    )
    measured = None
    if timing:
        last = evaluations[-1]
        if threshold is None or last.evaluated is None:
            real = last.policy_at(max(_TIMED_BUDGET, float(last.costs[0])))
        else:
            real = real_policy(*last.evaluated)
        x = splits.example(_TIMED, split)
        sizes = sorted({1, min(64, batch_of(x, "x"))})
        measured = time_exits(run.model, x, real, batch_sizes=sizes)
    return RunEvaluation(split, evaluations, costs, measured)
