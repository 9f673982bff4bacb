"""Everyone who computes the log density of a `Problem` and its derivatives."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import celerite2.backprop
import celerite2.terms
import gpytorch
import numpy as np
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from gram_forms import FORMS, NOISE, Array, Form, Problem
from gram_laplex import compiled_gradients, compiled_value, laplex_gradients, laplex_value
from laplex.gram import gpytorch as laplex_kernels

HAS_JAX = all(importlib.util.find_spec(name) for name in ("jax", "tinygp"))
VALUE, GRADIENTS = "log_prob", "log_prob and gradients"
COMPILED = "laplex, compiled functions"
SHO_OF_CELERITE = "celerite2, SHO"
JAX_RIVALS = ("celerite2 through jax", "tinygp")
OURS = ("laplex", "laplex, every gradient", COMPILED, "GPyTorch with Laplex")
#: Those with n x n matrices, of which one takes 80 GB at n = 10^5.
DENSE = ("GPyTorch, Cholesky", "GPyTorch, CG", "scikit-learn")
RIVALS = ("celerite2", SHO_OF_CELERITE, *JAX_RIVALS, *DENSE)


# --- celerite2 ------------------------------------------------------------------------------------


def celerite_term(p: Problem, form: str) -> Any:
    """The term of a form; "sho" of another form's problem has the quality of Matern-3/2."""
    if form == "sho" != p.form:
        rate = math.sqrt(3) / p.parameters["lengthscale"]
        return celerite2.terms.SHOTerm(sigma=p.parameters["variance"] ** 0.5, w0=rate, Q=0.5)
    make = FORMS[form].celerite2
    assert make
    return make(celerite2.terms, p.model.parameters)


def celerite_value(p: Problem, form: str) -> float:
    process = celerite2.GaussianProcess(celerite_term(p, form))
    process.compute(p.x, diag=np.full(p.n, NOISE))
    return float(process.log_likelihood(p.y))


def celerite_gradients(p: Problem, form: str) -> tuple[float, dict[str, Any]]:
    """By the compiled functions that celerite2's interfaces to jax and PyMC call, without those.

    The derivatives are those by celerite's coefficients of each term. The chain rule to other
    parameters, a few operations on numbers, is left out.
    """
    ops, term = celerite2.backprop, celerite_term(p, form)
    ar, _, ac, _, _, dc = term.get_coefficients()
    c, a, U, V = term.get_celerite_matrices(p.x, np.full(p.n, NOISE))
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
    by_U, by_c, noise, t = U1 + U2, c1 + c2, float(np.sum(by_a)), t1 + t2
    found: dict[str, Any] = {"noise": noise, "values": by_y[:, 0]}
    real = len(ar)
    found["real"] = [(noise + np.sum(by_U[:, j]), by_c[j]) for j in range(real)]
    found["complex"] = []
    for j in range(len(ac)):  # U = (a cos + b sin, a sin - b cos), V = (cos, sin) of d x
        k = slice(real + 2 * j, real + 2 * j + 2)
        (u1, u2), (v1, v2) = U[:, k].T, V[:, k].T
        (g1, g2), (h1, h2) = by_U[:, k].T, V2[:, k].T
        turned = g2 * u1 - g1 * u2 + h2 * v1 - h1 * v2
        by_a_of_term = noise + np.sum(g1 * v1 + g2 * v2)
        by_b_of_term = np.sum(g1 * v2 - g2 * v1)
        by_d_of_term = np.sum(turned * p.x)
        found["complex"].append((by_a_of_term, by_b_of_term, np.sum(by_c[k]), by_d_of_term))
        t = t + turned * dc[j]
    found["anchors"] = t
    return value, found


# --- celerite2 and tinygp through jax -------------------------------------------------------------


def jax_log_density(library: str, model: Form) -> Callable[..., Any]:
    """A function of parameters, points, values and noise variances, which jax can compile."""
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    import jax

    jax.config.update("jax_enable_x64", True)

    def density(given: dict[str, Any], x: Any, y: Any) -> Any:
        noise = given["noise"] * jax.numpy.ones(x.shape)
        if library == "tinygp":
            from tinygp import GaussianProcess
            from tinygp.kernels import quasisep

            assert model.tinygp
            return GaussianProcess(model.tinygp(quasisep, given), x, diag=noise).log_probability(y)
        import celerite2.jax
        from celerite2.jax import terms

        assert model.celerite2
        numbers = {name: each for name, each in given.items() if name != "noise"}
        process = celerite2.jax.GaussianProcess(model.celerite2(terms, numbers))
        process.compute(x, diag=noise)
        return process.log_likelihood(y)

    return density


def jax_model(p: Problem, library: str) -> Callable[[bool], Any]:
    """Compiled functions of jax: log p(y), and with True the derivatives by the parameters."""
    density = jax_log_density(library, p.model)
    import jax

    x, y = jax.numpy.asarray(p.x), jax.numpy.asarray(p.y)
    functions = jax.jit(density), jax.jit(jax.value_and_grad(density))

    def run(gradients: bool) -> Any:
        return jax.block_until_ready(functions[gradients](p.parameters, x, y))

    return run


# --- GPyTorch and scikit-learn --------------------------------------------------------------------


