"""`LaplaceGram` with a mean and a basis against dense algebra, and what both refuse.

Tolerances. Both sides solve with K, whose error is EPSILON * n * cond(K), and the dense one forms
normal equations of B, which squares its condition number; see `Dense.tolerance`.
"""

from __future__ import annotations

import math
import pickle

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

import laplex
from laplex.gram import LaplaceGram, Term, constant, harmonics, polynomial
from strategies import quick
from trend_cases import EPSILON, INF, MODELS, D, Dense, draw, line_model, mixed_model, uniform, wave

# Small matrices; see conftest.py.
pytestmark = pytest.mark.usefixtures("one_thread")


def close(found: torch.Tensor, expected: torch.Tensor, relative: float) -> None:
    size = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=0, atol=relative * (size + 1))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("n", [6, 40])
@pytest.mark.parametrize("prior", [None, 0.7])
def test_against_dense(model, n, prior):
    gram = model(n, prior)
    dense, v = Dense.of(gram), draw(3, n, seed=9)
    error = dense.tolerance()
    close(gram.solve(v), v @ dense.inverse(), error)
    close(gram.log_prob(v), dense.log_prob(v), error)
    mean, covariance = gram.coefficients(v)
    expected, spread = dense.coefficients(v)
    close(mean, expected, error)
    close(covariance, spread, error)
    if prior is None:
        return
    A = dense.A
    close(gram.to_dense(), A, error)
    close(gram.diagonal(), A.diagonal(), error)
    close(gram.matvec(v), v @ A, error)
    close(gram @ v.mT, A @ v.mT, error)
    close(v @ gram, v @ A, error)
    close(gram.logdet(), torch.logdet(A), error)
    quadratic, logdet = gram.inv_quad_logdet(v)
    close(quadratic, (v @ dense.inverse() * v).sum(-1), error)
    close(logdet, torch.logdet(A), error)
    eye = torch.eye(n, dtype=D)
    S = gram.color(eye).mT
    close(S @ S.mT, A, error)
    close(gram.color(eye, transpose=True), S, error)  # rows of S^T are columns of S
    close(gram.whiten(gram.color(v)), v, error)
    close(gram.whiten(gram.color(v, transpose=True), transpose=True), v, error)


@st.composite
def _trends(draw_from):
    n = draw_from(st.integers(1, 12))
    p = draw_from(st.integers(1, 8))
    seed = draw_from(st.integers(0, 999))
    variance = st.one_of(st.just(INF), st.sampled_from([1e-9, 1.0, 1e9]), st.floats(0.01, 100))
    prior = torch.tensor(draw_from(st.lists(variance, min_size=p, max_size=p)), dtype=D)
    basis = draw(n, p, seed=seed)
    return n, basis, prior, seed


@quick
@given(_trends())
def test_any_basis(drawn):
    """Random columns, more of them than anchors as well, where finite variances allow it."""
    n, basis, prior, seed = drawn
    x = 3 * uniform(n, seed=seed)
    gram = LaplaceGram(x, noise=0.1, basis=basis, prior=prior)
    v = draw(n, seed=seed + 1)
    free = basis[:, prior == INF]
    if free.shape[-1] > n:
        with pytest.raises(np.linalg.LinAlgError, match="the basis is singular"):
            gram.log_prob(v)
        return
    if free.numel() and torch.linalg.cond(free) > 100:
        return  # the dense side squares it
    dense = Dense.of(gram)
    # Contrasts keep the error of `known`, whose largest entries are those of variance 1e9.
    error = 1e-14 * n * float(torch.linalg.cond(dense.K)) * (1 + float(dense.known.abs().max()))
    inverse = dense.inverse()
    torch.testing.assert_close(gram.solve(v), inverse @ v, rtol=0, atol=1e2 * error)
    found, expected = gram.log_prob(v), dense.log_prob(v)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e3 * error)


@pytest.mark.parametrize("model", MODELS)
def test_large_variances_reach_the_limit(model):
    """The distance is of first order in 1/prior, down to what rounding leaves."""
    improper, v = model(30, INF), draw(30, seed=4)
    p = improper.prior.shape[-1]
    for exponent in (6, 9, 12, 15):
        proper = model(30, 10.0**exponent)
        constant_ = 0.5 * p * (math.log(2 * math.pi) + exponent * math.log(10))
        distance = 1e3 * 10.0**-exponent + 1e-10
        close(proper.log_prob(v) + constant_, improper.log_prob(v), distance)
        close(proper.solve(v), improper.solve(v), distance)
        for one, two in zip(proper.coefficients(v), improper.coefficients(v), strict=True):
            close(one, two, distance)


