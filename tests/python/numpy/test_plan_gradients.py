"""Plan.vjp: all seven gradients in every form, against extended precision; ties by convention."""

from __future__ import annotations

import numpy as np
import pytest

import laplex
from exactness_cases import FORMS, PROMISE, kernel, values
from reference import Kernel


def dense(k: Kernel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The complex matrix, the distances and the signs, in extended precision."""
    x, y = k.targets.astype(np.longdouble), k.sources.astype(np.longdouble)
    difference = x[:, None] - y
    d = np.abs(difference)
    matrix = np.exp(-d / np.longdouble(k.lengthscale)) * np.exp(1j * np.longdouble(k.frequency) * d)
    if k.target_phase is not None:
        theta, phi = (a.astype(np.longdouble) for a in (k.target_phase, k.source_phase))
        matrix = matrix * np.exp(1j * (theta[:, None] - phi))
    return matrix, d, np.sign(difference)


def expected(k: Kernel, v: np.ndarray, g: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Gradients of Re <g, K v> and their scales, entry by entry from the dense matrix."""
    matrix, d, sign = dense(k)
    rate = 1 / np.longdouble(k.lengthscale) - 1j * np.longdouble(k.frequency)
    modulus = np.abs(matrix)

    def weighted(factor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Re(conj(g_i) factor_ij K_ij v_j) per entry, real part first in the cosine form."""
        entries = factor * matrix
        if k.real_part:
            entries = entries.real
        terms = np.real(np.conj(g)[..., :, None] * entries * v[..., None, :])
        scales = np.abs(g)[..., :, None] * np.abs(factor) * modulus * np.abs(v)[..., None, :]
        return terms.reshape(-1, *matrix.shape).sum(0), scales.reshape(-1, *matrix.shape).sum(0)

    slope = weighted(-rate * sign)
    stretch = weighted(d / np.longdouble(k.lengthscale) ** 2)
    turn = weighted(1j * d)
    angle = weighted(1j * np.ones_like(d))
    back = (matrix.real if k.real_part else matrix).conj().T
    d_values = np.einsum("ji,...i->...j", back, g)
    return {
        "values": (
            d_values if np.iscomplexobj(v) else d_values.real,
            np.einsum("ij,...i->...j", modulus, np.abs(g)),
        ),
        "targets": (slope[0].sum(1), slope[1].sum(1)),
        "sources": (-slope[0].sum(0), slope[1].sum(0)),
        "lengthscale": (stretch[0].sum(), stretch[1].sum()),
        "frequency": (turn[0].sum(), turn[1].sum()),
        "target_phase": (angle[0].sum(1), angle[1].sum(1)),
        "source_phase": (-angle[0].sum(0), angle[1].sum(0)),
    }


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["uniform", "coarse grid", "all equal", "normal^5"])
@pytest.mark.parametrize("is_complex", [False, True], ids=["real values", "complex values"])
def test_all_gradients(dtype: str, form: str, kind: str, is_complex: bool) -> None:
    rng = np.random.default_rng(7)
    k = kernel(form, kind, 40, 61, 0.2, dtype, rng)
    plan = laplex.Plan(k.targets, k.sources, **k.options())
    v = np.stack([values(61, dtype, is_complex, rng) for _ in range(5)])
    result = plan.apply(v)
    g = np.stack([values(40, dtype, result.dtype.kind == "c", rng) for _ in range(5)])
    got = plan.vjp(v, g)
    for name, (want, scale) in expected(k, v, g).items():
        gradient = getattr(got, name)
        if gradient is None:
            assert name.endswith("phase")
            assert k.target_phase is None
            continue
        assert gradient.shape == want.shape, name
        # The promise for each of the few sums a gradient is made of, and underflow as always.
        limit = 4 * PROMISE[dtype] * scale + 1e3 * np.finfo(dtype).tiny
        assert np.all(np.abs(gradient - want) <= limit), name


@pytest.mark.parametrize("form", FORMS)
def test_self_case_adds_both_roles(form: str) -> None:
    rng = np.random.default_rng(8)
    k = kernel(form, "coarse grid", 50, 50, 0.2, "float64", rng)
    x = k.targets
    one = laplex.Plan(x, **k.options())
    two = laplex.Plan(x, x, **k.options())
    v = values(50, "float64", False, rng)
    g = values(50, "float64", one.apply(v).dtype.kind == "c", rng)
    total, roles = one.vjp(v, g), two.vjp(v, g)
    assert total.sources is None
    # The merged line of two equal sides is cut elsewhere: the same sums, rounded elsewhere.
    scale = np.abs(g).sum() * np.abs(v).sum() / k.lengthscale
    for got, want in (
        (total.targets, roles.targets + roles.sources),
        (total.values, roles.values),
        (total.lengthscale, roles.lengthscale),
    ):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-15 * scale)


def test_ties_contribute_nothing() -> None:
    """sign(0) = 0: tied pairs drop out of the anchors' gradients, on both sides."""
    plan = laplex.Plan([0.0, 0.0, 1.0], [0.0, 1.0], lengthscale=2.0)
    got = plan.vjp([3.0, 5.0], [1.0, 1.0, 1.0])
    near = np.exp(-0.5) / 2
    # Targets at 0 feel the source at 1 alone (rising towards it), the target at 1 the source at 0.
    # A few roundings of ours, and NumPy's exponential, right to a unit in the last place or two.
    np.testing.assert_allclose(got.targets, [5 * near, 5 * near, -3 * near], rtol=2e-15)
    np.testing.assert_allclose(got.sources, [3 * near, -2 * 5 * near], rtol=2e-15)


def test_ties_are_the_mean_of_the_one_sided_derivatives() -> None:
    x, y, v = np.array([0.5]), np.array([0.5, 0.9]), np.array([2.0, -1.0])
    h = 1e-7

    def u(at: float) -> float:
        return float(laplex.Plan([at], y, lengthscale=0.3).apply(v)[0])

    forward, backward = (u(0.5 + h) - u(0.5)) / h, (u(0.5) - u(0.5 - h)) / h
    got = laplex.Plan(x, y, lengthscale=0.3).vjp(v, [1.0]).targets[0]
    assert abs(forward - backward) > 1  # there is a kink
    assert got == pytest.approx((forward + backward) / 2, abs=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_finite_differences(form: str) -> None:
    """The same numbers from outside, without any formula of ours."""
    rng = np.random.default_rng(9)
    k = kernel(form, "uniform", 9, 11, 0.4, "float64", rng)
    v = values(11, "float64", False, rng)
    inputs = {"targets": k.targets, "sources": k.sources, **k.options()}
    g = values(9, "float64", laplex.Plan(**inputs).apply(v).dtype.kind == "c", rng)

    def loss(**changed: object) -> float:
        return float(np.real(np.vdot(g, laplex.Plan(**{**inputs, **changed}).apply(v))))

    got = laplex.Plan(**inputs).vjp(v, g)
    h = 1e-6
    for name in ("targets", "sources", "target_phase", "source_phase", "lengthscale", "frequency"):
        value = inputs[name]
        if value is None or (name == "frequency" and value == 0):
            continue
        direction = rng.standard_normal(np.shape(value))
        slope = (loss(**{name: value + h * direction}) - loss(**{name: value - h * direction})) / (
            2 * h
        )
        # central differences: h^2 third derivatives, and rounding of the loss over h
        assert np.sum(getattr(got, name) * direction) == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_gradients_of_scalars_keep_their_digits_far_from_the_origin() -> None:
    """A shift of all anchors changes nothing but the anchors' own rounding."""
    rng = np.random.default_rng(10)
    x, y = rng.integers(0, 2**20, 400) / 2**20, rng.integers(0, 2**20, 300) / 2**20
    v, g = rng.standard_normal(300), rng.standard_normal(400)
    near = laplex.Plan(x, y, lengthscale=0.01).vjp(v, g)
    far = laplex.Plan(x + 2**30, y + 2**30, lengthscale=0.01).vjp(v, g)  # exact in float64
    np.testing.assert_array_equal(near.lengthscale, far.lengthscale)
    np.testing.assert_array_equal(near.targets, far.targets)
