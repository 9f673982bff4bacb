"""The error of the covariance of samples, beside its expectation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cells import power, slope, table
from laplex.gram import SHO, LaplaceGram, Matern52, Term


def measured(quick: bool) -> dict[str, Any]:
    """Relative Frobenius errors by the number of samples, rms of 20, and their expectations."""
    terms = [Term(0.5, 1.0), Term(1.0, 0.5, frequency=4.0), SHO(sigma=1.0, w0=6.0, Q=2.0)]
    x = torch.linspace(0, 3, 30, dtype=torch.float64)
    gram = LaplaceGram(x, terms=[*terms, Matern52(1.0, 0.5)], noise=0.1)
    matrix = gram.to_dense()
    expected = math.sqrt(float((matrix.trace() ** 2 / matrix.square().sum()) + 1))
    generator = torch.Generator().manual_seed(0)
    errors = {}
    for count in [10**k for k in range(1, 5 if quick else 6)]:
        found = []
        for _ in range(20):
            samples = gram.sample((count,), generator=generator)
            estimate = samples.T @ samples / count
            found.append(float((estimate - matrix).norm() / matrix.norm()))
        errors[str(count)] = float(np.sqrt(np.mean(np.square(found))))
    print("samples: done", flush=True)
    return {"measured": errors, "expected of one": expected}


def section(found: dict[str, Any], folder: Path) -> str:
    errors = {int(count): each for count, each in found["measured"].items()}
    expected = [found["expected of one"] / math.sqrt(count) for count in errors]
    rows = [
        ["measured", *(f"{each:.4f}" for each in errors.values())],
        ["expected", *(f"{each:.4f}" for each in expected)],
    ]
    text = table(["samples", *(power(c) for c in errors)], rows)
    return text + f"\nThe fitted exponent of N is {slope(errors):.3f}.\n"
