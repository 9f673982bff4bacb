"""Write the tables and the picture of docs/measurements/gram.md.

    python bench/python/gram.py [--quick] [--only times agreement memory samples stability]

The script compares laplex.gram with celerite2, tinygp, GPyTorch and scikit-learn, on one thread;
tinygp and celerite2's interface to jax only where jax is installed. Times are process CPU times,
the minimum over interleaved rounds. It takes about fifteen minutes. With --quick it
takes one minute and writes into build/gram.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import celerite2.backprop
import celerite2.terms
import gpytorch
import mpmath
import numpy as np
import threadpoolctl
import torch
from matplotlib.figure import Figure
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from laplex import _core
from laplex._support.core import Process, ProcessGradients
from laplex.gram import LaplaceGram, Term
from laplex.gram.gpytorch import LaplaceKernel
from machine import processor
from measure import measure

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "measurements" / "gram.md"
Array = np.ndarray
D = torch.float64

ELL, VARIANCE, NOISE, OMEGA = 1.0, 1.5, 0.1, 3.0
FORMS = ("real", "cosine")
SIZES = (50, 10**3, 10**4, 10**5, 10**6)
HAS_JAX = all(importlib.util.find_spec(name) for name in ("jax", "tinygp"))


@dataclass(frozen=True)
class Problem:
    """Observations [n] at sorted points [n], about 30 of them in a lengthscale."""

    n: int
    form: str
    x: Array
    y: Array

    @classmethod
    def draw(cls, n: int, form: str) -> Problem:
        rng = np.random.default_rng(n)
        return cls(n, form, np.sort(rng.uniform(0, n / 30, n)), rng.standard_normal(n))

    @property
    def parameters(self) -> dict[str, float]:
        """The hyper-parameters that everyone differentiates by."""
        found = {"lengthscale": ELL, "variance": VARIANCE, "noise": NOISE}
        return found | ({"frequency": OMEGA} if self.form == "cosine" else {})


# --- the contestants: functions of a problem that return log p(y) and its derivatives -------------

Derivatives = dict[str, Any]


def laplex_value(p: Problem) -> float:
    gram = LaplaceGram(torch.from_numpy(p.x), **p.parameters)
    return float(gram.log_prob(torch.from_numpy(p.y)))


def laplex_gradients(p: Problem, everything: bool = False) -> tuple[float, Derivatives]:
    """By the hyper-parameters; with `everything` also by anchors, values, each point's noise."""
    x, y = torch.from_numpy(p.x), torch.from_numpy(p.y)
    leaves = {
        name: torch.tensor(value, dtype=D, requires_grad=True)
        for name, value in p.parameters.items()
    }
    if everything:
        leaves["noise"] = torch.full((p.n,), NOISE, dtype=D, requires_grad=True)
        x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    value = LaplaceGram(x, **leaves).log_prob(y)
    inputs = {**leaves, **({"anchors": x, "values": y} if everything else {})}
    gradients = torch.autograd.grad(value, list(inputs.values()))
    return float(value.detach()), dict(zip(inputs, gradients, strict=True))


def compiled_value(p: Problem, gradients: ProcessGradients | None = None) -> float:
    """By the compiled function that LaplaceGram calls, on NumPy arrays."""
    address, out = _core.address, np.empty(1)
    frequency = OMEGA if p.form == "cosine" else 0
    noise = np.full(p.n, NOISE)
    arrays = (address(p.x), address(p.y), ELL, VARIANCE, frequency, address(noise))
    wanted = gradients or ProcessGradients(0, 0, 0, 0, 0, 0)
    assert _core.log_density(Process(1, p.n, False, *arrays), address(out), wanted, 1)
    return float(out[0])


def compiled_gradients(p: Problem) -> tuple[float, Derivatives]:
    """Every gradient by the compiled function, as `celerite_gradients` calls celerite2's."""
    gradients: Derivatives = {
        "anchors": np.empty(p.n),
        "values": np.empty(p.n),
        "lengthscale": np.empty(1),
        "variance": np.empty(1),
        "frequency": np.empty(1),
        "noise": np.empty(p.n),
    }
    value = compiled_value(p, ProcessGradients(*map(_core.address, gradients.values())))
    return value, gradients


