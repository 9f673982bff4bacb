"""The operator and other libraries (its peers) as functions of the same inputs.

Every product of this module solves one problem: anchors uniform on [0, 1], with lengthscale 0.1. A
peer that needs sorted anchors, the self case or regular anchors gets them, and its name says so.
Everything that a peer can prepare once (a matrix, a compiled function) is prepared before it is
timed, like a plan.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import laplex

Array = np.ndarray
ELL = 0.1

#: The packages of the peers.
PACKAGES = ("celerite2", "jax", "numba", "pandas", "pykeops", "scipy", "tinygp")


def missing() -> list[str]:
    """Return the peers' packages that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


@dataclass(frozen=True)
class Problem:
    """Inputs of one size and precision."""

    n: int
    dtype: str
    x: Array
    y: Array
    v: Array
    sorted_x: Array
    sorted_y: Array
    regular: Array
    """Multiples of a power of two, so that they have one spacing in either precision."""

    @classmethod
    def draw(cls, n: int, dtype: str) -> Problem:
        """Draw a problem, the same one every time."""
        rng = np.random.default_rng(0)
        x, y = rng.random((2, n)).astype(dtype)
        v = rng.standard_normal(n).astype(dtype)
        regular = (np.arange(n) * cls.step(n)).astype(dtype)
        return cls(n, dtype, x, y, v, np.sort(x), np.sort(y), regular)

    @staticmethod
    def step(n: int) -> float:
        """Return the spacing of n regular anchors."""
        return 0.5 ** math.ceil(math.log2(n))

    def anchors(self, kind: str) -> tuple[Array, Array | None]:
        """Return targets and sources, which are None in the self case."""
        return {
            "random": (self.x, self.y),
            "sorted": (self.sorted_x, self.sorted_y),
            "self": (self.sorted_x, None),
            "regular": (self.regular, None),
        }[kind]

    def plan(self, kind: str, **options: Any) -> laplex.Plan:
        """Return a plan in the problem's precision."""
        return laplex.Plan(*self.anchors(kind), lengthscale=ELL, num_threads=1, **options)

    def error(self, result: Array, task: Task) -> float:
        """Return the largest error in units of sum_j |K_ij| |v_j|, for a mean of sum_j |w_ij v_j|.

        It is measured from our own results in float64, which are compared with extended precision
        elsewhere (exactness.py).
        """
        x, y = self.anchors(task.kind)
        plan = laplex.Plan(
            x.astype(np.float64),
            None if y is None else y.astype(np.float64),
            lengthscale=ELL,
            **task.options,
        )
        v = self.v.astype(np.float64)
        rows = np.stack([v, np.abs(v)])
        if task.mean:
            left = plan.half_sums(np.stack([*rows, np.ones(self.n)]))[0]
            exact, scale = left[:2] / left[2]
        else:
            exact, scale = plan.apply(rows)
        return float(np.max(np.abs(result - exact) / scale))


@dataclass(frozen=True)
class Task:
    """A task to time, and what it returns, for the check."""

    name: str
    run: Callable[[], Any]
    kind: str | None = None
    """The anchors of the product that it returns, if it returns one."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What a plan of the same product takes besides anchors and lengthscale."""
    mean: bool = False
    """Whether it returns a one-sided weighted mean instead, of the values up to each anchor."""


def ours(p: Problem) -> list[Task]:
    """Return our products, with plans built beforehand."""
    tasks = []
    for kind in ("random", "sorted", "self", "regular"):
        plan, out = p.plan(kind), np.empty_like(p.v)
        tasks.append(Task(f"laplex, {kind}", lambda plan=plan, out=out: plan.apply(p.v, out), kind))
    return tasks


#: Matern kernels besides Matern-1/2, by the names they have in tables.
MATERN = {"Matern-3/2": "matern32", "Matern-5/2": "matern52"}


