"""What is known of some runs, gathered: for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..costs import Costs
from ..evaluation.comparison import Comparison, compare
from ..evaluation.result import Evaluation
from ..timing import Timing
from ..training.result import TrainingResult
from .run import Run
from .run_analysis import RunAnalysis
from .run_evaluation import RunEvaluation
from .settings import KEYS, RunSettings

#: Correlations over fewer runs are undefined.
_FEWEST = 3


@dataclass(frozen=True, eq=False)
class Study:
    """Results by name; names of runs are those of their folders, or what the caller chose.

    Attributes
    ----------
    comparison : Comparison
        By group: what differs in its seed alone.
    facts : dict of str to dict
        Of each run, what there is to say about it in a table: column -> text.
    training : dict of str to TrainingResult
    costs : dict of str to Costs
    timing : dict of str to Timing
    dynamics : dict of str to RunAnalysis
    """

    comparison: Comparison
    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    training: dict[str, TrainingResult] = field(default_factory=dict)
    costs: dict[str, Costs] = field(default_factory=dict)
    timing: dict[str, Timing] = field(default_factory=dict)
    dynamics: dict[str, RunAnalysis] = field(default_factory=dict)

    @classmethod
    def of_runs(cls, runs: Sequence[Run]) -> Study:
        """Of runs that were judged.

        Raises
        ------
        ValueError
            One was not, or they were judged at other budgets.
        """
        names = _names(runs)
        judged: dict[str, RunEvaluation] = {}
        for run, name in zip(runs, names, strict=True):
            found = RunEvaluation.read(run.folder)
            if found is None:
                raise ValueError(
                    f"{run.folder} was not judged: run `laplex exits evaluate {run.folder}`"
                )
            judged[name] = found
        groups = _groups(runs, list(judged.values()))
        inside = {name: RunAnalysis.read(run.folder) for run, name in zip(runs, names, strict=True)}
        return cls(
            comparison=compare(groups),
            facts={name: _facts(run) for run, name in zip(runs, names, strict=True)},
            training={name: run.training for run, name in zip(runs, names, strict=True)},
            costs={name: one.costs for name, one in judged.items()},
            timing={name: one.timing for name, one in judged.items() if one.timing is not None},
            dynamics={name: one for name, one in inside.items() if one is not None},
        )

    def text(self) -> str:
        """For the terminal: one evaluation in full; several side by side."""
        groups = self.comparison.groups
        evaluations = [one for runs in groups.values() for one in runs]
        if len(evaluations) == 1:
            parts = [evaluations[0].table()]
        else:
            parts = [self.comparison.table()]
            if len(evaluations) >= _FEWEST:
                parts.append(str(self.comparison.correlations()))
        for name, timing in self.timing.items():
            parts.append(f"{name}: {timing.table()}" if len(self.timing) > 1 else timing.table())
        return "\n\n".join(parts)


def judged_as(evaluation: Evaluation) -> str:
    """How an evaluation came to its scores, in few words."""
    if evaluation.calibration == "none":
        return evaluation.policy
    if evaluation.policy == "learned score":
        return evaluation.calibration
    if evaluation.policy == "max softmax":
        return evaluation.calibration
    return f"{evaluation.policy}, {evaluation.calibration}"


def _names(runs: Sequence[Run]) -> list[str]:
    """Names of folders; whole paths where these are not enough."""
    folders = [run.folder.resolve() for run in runs]
    if len(set(folders)) < len(folders):
        raise ValueError(f"a run is named twice: {', '.join(str(run.folder) for run in runs)}")
    short = [folder.name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def _groups(runs: Sequence[Run], judged: Sequence[RunEvaluation]) -> Mapping[str, list[Evaluation]]:
    """Evaluations by what their runs differ in, seeds left aside, and by how they were judged."""
    ways = {judged_as(one) for found in judged for one in found.evaluations}
    splits = {found.split for found in judged}
    keys = [
        key
        for key in KEYS
        if key not in ("seed", "strategy")
        and any(getattr(run.settings, key) != getattr(runs[0].settings, key) for run in runs)
    ]
    if "backbone" in keys:  # whose exits have other names anyway
        keys = [key for key in keys if key != "exits"]
    groups: dict[str, list[Evaluation]] = {}
    for run, found in zip(runs, judged, strict=True):
        parts = [run.strategy, *(_setting(run.settings, key) for key in keys)]
        if len(splits) > 1:
            parts.append(f"{found.split} images")
        for one in found.evaluations:
            name = ", ".join([*parts, *([judged_as(one)] if len(ways) > 1 else [])])
            groups.setdefault(name, []).append(one)
    return groups


def _setting(settings: RunSettings, key: str) -> str:
    value = getattr(settings, key)
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    return str(value) if key in ("data", "backbone", "head") else f"{key} {value}"


def _facts(run: Run) -> dict[str, str]:
    settings, history = run.settings, run.history
    samples = history["samples"]
    return {
        "strategy": run.strategy,
        "data": str(history["data"]),
        "images (train / validation / test)": " / ".join(
            f"{samples[split]:,}" for split in ("train", "validation", "test")
        ),
        "backbone": settings.backbone,
        "exits": ", ".join(run.training.exit_names),
        "head": settings.head,
        "seed": str(settings.seed),
        "seconds": f"{history['seconds']:.0f}",
    }