def celerite_term(p: Problem) -> Any:
    if p.form == "real":
        return celerite2.terms.RealTerm(a=VARIANCE, c=1 / ELL)
    return celerite2.terms.ComplexTerm(a=VARIANCE, b=0.0, c=1 / ELL, d=OMEGA)


def celerite_value(p: Problem) -> float:
    process = celerite2.GaussianProcess(celerite_term(p))
    process.compute(p.x, diag=np.full(p.n, NOISE))
    return float(process.log_likelihood(p.y))


def celerite_gradients(p: Problem) -> tuple[float, Derivatives]:
    """By the compiled functions that celerite2's interfaces to jax and PyMC call, without those."""
    ops = celerite2.backprop
    c, a, U, V = celerite_term(p).get_celerite_matrices(p.x, np.full(p.n, NOISE))
    n, width = U.shape
    y = p.y[:, None]
    d, W, S, Z, F = (
        np.empty(shape) for shape in ((n,), (n, width), (n, width, width), (n, 1), (n, width, 1))
    )
    d, W, S = ops.factor_fwd(p.x, c, a, U, V, d, W, S)
    Z, F = ops.solve_lower_fwd(p.x, c, U, W, y, Z, F)
    squares = Z[:, 0] ** 2 / d
    value = -0.5 * float(np.sum(squares) + np.sum(np.log(d)) + n * math.log(2 * math.pi))
    by_Z, by_d = -Z / d[:, None], -0.5 * (1 - squares) / d

    def empty() -> tuple[Array, ...]:
        return np.empty(n), np.empty(width), np.empty((n, width)), np.empty((n, width))

    t1, c1, U1, W1, by_y = ops.solve_lower_rev(
        *(p.x, c, U, W, y, Z, F, by_Z), *empty(), np.empty((n, 1))
    )
    t2, c2, U2, V2 = empty()
    t2, c2, by_a, U2, V2 = ops.factor_rev(
        *(p.x, c, a, U, V, d, W, S, by_d, W1), *(t2, c2, np.empty(n), U2, V2)
    )
    by_U = U1 + U2
    gradients: Derivatives = {
        "lengthscale": -float(np.sum(c1 + c2)) / ELL**2,
        "variance": float(np.sum(by_a) + np.sum(by_U * U) / VARIANCE),
        "noise": float(np.sum(by_a)),
        "values": by_y[:, 0],
    }
    turned = np.zeros(n)
    if p.form == "cosine":  # U = variance (cos, sin), V = (cos, sin) of OMEGA x
        turned = by_U[:, 1] * U[:, 0] - by_U[:, 0] * U[:, 1]
        turned = turned + V2[:, 1] * V[:, 0] - V2[:, 0] * V[:, 1]
        gradients["frequency"] = float(np.sum(turned * p.x))
    gradients["anchors"] = t1 + t2 + turned * OMEGA
    return value, gradients


