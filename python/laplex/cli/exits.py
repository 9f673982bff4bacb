"""The commands of ``laplex exits``. Importing this needs only typer and rich, and is fast."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import typer

from laplex._support.command_errors import (
    caution,
    check_folder,
    result_folder,
    sentences,
    shows_progress,
    stoppable,
)
from laplex._support.complete_files import check_writable
from laplex._support.options import choice, with_options
from laplex._support.settings_files import changed

from ..early_exit.deployment.export_folder import check_export_folder
from ..early_exit.policies import POLICIES
from ..early_exit.runs.settings import (
    CONFIG,
    KEYS,
    MAX_SEED,
    WEIGHTS,
    RunSettings,
    check_finished,
    read_settings,
)
from ..early_exit.runs.sources import check_sources, check_trusted

CALIBRATIONS = ("none", "temperature", "eefp", "correct")
SPLITS = ("test", "validation", "train")
PARTS = (
    "gradient_share", "activation_rank", "mutual_information", "mode_connectivity", "loss_landscape"
)  # fmt: skip

RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="Folder that `laplex exits train` wrote.")
]
RunFolders = Annotated[
    list[Path], typer.Argument(metavar="RUN_DIR", help="Folders that `laplex exits train` wrote.")
]
PolicyOption = Annotated[
    str,
    choice(
        POLICIES,
        "Exit policy: a sample leaves when the score of this policy reaches a threshold. The "
        "score of learned is that of --calibration eefp.",
    ),
]
# Of a policy that goes with the network.
CalibrationOption = Annotated[
    str,
    choice(
        CALIBRATIONS,
        "Calibration of the scores, fitted on the validation samples; see `laplex exits evaluate`.",
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        help="Threshold at which a sample leaves, in the units of the policy. Default: fit "
        "thresholds to --budget."
    ),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        help="Mean cost to which thresholds are fitted on the validation samples, relative to "
        "the plain backbone. Default: 0.5, or the cost of the first exit if that is larger."
    ),
]
Trusted = Annotated[
    bool,
    typer.Option(
        "--trusted",
        help="Call the Python functions that the settings of the run name. Set it for runs of "
        "people whom you trust.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Do not show progress bars.")]

app = typer.Typer(
    name="exits",
    help="Train, evaluate, analyse, export and publish networks with early exits, and write "
    "reports.",
    no_args_is_help=True,
)


@app.command()
@with_options(RunSettings)
def train(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="CONFIG.yaml",
            help="Settings file, such as the config.yaml that every run writes, which explains all "
            "settings. Options on the command line take precedence.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write the run to.")] = Path(
        "exits-run"
    ),
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run that was started in --out.")
    ] = False,
    list_exits: Annotated[
        bool,
        typer.Option(
            "--list-exits",
            help="Print the modules of the backbone that can carry an exit, with the shape of "
            "their output for two samples, and stop.",
        ),
    ] = False,
    trusted: Trusted = False,
    quiet: Quiet = False,
    **given: Any,
) -> None:
    """Train a network with early exits.

    Without options, this trains a small network on the digits data set in under a minute. The
    command writes config.yaml (all settings), checkpoints, history.json and weights.pt into --out.
    """
    with _sentences("train", "pytorch_lightning", "torchmetrics"):
        settings = _settings(config, given, out, resume)
        if resume and (out / WEIGHTS).is_file():
            typer.echo(f"The run in {out} is already finished.")
            return
        if resume and not trusted:
            check_trusted(settings, out)
        check_sources(settings)
        check_folder(out)

        from ..early_exit.places import exit_places
        from ..early_exit.runs.backbones import make_backbone
        from ..early_exit.runs.datasets import load_splits
        from ..early_exit.runs.run import has_checkpoint, train_run

        if list_exits:
            backbone = make_backbone(splits := load_splits(settings), settings, pretrained=False)
            places = list(exit_places(backbone, splits.example()).items())
            while places and places[-1][1][1:] == [len(splits.class_names)]:  # the output
                places.pop()
            for name, shape in places:
                typer.echo(f"{name:30} {shape}")
            return

        def going_on() -> str:
            if has_checkpoint(out):
                return f"continue with `laplex exits train --out {out} --resume`"
            return "there is no checkpoint yet; start the run again"

        progress = shows_progress(quiet)
        with result_folder(out), stoppable(going_on):
            run = train_run(settings, out, resume=resume, progress=progress, tell=typer.echo)
        names, last = run.training.exit_names, run.training.history[-1].val_accuracy
        shown = ", ".join(f"{name} {one:.1%}" for name, one in zip(names, last, strict=True))
        typer.echo(
            f"Validation accuracy by exit: {shown}\n"
            f"The run took {run.history['seconds']:.0f} s and is in {out}\n"
            f"Evaluate it with `laplex exits evaluate {out}`"
        )


@app.command()
def evaluate(
    runs: RunFolders,
    policy: PolicyOption = str(POLICIES.default),
    calibration: Annotated[
        list[str] | None,
        choice(
            CALIBRATIONS,
            "Calibration of the scores, fitted on the validation samples: none, a temperature for "
            "each exit, or score heads that learn whether a sample may leave (eefp) or whether the "
            "exit is right (correct). Repeat the option to evaluate each run with several "
            "calibrations. Default: none.",
        ),
    ] = None,
    split: Annotated[str, choice(SPLITS, "Samples to evaluate on.")] = "test",
    budget: Annotated[
        list[float] | None,
        typer.Option(
            help="Mean cost at which to report the accuracy, relative to the plain backbone. "
            "Repeat the option for several costs. Default: 0.25, 0.5, 0.75 and 1."
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        choice(
            ("validation", "p1-test-sweep"),
            "How to choose thresholds: fit one for each exit on the validation samples, or sweep "
            "one for all exits over the evaluated samples themselves (p1-test-sweep). Default: "
            "validation, or p1-test-sweep with --split validation.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Also report accuracy and cost at this threshold, in the units of the policy."
        ),
    ] = None,
    timing: Annotated[
        bool,
        typer.Option("--timing", help="Also measure the run time of prediction with early exits."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File to write: a report (.html), or the numbers (.json)."
        ),
    ] = None,
    trusted: Trusted = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate runs: accuracy against cost, calibration and failure prediction of the exits.

    The command writes evaluation.json into the folder of each run. Several runs are compared; runs
    that differ only in their seed are averaged.
    """
    as_page = out is not None and out.suffix == ".html"
    with _sentences("evaluate", *(["matplotlib"] if as_page else [])):
        if out is not None and out.suffix not in (".html", ".json"):
            raise ValueError(f"--out {out} must end in .html (a report) or .json (the numbers)")
        check_finished(*runs)
        if out is not None:
            check_writable(out)

        from ..early_exit.html_report import write_page
        from ..early_exit.runs.results import evaluate_run
        from ..early_exit.runs.run import Run
        from ..early_exit.runs.study import Study

        found = [Run.open(folder, trusted) for folder in runs]
        for run in found:
            evaluate_run(
                run,
                policy=policy,
                calibration=calibration or ["none"],
                split=split,  # type: ignore[arg-type]  # one of SPLITS
                budget=budget,
                protocol=protocol,  # type: ignore[arg-type]
                threshold=threshold,
                timing=timing,
                progress=shows_progress(quiet),
            ).write(run.folder)
        study = Study.of_runs(found)
        typer.echo(study.text())
        if out is not None and as_page:
            write_page(study, out, "Early exits")
            typer.echo(f"\nThe report is in {out}")
        elif out is not None:
            study.comparison.to_json(out)
            typer.echo(f"\nThe numbers are in {out}")


