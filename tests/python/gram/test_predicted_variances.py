"""Conditional variances and densities against 60 digits, where small noise pins smooth processes.

The variance of a point is v_f, predicted from one side, minus what the other side adds. The side is
the one with the smaller v_f, so the difference is off by a multiple of epsilon v_f. v_f itself is
that of a filter which takes states of variance k(0) to about the noise by differences, and what the
other side adds consists of numbers up to 1 / noise that cancel. Together: epsilon v_f k(0) / noise.
"""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laplex.gram import SHO, LaplaceGram, Matern32, Matern52, Term
from laplex.gram.terms import BaseTerm
from strategies import quick

pytestmark = pytest.mark.usefixtures("one_thread")

D = torch.float64
EPSILON = torch.finfo(D).eps
#: For the sums over at most 5 columns; the largest found in 1000 cases is 1.7.
FACTOR = 32
TERMS: dict[str, tuple[BaseTerm, ...]] = {
    "matern52": (Matern52(1.0),),
    "matern32": (Matern32(1.0),),
    "oscillator": (SHO(sigma=1.0, w0=2.0, Q=2.0),),
    "exponential": (Term(1.0),),
    "mixed": (Term(1.0), Matern52(2.0)),
    "two oscillators": (SHO(sigma=1.0, w0=2.0, Q=2.0), Matern32(0.5)),
}


def kernel(term: BaseTerm, d: mpmath.mpf) -> mpmath.mpf:
    d, exp = abs(d), mpmath.exp
    if isinstance(term, Matern32):
        r = mpmath.sqrt(3) * d / term.lengthscale
        return term.variance * (1 + r) * exp(-r)
    if isinstance(term, Matern52):
        r = mpmath.sqrt(5) * d / term.lengthscale
        return term.variance * (1 + r + r * r / 3) * exp(-r)
    if isinstance(term, Term):
        return term.variance * exp(-d / term.lengthscale)
    assert isinstance(term, SHO)
    w0, gamma = mpmath.mpf(term.w0), mpmath.mpf(term.w0) / (2 * term.Q)
    wave = mpmath.sqrt(w0 * w0 - gamma * gamma)
    return exp(-gamma * d) * (mpmath.cos(wave * d) + gamma / wave * mpmath.sin(wave * d))


def dense(terms, x, y) -> mpmath.matrix:
    return mpmath.matrix(
        [[sum(kernel(t, mpmath.mpf(a) - mpmath.mpf(b)) for t in terms) for b in y] for a in x]
    )


def covariance(terms, x, noise, t) -> mpmath.matrix:
    """That of the process at `t`, given the points x."""
    if not len(x):
        return dense(terms, t, t)
    cross = dense(terms, x, t)
    return (
        dense(terms, t, t)
        - cross.T * mpmath.inverse(dense(terms, x, x) + mpmath.diag(noise)) * cross
    )


def one_sided(terms, x, noise, t) -> float:
    """The smaller of the variances of the process at t, given the points on either side."""
    sides = (x <= t, x > t)
    return min(float(covariance(terms, x[s], noise[s], [t])[0, 0]) for s in sides)


def check(terms, x, noise, targets) -> None:
    gram = LaplaceGram(x, terms=terms, noise=noise)
    with mpmath.workdps(60):
        for found in (
            gram.predict(targets, np.zeros(len(x))).variance,
            LaplaceGram(-x, terms=terms, noise=noise).predict(-targets, np.zeros(len(x))).variance,
        ):
            for t, variance in zip(targets, found.tolist(), strict=True):
                side = one_sided(terms, x, noise, t)
                prior = sum(float(kernel(term, mpmath.mpf(0))) for term in terms)
                tolerance = FACTOR * EPSILON * side * (1 + prior / noise.min())
                expected = covariance(terms, x, noise, [t])[0, 0]
                assert abs(variance - expected) <= tolerance, (t, variance, float(expected))


@st.composite
def lines(draw):
    """Up to 8 points in up to three clusters, with ties, and noise of any size, also unequal."""
    n = draw(st.integers(1, 8))
    spacing = 10.0 ** draw(st.integers(-5, 0))
    clusters = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    places = draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))
    x = np.array(clusters) + spacing * np.array(places)
    sizes = draw(st.lists(st.floats(-12, 0), min_size=n, max_size=n))
    noise = 10.0 ** np.array(sizes if draw(st.booleans()) else n * sizes[:1])
    near = draw(st.integers(0, 2)) + spacing * draw(st.floats(-2, 7))
    return x, noise, np.array([near, draw(st.floats(-1, 4))])