class CosineKernel(gpytorch.kernels.Kernel):
    """Matern-1/2 times a cosine by its formula, which GPyTorch has not."""

    has_lengthscale = True

    def __init__(self) -> None:
        super().__init__()
        self.frequency = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, x1: Any, x2: Any, diag: bool = False, **_: Any) -> Any:
        distance = self.covar_dist(x1, x2, diag=diag)
        return torch.exp(-distance / self.lengthscale[0, 0]) * torch.cos(self.frequency * distance)


class Model(gpytorch.models.ExactGP):
    def __init__(self, x: Any, y: Any, likelihood: Any, kernel: Any) -> None:
        super().__init__(x, y, likelihood)
        self.mean_module = gpytorch.means.ZeroMean()
        self.covar_module = kernel

    def forward(self, x: Any) -> Any:
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def gpytorch_kernel(p: Problem, ours: bool) -> Any:
    """GPyTorch's kernel or ours in float64, or None where there is none."""
    given, model = p.model.parameters, p.model
    if model.nu is not None:
        library = laplex_kernels if ours else gpytorch.kernels
        base = library.MaternKernel(nu=model.nu)
    elif p.form == "cosine":
        base = laplex_kernels.LaplaceKernel(oscillates=True) if ours else CosineKernel()
    elif p.form == "sho" and ours:
        kernel = laplex_kernels.SHOKernel().double()
        kernel.initialize(**given)
        return kernel
    else:
        return None
    kernel = gpytorch.kernels.ScaleKernel(base).double()
    base.lengthscale, kernel.outputscale = given["lengthscale"], given["variance"]
    if p.form == "cosine" and ours:
        base.frequency = given["frequency"]
    elif p.form == "cosine":
        base.frequency.data.fill_(given["frequency"])
    if model.trend:
        line = gpytorch.kernels.LinearKernel().double()
        line.variance = given["slope"]
        kernel = kernel + line
    return kernel


def gpytorch_model(p: Problem, kernel: Any, cholesky: bool = False) -> Callable[[bool], float]:
    """A function that computes log p(y), and with True the derivatives by the raw parameters."""
    x, y = torch.from_numpy(p.x), torch.from_numpy(p.y)
    likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
    model = Model(x, y, likelihood, kernel)
    likelihood.noise = NOISE
    marginal = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)

    def run(gradients: bool) -> float:
        model.zero_grad()
        with torch.set_grad_enabled(gradients), gpytorch_mode(cholesky):
            value = marginal(model(x), y)
            if gradients:
                value.backward()
        return float(value.detach()) * p.n

    return run


@contextlib.contextmanager
def gpytorch_mode(cholesky: bool) -> Iterator[None]:
    if cholesky:
        with gpytorch.settings.fast_computations(False, False, False):
            yield
    else:
        yield


def sklearn_model(p: Problem) -> Callable[[bool], float]:
    given = p.parameters
    kernel = ConstantKernel(given["variance"]) * Matern(given["lengthscale"], nu=p.model.nu)
    kernel = kernel + WhiteKernel(NOISE)
    process = GaussianProcessRegressor(kernel, alpha=0, optimizer=None)
    process.fit(p.x[:, None], p.y)

    def run(gradients: bool) -> float:
        found = process.log_marginal_likelihood(kernel.theta, eval_gradient=gradients)
        return float(found[0] if gradients else found)

    return run


# --- all of them ----------------------------------------------------------------------------------


def tasks(p: Problem, largest: dict[str, int]) -> dict[tuple[str, str], Callable[[], Any]]:
    """What to time: {(who, what): function}, for the `DENSE` up to their largest n."""
    found: dict[tuple[str, str], Callable[[], Any]] = {
        ("laplex", VALUE): partial(laplex_value, p),
        ("laplex", GRADIENTS): partial(laplex_gradients, p),
        ("laplex, every gradient", GRADIENTS): partial(laplex_gradients, p, everything=True),
    }
    if not p.model.trend:
        found[COMPILED, VALUE] = partial(compiled_value, p)
        found[COMPILED, GRADIENTS] = partial(compiled_gradients, p)
    forms = {"celerite2": p.form} if p.model.celerite2 else {}
    forms |= {SHO_OF_CELERITE: "sho"} if p.form == "matern32" else {}
    for name, form in forms.items():
        found[name, VALUE] = partial(celerite_value, p, form)
        found[name, GRADIENTS] = partial(celerite_gradients, p, form)
    for name, run in _models(p, largest).items():
        for what, gradients in ((VALUE, False), (GRADIENTS, True)):
            found[name, what] = partial(run, gradients)
    return found


def _models(p: Problem, largest: dict[str, int]) -> dict[str, Callable[[bool], Any]]:
    found: dict[str, Callable[[bool], Any]] = {}
    for name, term in zip(JAX_RIVALS, (p.model.celerite2, p.model.tinygp), strict=True):
        if HAS_JAX and term:
            found[name] = jax_model(p, name)
    kernel = gpytorch_kernel(p, ours=True)
    if kernel is not None:
        found["GPyTorch with Laplex"] = gpytorch_model(p, kernel)
    for name, cholesky in (("GPyTorch, Cholesky", True), ("GPyTorch, CG", False)):
        kernel = gpytorch_kernel(p, ours=False)
        if kernel is not None and p.n <= largest[name]:
            found[name] = gpytorch_model(p, kernel, cholesky)
    is_matern = p.model.nu is not None and not p.model.trend
    if is_matern and p.n <= largest["scikit-learn"]:
        found["scikit-learn"] = sklearn_model(p)
    return found
