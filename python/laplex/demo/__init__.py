"""The demo: it checks the operator, times it, and trains networks with it on real images."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from laplex import _core
from laplex._support.complete_files import remove_empty
from laplex._support.optional import require_installed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from laplex._support.image_datasets import ImageDataset
    from laplex.demo.covariance import CovarianceStudy
    from laplex.demo.exactness import Exactness
    from laplex.demo.timing import Timing
    from laplex.demo.training import Comparison, Settings

SIZES = (10_000, 100_000, 1_000_000)
MAX_SEED = 2**31 - 1


class DemoInputError(ValueError):
    """The arguments of the demo are invalid, for instance because the data set does not exist."""


@dataclass(frozen=True)
class Findings:
    """The results of `run_demo`.

    Attributes
    ----------
    report : Path
        The file of the report.
    exactness : list of Exactness
        The errors of the operator.
    timings : list of Timing
        The times of the operator.
    comparisons : list of Comparison
        The training runs.
    covariances : CovarianceStudy
        The Gaussian models of the images.
    """

    report: Path
    exactness: list[Exactness]
    timings: list[Timing]
    comparisons: list[Comparison]
    covariances: CovarianceStudy

    @property
    def passed(self) -> bool:
        """Whether the operator has its promised precision in every form."""
        return all(row.passed for row in self.exactness)


def run_demo(
    data: str = "digits",
    out: Path = Path("laplex-demo"),
    *,
    epochs: int | None = None,
    seed: int = 0,
    quick: bool = False,
    console: Console | None = None,
) -> Findings:
    """Check and time the operator, train networks, print the results and write a report.

    Parameters
    ----------
    data : str
        ``"digits"``, ``"fashion-mnist"`` or a folder with the files of Fashion-MNIST.
    out : Path
        The folder of the report ``report.html``, which is created if necessary.
    epochs : int, optional
        The number of epochs of each training run. The default is 30 for digits, for which the demo
        takes one to three minutes, and 3 for larger data sets, for which it takes somewhat longer.
    seed : int
        The first seed of the training runs.
    quick : bool
        Only check that everything works, in a few seconds: small sizes, two epochs, one seed.
    console : rich.console.Console, optional
        The console to print on.

    Returns
    -------
    Findings

    Raises
    ------
    ImportError
        If a package is missing; the message names the extra to install.
    DemoInputError
        If the data are missing or broken, ``out`` cannot be written to, or ``epochs`` or ``seed``
        is out of range. This ValueError is raised before the long computations.
    """
    for package in ("torch", "rich", "matplotlib"):
        require_installed(package, extra="demo", feature="the demo")
    from laplex._support.image_datasets import find_images, load_images

    if epochs is not None and epochs < 1:
        raise DemoInputError(f"epochs must be at least 1, got {epochs}")
    if not 0 <= seed <= MAX_SEED:
        raise DemoInputError(f"seed must be between 0 and {MAX_SEED}, got {seed}")
    try:  # this fails most often, so it comes before the import of torch
        find_images(data)
    except OSError as error:
        raise DemoInputError(str(error)) from error
    made = [path for path in (out, *out.parents) if not path.exists()]
    page = _prepared(out)

    from rich.console import Console
    from rich.markup import escape

    from laplex.demo import report
    from laplex.demo.exactness import check_exactness
    from laplex.demo.timing import time_operator
    from laplex.demo.training import initial_ranks

    console = console or Console()
    begin = time.monotonic()
    try:
        images = load_images(data)
    except (OSError, ValueError) as error:
        remove_empty(made)
        raise DemoInputError(str(error)) from error
    settings = choose_settings(len(images.train_labels), epochs, quick)
    machine = describe_machine()
    console.print(
        f"[bold]Laplex demo[/bold] on {escape(images.name)}\n[dim]{escape(machine)}[/dim]"
    )

    exactness = check_exactness(200 if quick else 2000, seed)
    _show(
        console,
        "1. Error against a dense float64 matrix",
        report.EXACTNESS_COLUMNS,
        report.exactness_rows(exactness),
    )

    with console.status("timing the operator"):
        sizes = (1_000, 4_000) if quick else SIZES
        timings = [time_operator(n, seed, budget=0.02 if quick else 0.3) for n in sizes]
    _show(
        console,
        "2. CPU time in milliseconds (one thread, float32)",
        report.TIMING_COLUMNS,
        report.timing_rows(timings),
    )
    console.print(f"[dim]{escape(report.TIMING_NOTE)}[/dim]")

    console.print(f"\n[bold]3.[/bold] {escape(report.task(images, settings))}")
    comparisons = _train_all(console, images, settings, seed)
    _show(
        console, "3. Networks on images", report.TRAINING_COLUMNS, report.training_rows(comparisons)
    )
    console.print(report.findings(comparisons))
    ranks = initial_ranks(images, settings, seed)
    _show(console, "4. Initial rank", report.RANK_COLUMNS, report.rank_rows(ranks))
    console.print(report.starts_compared({row.variant.name: row for row in comparisons}))

    covariances = _fit_covariances(console, images, 20 if quick else 500, seed)
    _show(
        console,
        "5. Gaussian models of the images",
        report.COVARIANCE_COLUMNS,
        report.covariance_rows(covariances),
    )
    console.print(f"[dim]{escape(report.COVARIANCE_NOTE)}[/dim]")

    page.write_text(
        report.render(
            images, exactness, timings, settings, comparisons, ranks, covariances, machine
        ),
        "utf-8",
    )
    console.print(
        f"\nReport with pictures: [bold]{escape(str(page.resolve()))}[/bold]", soft_wrap=True
    )
    console.print(f"[dim]The demo took {time.monotonic() - begin:.0f} seconds.[/dim]")
    return Findings(page, exactness, timings, comparisons, covariances)


def _prepared(out: Path) -> Path:
    """Make the folder, and return the path of the report after checking that it is writable."""
    page = out / "report.html"
    try:
        out.mkdir(parents=True, exist_ok=True)
        is_new = not page.exists()
        with page.open("ab"):  # an old report stays until the new one is complete
            pass
        if is_new:
            page.unlink()
    except OSError as error:
        raise DemoInputError(
            f"cannot write {page}: {error.strerror}; choose another folder with --out"
        ) from error
    return page


def choose_settings(train_images: int, epochs: int | None, quick: bool) -> Settings:
    """Choose the size and length of the training runs by the number of training images."""
    from laplex.demo.training import LARGE, SMALL

    chosen = SMALL if train_images <= 10_000 else LARGE
    if quick:
        chosen = dataclasses.replace(chosen, hidden=32, epochs=2, seeds=1)
    return chosen if epochs is None else dataclasses.replace(chosen, epochs=epochs)


def _bars(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:32}"), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def _train_all(
    console: Console, images: ImageDataset, settings: Settings, seed: int
) -> list[Comparison]:
    from laplex.demo.training import VARIANTS, Comparison, train

    comparisons = []
    with _bars(console) as progress:
        for variant in VARIANTS:
            bar = progress.add_task(variant.name, total=settings.seeds * settings.epochs)
            runs = [
                train(variant, images, settings, seed + k, lambda bar=bar: progress.advance(bar))  # type: ignore[misc]
                for k in range(settings.seeds)
            ]
            comparisons.append(Comparison(variant, runs))
    return comparisons


def _fit_covariances(
    console: Console, images: ImageDataset, steps: int, seed: int
) -> CovarianceStudy:
    from laplex.demo.covariance import MODELS, fit_covariances

    with _bars(console) as progress:
        bar = progress.add_task("covariance models", total=len(MODELS))
        return fit_covariances(images, steps, seed, lambda: progress.advance(bar))


def _show(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)


def describe_machine() -> str:
    """Return one line with the processor, the instruction set in use and the versions."""
    import torch

    info = _core.info()
    return (
        f"{processor()}, {os.cpu_count()} logical CPUs; Laplex {info['version']} ({info['isa']}), "
        f"Python {platform.python_version()}, NumPy {np.__version__}, torch {torch.__version__}, "
        f"{platform.system()}"
    )


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
