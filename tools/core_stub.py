#!/usr/bin/env python3
"""Write python/laplex/_core.pyi from the compiled module that can be imported, or check it.

    tools/core_stub.py           write the file
    tools/core_stub.py --check   fail if the file differs

mypy's stubgen reads the signatures from pybind11. `make stub` and `make test-emulated` run this
script with the emulated module, which contains the CUDA backend on every machine.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

STUB = Path(__file__).resolve().parents[1] / "python" / "laplex" / "_core.pyi"
HEAD = '''"""The compiled core, see python/bindings; written by `make stub`."""

from collections.abc import Callable
from typing import Any
'''
#: pybind11 accepts more types for an int than the package passes, and does not know what its tuples
#: contain.
SIMPLER = {
    "typing.SupportsInt | typing.SupportsIndex": "int",
    "typing.SupportsFloat | typing.SupportsIndex": "float",
    "typing_extensions.CapsuleType": "object",
    "collections.abc.Sequence": "list",
    "collections.abc.Callable": "Callable",
    "laplex._support.core": "core",
    ": tuple,": ": tuple[Any, ...],",
    ": tuple)": ": tuple[Any, ...])",
    "-> tuple:": "-> tuple[Any, ...]:",
    "-> tuple | None:": "-> tuple[Any, ...] | None:",
    "-> dict:": "-> dict[str, Any]:",
    "import core": "from ._support import core",
    "import typing_extensions\n": "",
    "import typing\n": "",
    "import collections.abc\n": "",
    "import list\n": "",
    "import Callable\n": "",
}


def written() -> str:
    with tempfile.TemporaryDirectory() as folder:
        run("stubgen", "--quiet", "--inspect-mode", "-m", "laplex._core", "-o", folder)
        text = Path(folder, "laplex", "_core.pyi").read_text("utf-8")
        for old, new in SIMPLER.items():
            text = text.replace(old, new)
        path = Path(folder, "_core.pyi")
        path.write_text(HEAD + text, "utf-8")
        config = str(STUB.parents[2] / "pyproject.toml")
        run("ruff", "check", "--silent", "--fix", "--exit-zero", "--config", config, str(path))
        run("ruff", "format", "--quiet", "--config", config, str(path))
        return path.read_text("utf-8")


def run(program: str, *arguments: str) -> None:
    subprocess.run([Path(sys.executable).with_name(program), *arguments], check=True)


def main() -> None:
    new = written()
    if "--check" not in sys.argv[1:]:
        STUB.write_text(new, "utf-8")
    elif STUB.read_text("utf-8") != new:
        sys.exit(
            f"error: {STUB.name} does not match the compiled module: run `make stub` and commit it"
        )


if __name__ == "__main__":
    main()
