"""The commands of ``laplex``: demo, info, cedar, exits."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import laplex
from laplex import _core
from laplex._support.command_errors import failure, sentences
from laplex._support.processes import is_first_process, processes
from laplex.cli.cedar import app as cedar
from laplex.cli.exits import app as exits
from laplex.demo import MAX_SEED, DemoInputError, run_demo

app = typer.Typer(
    name="laplex",
    help="Learnable Laplace kernels: exact matrix products in O(n), and models built on them.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(laplex.__version__)
        raise typer.Exit


app.add_typer(cedar)
app.add_typer(exits)


@app.callback()
def root(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Learnable Laplace kernels: exact matrix products in O(n), and models built on them."""


@app.command()
def demo(
    data: Annotated[
        str,
        typer.Option(
            metavar="digits|fashion-mnist|DIR",
            help="Images to train on: the digits of scikit-learn, Fashion-MNIST from Debian's "
            "package dataset-fashion-mnist, or a folder with the files of Fashion-MNIST.",
        ),
    ] = "digits",
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write the report to.")] = Path(
        "laplex-demo"
    ),
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of training epochs. Default: 30 for digits, 3 for Fashion-MNIST.",
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=MAX_SEED, help="First random seed; further runs use the next seeds."
        ),
    ] = 0,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Use small sizes and 2 epochs, to finish in a few seconds."),
    ] = False,
) -> None:
    """Check and time the operator, train networks with it on images, and write an HTML report.

    This takes 1 to 3 minutes for digits, and longer for Fashion-MNIST.

    The exit status is 1 if the operator misses its promised precision, or if a package or a file
    is missing.
    """
    with sentences(
        "laplex demo",
        extra="demo",
        needs=("torch", "matplotlib", "sklearn"),
        errors=(ImportError, DemoInputError),
    ):
        findings = run_demo(data, out, epochs=epochs, seed=seed, quick=quick)
    if not findings.passed:
        raise failure("the operator missed its promised precision: see the report for details")


@app.command()
def info() -> None:
    """Print the version, the features of this build, and the capabilities of this machine.

    Under torchrun or mpirun, rank 0 prints, and says how many processes there are.
    """
    if not is_first_process():
        return
    try:
        core = _core.info()
    except ValueError as error:  # LAPLEX_NUM_THREADS
        raise failure(error) from error
    table = Table(show_header=False, box=None)
    rows = {
        "laplex": core["version"],
        "features": ", ".join(core["features"]),
        "instruction set in use": f"{core['isa']} (of {', '.join(core['isa_available'])})",
        "threads": core["threads"],
        "compiler": core["compiler"],
        "CUDA": _cuda(core["cuda_compiled"], core["cuda_architectures"], core["cuda_devices"]),
        "Python": platform.python_version(),
        "NumPy": _version("numpy"),
        "torch": _version("torch"),
    }
    if (found := processes()) is not None:
        rows["processes"] = f"rank {found.rank} of {found.size} ({found.how})"
    for name, value in rows.items():
        table.add_row(name, str(value))
    Console(soft_wrap=True).print(table)


def _cuda(compiled: bool, architectures: str, devices: list[str]) -> str:
    if not compiled:
        return "not compiled in; this build runs on the CPU only"
    there = f"compiled for {architectures}"
    if devices:
        return f"{'; '.join(devices)} ({there})"
    try:
        _core.cuda_require_device()
    except RuntimeError as error:
        return f"{there}; {error}"
    return there


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
