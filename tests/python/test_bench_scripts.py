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


def run(name: str, *arguments: object) -> str:
    paths = [str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, BENCH / f"{name}.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def needs():
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    pytest.importorskip("threadpoolctl")


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_section_is_measured_and_written(name, tmp_path):
    run(name, "--quick", "--to", tmp_path)
    page = (tmp_path / f"{name}.md").read_text()
    marks = page.count("<!-- end -->")
    assert marks > 3
    assert "-->\n<!-- end -->" not in page  # no section is empty
    (tmp_path / f"{name}.md").unlink()
    run(name, "--page", "--to", tmp_path)
    assert (tmp_path / f"{name}.md").read_text() == page


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_names_the_options(name):
    told = run(name, "--help")
    for option in ("--quick", "--only", "--page", "--to"):
        assert option in told
