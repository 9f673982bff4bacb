"""What ``laplex exits evaluate`` and ``analyze`` write into the folder of a run, and read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..._support.complete_files import replacing
from ..._support.html_pages import png_of
from ..._support.results import from_plain, to_plain
from ..activations import batch_of
from ..costs import Costs, count_costs
from ..dynamics import Analysis
from ..evaluation.arguments import Protocol
from ..evaluation.evaluator import evaluate, evaluate_outputs
from ..evaluation.outputs import Outputs, collect
from ..evaluation.real_policies import real_policy
from ..evaluation.result import Evaluation
from ..metrics import METRICS
from ..metrics.score_heads import ScoreHeads
from ..metrics.temperature import TemperatureScaling
from ..policies import POLICIES, named_policy
from ..policies.base import Policy
from ..policies.learned import LearnedScore
from ..timing import Timing, time_exits
from .datasets import Split
from .run import Run, read_json, write_json

_EVALUATION, _ANALYSIS = "evaluation.json", "analysis/analysis.json"
_TARGETS = ("eefp", "correct")
#: Number of samples for `time_exits`.
_TIMED = 256


@dataclass(frozen=True)
class ExitRule:
    """A policy and a calibration by name, and a threshold in the units of the policy.

    The calibration is ``"none"``, ``"temperature"``, or the target of score heads, ``"eefp"`` or
    ``"correct"``. The policy ``"learned"`` alone uses score heads with the target ``"eefp"``.
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

    def arguments(self, unseen: Outputs | None) -> dict[str, Any]:
        """The arguments ``policy`` and ``calibration`` of `evaluate`, which fits on `unseen`."""
        policy: str | Policy = self.policy
        name = None if self.calibration == "none" else self.calibration
        if policy == "learned":
            policy, name = str(POLICIES.default), name or "eefp"
        if name is not None and unseen is None:
            raise ValueError(
                f"calibration {name} is fitted on the validation samples, so the run cannot be "
                "evaluated on them: use --split test"
            )
        if self.threshold is not None:
            if name in _TARGETS and unseen is not None:
                heads = ScoreHeads(target=name).fit(unseen.logits, unseen.labels)  # type: ignore[arg-type]
                return {"policy": LearnedScore(heads, self.threshold), "calibration": None}
            policy = named_policy(str(policy), self.threshold)
        return {"policy": policy, "calibration": name}

    def fitted(self, unseen: Outputs, costs: Costs, budget: float | None = None) -> Policy:
        """The policy for `MultiExitModel.predict`, fitted on held-out samples; see `decider`."""
        again = unseen.subset(slice(None))  # of the same object, an evaluation would be refused
        found = evaluate_outputs(again, costs, validation=unseen, **self.arguments(unseen))
        return self.decider(found, budget)

    def of_run(self, run: Run, budget: float | None = None) -> Policy:
        """The policy of a run's model, fitted on its validation samples; see `decider`."""
        unseen = collect(run.model, run.splits.loader("validation", run.settings.batch_size))
        return self.fitted(unseen, count_costs(run.model, run.splits.example()), budget)

    def decider(self, found: Evaluation, budget: float | None = None) -> Policy:
        """The policy that was evaluated, with the rule's threshold or thresholds for a mean cost.

        The default of the cost is 0.5, or the cost of the first exit if that is larger.
        """
        if self.threshold is not None and found.evaluated is not None:
            return real_policy(*found.evaluated)
        return found.policy_at(max(0.5, float(found.costs[0])) if budget is None else budget)


@dataclass(frozen=True, eq=False)
class RunEvaluation:
    """Result of ``laplex exits evaluate`` for one run: an evaluation for each calibration."""

    split: str
    evaluations: tuple[Evaluation, ...]
    costs: Costs
    timing: Timing | None

    def write(self, run: Path) -> None:
        """Write it into the folder of a run."""
        write_json(run / _EVALUATION, to_plain(self))

    @classmethod
    def read(cls, run: Path) -> RunEvaluation | None:
        """Read the evaluation in the folder of a run; None if there is none."""

        def make(values: Any) -> RunEvaluation:
            for one in values["evaluations"]:  # earlier versions knew fewer metrics
                for name in set(METRICS) & {field.name for field in fields(Evaluation)}:
                    one.setdefault(name, [None] * len(one["exit_names"]))
            return from_plain(cls, values)  # type: ignore[no-any-return]

        return read_json(run / _EVALUATION, "evaluate", make)