def test_restricted_likelihood_by_its_definition():
    """Rasmussen and Williams, equation 2.45, and Harville's determinant of the columns on top."""
    gram, v = line_model(30), draw(30, seed=4)
    dense = Dense.of(gram)
    K, B, r = dense.K, dense.B, v - dense.m
    beta, covariance = dense.coefficients(v)
    r = r - B @ beta
    expected = -0.5 * (
        r @ torch.linalg.solve(K, r)
        + torch.logdet(K)
        - torch.logdet(covariance)
        + (30 - 2) * math.log(2 * math.pi)
    )
    close(gram.log_prob(v), expected, dense.tolerance())
    # A shift by a trend changes nothing; a change of basis changes it by the log determinant.
    close(gram.log_prob(v + 1e3 * B[:, 1]), gram.log_prob(v), 1e3 * dense.tolerance())
    G = torch.tensor([[2.0, 1.0], [0.5, 3.0]], dtype=D)
    other = LaplaceGram(gram.anchors, terms=gram.terms, noise=gram.noise, mean=wave, basis=B @ G)
    close(other.log_prob(v) + torch.logdet(G), gram.log_prob(v), 1e-11)


def test_samples_have_mean_and_covariance():
    gram = mixed_model(5, torch.tensor([0.5, 2.0, 1.0, 0.3, 5.0], dtype=D))
    samples = gram.sample((40_000,), generator=torch.Generator().manual_seed(0))
    A = gram.to_dense()
    # Six standard errors of a mean, and of a covariance of Gaussians.
    spread = A.diagonal().max() / 200
    assert float((samples.mean(0) - gram.mean).abs().max()) < 6 * float(spread.sqrt() / 200**0.5)
    assert float((torch.cov(samples.mT) - A).abs().max()) < 6 * 1.5 * float(spread)


NAMES = ("anchors", "lengthscale", "noise", "basis", "prior", "mean", "values")


def tensors(n: int = 6) -> dict[str, torch.Tensor]:
    return {
        "anchors": 3 * uniform(n),
        "lengthscale": torch.tensor(0.7, dtype=D),
        "noise": uniform(n, seed=3) + 0.1,
        "basis": draw(n, 2, seed=4),
        "prior": torch.tensor([0.5, 2.0], dtype=D),
        "mean": draw(n, seed=5),
        "values": draw(n, seed=6),
    }


def of(values, **arguments) -> LaplaceGram:
    return LaplaceGram(arguments.pop("anchors"), **arguments)


