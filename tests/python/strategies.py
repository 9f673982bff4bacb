"""Drawn operators for the property tests: anchors, forms, precisions, and the scale of errors.

The library promises |error_i| <= PROMISE * sum_j |K_ij| |v_j| for every product, with
|K_ij| = exp(-|x_i - y_j| / lengthscale) also in the cosine form. Every tolerance of the property
tests is a small multiple of that, derived where it is used.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

import laplex
from exactness_cases import FORMS, PROMISE
from laplex._support.profiles import PROFILES

KERNELS = tuple(PROFILES)

#: No deadline: the code is compiled, so a slow example is a busy machine and no finding.
quick = settings(
    max_examples=int(os.environ.get("LAPLEX_EXAMPLES", "60")), deadline=None, print_blob=True
)

# Ties, both zeros, gaps of 30 decades on both sides of 1, denormals of both precisions.
_AWKWARD = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e-30,
    -1e-30,
    1e30,
    -1e30,
    1e-45,
    -1e-45,
    5e-324,
    1e-310,
    3e-39,
    745.0,
)
awkward_anchor = st.one_of(
    st.sampled_from(_AWKWARD),
    st.integers(-3, 3).map(float),
    st.floats(-4, 4, width=32),
    st.floats(-(2.0**100), 2.0**100, width=32),  # 1e30, as hypothesis wants it: a float32
)
#: Between 2**-10 and 2**10 in size, or 0: neither squares nor powers of two under- or overflow.
moderate_anchor = st.one_of(
    st.integers(-3, 3).map(float),
    st.integers(-(2**20), 2**20).map(lambda k: k / 2**10),
    st.integers(-(2**12), 2**12).map(lambda k: k / 2**10),
)


@dataclass
class Case:
    """The arguments of one plan without a batch."""

    targets: np.ndarray
    sources: np.ndarray | None
    options: dict[str, Any]
    seed: int
    plan: laplex.Plan = field(init=False)

    def __post_init__(self) -> None:
        self.plan = laplex.Plan(self.targets, self.sources, **self.options)

    @property
    def dtype(self) -> str:
        return str(self.targets.dtype)

    @property
    def promise(self) -> float:
        return PROMISE[self.dtype]

    @property
    def y(self) -> np.ndarray:
        return self.targets if self.sources is None else self.sources

    @property
    def rate(self) -> float:
        """|c| = |root/ell - i omega|: derivatives by anchors are at most this times products."""
        root = PROFILES[self.options["kernel"]].root
        return float(np.hypot(root / self.options["lengthscale"], self.options["frequency"]))

    def changed(self, **changes: Any) -> Case:
        """The case with other anchors (targets=, sources=) or options."""
        anchors = {"targets": self.targets, "sources": self.sources}
        for name in anchors:
            anchors[name] = changes.pop(name, anchors[name])
        return Case(**anchors, options={**self.options, **changes}, seed=self.seed)

    def values(self, count: int, *, which: int = 0, rows: tuple[int, ...] = ()) -> np.ndarray:
        """Normal values; which=0, 1, ... are independent. Complex for every other seed."""
        return draw_values(self.dtype, (*rows, count), self.seed + which, self.seed % 2 == 1)

    def cotangent(self, v: np.ndarray, *, which: int = 9) -> np.ndarray:
        result = self.plan.apply(v)
        return draw_values(self.dtype, result.shape, self.seed + which, np.iscomplexobj(result))

    def modulus(self) -> np.ndarray:
        """|K| as a matrix in float64."""
        x, y = self.targets.astype(np.float64), self.y.astype(np.float64)
        profile = PROFILES[self.options["kernel"]]
        s = profile.root * np.abs(x[:, None] - y) / self.options["lengthscale"]
        s = np.minimum(s, 800)  # where the exponential is 0
        return np.polynomial.Polynomial(profile.polynomial)(s) * np.exp(-s)


def draw_values(dtype: str, shape: tuple[int, ...], seed: int, is_complex: bool) -> np.ndarray:
    rng = np.random.default_rng(seed)
    v = rng.standard_normal(shape)
    if is_complex:
        v = v + 1j * rng.standard_normal(shape)
    return v.astype(np.result_type(dtype, np.complex64) if is_complex else dtype)


@st.composite
def cases(
    draw: st.DrawFn,
    anchor: st.SearchStrategy[float] = awkward_anchor,
    forms: tuple[str, ...] = FORMS,
    lengthscales: tuple[float, ...] = (1e-3, 0.25, 1.0, 37.5, 1e30),
    oscillating: bool = True,
    max_size: int = 40,
    unique: bool = False,
    self_case: bool | None = None,
    kernels: tuple[str, ...] = KERNELS,
) -> Case:
    """Draw a case: 0 to max_size anchors of each kind, one of the forms, one of the precisions."""
    dtype = draw(st.sampled_from(("float64", "float32")))
    form = draw(st.sampled_from(forms))
    seed = draw(st.integers(0, 2**31))
    is_self = draw(st.booleans()) if self_case is None else self_case

    def anchors() -> np.ndarray:
        numbers = np.array(draw(st.lists(anchor, max_size=max_size)), dtype=dtype)
        # + 0.0: the two zeros are one place on the line
        return np.unique(numbers + 0.0) if unique else numbers

    targets = anchors()
    sources = None if is_self else anchors()
    rng = np.random.default_rng(seed)
    if unique:
        rng.shuffle(targets)

    def phase(count: int) -> np.ndarray | None:
        return rng.uniform(-6, 6, count).astype(dtype) if form in ("carrier", "cosine") else None

    ell = draw(st.sampled_from(lengthscales))
    options = {
        "lengthscale": ell,
        "frequency": 3 / ell if oscillating and form in ("oscillating", "cosine") else 0.0,
        "target_phase": phase(len(targets)),
        "source_phase": phase(len(targets if sources is None else sources)),
        "real_part": form == "cosine",
        "kernel": draw(st.sampled_from(kernels)),
    }
    return Case(targets, sources, options, seed)


def same_bits(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    """Equal in type, shape and every bit: signs of zeros and NaNs too."""
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_same_bits(a: np.ndarray | None, b: np.ndarray | None) -> None:
    if not same_bits(a, b):
        assert a is not None
        assert b is not None
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)
        raise AssertionError("equal numbers of different bits (signs of zeros)")


def fingerprint(plan: laplex.Plan, seed: int = 5) -> list[np.ndarray | None]:
    """Every kind of result of a plan, for comparing two plans bit by bit."""
    rng = np.random.default_rng(seed)
    n, m = plan.shape[-2:]
    v = rng.standard_normal((3, *plan.batch_shape, m)).astype(plan.dtype)
    u = rng.standard_normal((3, *plan.batch_shape, n)).astype(plan.dtype)
    result = plan.apply(v)
    grad = rng.standard_normal(result.shape).astype(result.dtype)
    return [
        result,
        plan.transpose(u),
        plan.adjoint(u),
        *plan.half_sums(v),
        *plan.vjp(v, grad),
        plan.to_dense(),
    ]


def assert_same_plan(a: laplex.Plan, b: laplex.Plan) -> None:
    for one, other in zip(fingerprint(a), fingerprint(b), strict=True):
        assert_same_bits(one, other)
