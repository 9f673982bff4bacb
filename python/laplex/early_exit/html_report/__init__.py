"""`report`: all that is known of networks with exits, as one HTML file that needs nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..._support.complete_files import replacing
from ..._support.optional import require
from ..costs import Costs
from ..dynamics import Analysis
from ..evaluation.comparison import Comparison, compare
from ..evaluation.result import Evaluation
from ..runs.run_analysis import RunAnalysis
from ..runs.study import Study
from ..timing import Timing
from ..training.result import TrainingResult

__all__ = ["report"]


def report(
    results: Comparison
    | Evaluation
    | Mapping[str, Evaluation | Sequence[Evaluation]]
    | Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] = "exits-report.html",
    training: Mapping[str, TrainingResult] | None = None,
    costs: Mapping[str, Costs] | None = None,
    timing: Mapping[str, Timing] | None = None,
    dynamics: Mapping[str, Analysis] | None = None,
    title: str = "Early exits",
) -> Path:
    """Write a study of networks with exits as one HTML file, pictures embedded.

    It says in plain words what early exits are and what each number means: how the networks were
    trained, accuracy against cost beside baselines, each exit's calibration and failure prediction,
    which of the two tells a good network, what goes on inside, what a sample costs.

    Parameters
    ----------
    results : Comparison, Evaluation, mapping, or sequence of paths
        Evaluations by name, several of one name being runs that differ in their seed alone; or
        folders of runs that ``laplex exits train`` wrote and ``laplex exits evaluate`` judged,
        from which all the rest is taken.
    out : path
        Written when it is complete.
    training, costs, timing, dynamics : mapping of str to result, optional
        By name, for their sections; not beside folders.
    title : str

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    ImportError
        matplotlib or Jinja is missing; the message names the extra.
    TypeError, ValueError
        Something else than results; folders without runs, or with runs that were not judged.
    OSError
        It can't be written there.

    Examples
    --------
    >>> from laplex.early_exit import report                       # doctest: +SKIP
    >>> report({"mixed": evaluation}, out="exits.html")            # doctest: +SKIP
    """
    for package in ("matplotlib", "jinja2"):
        require(package, extra="exits", feature="laplex.early_exit.report")
    extras = {"training": training, "costs": costs, "timing": timing, "dynamics": dynamics}
    if isinstance(results, (Comparison, Evaluation, Mapping)):
        study = _study(results, extras)
    else:
        given = [name for name, one in extras.items() if one is not None]
        if given:
            raise ValueError(
                f"{given[0]} is read from the folders of runs: leave it out, or pass evaluations"
            )
        study = _of_folders(results)
    return write_page(study, Path(out), title)


def write_page(study: Study, path: Path, title: str) -> Path:
    """Write the page of a study, whole or not at all."""
    from .page import render

    with replacing(path) as part:
        part.write_text(render(study, title), encoding="utf-8")
    return path


def _study(results: Any, extras: Mapping[str, Any]) -> Study:
    if isinstance(results, Evaluation):
        results = {"network": results}
    comparison = results if isinstance(results, Comparison) else compare(results)
    kinds = {"training": TrainingResult, "costs": Costs, "timing": Timing, "dynamics": Analysis}
    checked: dict[str, dict[str, Any]] = {}
    for name, given in extras.items():
        checked[name] = {str(key): one for key, one in (given or {}).items()}
        for key, one in checked[name].items():
            if not isinstance(one, kinds[name]):
                raise TypeError(
                    f"{name}[{key!r}] must be of type {kinds[name].__name__}, got "
                    f"{type(one).__name__}"
                )
    checked["dynamics"] = {key: RunAnalysis.of(one) for key, one in checked["dynamics"].items()}
    return Study(comparison, **checked)


def _of_folders(folders: Any) -> Study:
    from ..runs.run import Run

    if isinstance(folders, (str, os.PathLike)) or not isinstance(folders, Sequence):
        raise TypeError(
            f"results must be evaluations by name, or a list of folders, got "
            f"{type(folders).__name__}"
        )
    if not folders:
        raise ValueError("results is empty: pass at least one folder of a run")
    return Study.of_runs([Run.open(Path(folder)) for folder in folders])
