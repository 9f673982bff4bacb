"""The programs of bench/python that write pages of measurements, with sizes of a few seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import laplex

BENCH = Path(__file__).parents[2] / "bench/python"
PACKAGE = Path(laplex.__file__).parents[1]
PROGRAMS = [
    "adapters",
    "covariance_large",
    "large_heads",
    "order",
    "projections",
    "sliced",
    "structured",
    "training",
]

#: In one process, because it takes seconds to import what the programs need.
CALLS = """
import pathlib, runpy, sys

script, page = map(pathlib.Path, sys.argv[1:])
sys.path.insert(0, str(script.parent))

def run(*arguments):
    sys.argv = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")

run("--quick", "--to", str(page.parent))
page.rename(page.with_suffix(".measured"))
run("--page", "--to", str(page.parent))
run("--help")
"""


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_section_is_measured_and_written(name, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    pytest.importorskip("threadpoolctl")
    page = tmp_path / f"{name}.md"
    paths = [str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", CALLS, BENCH / f"{name}.py", page],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text == page.with_suffix(".measured").read_text()
    assert text.count("<!-- end -->") > 3
    assert "-->\n<!-- end -->" not in text  # no section is empty
    for option in ("--quick", "--only", "--page", "--to"):
        assert option in done.stdout