def ours_matern(p: Problem) -> list[Task]:
    """Return our products with Matern kernels, with plans built beforehand."""
    if p.n > 10**6:  # four more plans would take three gigabytes
        return []
    tasks = []
    for kind, (name, kernel) in itertools.product(("random", "self"), MATERN.items()):
        plan, out = p.plan(kind, kernel=kernel), np.empty_like(p.v)
        tasks.append(
            Task(
                f"laplex, {kind}, {name}",
                lambda plan=plan, out=out: plan.apply(p.v, out),
                kind,
                {"kernel": kernel},
            )
        )
    return tasks


def ours_mean(p: Problem) -> list[Task]:
    """Return exponentially weighted means of the values up to each anchor: two half sums.

    They are in float64, like the peer's (see `pandas_tasks`).
    """
    if p.dtype != "float64":
        return []
    rows = np.stack([p.v, np.ones_like(p.v)])
    plan = p.plan("self")

    def mean(plan: laplex.Plan) -> Array:
        total, weight = plan.half_sums(rows)[0]
        return total / weight

    return [
        Task("laplex, one-sided mean", lambda: mean(plan), "self", mean=True),
        Task("laplex, one-sided mean, new plan", lambda: mean(p.plan("self")), "self", mean=True),
    ]


def ours_gradients(p: Problem) -> list[Task]:
    """Return ours with all gradients, in the self case: by a plan, and by torch's autograd.

    A double backward is what follows forward and gradients: the gradients of the gradients, by
    everything.
    """
    plan = p.plan("self")
    u = plan.apply(p.v)
    x = torch.from_numpy(p.sorted_x).requires_grad_()
    v = torch.from_numpy(p.v).requires_grad_()
    ell = torch.tensor(ELL, dtype=torch.float64, requires_grad=True)
    grad = torch.from_numpy(u)

    def through_torch() -> None:
        x.grad = v.grad = ell.grad = None
        laplex.matvec(v, x, lengthscale=ell).backward(grad)

    tasks = [
        Task("laplex, self: forward + gradients", lambda: (plan.apply(p.v), plan.vjp(p.v, u))),
        Task("laplex.matvec and backward, self", through_torch),
    ]
    if p.n <= 10**6:
        leaves = (v, x, ell)
        cotangent = grad.clone().requires_grad_()
        first = torch.autograd.grad(
            laplex.matvec(v, x, lengthscale=ell), leaves, cotangent, create_graph=True
        )
        weights = [torch.ones_like(each) for each in first]

        def twice() -> None:
            torch.autograd.grad(first, (*leaves, cotangent), weights, retain_graph=True)

        tasks.append(Task("laplex.matvec, double backward, self", twice))
    return tasks


