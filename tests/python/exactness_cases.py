"""The cases of the exactness table, shared by the tests and by bench/python/exactness.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import laplex
from laplex._support.core import Term, Vectors
from reference import Kernel

FORMS = ("real", "carrier", "oscillating", "cosine")
PHASED = "oscillating, phases"  # what the first four do not cover: all together, complex
ANCHORS = ("uniform", "normal^5", "coarse grid", "all equal", "1e-30..1e30", "sorted", "reversed")
PROMISE = {"float64": 1e-14, "float32": 1e-6}


def anchors(kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` anchors in float64."""
    if kind == "normal^5":
        return rng.standard_normal(count) ** 5
    if kind == "coarse grid":
        return rng.integers(0, 50, count) / 50
    if kind == "all equal":
        return np.full(count, 0.3)
    if kind == "1e-30..1e30":
        return rng.choice([-1.0, 1.0], count) * 10.0 ** rng.uniform(-30, 30, count)
    z = rng.random(count)
    return {"uniform": z, "sorted": np.sort(z), "reversed": np.sort(z)[::-1]}[kind]


def kernel(
    form: str,
    kind: str,
    n: int,
    m: int,
    lengthscale: float,
    dtype: str,
    rng: np.random.Generator,
    self_case: bool = False,
    shape: str = "matern12",
) -> Kernel:
    """Draw a kernel of the form, its numbers exactly representable in dtype."""
    phased = form in ("carrier", "cosine", PHASED)
    targets = anchors(kind, n, rng).astype(dtype)

    def phase(count: int) -> np.ndarray | None:
        return rng.uniform(-6, 6, count).astype(dtype) if phased else None

    return Kernel(
        targets=targets,
        sources=targets if self_case else anchors(kind, m, rng).astype(dtype),
        lengthscale=lengthscale,
        frequency=3.0 / lengthscale if form in ("oscillating", "cosine", PHASED) else 0.0,
        target_phase=phase(n),
        source_phase=phase(m),
        real_part=form == "cosine",
        shape=shape,
    )


def beside(k: Kernel, rng: np.random.Generator) -> Kernel:
    """Move every target beside a source, at 1e-12 to 10 lengthscales from it: n = m."""
    count = len(k.sources)
    distance = k.lengthscale * 10.0 ** rng.uniform(-12, 1, count)
    targets = k.sources + rng.choice([-1.0, 1.0], count) * distance
    return replace(k, targets=targets.astype(k.sources.dtype))


def values(count: int, dtype: str, is_complex: bool, rng: np.random.Generator) -> np.ndarray:
    """Draw normal values of the precision."""
    v = rng.standard_normal(count)
    if is_complex:
        v = v + 1j * rng.standard_normal(count)
        return v.astype("complex64" if dtype == "float32" else "complex128")
    return v.astype(dtype)


def deviation(
    got: np.ndarray, exact: np.ndarray, scale: np.ndarray, dtype: str, largest: float
) -> float:
    """Return max |got - exact| / scale, with precision absolute below the normal range.

    `largest` is the sum of the values' moduli: what a smallest normal number may have been times.
    """
    if got.size == 0:
        return 0.0
    floor = np.finfo(dtype).tiny * max(1.0, largest)
    excess = np.abs(got.astype(exact.dtype) - exact)
    return float(np.max(np.where(excess <= floor, 0, excess / np.maximum(scale, floor))))


def error(k: Kernel, v: np.ndarray, dtype: str, adjoint: bool = False) -> float:
    """Return max |Plan - reference| / sum |K||v|; raise where the result is not finite."""
    sources = None if k.sources is k.targets else k.sources
    plan = laplex.Plan(k.targets, sources, **k.options())
    u = plan.adjoint(v) if adjoint else plan.apply(v)
    assert np.isfinite(u).all()
    if adjoint:
        k = k.adjoint()
    return deviation(u, k.apply(v), k.scale(v), dtype, float(np.abs(v).sum()))


MOMENTS = tuple((parity, power) for power in range(5) for parity in range(3))


def moment_errors(
    k: Kernel, v: np.ndarray, dtype: str, adjoint: bool = False
) -> dict[tuple[int, int], float]:
    """Return max |Plan - reference| / sum |K||v| of every moment, by parity and power.

    K is the moment's own kernel, the power of the distance included. Python has no public door to
    moments, so this is the function that torch's derivatives call.
    """
    sources = None if k.sources is k.targets else k.sources
    plan = laplex.Plan(k.targets, sources, **k.options())
    if adjoint:
        k = k.adjoint()
    exact, scales = k.moments(v, 5), k.moment_scales(v, 5)
    plain = np.iscomplexobj(v) or k.frequency != 0 or k.target_phase is not None
    u = np.empty(len(k.targets), np.result_type(dtype, np.complex64) if plain else dtype)
    found = {}
    for parity, power in MOMENTS:
        given, out = (Vectors(a.ctypes.data, np.iscomplexobj(a), a.size, a.size) for a in (v, u))
        term = Term(parity, (*(0.0 for _ in range(power)), 1.0))
        plan._core.sum(given, 1, out, 2 if adjoint else 0, term, 1)
        assert np.isfinite(u).all()
        sign = -1 if adjoint and parity == 1 else 1  # x and y have changed places
        found[parity, power] = deviation(
            u,
            sign * exact[power].of_parity(parity),
            scales[power].of_parity(2 if parity else 0),
            dtype,
            float(np.abs(v).sum()),
        )
    return found