def jax_density(p: Problem, library: str) -> Callable[[bool], Any]:
    """A compiled function of jax: log p(y), and with True the derivatives by the parameters."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    import jax

    jax.config.update("jax_enable_x64", True)
    x, y = jax.numpy.asarray(p.x), jax.numpy.asarray(p.y)

    def density(given: dict[str, Any]) -> Any:
        a, c, d = given["variance"], 1 / given["lengthscale"], given.get("frequency")
        if library == "tinygp":
            from tinygp import GaussianProcess
            from tinygp.kernels import quasisep

            kernel = quasisep.Exp(scale=1 / c, sigma=jax.numpy.sqrt(a))
            if d is not None:
                kernel = quasisep.Celerite(a, 0.0, c, d)
            return GaussianProcess(kernel, x, diag=given["noise"]).log_probability(y)
        import celerite2.jax
        from celerite2.jax import terms

        term = terms.RealTerm(a=a, c=c) if d is None else terms.ComplexTerm(a=a, b=0.0, c=c, d=d)
        process = celerite2.jax.GaussianProcess(term)
        process.compute(x, diag=given["noise"] * jax.numpy.ones(p.n))
        return process.log_likelihood(y)

    functions = jax.jit(density), jax.jit(jax.value_and_grad(density))

    def run(gradients: bool) -> Any:
        return jax.block_until_ready(functions[gradients](p.parameters))

    return run


class CosineKernel(gpytorch.kernels.Kernel):
    """Matern-1/2 times a cosine by its formula, which GPyTorch has not."""

    has_lengthscale = True

    def __init__(self) -> None:
        super().__init__()
        self.frequency = torch.nn.Parameter(torch.tensor(OMEGA, dtype=D))

    def forward(self, x1: Any, x2: Any, diag: bool = False, **_: Any) -> Any:
        distance = self.covar_dist(x1, x2, diag=diag)
        return torch.exp(-distance / self.lengthscale[0, 0]) * torch.cos(self.frequency * distance)


class Model(gpytorch.models.ExactGP):
    def __init__(self, x: Any, y: Any, likelihood: Any, kernel: Any) -> None:
        super().__init__(x, y, likelihood)
        self.mean_module = gpytorch.means.ZeroMean()
        self.covar_module = gpytorch.kernels.ScaleKernel(kernel)

    def forward(self, x: Any) -> Any:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def gpytorch_model(p: Problem, kernel: str) -> Callable[[bool], float]:
    """A function that computes log p(y), and with True the derivatives by the raw parameters."""
    if kernel == "LaplaceKernel":
        base = LaplaceKernel(oscillates=p.form == "cosine")
    else:
        base = gpytorch.kernels.MaternKernel(nu=0.5) if p.form == "real" else CosineKernel()
    x, y = torch.from_numpy(p.x), torch.from_numpy(p.y)
    likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
    model = Model(x, y, likelihood, base).double()
    base.lengthscale, model.covar_module.outputscale, likelihood.noise = ELL, VARIANCE, NOISE
    if kernel == "LaplaceKernel" and p.form == "cosine":
        base.frequency = OMEGA
    marginal = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)

    def run(gradients: bool) -> float:
        model.zero_grad()
        with torch.set_grad_enabled(gradients), gpytorch_mode(kernel):
            value = marginal(model(x), y)
            if gradients:
                value.backward()
        return float(value.detach()) * p.n

    return run


@contextlib.contextmanager
def gpytorch_mode(kernel: str) -> Iterator[None]:
    if kernel == "Cholesky":
        with gpytorch.settings.fast_computations(False, False, False):
            yield
    else:
        yield


def sklearn_model(p: Problem) -> Callable[[bool], float]:
    """The real form alone; scikit-learn has no kernel for the other."""
    kernel = ConstantKernel(VARIANCE) * Matern(ELL, nu=0.5) + WhiteKernel(NOISE)
    process = GaussianProcessRegressor(kernel, alpha=0, optimizer=None)
    process.fit(p.x[:, None], p.y)

    def run(gradients: bool) -> float:
        found = process.log_marginal_likelihood(kernel.theta, eval_gradient=gradients)
        return float(found[0] if gradients else found)

    return run


VALUE, GRADIENTS = "log_prob", "log_prob and gradients"
COMPILED = "laplex, compiled function"
JAX_RIVALS = ("celerite2 through jax", "tinygp")
OURS = ("laplex", "laplex, every gradient", COMPILED, "GPyTorch with LaplaceKernel")
RIVALS = ("celerite2", *JAX_RIVALS, "GPyTorch, Cholesky", "GPyTorch, CG", "scikit-learn")
#: Whose times are divided: with and without a library for derivatives, each beside its like.
PAIRS = (
    (VALUE, "laplex", "celerite2"),
    (VALUE, "laplex", "tinygp"),
    (GRADIENTS, COMPILED, "celerite2"),
    (GRADIENTS, "laplex", "celerite2"),
    (GRADIENTS, "laplex", "celerite2 through jax"),
    (GRADIENTS, "laplex", "tinygp"),
)
#: The largest n that a rival with n x n matrices is asked for: at 10^5 one takes 80 GB.
LARGEST = {"GPyTorch, Cholesky": 10**4, "GPyTorch, CG": 10**4, "scikit-learn": 10**3}
QUICK = dict.fromkeys(LARGEST, 10**3)


def tasks(p: Problem, largest: dict[str, int]) -> dict[tuple[str, str], Callable[[], Any]]:
    """What to time: {(who, what): function}."""
    found: dict[tuple[str, str], Callable[[], Any]] = {
        ("laplex", VALUE): lambda: laplex_value(p),
        ("celerite2", VALUE): lambda: celerite_value(p),
        ("laplex", GRADIENTS): lambda: laplex_gradients(p),
        ("laplex, every gradient", GRADIENTS): lambda: laplex_gradients(p, everything=True),
        (COMPILED, VALUE): lambda: compiled_value(p),
        (COMPILED, GRADIENTS): lambda: compiled_gradients(p),
        ("celerite2", GRADIENTS): lambda: celerite_gradients(p),
    }
    models = {name: jax_density(p, name) for name in JAX_RIVALS if HAS_JAX}
    models |= {
        f"GPyTorch{name}": gpytorch_model(p, kernel)
        for name, kernel in (
            (" with LaplaceKernel", "LaplaceKernel"),
            (", Cholesky", "Cholesky"),
            (", CG", "CG"),
        )
        if p.n <= largest.get(f"GPyTorch{name}", p.n)
    }
    if p.form == "real" and p.n <= largest["scikit-learn"]:
        models["scikit-learn"] = sklearn_model(p)
    for name, run in models.items():
        for what, gradients in ((VALUE, False), (GRADIENTS, True)):
            found[name, what] = lambda run=run, gradients=gradients: run(gradients)
    return found


# --- sections of the page -------------------------------------------------------------------------


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def power(n: float) -> str:
    exponent = round(math.log10(n))
    return f"10^{exponent}" if 10**exponent == n else f"{n:,}"


def seconds(value: float | None) -> str:
    if value is None:
        return ""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * scale >= 1:
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e6:.2g} us"


def slope(points: dict[int, float]) -> float:
    """Exponent of n, by least squares in logarithms."""
    return float(np.polyfit(np.log(list(points)), np.log(list(points.values())), 1)[0])


Times = dict[tuple[str, str, str], dict[int, float]]


def time_all(quick: bool) -> Times:
    """Seconds by (form, what, who) and n. What takes seconds is run once."""
    sizes, rounds = (SIZES[:-1], 5) if quick else (SIZES, 15)
    times: Times = {}
    for n in sizes:
        for form in FORMS:
            found = tasks(Problem.draw(n, form), QUICK if quick else LARGEST)
            # Those with n x n matrices sweep the caches: rounds of their own.
            groups: dict[bool, dict[str, Callable[[], Any]]] = {False: {}, True: {}}
            for (who, what), task in found.items():
                if who in LARGEST and n >= 10**4:
                    start = time.process_time()
                    task()
                    times.setdefault((form, what, who), {})[n] = time.process_time() - start
                else:
                    groups[who in LARGEST][f"{who} / {what}"] = task
            for group in groups.values():
                for name, best in measure(group, rounds=rounds, budget=40.0).items():
                    who, what = name.split(" / ")
                    times.setdefault((form, what, who), {})[n] = best
            print(f"times, n = {n}, {form}: done", flush=True)
    return times


def section_times(times: Times, folder: Path) -> str:
    sizes = sorted({n for points in times.values() for n in points})
    lines = []
    for form in FORMS:
        rows = []
        for what in (VALUE, GRADIENTS):
            for who in (*OURS, *RIVALS):
                points = times.get((form, what, who))
                if points:
                    cells = [seconds(points.get(n)) for n in sizes]
                    steep = {n: t for n, t in points.items() if n >= 10**4}
                    exponent = f"{slope(steep):.2f}" if len(steep) > 1 else ""
                    rows.append([what, who, *cells, exponent])
        name = "One real term" if form == "real" else "One cosine term"
        head = [name, "", *(f"n = {power(n)}" for n in sizes), "exponent"]
        lines.append(table(head, rows))
    ratios = []
    for form in FORMS:
        for what, ours, theirs in PAIRS:
            if (form, what, theirs) in times:
                points, others = times[form, what, ours], times[form, what, theirs]
                cells = [f"{others[n] / points[n]:.2f}" for n in sizes]
                ratios.append([form, what, theirs, ours, *cells])
    head = ["time of the first / time of the second", "", "first", "second"]
    lines.append(table([*head, *(f"n = {power(n)}" for n in sizes)], ratios))
    draw_times(times, folder)
    return "\n".join(lines)


def draw_times(times: Times, folder: Path) -> None:
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    colours = {who: f"C{i}" for i, who in enumerate((*OURS, *RIVALS))}
    for ax, form in zip(figure.subplots(1, 2, sharey=True), FORMS, strict=True):
        for (kind, what, who), points in times.items():
            if kind == form and who not in ("laplex, every gradient", COMPILED):
                label = who if what == GRADIENTS else None
                style = "o-" if what == GRADIENTS else "o:"
                ax.plot(list(points), list(points.values()), style, color=colours[who], label=label)
        ax.set(xscale="log", yscale="log", xlabel="n", title=f"One {form} term")
        ax.grid(alpha=0.3)
    figure.axes[0].set_ylabel("CPU time in seconds")
    figure.axes[0].legend(
        fontsize=8, title="solid: with gradients; dotted: without", title_fontsize=8
    )
    figure.savefig(folder / "gram_times.png", dpi=110)


def error(ours: Any, theirs: Any) -> float:
    """Largest difference, in units of the largest number."""
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))


def dense_gradients(p: Problem) -> tuple[float, Derivatives]:
    """By torch's Cholesky and autograd, of the formula."""
    x = torch.from_numpy(p.x).requires_grad_()
    y = torch.from_numpy(p.y).requires_grad_()
    leaves = {
        name: torch.tensor(value, dtype=D, requires_grad=True)
        for name, value in p.parameters.items()
    }
    gaps = x[:, None] - x[None, :]
    matrix = leaves["variance"] * torch.exp(-gaps.abs() / leaves["lengthscale"])
    if "frequency" in leaves:
        matrix = matrix * torch.cos(leaves["frequency"] * gaps)
    matrix = matrix + leaves["noise"] * torch.eye(p.n, dtype=D)
    factor = torch.linalg.cholesky(matrix)
    white = torch.linalg.solve_triangular(factor, y[:, None], upper=False)[:, 0]
    value = -0.5 * white.square().sum() - factor.diagonal().log().sum()
    value = value - 0.5 * p.n * math.log(2 * math.pi)
    inputs = {**leaves, "anchors": x, "values": y}
    gradients = torch.autograd.grad(value, list(inputs.values()))
    return float(value.detach()), dict(zip(inputs, gradients, strict=True))


