"""The evaluation of a run of the command line: accuracies, costs and timing, in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..._support.results import from_plain, to_plain
from ..costs import Costs, count_costs
from ..evaluation.arguments import Protocol
from ..evaluation.evaluator import evaluate_outputs
from ..evaluation.outputs import collect
from ..evaluation.result import Evaluation
from ..timing import Timing, time_exits
from .datasets import Split
from .exit_rules import ExitRule
from .run import Run, write_json

FILE = "evaluation.json"
_KIND = "laplex.early_exit.runs.run_evaluation"
#: Number of images for `time_exits`, and the mean cost of the policy that it times.
_TIMED, _TIMED_BUDGET = 256, 0.5


@dataclass(frozen=True, eq=False)
class RunEvaluation:
    """Result of ``laplex exits evaluate`` for one run.

    Attributes
    ----------
    split : str
        The images that the run was evaluated on.
    evaluations : tuple of Evaluation
        One evaluation for each calibration.
    costs : Costs
    timing : Timing or None
    """

    split: str
    evaluations: tuple[Evaluation, ...]
    costs: Costs
    timing: Timing | None

    def write(self, folder: Path) -> None:
        """Write it into the folder of a run."""
        values = {
            "kind": _KIND,
            "split": self.split,
            "costs": self.costs,
            "timing": self.timing,
            "evaluations": self.evaluations,
        }
        write_json(folder / FILE, to_plain(values))

    @classmethod
    def read(cls, folder: Path) -> RunEvaluation | None:
        """Read the evaluation in the folder of a run, or return None if there is none.

        Raises
        ------
        ValueError
            If the file holds something else.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            found: RunEvaluation = from_plain(cls, json.loads(path.read_text("utf-8")))
            return found
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} was not written by `laplex exits evaluate` ({error}): evaluate the run "
                "again"
            ) from error


def evaluate_run(
    run: Run,
    *,
    policy: str = "max-softmax",
    calibrations: Sequence[str] = ("none",),
    split: Split = "test",
    budgets: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    protocol: Protocol | None = None,
    threshold: float | None = None,
    timing: bool = False,
    progress: bool = False,
) -> RunEvaluation:
    """Run a model over images and evaluate it, once for each calibration.

    Parameters
    ----------
    run : Run
    policy : str
        A name from `laplex.early_exit.policies.POLICIES`.
    calibrations : sequence of str
        ``"none"``, ``"temperature"``, ``"eefp"`` or ``"correct"``; fitted on validation images.
    split : str
        The images to evaluate on. With the validation images, no calibration can be fitted.
    budgets, protocol
        As in `evaluate`.
    threshold : float, optional
        Threshold in the units of the policy, for `Evaluation.operating_point`.
    timing : bool
        Whether to time prediction with early exits, too: at the threshold or, without one, at half
        the cost of the backbone.
    progress : bool
        Whether to show progress bars.

    Raises
    ------
    ValueError
        If the policy, the calibration and the split cannot be combined.
    """
    splits = run.splits
    # Before the work, because this may fail.
    rules = [ExitRule(policy, one, threshold) for one in calibrations]
    costs = count_costs(run.model, splits.example())
    outputs = collect(run.model, splits.loader(split, 500), progress=progress)
    unseen = None
    if split != "validation":
        unseen = collect(run.model, splits.loader("validation", 500), progress=progress)
    fitted = [rule.fitted(unseen) for rule in rules]
    if timing:
        fitted[-1].real()
    evaluations = tuple(
        evaluate_outputs(
            outputs,
            costs,
            policy=one.judged,
            calibration=one.calibration,
            validation=unseen,
            protocol=protocol,
            budgets=tuple(budgets),
        )
        for one in fitted
    )
    measured = None
    if timing:
        real, last = fitted[-1].real(), evaluations[-1]
        if threshold is None:
            real = last.policy_at(max(_TIMED_BUDGET, float(last.costs[0])))
        measured = time_exits(run.model, splits.images[split][:_TIMED], real)
    return RunEvaluation(split, evaluations, costs, measured)
