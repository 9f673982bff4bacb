"""The covariances of docs/measurements/gram.md, in the words of every library.

A `Form` has its covariance function as a formula, and makes the terms of Laplex and celerite2 and
the kernel of tinygp for given parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from laplex import gram

Array = np.ndarray
Parameters = Mapping[str, Any]
NOISE = 0.1


@dataclass(frozen=True)
class Form:
    """A covariance function of named parameters.

    Attributes
    ----------
    title
        Its name on the page.
    parameters
        The parameters that everyone differentiates by, besides the noise.
    value
        The function of a module with exp, cos, ..., the parameters and a distance d >= 0.
    laplex, celerite2, tinygp
        Functions of the parameters; those of the other libraries are also given the module in
        which the library keeps its terms. None: the library has no such term.
    nu
        The smoothness of a Matern kernel, which GPyTorch and scikit-learn have.
    trend
        Whether a line of unknown slope is added, whose prior variance is the parameter "slope".
    """

    title: str
    parameters: dict[str, float]
    value: Callable[[Any, Parameters, Any], Any]
    laplex: Callable[[Parameters], gram.BaseTerm]
    celerite2: Callable[[Any, Parameters], Any] | None = None
    tinygp: Callable[[Any, Parameters], Any] | None = None
    nu: float | None = None
    trend: bool = False

    def at(self, title: str, **changes: float) -> Form:
        """The same form at other parameters."""
        return replace(self, title=title, parameters=self.parameters | changes)


def _matern(m: Any, nu: float, p: Parameters, d: Any) -> Any:
    r = m.sqrt(2 * nu / p["lengthscale"] ** 2) * d  # of the library's own numbers
    polynomial = {0.5: 1, 1.5: 1 + r, 2.5: 1 + r + r**2 / 3}[nu]
    return p["variance"] * polynomial * m.exp(-r)


def _sho(m: Any, variance: Any, w0: Any, Q: Any, d: Any) -> Any:
    damping = w0 / (2 * Q)
    if Q == 0.5:
        return variance * (1 + damping * d) * m.exp(-damping * d)
    rate = damping * m.sqrt(abs(4 * Q**2 - 1))
    cosine, sine = (m.cos, m.sin) if Q > 0.5 else (m.cosh, m.sinh)
    wave = cosine(rate * d) + damping / rate * sine(rate * d)
    return variance * m.exp(-damping * d) * wave


def _rotation(m: Any, p: Parameters, d: Any) -> Any:
    total = 0
    for period, Q, variance in _modes(p):
        # The frequency of the damped wave is 2 pi / period.
        w0 = 4 * m.pi * Q / (period * m.sqrt(4 * Q**2 - 1))
        total = total + _sho(m, variance, w0, Q, d)
    return total


def _modes(p: Parameters) -> list[tuple[Any, Any, Any]]:
    """Period, quality and variance of the two oscillators of a rotation."""
    first = p["sigma"] ** 2 / (1 + p["f"])
    return [
        (p["period"], 0.5 + p["Q0"] + p["dQ"], first),
        (p["period"] / 2, 0.5 + p["Q0"], first * p["f"]),
    ]


def _tinygp_rotation(kernels: Any, p: Parameters) -> Any:
    parts = []
    for period, Q, variance in _modes(p):
        w0 = 4 * np.pi * Q / (period * (4 * Q**2 - 1) ** 0.5)
        parts.append(kernels.SHO(omega=w0, quality=Q, sigma=variance**0.5))
    return parts[0] + parts[1]


def _celerite(m: Any, p: Parameters, d: Any) -> Any:
    wave = p["a"] * m.cos(p["d"] * d) + p["b"] * m.sin(p["d"] * d)
    return m.exp(-p["c"] * d) * wave


def _cosine(m: Any, p: Parameters, d: Any) -> Any:
    return p["variance"] * m.exp(-d / p["lengthscale"]) * m.cos(p["frequency"] * d)


MATERN = {"lengthscale": 1.0, "variance": 1.5}
REAL = Form(
    "One real term",
    MATERN,
    lambda m, p, d: _matern(m, 0.5, p, d),
    lambda p: gram.Term(**p),
    lambda terms, p: terms.RealTerm(a=p["variance"], c=1 / p["lengthscale"]),
    lambda kernels, p: kernels.Exp(scale=p["lengthscale"], sigma=p["variance"] ** 0.5),
    nu=0.5,
)
COSINE = Form(
    "One cosine term",
    MATERN | {"frequency": 3.0},
    _cosine,
    lambda p: gram.Term(**p),
    lambda terms, p: terms.ComplexTerm(
        a=p["variance"], b=0.0, c=1 / p["lengthscale"], d=p["frequency"]
    ),
    lambda kernels, p: kernels.Celerite(p["variance"], 0.0, 1 / p["lengthscale"], p["frequency"]),
)
SHO = Form(
    "SHO, Q = 3",
    {"sigma": 1.2, "w0": 3.0, "Q": 3.0},
    lambda m, p, d: _sho(m, p["sigma"] ** 2, p["w0"], p["Q"], d),
    lambda p: gram.SHO(**p),
    lambda terms, p: terms.SHOTerm(**p),
    lambda kernels, p: kernels.SHO(omega=p["w0"], quality=p["Q"], sigma=p["sigma"]),
)
MATERN32 = Form(
    "Matern-3/2",
    MATERN,
    lambda m, p, d: _matern(m, 1.5, p, d),
    lambda p: gram.Matern32(**p),
    lambda terms, p: terms.Matern32Term(sigma=p["variance"] ** 0.5, rho=p["lengthscale"]),
    lambda kernels, p: kernels.Matern32(scale=p["lengthscale"], sigma=p["variance"] ** 0.5),
    nu=1.5,
)
MATERN52 = Form(
    "Matern-5/2",
    MATERN,
    lambda m, p, d: _matern(m, 2.5, p, d),
    lambda p: gram.Matern52(**p),
    None,
    lambda kernels, p: kernels.Matern52(scale=p["lengthscale"], sigma=p["variance"] ** 0.5),
    nu=2.5,
)
CELERITE = Form(
    "celerite's general term",
    {"a": 1.5, "b": 0.2, "c": 0.8, "d": 3.0},
    _celerite,
    lambda p: gram.Celerite(**p),
    lambda terms, p: terms.ComplexTerm(**p),
    lambda kernels, p: kernels.Celerite(p["a"], p["b"], p["c"], p["d"]),
)
ROTATION = Form(
    "Rotation (two SHO terms)",
    {"sigma": 1.2, "period": 2.0, "Q0": 1.0, "dQ": 0.5, "f": 0.6},
    _rotation,
    lambda p: gram.Rotation(**p),
    lambda terms, p: terms.RotationTerm(**p),
    _tinygp_rotation,
)
TREND = replace(
    REAL,
    title="One real term and a linear trend",
    parameters=MATERN | {"slope": 1e-4},
    laplex=lambda p: gram.Term(p["lengthscale"], p["variance"]),
    celerite2=None,
    tinygp=None,
    trend=True,
)

FORMS = {
    "real": REAL,
    "cosine": COSINE,
    "sho": SHO,
    "matern32": MATERN32,
    "matern52": MATERN52,
    "celerite": CELERITE,
    "rotation": ROTATION,
    "trend": TREND,
}


@dataclass(frozen=True)
class Problem:
    """Observations [n] at sorted points [n], 30 of them in a unit of length on average."""

    n: int
    form: str
    x: Array
    y: Array

    @classmethod
    def draw(cls, n: int, form: str) -> Problem:
        rng = np.random.default_rng(n)
        return cls(n, form, np.sort(rng.uniform(0, n / 30, n)), rng.standard_normal(n))

    @property
    def model(self) -> Form:
        """The covariance."""
        return FORMS[self.form]

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters that everyone differentiates by."""
        return self.model.parameters | {"noise": NOISE}
