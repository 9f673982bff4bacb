"""Helpers of the commands: errors become one-line messages, and result folders are checked first.

Importing this module needs typer and rich, and nothing slow.
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

#: The exceptions that a user can remedy: a missing package, a file, a value.
MENDABLE: tuple[type[Exception], ...] = (ImportError, OSError, ValueError, TypeError)


@contextmanager
def sentences(
    feature: str,
    *,
    extra: str,
    needs: tuple[str, ...],
    errors: tuple[type[Exception], ...] = MENDABLE,
) -> Iterator[None]:
    """Turn errors that a user can remedy into a message and status 1, and warnings into messages.

    Parameters
    ----------
    feature
        The command, for the message about a missing package.
    extra
        The extra of Laplex that installs the packages.
    needs
        The packages to check for first. They are not imported, so that a mistyped path is reported
        before the import of torch, which takes seconds.
    errors
        The exceptions that become messages; others keep their traceback.
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
    """Print an error on stderr, and return the exception that ends the command with status 1."""
    say("[red]error:[/red]", message)
    return typer.Exit(1)


def caution(message: object) -> None:
    """Print a warning on stderr."""
    say("[yellow]warning:[/yellow]", message)


def say(label: str, message: object) -> None:
    """Print one line on stderr: a label in rich's markup, and a message without markup."""
    text = " ".join(str(message).split())
    Console(stderr=True).print(f"{label} {escape(text)}", soft_wrap=True)


@contextmanager
def stoppable(how_to_go_on: Callable[[], str]) -> Iterator[None]:
    """Say on Ctrl-C how to continue."""
    try:
        yield
    except KeyboardInterrupt:
        say("stopped:", how_to_go_on())
        raise


@contextmanager
def result_folder(out: Path) -> Iterator[None]:
    """Make the folder for a result before the work, and remove it if the work fails.

    Raises
    ------
    OSError
        If ``--out`` is a file, or cannot be written to.
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
            raise OSError(f"--out {out} cannot be written to: {error.strerror}") from error
        yield
    except BaseException:
        remove_empty(missing)
        raise


def check_folder(out: Path) -> None:
    """Check that `result_folder` can make a folder, without leaving anything behind.

    Raises
    ------
    OSError
        As for `result_folder`.
    """
    missing = [path for path in (out, *out.parents) if not path.exists()]
    with result_folder(out):
        remove_empty(missing)


def usable_device(name: str | None) -> str | None:
    """Return the name of a device after checking that torch can use it.

    Raises
    ------
    ValueError
        If torch cannot use the device on this machine.
    """
    import torch

    if name is not None:
        try:
            torch.zeros(1, device=name)
        except (RuntimeError, AssertionError) as error:
            first = str(error).partition("\n")[0]
            raise ValueError(f"--device {name} cannot be used here: {first}") from error
    return name


def shows_progress(quiet: bool) -> bool:
    """Whether to draw progress bars, which suit terminals but not files."""
    return not quiet and sys.stdout.isatty()


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    caution(message)