def evaluate_run(
    run: Run,
    *,
    policy: str = "max-softmax",
    calibration: Sequence[str] = ("none",),
    split: Split = "test",
    budget: Sequence[float] | None = None,
    protocol: Protocol | None = None,
    threshold: float | None = None,
    timing: bool = False,
    progress: bool = False,
) -> RunEvaluation:
    """Evaluate a run, once for each calibration, as the options of ``laplex exits evaluate`` say.

    Prediction is timed at the threshold or, without one, at half the cost of the backbone.
    """
    splits, batch = run.splits, run.settings.batch_size
    # Before the work, because this may fail.
    rules = [ExitRule(policy, one, threshold) for one in calibration]
    if timing and rules[-1].calibration == "temperature":
        real_policy(named_policy(policy), TemperatureScaling())
    costs = count_costs(run.model, splits.example())
    unseen = None
    if split != "validation":
        unseen = collect(run.model, splits.loader("validation", batch), progress=progress)
    shared: dict[str, Any] = {
        "validation": unseen,
        "protocol": protocol,
        "costs": costs,
        "budgets": tuple(budget or (0.25, 0.5, 0.75, 1.0)),
    }
    ways, loader = [rule.arguments(unseen) for rule in rules], splits.loader(split, batch)
    if len(ways) == 1:  # keeps no logits
        evaluations = [evaluate(run.model, loader, progress=progress, **shared, **ways[0])]
    else:  # runs the model once
        outputs = collect(run.model, loader, progress=progress)
        evaluations = [evaluate_outputs(outputs, **shared, **way) for way in ways]
    measured = None
    if timing:
        x = splits.example(_TIMED, split)
        sizes = sorted({1, min(64, batch_of(x, "x"))})
        measured = time_exits(run.model, x, rules[-1].decider(evaluations[-1]), batch_sizes=sizes)
    return RunEvaluation(split, tuple(evaluations), costs, measured)


@dataclass(frozen=True, eq=False)
class RunAnalysis:
    """Result of ``laplex exits analyze`` for one run, ready for display.

    Tables and pictures (PNG files) are by the name of the measurement, `failures` are the reasons
    of those that failed, and `numbers` is the result of ``Analysis.to_dict()``.
    """

    tables: dict[str, str]
    pictures: dict[str, bytes]
    failures: dict[str, str]
    numbers: dict[str, Any]

    @classmethod
    def of(cls, analysis: Analysis) -> RunAnalysis:
        """Make the tables and figures of an analysis."""
        parts = analysis.parts()
        tables = {name: part.table() for name, part in parts.items()}
        pictures = {name: png_of(part.plot()) for name, part in parts.items()}
        return cls(tables, pictures, dict(analysis.failures), analysis.to_dict())

    def write(self, run: Path) -> Path:
        """Write it into the folder of a run, the numbers last; return the folder written to."""
        path = run / _ANALYSIS
        path.parent.mkdir(exist_ok=True)
        for name, content in self.pictures.items():
            with replacing(path.with_name(f"{name}.png")) as part:
                part.write_bytes(content)
        write_json(path, {name: one for name, one in vars(self).items() if name != "pictures"})
        return path.parent

    @classmethod
    def read(cls, run: Path) -> RunAnalysis | None:
        """Read the analysis in the folder of a run; None if there is none."""
        path = run / _ANALYSIS

        def make(values: Any) -> RunAnalysis:
            tables = dict(values["tables"])
            pictures = {name: path.with_name(f"{name}.png").read_bytes() for name in tables}
            return cls(tables, pictures, dict(values["failures"]), dict(values["numbers"]))

        return read_json(path, "analyze", make)