def section_agreement(quick: bool) -> str:
    rows = []
    for rival, reference, sizes in (
        ("torch, dense", dense_gradients, (300, 2000)),
        ("celerite2", celerite_gradients, (300, 10**4) if quick else (300, 10**4, 10**5, 10**6)),
    ):
        for form in FORMS:
            for n in sizes:
                p = Problem.draw(n, form)
                (value, ours), (expected, theirs) = laplex_gradients(p, True), reference(p)
                ours["noise"] = ours["noise"].sum()
                names = ("lengthscale", "variance", "noise", "frequency", "anchors", "values")
                errors = [f"{error(ours[k], theirs[k]):.0e}" if k in ours else "" for k in names]
                rows.append([rival, form, f"{n:,}", f"{error(value, expected):.0e}", *errors])
    head = ["reference", "term", "n", "log_prob", *(f"by {k}" for k in names)]
    return table(head, rows)


MEMORY = {
    "laplex, log_prob": lambda p: laplex_value(p),
    "laplex, every gradient": lambda p: laplex_gradients(p, True),
    "celerite2, log_prob": lambda p: celerite_value(p),
    "celerite2, every gradient": lambda p: celerite_gradients(p),
    "GPyTorch with LaplaceKernel, gradients": lambda p: gpytorch_model(p, "LaplaceKernel")(True),
    "GPyTorch, Cholesky, gradients": lambda p: gpytorch_model(p, "Cholesky")(True),
}