@app.command()
def analyze(
    run: RunFolder,
    other: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN_DIR",
            help="Second run of the same network, for measuring the loss on the straight line "
            "between the two (linear mode connectivity).",
        ),
    ] = None,
    part: Annotated[
        list[str] | None,
        choice(PARTS, "Measurement to make. Repeat the option for several. Default: all."),
    ] = None,
    split: Annotated[str, choice(SPLITS, "Samples to measure on.")] = "train",
    samples: Annotated[int, typer.Option(min=2, help="Number of samples to use.")] = 500,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Random seed of the measurements.")
    ] = 0,
    trusted: Trusted = False,
    quiet: Quiet = False,
) -> None:
    """Analyse a run: gradients, ranks, information, loss landscape, mode connectivity.

    The command writes tables, numbers and figures into the folder "analysis" of the run.
    """
    with _sentences("analyze", "matplotlib"):
        check_finished(run)
        if other is not None:
            check_finished(other)

        from ..early_exit.dynamics import analyze as look_inside
        from ..early_exit.runs.results import RunAnalysis
        from ..early_exit.runs.run import Run

        found = Run.open(run, trusted)
        analysis = look_inside(
            found.model,
            found.splits.loader(split, 100),  # type: ignore[arg-type]
            other=None if other is None else Run.open(other, trusted).model,
            train_loader=found.splits.loader("train", found.settings.batch_size),
            parts=part or None,
            max_samples=samples,
            seed=seed,
            progress=shows_progress(quiet),
        )
        folder = RunAnalysis.of(analysis).write(run)
        for name, why in analysis.failures.items():
            caution(f"{name} failed: {why}")
        tables = [one.table() for one in analysis.parts().values()]
        typer.echo("\n\n".join([*tables, f"Tables, numbers and figures are in {folder}"]))


