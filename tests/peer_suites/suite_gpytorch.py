"""GPyTorch's tests of kernels and exact processes, with Laplex's Matern kernel."""

from __future__ import annotations

from pathlib import Path

import gpytorch

from laplex.gram import MaternKernel

EXPLANATIONS: dict[str, str] = {}


def prepare(clone: Path) -> list[str]:
    """Put the kernel in its place."""
    gpytorch.kernels.MaternKernel = MaternKernel
    tests = clone / "test"
    return [
        str(tests / "kernels"),
        str(tests / "models" / "test_exact_gp.py"),
        str(tests / "mlls" / "test_exact_marginal_log_likelihood.py"),
        f"--ignore={tests / 'kernels' / 'keops'}",
    ]
