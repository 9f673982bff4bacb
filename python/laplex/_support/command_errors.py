"""What the commands share: what goes wrong is a sentence, and results have a folder from the start.

Importing this needs typer and rich, and nothing slow.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from laplex._support.complete_files import remove_empty
from laplex._support.optional import require_installed

#: What users can mend: a package, a file, a value.
MENDABLE: tuple[type[Exception], ...] = (ImportError, OSError, ValueError, TypeError)


@contextmanager
def sentences(
    feature: str,
    *,
    extra: str,
    needs: tuple[str, ...],
    errors: tuple[type[Exception], ...] = MENDABLE,
) -> Iterator[None]:
    """Turn what users can mend into a sentence and status 1, and warnings into sentences.

    Parameters
    ----------
    feature
        The command, for the message about a package that is missing.
    extra
        The extra of Laplex that installs the packages.
    needs
        The packages to ask for before anything else. They are looked for and not imported, so
        that a mistyped path is answered before torch, which takes seconds.
    errors
        Which exceptions become sentences; others keep their traceback.
    """
    try:
        for package in needs:
            require_installed(package, extra=extra, feature=feature)
        with warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = _show_warning
            yield
    except errors as error:
        message = str(error)
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            message = f"{error.filename}: {error.strerror}"
        raise failure(message) from error


def failure(message: object) -> typer.Exit:
    """Print a sentence on stderr; return what ends the command with status 1."""
    say("[red]error:[/red]", message)
    return typer.Exit(1)


def caution(message: object) -> None:
    """Print a warning on stderr."""
    say("[yellow]warning:[/yellow]", message)


def say(label: str, message: object) -> None:
    """Print one line on stderr: a label, in rich's markup, and a message, as it is."""
    text = " ".join(str(message).split())
    Console(stderr=True).print(f"{label} {escape(text)}", soft_wrap=True)


@contextmanager
def stoppable(how_to_go_on: Callable[[], str]) -> Iterator[None]:
    """Say on Ctrl-C how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        say("stopped:", how_to_go_on())
        raise


@contextmanager
def result_folder(out: Path) -> Iterator[None]:
    """Make a folder before the work whose result goes there; unmake it if that fails.

    Raises
    ------
    OSError
        ``--out`` is a file, or can't be written to.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out} is a file: pass a folder")
    missing = [path for path in (out, *out.parents) if not path.exists()]
    try:
        try:
            out.mkdir(parents=True, exist_ok=True)
            probe = out / "probe.part"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise OSError(f"--out {out} can't be written to: {error.strerror}") from error
        yield
    except BaseException:
        remove_empty(missing)
        raise


def check_folder(out: Path) -> None:
    """Check that `result_folder` can make a folder, leaving nothing behind.

    Raises
    ------
    OSError
        As `result_folder`.
    """
    missing = [path for path in (out, *out.parents) if not path.exists()]
    with result_folder(out):
        remove_empty(missing)


def usable_device(name: str | None) -> str | None:
    """The name of a device, tried.

    Raises
    ------
    ValueError
        There is no such device here.
    """
    import torch

    if name is not None:
        try:
            torch.zeros(1, device=name)
        except (RuntimeError, AssertionError) as error:
            first = str(error).partition("\n")[0]
            raise ValueError(f"--device {name} can't be used here: {first}") from error
    return name


def shows_progress(quiet: bool) -> bool:
    """Whether to draw bars: for people, not in files."""
    return not quiet and sys.stdout.isatty()


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    caution(message)
