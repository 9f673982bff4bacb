"""Judge a run of the command line: evaluations, costs and timing, kept in its folder."""

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
#: Test images that `time_exits` goes through, and the mean cost at which it does.
_TIMED, _TIMED_BUDGET = 256, 0.5


@dataclass(frozen=True, eq=False)
class RunEvaluation:
    """What ``laplex exits evaluate`` found of one run.

    Attributes
    ----------
    split : str
        The images that it was judged on.
    evaluations : tuple of Evaluation
        One for each calibration.
    costs : Costs
    timing : Timing or None
    """

    split: str
    evaluations: tuple[Evaluation, ...]
    costs: Costs
    timing: Timing | None

    def write(self, folder: Path) -> None:
        """Put it into a run's folder."""
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
        """That of a run's folder, or None where it was not evaluated.

        Raises
        ------
        ValueError
            The file holds something else.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            found: RunEvaluation = from_plain(cls, json.loads(path.read_text("utf-8")))
            return found
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is not what `laplex exits evaluate` writes ({error}): evaluate the run "
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
    """Run a model over images and judge it, once for each calibration.

    Parameters
    ----------
    run : Run
    policy : str
        A name of `laplex.early_exit.policies.POLICIES`.
    calibrations : sequence of str
        ``"none"``, ``"temperature"``, ``"eefp"``, ``"correct"``; fitted on validation images.
    split : str
        Judged on the validation images, there are none to fit on.
    budgets, protocol
        As in `evaluate`.
    threshold : float, optional
        Of the policy, in its own units, for `Evaluation.operating_point`.
    timing : bool
        Measure real exits too, at the threshold or, without one, at half the backbone's cost.
    progress : bool

    Raises
    ------
    ValueError
        Names that don't go together.
    """
    splits = run.splits
    # Before the work, as this is what fails.
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
            within = max(_TIMED_BUDGET, float(last.curve.cost.min()))
            real = real.with_cuts(last.cuts_at(within))
        measured = time_exits(run.model, splits.images[split][:_TIMED], real)
    return RunEvaluation(split, evaluations, costs, measured)
