"""What Laplex, celerite2 and tinygp say to models that are no covariance, or look like none."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import celerite2
import celerite2.terms
import numpy as np
import torch

from cells import table
from gram_forms import Array
from gram_rivals import HAS_JAX
from laplex import gram

X = np.array([0.0, 0.4, 0.5, 1.1, 1.7, 2.0])
Y = np.cos(X)


@dataclass(frozen=True)
class Case:
    """A model: the terms by the modules of each library, its points, values and noise."""

    title: str
    laplex: Callable[[], Any]
    celerite2: Callable[[Any], Any]
    tinygp: Callable[[Any], Any] | None
    noise: float = 0.0
    x: Array = field(default_factory=lambda: X)
    y: Array = field(default_factory=lambda: Y)


def _celerite(title: str, a: float, b: float, c: float, d: float, **given: Any) -> Case:
    return Case(
        title,
        lambda: gram.Celerite(a, b, c, d),
        lambda terms: terms.ComplexTerm(a=a, b=b, c=c, d=d),
        lambda kernels: kernels.Celerite(a, b, c, d),
        **given,
    )


def _sho(title: str, Q: float) -> Case:
    return Case(
        title,
        lambda: gram.SHO(sigma=1.0, w0=1.0, Q=Q),
        lambda terms: terms.SHOTerm(sigma=1.0, w0=1.0, Q=Q),
        lambda kernels: kernels.SHO(omega=1.0, quality=Q, sigma=1.0),
        noise=0.1,
    )


def _real(title: str, a: float = 1.0, c: float = 1.0, **given: Any) -> Case:
    return Case(
        title,
        lambda: gram.Term(1 / c, a),
        lambda terms: terms.RealTerm(a=a, c=c),
        lambda kernels: a * kernels.Exp(scale=1 / c),
        **given,
    )


CASES = (
    _celerite("&#124;b d&#124; > a c, not positive definite", 1.0, 2.0, 0.5, 3.0),
    _celerite("the same with noise that makes up for it", 1.0, 2.0, 0.5, 3.0, noise=5.0),
    Case(
        "an amplitude a < 0 in a sum that is positive definite",
        lambda: gram.Celerite(2.0, 0.0, 1.0) + gram.Celerite(-0.5, 0.0, 2.0),
        lambda terms: terms.RealTerm(a=2.0, c=1.0) + terms.RealTerm(a=-0.5, c=2.0),
        lambda kernels: 2.0 * kernels.Exp(scale=1.0) + -0.5 * kernels.Exp(scale=0.5),
    ),
    Case(
        "an amplitude a < 0 in a sum that is not",
        lambda: gram.Celerite(0.5, 0.0, 1.0) + gram.Celerite(-2.0, 0.0, 2.0),
        lambda terms: terms.RealTerm(a=0.5, c=1.0) + terms.RealTerm(a=-2.0, c=2.0),
        lambda kernels: 0.5 * kernels.Exp(scale=1.0) + -2.0 * kernels.Exp(scale=0.5),
    ),
    _real("a variance of -1", a=-1.0),
    _real("a decay rate of -1", c=-1.0),
    _sho("SHO, Q = 0", 0.0),
    _sho("SHO, Q = -1", -1.0),
    _sho("SHO, Q = NaN", math.nan),
    _real("a variance of NaN", a=math.nan),
    _real("noise of -0.1", noise=-0.1),
    _real("noise of NaN", noise=math.nan),
    _real("a NaN among the points", x=np.where(X == 0.5, math.nan, X)),
    _real("a NaN among the values", y=np.where(X == 0.5, math.nan, Y)),
    _real("points that are not sorted", x=X[::-1].copy()),
    _real("two equal points without noise", x=np.where(X == 0.5, 0.4, X)),
)


def _laplex(case: Case) -> float:
    x, y = torch.from_numpy(case.x), torch.from_numpy(case.y)
    model = gram.LaplaceGram(x, terms=case.laplex(), noise=case.noise or None)
    return float(model.log_prob(y))


def _celerite2(case: Case) -> float:
    process = celerite2.GaussianProcess(case.celerite2(celerite2.terms))
    process.compute(case.x, diag=np.full(len(case.x), case.noise))
    return float(process.log_likelihood(case.y))


def _tinygp(case: Case) -> float:
    import jax
    from tinygp import GaussianProcess
    from tinygp.kernels import quasisep

    jax.config.update("jax_enable_x64", True)
    assert case.tinygp
    process = GaussianProcess(case.tinygp(quasisep), jax.numpy.asarray(case.x), diag=case.noise)
    return float(process.log_probability(jax.numpy.asarray(case.y)))


def measured() -> list[list[str]]:
    """The rows of the table."""
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    ways = [_laplex, _celerite2, *([_tinygp] if HAS_JAX else [])]
    rows = [[case.title, *(_answer(way, case) for way in ways)] for case in CASES]
    print("refusals: done", flush=True)
    return rows


def _answer(way: Callable[[Case], float], case: Case) -> str:
    """The log density, or the error and its message."""
    try:
        value = way(case)
    except Exception as error:  # whatever a library raises is what the table shows
        lines = str(error).strip().splitlines() or [""]
        message = next((line for line in reversed(lines) if line.strip(" -")), "")
        kind = type(error).__name__
        text = message if message.startswith(kind) else f"{kind}: {message}"
        return f"`{text.replace('|', '&#124;')}`"
    return "NaN" if math.isnan(value) else f"log_prob {value:.6g}"


def section(rows: list[list[str]], folder: Path) -> str:
    return table(["model", "Laplex", "celerite2", "tinygp"][: len(rows[0])], rows)
