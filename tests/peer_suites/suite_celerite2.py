"""celerite2's tests of its terms and of its GaussianProcess; they need the package celerite."""

from __future__ import annotations

import sys
from pathlib import Path

from celerite2_shim import modules

EXPLANATIONS = {
    "test_terms.py::test_consistency[oterm8]": "celerite2's Matern32Term approximates the Matern "
    "kernel by two nearly equal rates; Laplex's is exact, so no coefficients of celerite have it",
}


def prepare(clone: Path) -> list[str]:
    """Put the shim in the place of celerite2."""
    sys.modules.update(modules())
    tests = clone / "python" / "test"
    return [str(tests / "test_celerite2.py"), str(tests / "test_terms.py")]
