"""The function `report`: all results of networks with exits in one self-contained HTML file."""

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
from ..runs.results import RunAnalysis
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
    """Write a report about networks with exits as one HTML file with embedded figures.

    The report explains what early exits are and what each number means. Its sections cover the
    training of the networks, accuracy against cost and baselines, calibration and failure
    prediction of each exit, which of these two indicates a good network, measurements inside the
    networks, and the cost of a sample.

    Parameters
    ----------
    results : Comparison, Evaluation, mapping, or sequence of paths
        Evaluations by name, as for `laplex.early_exit.compare`; several evaluations under one name
        are runs that differ only in their seed. Alternatively, folders of runs that
        ``laplex exits train`` wrote and ``laplex exits evaluate`` evaluated; all other results are
        then read from these folders.
    out : path
        The file to write. It is replaced only when the report is complete.
    training, costs, timing, dynamics : mapping of str to result, optional
        Results by name, for their sections. They cannot be combined with folders.
    title : str
        Title of the page.

    Returns
    -------
    Path
        The path of the file, `out`.

    Raises
    ------
    ImportError
        If matplotlib or Jinja is not installed; the message names the extra that installs it.
    TypeError, ValueError
        If `results` holds anything but results, or folders without runs or with runs that were not
        evaluated.
    OSError
        If the file cannot be written.

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
                f"{given[0]} is read from the folders of the runs: leave it out, or pass "
                "evaluations as results"
            )
        study = _of_folders(results)
    return write_page(study, Path(out), title)


def write_page(study: Study, path: Path, title: str) -> Path:
    """Write the page of a study, completely or not at all."""
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
            f"results must be a mapping of names to evaluations, or a list of folders of runs, got "
            f"{type(folders).__name__}"
        )
    if not folders:
        raise ValueError("results is empty: pass at least one folder of a run")
    return Study.of_runs([Run.open(Path(folder)) for folder in folders])
