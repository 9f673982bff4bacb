"""Commands run by the tests: within this process, or as a program of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import typer
from typer.testing import CliRunner

MAIN = "from laplex.cli import main; main()"


def run(app: typer.Typer, *arguments: object, status: int = 0) -> tuple[str, str]:
    """What a command prints on stdout and stderr."""
    result = CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result.stdout, result.stderr


def fails(app: typer.Typer, *arguments: object) -> str:
    """The one sentence on stderr."""
    out, error = run(app, *arguments, status=1)
    assert out == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def command(
    *arguments: object, before: str = "", code: str = MAIN, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``laplex`` in a process of its own, after the code `before`."""
    program = f"import sys; sys.argv[0] = 'laplex'\n{before}\n{code}"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", **environment},
        timeout=300,
        check=False,
    )


def without(*packages: str) -> str:
    """Code after which packages look as if they were not installed."""
    return f"sys.modules.update(dict.fromkeys({packages!r}))"