def peak_of(name: str, n: int, form: str) -> None:
    """Print by how many bytes a task raises the most that this process held."""
    MEMORY[name](Problem.draw(100, form))
    p = Problem.draw(n, form)
    before = high_water()
    MEMORY[name](p)
    print(high_water() - before)


def high_water() -> int:
    """The most bytes that this process held. (What getrusage says, it inherits.)"""
    kib = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert kib
    return 1024 * int(kib[1])


def section_memory(quick: bool) -> str:
    rows = []
    for name in MEMORY:
        dense = "Cholesky" in name
        sizes = (4000,) if dense else (10**5,) if quick else (10**5, 10**6)
        for n in sizes:
            cells = []
            for form in FORMS:
                command = [sys.executable, __file__, "--peak", json.dumps([name, n, form])]
                peak = int(subprocess.run(command, capture_output=True, check=True).stdout)
                cells.append(f"{peak / 1e6:.3g} MB, {peak / n:.0f} n")
            rows.append([name, f"{n:,}", *cells])
    return table(["memory beyond the data", "n", *FORMS], rows)


def section_samples(quick: bool) -> str:
    """Relative Frobenius error of the covariance of N samples, rms of 20, and its expectation."""
    terms = [Term(0.5, 1.0), Term(1.0, 0.5, frequency=4.0)]
    gram = LaplaceGram(torch.linspace(0, 3, 30, dtype=D), terms=terms, noise=0.1)
    matrix = gram.to_dense()
    expected = math.sqrt(float((matrix.trace() ** 2 / matrix.square().sum()) + 1))
    generator = torch.Generator().manual_seed(0)
    counts = [10**k for k in range(1, 5 if quick else 6)]
    errors = {}
    for count in counts:
        found = []
        for _ in range(20):
            samples = gram.sample((count,), generator=generator)
            estimate = samples.T @ samples / count
            found.append(float((estimate - matrix).norm() / matrix.norm()))
        errors[count] = float(np.sqrt(np.mean(np.square(found))))
    rows = [
        ["measured", *(f"{errors[c]:.4f}" for c in counts)],
        ["expected", *(f"{expected / math.sqrt(c):.4f}" for c in counts)],
    ]
    text = table(["samples", *(power(c) for c in counts)], rows)
    return text + f"\nThe fitted exponent of N is {slope(errors):.3f}.\n"


