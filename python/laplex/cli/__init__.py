"""Entry point of the ``laplex`` command, importable without the packages that the command needs."""

from __future__ import annotations

import sys

from laplex._support.optional import require


def main() -> None:
    """Run the command line; without its packages, say how to get them and exit 1."""
    try:
        command = sys.argv[1] if sys.argv[1:] else ""
        extra = command if command in ("cedar", "exits") else "demo"
        for package in ("typer", "rich"):
            require(package, extra=extra, feature=f"laplex {command}".strip())
    except ImportError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    from laplex.cli.commands import app

    app()
