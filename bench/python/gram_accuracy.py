"""Errors of every library at spacings from 1e-16 to 1e6, against arithmetic of 1000 bits."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import celerite2.terms
import mpmath
import numpy as np
import torch
from matplotlib.figure import Figure

from cells import table
from gram_forms import CELERITE, COSINE, MATERN32, MATERN52, REAL, ROTATION, SHO, Array, Form
from gram_rivals import HAS_JAX, jax_log_density
from laplex.gram import LaplaceGram
from laplex.gram.factor import Gram

BITS = 1000
#: The step of numerical derivatives, whose error is of the order of its square.
STEP = mpmath.mpf(2) ** -250
SPACINGS = (1e-16, 1e-14, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4, 1e6)
PLACES = np.array([0.0, 1.0, 2.25, 3.0, 4.5, 5.0])
VALUES = np.cos(1.0 + np.arange(len(PLACES)))
NOISES = (0.0, 0.1)
LIBRARIES = ("laplex", "celerite2", "tinygp")
QUANTITIES = ("log det", "smallest pivot", "solve", "log_prob", "gradient")

_UNIT_SHO = SHO.at("", sigma=1.0, w0=1.0)
FORMS: dict[str, Form] = {
    "Ornstein-Uhlenbeck": REAL.at("", variance=1.0),
    "cosine": COSINE.at("", variance=1.0, frequency=2.0),
    "celerite": CELERITE.at("", a=1.0, b=0.1, c=0.5, d=3.0),
    "SHO, Q = 0.01": _UNIT_SHO.at("", Q=0.01),
    "SHO, Q = 0.3": _UNIT_SHO.at("", Q=0.3),
    "SHO, Q = 0.5 - 1e-9": _UNIT_SHO.at("", Q=0.5 - 1e-9),
    "SHO, Q = 0.5": _UNIT_SHO.at("", Q=0.5),
    "SHO, Q = 0.5 + 1e-9": _UNIT_SHO.at("", Q=0.5 + 1e-9),
    "SHO, Q = 3": _UNIT_SHO.at("", Q=3.0),
    "SHO, Q = 1000": _UNIT_SHO.at("", Q=1000.0),
    "Matern-3/2": MATERN32.at("", variance=1.0),
    "Matern-5/2": MATERN52.at("", variance=1.0),
    "Rotation": ROTATION.at("", sigma=1.0),
}

#: Log det, smallest pivot, solution, log density, and the gradient by all parameters, of which each
#: derivative is multiplied by its parameter.
Results = dict[str, Any]


def reference(form: Form, x: Array, noise: float) -> Results:
    """By the L D L^T factorisation of the matrix, with gradients by central differences."""
    m = mpmath.mp
    with mpmath.workprec(BITS):
        points = [mpmath.mpf(each) for each in x]
        y = [mpmath.mpf(each) for each in VALUES]
        given = {name: mpmath.mpf(each) for name, each in form.parameters.items()}

        def factorised(changed: dict[str, Any], noise: Any) -> tuple[Any, ...]:
            n = len(points)
            rows = [
                [form.value(m, changed, points[i] - points[j]) for j in range(i + 1)]
                for i in range(n)
            ]
            pivots: list[Any] = []
            for i in range(n):
                rows[i][i] += noise
                for j in range(i):
                    for k in range(j):
                        rows[i][j] -= rows[i][k] * rows[j][k] * pivots[k]
                    rows[i][j] /= pivots[j]
                pivots.append(rows[i][i] - sum(rows[i][k] ** 2 * pivots[k] for k in range(i)))
            white: list[Any] = []
            for i in range(n):
                white.append(y[i] - sum(rows[i][k] * white[k] for k in range(i)))
            squares = [z**2 / d for z, d in zip(white, pivots, strict=True)]
            log_det = sum(m.log(d) for d in pivots)
            value = -(sum(squares) + log_det + n * m.log(2 * m.pi)) / 2
            return rows, pivots, white, log_det, value

        rows, pivots, white, log_det, value = factorised(given, mpmath.mpf(noise))
        n = len(points)
        solution = [z / d for z, d in zip(white, pivots, strict=True)]
        for i in reversed(range(n)):
            for k in range(i + 1, n):
                solution[i] -= rows[k][i] * solution[k]
        gradient = []
        for name in (*given, "noise") if noise else given:
            both = []
            for sign in (1, -1):
                factor = 1 + sign * STEP
                if name == "noise":
                    both.append(factorised(given, noise * factor)[-1])
                else:
                    both.append(factorised(given | {name: given[name] * factor}, noise)[-1])
            gradient.append((both[0] - both[1]) / (2 * STEP))
        return dict(zip(QUANTITIES, (log_det, min(pivots), solution, value, gradient), strict=True))


def laplex_results(form: Form, x: Array, noise: float) -> Results:
    names = (*form.parameters, "noise") if noise else tuple(form.parameters)
    given = form.parameters | {"noise": noise}
    leaves = {k: torch.tensor(given[k], dtype=torch.float64, requires_grad=True) for k in names}
    terms = form.laplex({k: leaves[k] for k in form.parameters})
    gram = LaplaceGram(torch.from_numpy(x), terms=terms, noise=leaves.get("noise"))
    y = torch.from_numpy(VALUES)
    value = gram.log_prob(y)
    gradient = torch.autograd.grad(value, list(leaves.values()))
    by_parameters = [float(g * leaves[k].detach()) for k, g in zip(names, gradient, strict=True)]
    gram = gram.detach()
    pivots = Gram(gram.parameters.covariance()).log_variances().exp()
    numbers = float(gram.logdet()), float(pivots.min()), gram.solve(y).tolist(), value.item()
    return dict(zip(QUANTITIES, (*numbers, by_parameters), strict=True))


def celerite2_results(form: Form, x: Array, noise: float, gradient: Callable[..., Any]) -> Results:
    assert form.celerite2
    process = celerite2.GaussianProcess(form.celerite2(celerite2.terms, form.parameters))
    process.compute(x, diag=np.full(len(x), noise))
    solution = process.apply_inverse(VALUES).tolist()
    value = float(process.log_likelihood(VALUES))
    numbers = float(process._log_det), float(process._d.min()), solution, value
    return dict(zip(QUANTITIES, (*numbers, gradient(form, x, noise)), strict=True))


def tinygp_results(
    form: Form, x: Array, noise: float, gradient: Callable[..., Any], factor: Callable[..., Any]
) -> Results:
    pivots, white, solution = map(np.asarray, factor(x, np.full(len(x), noise)))
    log_det = float(np.sum(np.log(pivots)))
    value = -0.5 * (float(white @ white) + log_det + len(x) * math.log(2 * math.pi))
    numbers = log_det, float(pivots.min()), solution.tolist(), value
    return dict(zip(QUANTITIES, (*numbers, gradient(form, x, noise)), strict=True))


def _tinygp_factor(form: Form) -> Callable[[Array, Array], Any]:
    """The pivots, L^-1 y and A^-1 y at given points and noise variances, compiled."""
    import jax
    from tinygp import GaussianProcess
    from tinygp.kernels import quasisep

    def run(x: Any, noise: Any) -> Any:
        assert form.tinygp
        solver = GaussianProcess(form.tinygp(quasisep, form.parameters), x, diag=noise).solver
        white = solver.solve_triangular(jax.numpy.asarray(VALUES))
        pivots = solver.factor.diag.d**2
        return pivots, white, solver.solve_triangular(white, transpose=True)

    return jax.jit(run)  # type: ignore[no-any-return]


def _jax_gradient(library: str, name: str) -> Callable[[Form, Array, float], list[float]]:
    """The gradient as jax computes it; compiled once for all spacings of a form."""
    import jax

    compiled = jax.jit(jax.grad(jax_log_density(library, FORMS[name])))

    def run(form: Form, x: Array, noise: float) -> list[float]:
        given = form.parameters | {"noise": noise}
        found = compiled(given, jax.numpy.asarray(x), jax.numpy.asarray(VALUES))
        names = (*form.parameters, "noise") if noise else tuple(form.parameters)
        return [float(found[k]) * given[k] for k in names]

    return run


#: A relative error, "NaN" if a result is NaN or infinite, or None if an error was raised.
Error = float | str | None


def error_of(found: Any, truth: Any, at_least: float = 0.0) -> Error:
    """The largest difference in units of the largest entry."""
    found, truth = np.atleast_1d(found), np.atleast_1d(truth)
    if not np.all(np.isfinite(found.astype(float))):
        return "NaN"
    with mpmath.workprec(BITS):
        differences = [abs(mpmath.mpf(a) - b) for a, b in zip(found.tolist(), truth, strict=True)]
        return float(max(differences) / max(at_least, *(abs(each) for each in truth)))


def measured(quick: bool) -> dict[str, Any]:
    """Errors by noise, form, library and quantity, a list over the spacings."""
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    spacings = SPACINGS[::4] if quick else SPACINGS
    found: dict[str, Any] = {"spacings": list(spacings), "errors": {}}
    for name, form in FORMS.items():
        ways = _ways(name)
        for noise in NOISES:
            by_library: dict[str, Any] = {who: {q: [] for q in QUANTITIES} for who in ways}
            for spacing in spacings:
                x = spacing * PLACES
                truth = reference(form, x, noise)
                for who, way in ways.items():
                    try:
                        results = way(form, x, noise)
                    except Exception as refusal:
                        if not _is_refusal(refusal):
                            raise
                        results = None
                    for q, errors in by_library[who].items():
                        at_least = 1.0 if q == "log det" else 0.0  # it may be 0
                        errors.append(
                            None if results is None else error_of(results[q], truth[q], at_least)
                        )
            found["errors"].setdefault(str(noise), {})[name] = by_library
        print(f"accuracy, {name}: done", flush=True)
    return found


def _ways(name: str) -> dict[str, Callable[[Form, Array, float], Results]]:
    ways: dict[str, Callable[[Form, Array, float], Results]] = {"laplex": laplex_results}
    if not HAS_JAX:
        return ways
    form = FORMS[name]
    if form.celerite2:
        ways["celerite2"] = partial(
            celerite2_results, gradient=_jax_gradient("celerite2 through jax", name)
        )
    if form.tinygp:
        ways["tinygp"] = partial(
            tinygp_results, gradient=_jax_gradient("tinygp", name), factor=_tinygp_factor(form)
        )
    return ways


def _is_refusal(error: Exception) -> bool:
    """Whether it says that the matrix cannot be factorised; each library has its own class."""
    return "LinAlgError" in type(error).__name__


def section(found: dict[str, Any], folder: Path) -> str:
    """A table for each noise; the picture is written into the folder."""
    _draw(found, folder)
    parts = []
    for noise, by_form in found["errors"].items():
        rows = []
        for name, by_library in by_form.items():
            for who, by_quantity in by_library.items():
                cells = [_worst(by_quantity[q]) for q in QUANTITIES]
                refused = sum(e is None for e in by_quantity["log det"])
                nan = sum(e == "NaN" for e in by_quantity["log det"])
                rows.append([name, who, *cells, _count(refused), _count(nan)])
        title = "without noise" if float(noise) == 0 else f"noise {noise}"
        head = [f"largest error, {title}", "", *QUANTITIES, "refused", "NaN"]
        parts.append(table(head, rows))
    return "\n".join(parts)


def _worst(errors: list[Error]) -> str:
    given = [e for e in errors if isinstance(e, float)]
    if not given:
        return "none"
    return f"{max(given):.0e}" if max(given) < 1 else "no digit"


def _count(number: int) -> str:
    return str(number) if number else ""


def _draw(found: dict[str, Any], folder: Path) -> None:
    by_form = found["errors"]["0.0"]
    figure = Figure(figsize=(13, 7.6), layout="constrained")
    axes = figure.subplots(3, 5, sharex=True, sharey=True).flatten()
    colours = dict(zip(LIBRARIES, ("C0", "C3", "C2"), strict=True))
    lines: dict[str, Any] = {}
    for ax, (name, by_library) in zip(axes, by_form.items(), strict=False):
        for who, by_quantity in by_library.items():
            for quantity, style in (("log det", "o-"), ("gradient", "x:")):
                errors = [
                    min(max(e, 1e-17), 1.0) if isinstance(e, float) else math.nan
                    for e in by_quantity[quantity]
                ]
                (line,) = ax.plot(found["spacings"], errors, style, color=colours[who], ms=4)
                lines.setdefault(f"{who}, {quantity}", line)
        ax.set(xscale="log", yscale="log", title=name, ylim=(5e-18, 3))
        ax.grid(alpha=0.3)
    for ax in axes[len(by_form) :]:
        ax.set_axis_off()
    for ax in axes[::5]:
        ax.set_ylabel("relative error")
    for ax in axes[len(by_form) - 5 : len(by_form)]:
        ax.set_xlabel("spacing")
        ax.tick_params(labelbottom=True)
    axes[-1].legend(list(lines.values()), list(lines), loc="center", fontsize=9)
    figure.savefig(folder / "gram_errors.png", dpi=100)