@app.command()
def export(
    run: RunFolder,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write the files to.")],
    format: Annotated[  # noqa: A002  (the word for it)
        str,
        choice(("onnx", "torch"), "Format of the files: ONNX, or that of torch.export (torch)."),
    ] = "onnx",
    policy: PolicyOption = str(POLICIES.default),
    calibration: CalibrationOption = "none",
    threshold: ThresholdOption = None,
    budget: BudgetOption = None,
    trusted: Trusted = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a previous export in --out.")
    ] = False,
) -> None:
    """Export a network: one file for each segment, with a runner and an exit policy."""
    with _sentences("export"):
        _one_of(threshold=threshold, budget=budget)
        check_finished(run)
        check_export_folder(out, overwrite)

        from ..early_exit.deployment import export as write
        from ..early_exit.runs.results import ExitRule
        from ..early_exit.runs.run import Run

        found = Run.open(run, trusted)
        model, example = found.model, found.splits.example()
        chosen = ExitRule(policy, calibration, threshold).of_run(found, budget)
        folder = write(model, example, out, format=format, policy=chosen, overwrite=overwrite)  # type: ignore[arg-type]
        typer.echo(f"Policy: {chosen!r}\n{model.num_exits} segments with a runner are in {folder}")


@app.command()
def publish(
    run: RunFolder,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write the model to.")
    ] = None,
    repo: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="Repository of the Hugging Face hub to upload the model to, with the token of "
            "`hf auth login`. It is made if needed.",
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository a private one.")
    ] = False,
    license: Annotated[  # noqa: A002  (the word for it)
        str | None, typer.Option(help="License of the model, for its card, such as mit.")
    ] = None,
    policy: PolicyOption = str(POLICIES.default),
    calibration: CalibrationOption = "none",
    threshold: ThresholdOption = None,
    budget: BudgetOption = None,
    trusted: Trusted = False,
) -> None:
    """Write a network with its exit policy and a model card, or upload it to the Hugging Face hub.

    `MultiExitModel.from_pretrained` loads it. The card shows what `laplex exits evaluate` found.
    """
    with _sentences("publish"):
        if (out is None) == (repo is None):
            raise ValueError("pass either --out, a folder, or --repo, a repository of the hub")
        _one_of(threshold=threshold, budget=budget)
        check_finished(run)
        if out is not None:
            check_folder(out)

        from ..early_exit.runs.publishing import publish_run
        from ..early_exit.runs.results import ExitRule
        from ..early_exit.runs.run import Run

        found = Run.open(run, trusted)
        chosen = ExitRule(policy, calibration, threshold).of_run(found, budget)
        place = publish_run(found, chosen, out=out, repo=repo, private=private, license=license)
        typer.echo(f"Policy: {chosen!r}\nThe model and its card are in {place}")


@app.command()
def report(
    runs: RunFolders,
    out: Annotated[Path, typer.Option(metavar="FILE", help="HTML file to write.")] = Path(
        "exits-report.html"
    ),
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Early exits",
    trusted: Trusted = False,
    quiet: Quiet = False,
) -> None:
    """Write a report of one or several runs as a single HTML file.

    Runs that have not been evaluated yet are evaluated first, with the default options of `laplex
    exits evaluate`.
    """
    with _sentences("report", "matplotlib"):
        check_finished(*runs)
        check_writable(out)

        from ..early_exit.html_report import write_page
        from ..early_exit.runs.results import RunEvaluation, evaluate_run
        from ..early_exit.runs.run import Run
        from ..early_exit.runs.study import Study

        found = [Run.open(folder, trusted) for folder in runs]
        for run in found:
            if RunEvaluation.read(run.folder) is None:
                evaluate_run(run, progress=shows_progress(quiet)).write(run.folder)
        write_page(Study.of_runs(found), out, title)
        typer.echo(f"The report is in {out}")


def _one_of(*, threshold: float | None, budget: float | None) -> None:
    if threshold is not None and budget is not None:
        raise ValueError("--threshold and --budget exclude each other: pass one of them")


def _sentences(command: str, *more: str) -> AbstractContextManager[None]:
    needs = ("numpy", "torch", "yaml", "sklearn", "scipy", *more)
    return sentences(f"laplex exits {command}", extra="exits", needs=needs)


def _settings(config: Path | None, given: dict[str, Any], out: Path, resume: bool) -> RunSettings:
    """The settings from a file, from options, and from the run that is already in `out`."""
    before = read_settings(out / CONFIG) if (out / CONFIG).is_file() else None
    if resume and before is None:
        raise ValueError(f"--resume: no run was started in {out}: leave out --resume")
    if before is not None and not resume:
        raise ValueError(
            f"--out {out} already holds a run: pass --resume to continue it, or another folder"
        )
    start = read_settings(config) if config is not None else before or RunSettings()
    asked = changed(start, given, "options")
    for key in KEYS if before else ():
        old, new = getattr(before, key), getattr(asked, key)
        resolved = config is not None and key in ("exits", "epochs") and new is None
        if old != new and not resolved:
            raise ValueError(
                f"--resume: the run in {out} was started with {key}: {old!r}, not {new!r}: keep "
                "its settings, or start a new run in another folder"
            )
    return before or asked