STABILITY: dict[str, list[Term]] = {
    "1 real": [Term(1.0)],
    "1 cosine": [Term(1.0, frequency=2.0)],
    "cosine + real": [Term(1.0, frequency=2.0), Term(0.5)],
}


def stability(terms: list[Term], gap: float, n: int = 6) -> list[str]:
    """Condition number, and errors of solve and logdet against 120 digits, or what was said."""
    x = 0.37 + gap * torch.arange(n, dtype=D)
    gram = LaplaceGram(x, terms=terms)
    b = torch.cos(torch.arange(n, dtype=D))
    with mpmath.workdps(120):
        points = [mpmath.mpf(value) for value in x.tolist()]

        def entry(one: Any, two: Any) -> Any:
            return mpmath.fsum(
                mpmath.exp(-abs(one - two) / term.lengthscale)
                * mpmath.cos(term.frequency * (one - two))
                for term in terms
            )

        A = mpmath.matrix([[entry(one, two) for two in points] for one in points])
        eigenvalues = mpmath.eigsy(A, eigvals_only=True)
        condition = float("inf")
        if eigenvalues[0] > mpmath.mpf(10) ** -100:
            condition = float(eigenvalues[n - 1] / eigenvalues[0])
        cells = [f"{condition:.0e}" if math.isfinite(condition) else "singular"]
        try:
            solution, logdet = gram.solve(b).tolist(), float(gram.logdet())
        except np.linalg.LinAlgError as refusal:
            return [*cells, "refused", "refused", celerite_logdet(terms, x, None), str(refusal)]
        truth = mpmath.log(mpmath.det(A))
        right = mpmath.matrix(b.tolist())
        found = mpmath.matrix(solution)
        residual = mpmath.norm(A * found - right)
        backward = residual / (mpmath.mnorm(A, "f") * mpmath.norm(found))
        cells.append(f"{float(backward):.0e}")
        cells.append(f"{abs(float(mpmath.mpf(logdet) - truth)):.0e}")
        return [*cells, celerite_logdet(terms, x, truth), ""]


