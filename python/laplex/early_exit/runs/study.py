"""All results of several runs, gathered for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..costs import Costs
from ..evaluation.comparison import Comparison, compare
from ..evaluation.result import Evaluation
from ..timing import Timing
from ..training.result import TrainingResult
from .datasets import SPLITS
from .results import RunAnalysis, RunEvaluation
from .run import Run
from .settings import KEYS, RunSettings, check_finished

#: Correlations over fewer runs are undefined.
_FEWEST = 3


@dataclass(frozen=True, eq=False)
class Study:
    """Results by name of the run, which is the name of its folder or chosen by the caller.

    The runs of a group of `comparison` differ only in their seed; `facts` is the row of each run in
    a table of settings, text by column.
    """

    comparison: Comparison
    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    training: dict[str, TrainingResult] = field(default_factory=dict)
    costs: dict[str, Costs] = field(default_factory=dict)
    timing: dict[str, Timing] = field(default_factory=dict)
    dynamics: dict[str, RunAnalysis] = field(default_factory=dict)

    @classmethod
    def of_runs(cls, runs: Sequence[Run]) -> Study:
        """Gather the results of runs, which must have been evaluated at the same budgets."""
        check_finished(*(run.folder for run in runs))
        named = dict(zip(_names(runs), runs, strict=True))
        judged: dict[str, RunEvaluation] = {}
        for name, run in named.items():
            found = RunEvaluation.read(run.folder)
            if found is None:
                raise ValueError(
                    f"{run.folder} was not evaluated: run `laplex exits evaluate {run.folder}`"
                )
            judged[name] = found
        inside = {name: RunAnalysis.read(run.folder) for name, run in named.items()}
        return cls(
            comparison=compare(_groups(runs, list(judged.values()))),
            facts={name: _facts(run) for name, run in named.items()},
            training={name: run.training for name, run in named.items()},
            costs={name: one.costs for name, one in judged.items()},
            timing={name: one.timing for name, one in judged.items() if one.timing is not None},
            dynamics={name: one for name, one in inside.items() if one is not None},
        )

    @property
    def notes(self) -> list[str]:
        """Reasons why the runs may not be comparable, as sentences."""
        data = sorted({facts["data"] for facts in self.facts.values() if "data" in facts})
        note = f"the runs are of different data ({', '.join(data)}), so they cannot be compared"
        return [*self.comparison.notes, *([note] if len(data) > 1 else [])]

    def text(self) -> str:
        """Format the results for the terminal: one evaluation in full, or a comparison."""
        evaluations = [one for runs in self.comparison.groups.values() for one in runs]
        if len(evaluations) == 1:
            parts = [evaluations[0].table()]
        else:
            parts = [self.comparison.table()]
            parts += [f"Note: {one}" for one in self.notes[len(self.comparison.notes) :]]
            if len(evaluations) >= _FEWEST:
                parts.append(str(self.comparison.correlations()))
        for name, timing in self.timing.items():
            parts.append(f"{name}: {timing.table()}" if len(self.timing) > 1 else timing.table())
        return "\n\n".join(parts)


def judged_as(evaluation: Evaluation) -> str:
    """A short name for the policy and the calibration of an evaluation."""
    if evaluation.calibration == "none":
        return evaluation.policy
    if evaluation.policy in ("learned score", "max softmax"):
        return evaluation.calibration
    return f"{evaluation.policy}, {evaluation.calibration}"


def _names(runs: Sequence[Run]) -> list[str]:
    """Names of the folders, or their paths if the names are not unique."""
    folders = [run.folder.resolve() for run in runs]
    short = [folder.name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def _groups(runs: Sequence[Run], judged: Sequence[RunEvaluation]) -> Mapping[str, list[Evaluation]]:
    """Evaluations, grouped by policy, calibration, and the settings (but the seed) that differ.

    The name of a group has the settings that differ between runs, unless they are unset or off.
    """
    ways = {judged_as(one) for found in judged for one in found.evaluations}
    splits = {found.split for found in judged}
    values = [vars(run.settings) for run in runs]
    keys = [key for key in KEYS if any(one[key] != values[0][key] for one in values)]
    # Exits of other backbones have other names anyway.
    left_out = {"seed", "strategy", *(["exits"] if "backbone" in keys else [])}
    keys = [key for key in keys if key not in left_out]
    groups: dict[str, list[Evaluation]] = {}
    for run, found in zip(runs, judged, strict=True):
        parts = [run.strategy, *filter(None, (_setting(run.settings, key) for key in keys))]
        if len(splits) > 1:
            parts.append(f"{found.split} samples")
        for one in found.evaluations:
            name = ", ".join([*parts, *([judged_as(one)] if len(ways) > 1 else [])])
            groups.setdefault(name, []).append(one)
    return groups


def _setting(settings: RunSettings, key: str) -> str:
    """A setting as part of a group's name; empty if it is unset or off."""
    value = getattr(settings, key)
    if value is None or value is False or value == {}:
        return ""
    if key in ("data", "backbone", "head"):
        return str(value)
    label = key.replace("_", " ")
    if value is True:
        return label
    if isinstance(value, dict):
        options = ", ".join(f"{name} {one}" for name, one in value.items())
        return f"{label} ({options})"
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    return f"{label} {value}"


def _facts(run: Run) -> dict[str, str]:
    settings, history = run.settings, run.history
    samples = [f"{history['samples'][split]:,}" for split in SPLITS]
    return {
        "strategy": run.strategy,
        "data": str(history["data"]),
        f"samples ({' / '.join(SPLITS)})": " / ".join(samples),
        "backbone": settings.backbone,
        "exits": ", ".join(run.training.exit_names),
        "head": settings.head,
        "seed": str(settings.seed),
        "seconds": f"{history['seconds']:.0f}",
    }