RESULTS = {
    "log_prob": lambda a, v: a.log_prob(v),
    "solve": lambda a, v: a.solve(v),
    "coefficients": lambda a, v: torch.cat([each.flatten() for each in a.coefficients(v)]),
    "logdet": lambda a, v: a.logdet(),
    "inv_quad_logdet": lambda a, v: torch.stack(a.inv_quad_logdet(v)),
    "matvec": lambda a, v: a.matvec(v),
    "color": lambda a, v: a.color(v),
    "whiten": lambda a, v: a.whiten(v, transpose=True),
    "sample": lambda a, v: a.sample(generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("name", RESULTS)
def test_first_and_second_derivatives(name):
    given_ = {key: each.requires_grad_() for key, each in tensors().items()}

    def result(*arguments):
        named = dict(zip(NAMES, arguments, strict=True))
        return RESULTS[name](of(**named), named["values"])

    assert gradcheck(result, tuple(given_.values()))
    assert gradgradcheck(result, tuple(given_.values()))


@pytest.mark.parametrize("name", ["log_prob", "solve", "coefficients"])
def test_derivatives_of_the_improper_limit(name):
    given_ = {key: each.requires_grad_() for key, each in tensors().items()}
    finite = torch.tensor([True, False])

    def result(*arguments):
        named = dict(zip(NAMES, arguments, strict=True))
        named["prior"] = torch.where(finite, named["prior"], INF)
        return RESULTS[name](of(**named), named["values"])

    assert gradcheck(result, tuple(given_.values()))
    assert gradgradcheck(result, tuple(given_.values()))


def test_derivatives_of_functions_reach_their_tensors():
    """By the points, through the functions, and by what the functions use."""
    x, v = 3 * uniform(6), draw(6, seed=6)
    period, level = torch.tensor(1.3, dtype=D), torch.tensor(0.4, dtype=D)

    def result(x, period, level):
        gram = LaplaceGram(
            x, noise=0.1, mean=lambda x: level * x, basis=[constant, harmonics(period)], prior=2.0
        )
        return torch.stack((gram.log_prob(v), gram.solve(v)[0]))

    leaves = tuple(each.requires_grad_() for each in (x, period, level))
    assert gradcheck(result, leaves)
    assert gradgradcheck(result, leaves)


def test_ties_have_sign_zero():
    """Derivatives by coincident anchors are the mean of both orders, as without a basis."""
    v = draw(5, seed=6)

    def result(x):
        return LaplaceGram(x, noise=0.3, basis=draw(5, 2, seed=4)).log_prob(v)

    x = torch.tensor([0.0, 1.0, 1.0, 2.0, 0.4], dtype=D, requires_grad=True)
    (found,) = torch.autograd.grad(result(x), x)
    step = 1e-6 * torch.tensor([0.0, 1.0, -1.0, 0.0, 0.0], dtype=D)
    with torch.no_grad():
        apart = (result(x + step) - result(x - step)) / 2e-6
    assert abs(float(found[1] - found[2] - apart)) < 1e-6


def test_a_batch_is_its_matrices():
    x, n = 3 * uniform(2, 1, 7), 7
    noise = uniform(3, 1, seed=2) + 0.1
    basis, prior = draw(3, n, 2, seed=3), uniform(2, 1, 2, seed=4) + 0.5
    mean, v = draw(2, 3, n, seed=5), draw(4, 2, 3, n, seed=6)
    gram = LaplaceGram(x, noise=noise, basis=basis, prior=prior, mean=mean)
    assert gram.shape == (2, 3, n, n)
    whole = [*gram.coefficients(v), gram.sample((2,)), gram.diagonal(), gram.to_dense()]
    shapes = [(4, 2, 3, 2), (2, 3, 2, 2), (2, 2, 3, n), (2, 3, n), (2, 3, n, n)]
    assert [tuple(each.shape) for each in whole] == shapes
    for i in range(2):
        for j in range(3):
            one = LaplaceGram(
                x[i, 0], noise=noise[j], basis=basis[j], prior=prior[i, 0], mean=mean[i, j]
            )
            rows = v[:, i, j]
            for name in ("log_prob", "solve", "matvec", "color", "whiten"):
                torch.testing.assert_close(
                    getattr(gram, name)(v)[:, i, j], getattr(one, name)(rows), rtol=1e-9, atol=1e-9
                )
            torch.testing.assert_close(gram.logdet()[i, j], one.logdet())
            torch.testing.assert_close(gram.to_dense()[i, j], one.to_dense())
            for a, b in zip(gram.coefficients(v), one.coefficients(rows), strict=True):
                torch.testing.assert_close(a[..., i, j, :] if a.dim() == 4 and a.shape[0] == 4
                                           else a[i, j], b)  # fmt: skip


def test_a_mean_is_subtracted():
    x, v = 3 * uniform(8), draw(8, seed=1)
    plain = LaplaceGram(x, noise=0.1)
    for mean, value in (
        (1.5, torch.full((8,), 1.5, dtype=D)),
        (torch.tensor(1.5), torch.full((8,), 1.5, dtype=D)),
        (torch.tensor([1.5]), torch.full((8,), 1.5, dtype=D)),
        (wave, wave(x)),
        (lambda _: 2, torch.full((8,), 2.0, dtype=D)),
        (v, v),
        (v.numpy(), v),
    ):
        gram = LaplaceGram(x, noise=0.1, mean=mean)
        torch.testing.assert_close(gram.mean, value)
        torch.testing.assert_close(gram.log_prob(v), plain.log_prob(v - value))
        assert torch.equal(gram.solve(v), plain.solve(v))
        generators = [torch.Generator().manual_seed(0) for _ in range(2)]
        torch.testing.assert_close(
            gram.sample(generator=generators[0]), plain.sample(generator=generators[1]) + value
        )


def test_sums_and_multiples():
    x = 3 * uniform(6)
    one = LaplaceGram(x, noise=0.1, basis=constant, prior=2.0, mean=1.0)
    two = LaplaceGram(x, lengthscale=0.3, basis=polynomial(1, 0, 3), prior=0.5, mean=wave)
    plain = LaplaceGram(x, lengthscale=2.0)
    total = one + two
    torch.testing.assert_close(total.to_dense(), one.to_dense() + two.to_dense())
    torch.testing.assert_close(total.mean, one.mean + two.mean)
    assert total.basis.shape == (6, 3)
    for some in (one + plain, plain + one):
        torch.testing.assert_close(some.to_dense(), one.to_dense() + plain.to_dense())
        assert torch.equal(some.mean, one.mean)
    torch.testing.assert_close((2.5 * one).to_dense(), 2.5 * one.to_dense())
    assert torch.equal((2.5 * one).mean, one.mean)
    factors = torch.tensor([0.5, 2.0], dtype=D)
    torch.testing.assert_close((one * factors).to_dense(), factors[:, None, None] * one.to_dense())


def test_copies():
    period = torch.tensor(1.3, dtype=D, requires_grad=True)
    x, v = 3 * uniform(6), draw(6, seed=1)
    basis = [constant, harmonics(period), draw(6, 1, seed=3).requires_grad_()]
    gram = LaplaceGram(x, noise=0.1, basis=basis, prior=2.0, mean=wave)
    assert gram.requires_grad
    detached = gram.detach()
    assert not detached.requires_grad
    assert torch.equal(detached.log_prob(v), gram.log_prob(v).detach())
    single = gram.to(torch.float32)
    assert single.log_prob(v.float()).dtype is torch.float32
    torch.testing.assert_close(single.log_prob(v.float()), gram.log_prob(v).float(), rtol=1e-4,
                               atol=1e-4)  # fmt: skip
    plain = LaplaceGram(x, noise=0.1, basis=[polynomial(2, 0, 3), harmonics(1.3)])
    again = pickle.loads(pickle.dumps(plain))
    assert torch.equal(again.log_prob(v), plain.log_prob(v))
    assert repr(gram) == (
        "LaplaceGram(shape=(6, 6), terms=1, noise=0.1, basis=4 columns, with a mean, "
        "dtype=torch.float64)"
    )
    assert "basis" not in repr(LaplaceGram(x))
    arrays = LaplaceGram(x.numpy(), noise=0.1, basis=draw(6, 2).numpy(), prior=np.ones(2))
    torch.testing.assert_close(torch.from_numpy(np.asarray(arrays)), arrays.to_dense())
    proper = arrays.to_scipy(inverse=True)
    np.testing.assert_allclose(proper @ v.numpy(), arrays.solve(v).numpy())
    operator = arrays.to_linear_operator()
    torch.testing.assert_close(operator.to_dense(), arrays.to_dense())
    torch.testing.assert_close(operator @ v[:, None], arrays @ v[:, None])


@pytest.mark.parametrize("how", ["basis", "prior", "mean", "function"])
def test_results_follow_their_tensors(how):
    given_, v = tensors(), draw(6, seed=6)
    del given_["values"]
    if how == "function":
        weights = given_["basis"]
        given_["basis"] = lambda _: weights
    gram = LaplaceGram(given_.pop("anchors"), **given_)
    before = gram.log_prob(v)
    conditional = gram.condition(torch.arange(3), v[:3])
    assert conditional.mean.shape == (3,)
    (weights if how == "function" else given_[how]).data.mul_(3)
    assert gram.log_prob(v) != before
    fresh = LaplaceGram(gram.anchors, **given_)
    assert torch.equal(gram.log_prob(v), fresh.log_prob(v))
    with pytest.raises(RuntimeError, match="make it again"):
        _ = conditional.mean


def test_a_trend_over_a_million_points():
    """A random walk with a line below it: the estimate is within six of its standard errors."""
    n = 1_000_000
    x = torch.arange(n, dtype=D)
    gram = LaplaceGram(x, lengthscale=1e5, variance=1e5, noise=1.0, basis=polynomial(1, 0, n - 1))
    walk = LaplaceGram(x, lengthscale=1e5, variance=1e5, noise=1.0)
    y = walk.sample(generator=torch.Generator().manual_seed(0)) + 1e4 - 0.05 * x
    mean, covariance = gram.coefficients(y)
    true = torch.tensor([1e4 - 0.05 * (n - 1) / 2, -0.05 * (n - 1) / 2], dtype=D)
    assert bool(((mean - true).abs() < 6 * covariance.diagonal().sqrt()).all())
    # The trend itself changes nothing: 1e5 of it leaves rounding of 1e5 * n * epsilon.
    shifted = gram.log_prob(y + 3e4 + 0.07 * x)
    assert abs(float(shifted - gram.log_prob(y))) < 1e-4


@pytest.mark.parametrize("degree", range(8))
def test_polynomials_are_those_of_legendre(degree):
    x = torch.linspace(-3, 5, 50, dtype=D)
    u = (x.numpy() + 3) / 4 - 1
    found = laplex.gram.polynomial(degree, -3, 5)(x)
    expected = np.polynomial.legendre.legvander(u, degree)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("prior", [1.0, 1e6, 1e12, 1e15, INF])
@pytest.mark.parametrize("offset", [0.0, 2.4e6])
def test_against_many_digits(prior, offset):
    """Normal equations in 80 digits, which are exact enough for any variance.

    Rounding of the whitened values, which are about 1e3 times their residuals, enters the square of
    the residuals: n * 1e3 * EPSILON, times a few for the condition number of K, about 30.
    """
    n = 12
    x = offset + 27 * uniform(n, seed=1)
    gram = LaplaceGram(
        x, lengthscale=2.0, noise=0.1, basis=polynomial(2, offset, offset + 27), prior=prior
    )
    y = draw(n, seed=2) + 1e3 + 5 * (x - offset)
    with mpmath.workdps(80):
        places = [mpmath.mpf(each) for each in x.tolist()]
        K = mpmath.matrix(n, n)
        for i in range(n):
            for j in range(n):
                K[i, j] = mpmath.exp(-abs(places[i] - places[j]) / 2) + (i == j) * mpmath.mpf(0.1)
        B, v, inverse = mpmath.matrix(gram.basis.tolist()), mpmath.matrix(y.tolist()), K**-1
        precision = B.T * inverse * B
        constant_ = (n if prior < INF else n - 3) * mpmath.log(2 * mpmath.pi)
        if prior < INF:
            precision += mpmath.eye(3) / prior
            constant_ += 3 * mpmath.log(prior)
        spread = precision**-1
        beta = spread * (B.T * inverse * v)
        square = (v.T * inverse * (v - B * beta))[0]
        determinants = mpmath.log(mpmath.det(K)) + mpmath.log(mpmath.det(precision))
        expected = -(square + determinants + constant_) / 2
        found = gram.coefficients(y).mean.tolist()
        errors = [abs(found[k] - beta[k]) / mpmath.sqrt(spread[k, k]) / abs(v[0]) for k in range(3)]
    tolerance = 30 * n * EPSILON
    assert max(errors) < tolerance
    assert abs(float(gram.log_prob(y)) - expected) < tolerance * (1e3 + abs(expected))


def test_a_network_is_a_function():
    """Its weights have derivatives, and a sequence of layers is no sequence of functions."""
    x, v = 3 * uniform(8), draw(8, seed=2)
    lift = torch.nn.Unflatten(-1, (8, 1))
    network = torch.nn.Sequential(lift, torch.nn.Linear(1, 2), torch.nn.Tanh()).double()
    gram = LaplaceGram(x, noise=0.1, basis=network, prior=1.0)
    assert gram.basis.shape == (8, 2)
    gram.log_prob(v).backward()
    assert bool((network[1].weight.grad != 0).all())
    by_matrix = LaplaceGram(x, noise=0.1, basis=network(x), prior=1.0)
    assert torch.equal(gram.log_prob(v), by_matrix.log_prob(v))


def test_a_term_and_a_constant_kernel_agree():
    """A constant's variance is a term with an endless lengthscale."""
    x, v = 3 * uniform(20), draw(20, seed=2)
    by_term = LaplaceGram(x, terms=[Term(0.5), Term(1e14, 2.0)], noise=0.1)
    by_basis = LaplaceGram(x, lengthscale=0.5, noise=0.1, basis=constant, prior=2.0)
    close(by_basis.log_prob(v), by_term.log_prob(v), 1e-10)
    close(by_basis.solve(v), by_term.solve(v), 1e-10)
