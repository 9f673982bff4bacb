"""Runs the test suite of another library on Laplex's classes and counts what passes.

    python tests/peer_suites/run.py SUITE CLONE [pytest arguments]

SUITE is the name of a module of this folder without ``suite_``. CLONE is a clone of the library's
repository at the installed version. A suite has a function ``prepare(clone)``, which puts Laplex's
classes in the place of the library's and returns pytest's arguments, and a dictionary
``EXPLANATIONS`` from parts of test names to the reasons why these tests fail. The command fails if
a test fails without an explanation.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections import Counter
from pathlib import Path

import pytest


class Recorder:
    """The outcome of each test."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the worst outcome of a test's phases."""
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("suite", help="linear_operator, gpytorch, ...")
    parser.add_argument("clone", type=Path, help="folder of the library's clone")
    options, more = parser.parse_known_args()
    suite = importlib.import_module(f"suite_{options.suite}")
    recorder = Recorder()
    settings = ["-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:randomly", "-n", "0"]
    arguments = [*settings, "--import-mode=importlib", "-c", "/dev/null"]
    pytest.main([*arguments, *suite.prepare(options.clone.resolve()), *more], plugins=[recorder])
    print(dict(Counter(recorder.outcomes.values())))
    unexplained = 0
    for name, outcome in recorder.outcomes.items():
        if outcome == "failed":
            reasons = [why for part, why in suite.EXPLANATIONS.items() if part in name]
            unexplained += not reasons
            print(f"{name}: {reasons[0] if reasons else 'NOT EXPLAINED'}")
    return int(unexplained > 0 or not recorder.outcomes)


if __name__ == "__main__":
    sys.exit(main())