def torch_tasks(p: Problem) -> list[Task]:
    """Return sorts, a Fourier transform, and the operator written with torch's scans."""
    x, y, v = (torch.from_numpy(a) for a in (p.x, p.y, p.v))
    z = torch.from_numpy(p.sorted_x)

    def sort_both() -> None:
        torch.sort(x)
        torch.sort(y)

    def cumsum(z: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Multiply exp(-z/ell) by cumulative sums, both ways; overflows from 88 lengthscales on."""
        t = z / ELL
        up, down = torch.exp(t), torch.exp(-t)
        left = down * torch.cumsum(up * v, 0)
        return left + up * torch.cumsum((down * v).flip(0), 0).flip(0) - v

    def log_cumsum() -> torch.Tensor:
        """Do the same in logarithms, separately for the positive and negative parts of values."""
        t = z / ELL

        def product(w: torch.Tensor) -> torch.Tensor:
            log_w = torch.log(w)
            left = torch.exp(torch.logcumsumexp(t + log_w, 0) - t)
            right = torch.exp(torch.logcumsumexp((log_w - t).flip(0), 0).flip(0) + t)
            return left + right - w

        return product(v.clamp(min=0)) - product((-v).clamp(min=0))

    leaf_z, leaf_v = z.clone().requires_grad_(), v.clone().requires_grad_()
    grad = cumsum(z, v)

    def cumsum_gradients() -> None:
        leaf_z.grad = leaf_v.grad = None
        cumsum(leaf_z, leaf_v).backward(grad)

    tasks = [
        Task("torch.sort of both", sort_both),
        Task("torch.fft.rfft", lambda: torch.fft.rfft(v)),
        Task("torch cumsum(exp), self", lambda: cumsum(z, v).numpy(), "self"),
        Task("torch cumsum(exp) and backward, self", cumsum_gradients),
    ]
    if p.n <= 10**6:
        tasks.append(Task("torch logcumsumexp, self", lambda: log_cumsum().numpy(), "self"))
    if p.n <= 10**5 and (scan := _torch_associative_scan()) is not None:

        def combine(a: Any, b: Any) -> Any:
            return a[0] * b[0], b[0] * a[1] + b[1]

        def scans() -> Array:
            r = torch.exp((z[:-1] - z[1:]) / ELL)
            one = torch.ones(1, dtype=z.dtype)
            left = scan(combine, (torch.cat((one, r)), v), 0, combine_mode="generic")[1]
            right = scan(
                combine, (torch.cat((one, r.flip(0))), v.flip(0)), 0, combine_mode="generic"
            )[1]
            return (left + right.flip(0) - v).numpy()

        tasks.append(Task("torch associative_scan, self", scans, "self"))
    if p.n <= 10**4:
        matrix = torch.exp(-torch.abs(x[:, None] - y[None, :]) / ELL)
        tasks.append(Task("torch dense matrix @ v", lambda: (matrix @ v).numpy(), "random"))
    return tasks


def _torch_associative_scan() -> Any:
    try:
        from torch._higher_order_ops.associative_scan import associative_scan
    except ImportError:  # a prototype of torch: may move
        return None
    return associative_scan


def celerite2_tasks(p: Problem) -> list[Task]:
    """Return the self case in float64, with matrices built beforehand."""
    if p.dtype != "float64":
        return []
    from celerite2 import driver
    from celerite2.terms import RealTerm

    c, a, lower, upper = RealTerm(a=1.0, c=1 / ELL).get_celerite_matrices(p.sorted_x, np.zeros(p.n))
    column = p.v[:, None]

    def product() -> Array:
        u = a[:, None] * column
        u = driver.matmul_lower(p.sorted_x, c, lower, upper, column, u)
        return driver.matmul_upper(p.sorted_x, c, lower, upper, column, u)[:, 0]

    return [Task("celerite2, self", product, "self")]


def jax_tasks(p: Problem) -> list[Task]:
    """Return two compiled associative scans, in the self case."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    z, v = jnp.asarray(p.sorted_x), jnp.asarray(p.v)

    def combine(a: Any, b: Any) -> Any:
        return a[0] * b[0], b[0] * a[1] + b[1]

    @jax.jit
    def product(z: Any, v: Any) -> Any:
        r = jnp.exp((z[:-1] - z[1:]) / ELL)
        one = jnp.ones(1, z.dtype)
        left = jax.lax.associative_scan(combine, (jnp.concatenate((one, r)), v))[1]
        right = jax.lax.associative_scan(combine, (jnp.concatenate((one, r[::-1])), v[::-1]))[1]
        return left + right[::-1] - v

    product(z, v).block_until_ready()
    return [Task("jax associative_scan, self", lambda: np.asarray(product(z, v)), "self")]


def tinygp_tasks(p: Problem) -> list[Task]:
    """Return compiled products with quasiseparable matrices, in the self case and float64."""
    if p.dtype != "float64" or p.n > 10**6:
        return []
    import jax
    from tinygp.kernels import quasisep

    jax.config.update("jax_enable_x64", True)
    v = jax.numpy.asarray(p.v)
    product = jax.jit(lambda m, w: m @ w)

    def task(name: str, kernel: Any, options: Mapping[str, Any]) -> Task:
        matrix = kernel.to_symm_qsm(jax.numpy.asarray(p.sorted_x))
        product(matrix, v).block_until_ready()
        return Task(name, lambda: np.asarray(product(matrix, v)), "self", options)

    return [
        task("tinygp, self", quasisep.Exp(scale=ELL), {}),
        *(
            task(
                f"tinygp, self, {name}",
                getattr(quasisep, kernel.capitalize())(scale=ELL),
                {"kernel": kernel},
            )
            for name, kernel in MATERN.items()
        ),
    ]


def numba_tasks(p: Problem) -> list[Task]:
    """Return what one would write by hand: a compiled loop over sorted anchors."""
    import numba

    @numba.njit
    def half(z: Any, x: Any, v: Any, ell: float, below: bool, u: Any) -> None:
        total, last, k = 0.0, z[0], 0
        for i in range(len(x)):
            while k < len(z) and (z[k] < x[i] or (below and z[k] == x[i])):
                total = total * np.exp((last - z[k]) / ell) + v[k]
                last = z[k]
                k += 1
            if k > 0:
                u[i] += total * np.exp((last - x[i]) / ell)

    y_down, x_down, v_down = -p.sorted_y[::-1].copy(), -p.sorted_x[::-1].copy(), p.v[::-1].copy()

    def loop() -> Array:
        u, down = np.zeros(p.n), np.zeros(p.n)
        half(p.sorted_y, p.sorted_x, p.v, ELL, True, u)
        half(y_down, x_down, v_down, ELL, False, down)
        return u + down[::-1]

    return [Task("numba loop, sorted", loop, "sorted")]


def pykeops_tasks(p: Problem) -> list[Task]:
    """Return the sum over all n * m pairs, which are never stored."""
    if p.n > 10**4:
        return []
    from pykeops.numpy import LazyTensor

    x, y = LazyTensor(p.x[:, None, None]), LazyTensor(p.y[None, :, None])
    kernel = (-(x - y).abs() / ELL).exp()
    column = p.v[:, None]
    kernel @ column  # compiles
    return [Task("pykeops", lambda: (kernel @ column)[:, 0], "random")]


def scipy_tasks(p: Problem) -> list[Task]:
    """Return a recursive filter run both ways, which needs regular anchors."""
    from scipy.signal import lfilter

    decay = math.exp(-p.step(p.n) / ELL)
    b, a = np.ones(1, p.dtype), np.array([1, -decay], p.dtype)

    def product() -> Array:
        return lfilter(b, a, p.v) + lfilter(b, a, p.v[::-1])[::-1] - p.v

    return [Task("scipy lfilter both ways, regular", product, "regular")]


def pandas_tasks(p: Problem) -> list[Task]:
    """Return an exponentially weighted mean at irregular times, which needs sorted anchors.

    With `adjust=True`, its default, every mean is over the values up to it by time and in order.
    (With `adjust=False` the first value has another weight.) pandas counts whole nanoseconds and
    computes in float64, so it takes part in that precision.
    """
    if p.dtype != "float64":
        return []
    import pandas as pd

    nanoseconds = 2.0**60  # of a unit of the anchors: 36 years
    times = pd.to_datetime(np.round(p.sorted_x * nanoseconds).astype(np.int64))
    half_life = pd.Timedelta(round(ELL * math.log(2) * nanoseconds), "ns")
    series = pd.Series(p.v)

    def mean() -> Array:
        return series.ewm(halflife=half_life, times=times).mean().to_numpy()

    return [Task("pandas ewm(times=).mean()", mean, "self", mean=True)]


#: The tasks that need packages other than NumPy and torch.
OPTIONAL: dict[str, Callable[[Problem], list[Task]]] = {
    "celerite2": celerite2_tasks,
    "jax": jax_tasks,
    "numba": numba_tasks,
    "pandas": pandas_tasks,
    "pykeops": pykeops_tasks,
    "scipy": scipy_tasks,
    "tinygp": tinygp_tasks,
}


def tasks_for(p: Problem, failures: dict[str, str]) -> list[Task]:
    """Return all tasks of a problem; record in `failures` which peers cannot run."""
    tasks = [*ours(p), *ours_matern(p), *ours_mean(p), *ours_gradients(p), *torch_tasks(p)]
    for package, make in OPTIONAL.items():
        if importlib.util.find_spec(package) is None:
            failures[package] = "not installed"
            continue
        try:
            tasks += make(p)
        except Exception as error:  # a peer that breaks must not take the others with it
            failures[package] = f"{type(error).__name__}: {error}".splitlines()[0]
    return tasks