def celerite_logdet(terms: list[Term], x: torch.Tensor, truth: Any) -> str:
    parts = [
        celerite2.terms.ComplexTerm(a=1.0, b=0.0, c=1 / term.lengthscale, d=term.frequency)
        if term.frequency
        else celerite2.terms.RealTerm(a=1.0, c=1 / term.lengthscale)
        for term in terms
    ]
    process = celerite2.GaussianProcess(celerite2.terms.TermSum(*parts) if parts[1:] else parts[0])
    try:
        process.compute(x.numpy(), diag=np.zeros(len(x)))
    except Exception as refusal:  # a LinAlgError of its own
        return "refused" if "LinAlg" in type(refusal).__name__ else type(refusal).__name__
    if truth is None or not math.isfinite(process._log_det):
        return "no digit" if truth is None else f"{process._log_det}"
    return f"{abs(float(mpmath.mpf(float(process._log_det)) - truth)):.0e}"


def section_stability() -> str:
    lines, messages = [], []
    for name, terms in STABILITY.items():
        rows = []
        for exponent in (1, 2, 4, 6, 8, 10, 12, 13, 14, 15, 16):
            *cells, message = stability(terms, 10.0**-exponent)
            rows.append([name, f"1e-{exponent:02}", *cells])
            messages += [message] if message else []
        head = ["terms", "spacing", "condition", "backward error of solve", "error of logdet"]
        lines.append(table([*head, "celerite2: error of logdet"], rows))
    text = "\n".join(lines)
    if messages:
        text += f"\nThe last refusal has the message: `{messages[-1]}`\n"
    return text


def machine_line() -> str:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("torch", "celerite2", "jax", "tinygp", "gpytorch", "scikit-learn")
        if importlib.util.find_spec("sklearn" if name == "scikit-learn" else name)
    )
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    text = f"{processor()}, one thread; commit {commit}, {date.today()}; {versions}."
    if not HAS_JAX:
        text += " jax is not installed, so celerite2's interface to it and tinygp are not measured."
    return text + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="use small sizes; write to build/gram")
    names = ("times", "agreement", "memory", "samples", "stability")
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, help="measure these sections only"
    )
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    threadpoolctl.threadpool_limits(1)
    if options.peak:
        peak_of(*json.loads(options.peak))
        return
    out = ROOT / "build" / "gram" / PAGE.name if options.quick else PAGE
    out.parent.mkdir(parents=True, exist_ok=True)
    sections: dict[str, Callable[[], str]] = {
        "times": lambda: section_times(time_all(options.quick), out.parent),
        "agreement": lambda: section_agreement(options.quick),
        "memory": lambda: section_memory(options.quick),
        "samples": lambda: section_samples(options.quick),
        "stability": section_stability,
    }
    text = (out if out.exists() else PAGE).read_text()
    for name in (*options.only, "machine"):
        start = time.perf_counter()
        made = machine_line() if name == "machine" else sections[name]()
        print(f"{name}: {time.perf_counter() - start:.0f} s\n{made}", flush=True)
        marked = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(marked, lambda m, made=made: m[1] + made + m[2], text, flags=re.DOTALL)
    out.write_text(text)


if __name__ == "__main__":
    main()