@quick
@given(st.sampled_from(sorted(TERMS)), lines())
def test_variances(name, line):
    check(TERMS[name], *line)


@pytest.mark.parametrize(
    ("name", "noise"),
    [("matern52", 1e-10), ("matern52", 1e-9), ("oscillator", 1e-8), ("matern32", 1e-8)],
)
def test_targets_beside_a_cluster(name, noise):
    """Found with errors of up to a factor of 11,000: a point just before all others."""
    x, t = np.arange(30) * 1e-3, np.array([-1e-3, 0.030, 0.0105])
    check(TERMS[name], x, np.full(30, noise), t)
    found = LaplaceGram(x, terms=TERMS[name], noise=noise).predict(t, np.zeros(30))
    # Relative to the prior variance of 1, with errors of epsilon / noise of the solutions.
    close = 64 * EPSILON / noise
    torch.testing.assert_close(found.variance, found.covariance.diagonal(), rtol=0, atol=close)


def test_latent_variance_of_conditions():
    x, noise = np.arange(12) * 1e-3, 1e-10
    gram = LaplaceGram(x, terms=Matern52(1.0), noise=noise)
    found = gram.condition(np.arange(1, 12), np.zeros(11))
    with mpmath.workdps(60):
        expected = covariance([Matern52(1.0)], x[1:], np.full(11, noise), x[:1])[0, 0]
    assert float(found.latent_variance) == pytest.approx(float(expected), rel=1e-12)
    assert float(found.variance) == pytest.approx(float(expected) + noise, rel=1e-12)


def test_derivatives_by_either_side():
    """Those of a variance are those of its reflection, whichever side each of them takes."""
    x = torch.tensor([0.0, 1e-3, 2e-3, 1.0, 1.001], dtype=D)
    t = torch.tensor([-1e-3, 0.5, 1.002], dtype=D)

    def gradients(sign: float) -> list[torch.Tensor]:
        leaves = [
            (sign * x).requires_grad_(),
            (sign * t).requires_grad_(),
            torch.full((5,), 1e-7, dtype=D, requires_grad=True),
            torch.tensor(1.0, dtype=D, requires_grad=True),
        ]
        gram = LaplaceGram(leaves[0], terms=Matern52(leaves[3]), noise=leaves[2])
        found = gram.predict(leaves[1], torch.zeros(5, dtype=D)).variance
        return list(torch.autograd.grad(found.log().sum(), leaves))

    for one, two, sign in zip(gradients(1.0), gradients(-1.0), (-1, -1, 1, 1), strict=True):
        size = float(one.abs().max())
        # epsilon / noise, and derivatives by the anchors that grow as 1 / spacing
        torch.testing.assert_close(one, sign * two, rtol=0, atol=1e-5 * size)


@pytest.mark.parametrize("noise", [1e-4, 1e-8, 1e-10])
def test_densities_at_repeated_points(noise):
    """Found wrong by 5,550: the difference of the densities of all entries and those given."""
    x, t = np.array([0.0, 1.0, 1.0, 2.0]), np.array([0.5, 1.5])
    v, u = np.array([0.1, 1.0, -1.0, 0.3]), np.array([0.3, 0.2])
    terms = [Matern32(1.0)]
    found = LaplaceGram(x, terms=terms, noise=noise).predict(t, v).log_prob(u)
    with mpmath.workdps(60):
        A = dense(terms, x, x) + noise * mpmath.eye(4)
        mean = dense(terms, t, x) * mpmath.lu_solve(A, mpmath.matrix(v))
        C, r = covariance(terms, x, np.full(4, noise), t), mpmath.matrix(u) - mean
        square = (r.T * mpmath.inverse(C) * r)[0]
        expected = -(square + mpmath.log(mpmath.det(C)) + 2 * mpmath.log(2 * mpmath.pi)) / 2
    # The weights of the mean and the pivots of the pair are off by epsilon / noise.
    assert abs(float(found) - float(expected)) <= 64 * EPSILON / noise
