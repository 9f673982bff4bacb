"""`LaplaceGram` of every kind of term against dense float64 algebra, with all derivatives.

Tolerances are those of test_gram.py: what a backward stable factorisation loses is the condition
number of the matrix times n EPSILON.
"""

from __future__ import annotations

import math
import pickle

import celerite2
import celerite2.terms as theirs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from laplex.gram import SHO, Celerite, LaplaceGram, Matern32, Matern52, Rotation, Term
from laplex.gram.factor import Covariance
from laplex.gram.product import product
from laplex.gram.terms import BaseTerm
from strategies import quick
from terms_cases import CASES, WITH_THEIRS, numbers

D = torch.float64
EPSILON = torch.finfo(D).eps

pytestmark = pytest.mark.usefixtures("one_thread")

#: Models of several terms; in the last two, the spectrum of a term is negative somewhere.
SUMS = {
    "two oscillators": SHO(sigma=1.0, rho=1.3, Q=5.0) + SHO(sigma=0.5, w0=1.0, Q=0.3),
    "mixed": Matern52(1.5, 0.7) + Term(0.4, 0.3) + SHO(sigma=0.8, rho=2.0, tau=3.0),
    "with a cosine": Term(2.0, 1.0, 3.0) + Matern32(0.7) + Celerite(0.5, 0.2, 0.9, 1.0),
    "cosine of matern32": Term(2.0, 1.0, 3.0) * Matern32(0.7),
    "products": (Term(3.0) + SHO(sigma=1.0, rho=2.0, tau=3.0)) * Celerite(0.5, 0.2, 0.9, 1.0),
    "negative": Celerite(1.0, 0.0, 1.0) + Celerite(-0.4, 0.0, 2.0),
    "not alone": Celerite(0.1, 2.0, 1.0, 1.0) + Term(1.0, 3.0),
}
MODELS = {**{name: term for name, (term, _) in CASES.items()}, **SUMS}
names = pytest.mark.parametrize("name", MODELS)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def error_of(matrix: torch.Tensor) -> float:
    return 4 * EPSILON * matrix.shape[-1] * float(torch.linalg.cond(matrix).max())


def as_tuple(terms: object) -> tuple[BaseTerm, ...]:
    return (terms,) if isinstance(terms, BaseTerm) else tuple(terms)


# --- the matrix -----------------------------------------------------------------------------------


def by_definition(covariance: Covariance) -> torch.Tensor:
    """The dense matrices of the arrays for the core, by matrix exponentials."""
    anchors, lengthscale, loadings, noise, weights, blocks = covariance
    blocks = blocks or (1,) * loadings.shape[-1]
    weights = torch.ones_like(lengthscale) if weights is None else weights
    gap = (anchors[:, :, None] - anchors[:, None, :]).abs()
    dense, first = torch.diag_embed(noise), 0
    for size in blocks:
        for b in range(len(anchors)):
            rates = 1 / lengthscale[b, first : first + size]
            weight = weights[b, first : first + size]
            if size == 1:
                drift, stationary = -rates[:, None], weight[:, None]
            elif size == 2:
                gamma, omega = rates
                drift = omega * torch.tensor([[0, 1], [-1, -2 * gamma / omega]], dtype=D)
                zeta = float(gamma / omega)
                stationary = 0.5 * (weight[0] + weight[1]) * torch.eye(2, dtype=D)
                corner = torch.tensor([[0, -zeta], [-zeta, 2 * zeta**2]], dtype=D)
                stationary = stationary + weight[0] * corner
            else:
                companion = torch.tensor([[0, 1, 0], [0, 0, 1], [-1, -3, -3]], dtype=D)
                drift = rates[0] * companion
                fixed = torch.tensor([[1, 0, -1 / 3], [0, 1 / 3, 0], [-1 / 3, 0, 1]], dtype=D)
                stationary = weight[0] * fixed
            loading = loadings[b, :, first : first + size]
            moved = torch.matrix_exp(gap[b, :, :, None, None] * drift) @ stationary
            later = torch.einsum("ia,ijac,jc->ij", loading, moved, loading)
            earlier = anchors[b, :, None] < anchors[b, None, :]
            dense[b] += torch.where(earlier, later.mT, later)
        first += size
    return dense


@names
def test_the_arrays_for_the_core_mean_the_same(name):
    x = 4 * uniform(12)
    gram = LaplaceGram(x, terms=MODELS[name], noise=uniform(12, seed=1))
    dense = gram.to_dense()
    torch.testing.assert_close(by_definition(gram.parameters.covariance())[0], dense)
    values = sum(term.value((x[:, None] - x).flatten()) for term in as_tuple(MODELS[name]))
    torch.testing.assert_close(dense - torch.diag(gram.noise), values.reshape(12, 12))
    torch.testing.assert_close(gram.diagonal(), dense.diagonal())


@names
@pytest.mark.parametrize("n", [1, 2, 3, 40])
def test_dense_algebra(name, n):
    gram = LaplaceGram(4 * uniform(n), terms=MODELS[name], noise=0.1 + uniform(n, seed=1))
    dense, v = gram.to_dense(), draw(5, n, seed=2)
    tolerance = {"rtol": error_of(dense), "atol": error_of(dense)}
    torch.testing.assert_close(gram @ v.mT, dense @ v.mT, rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(gram.solve(v), torch.linalg.solve(dense, v.mT).mT, **tolerance)
    torch.testing.assert_close(gram.logdet(), torch.logdet(dense), **tolerance)
    normal = torch.distributions.MultivariateNormal(torch.zeros(n, dtype=D), dense)
    torch.testing.assert_close(gram.log_prob(v), normal.log_prob(v), **tolerance)
    quadratic, logdet = gram.inv_quad_logdet(v)
    torch.testing.assert_close(quadratic, (v * gram.solve(v)).sum(-1), **tolerance)
    torch.testing.assert_close(logdet, gram.logdet(), **tolerance)
    root = gram.color(torch.eye(n, dtype=D), transpose=True)
    torch.testing.assert_close(root @ root.mT, dense, **tolerance)
    torch.testing.assert_close(gram.whiten(gram.color(v)), v, **tolerance)
    assert pickle.loads(pickle.dumps(gram)).logdet() == gram.logdet()
    torch.testing.assert_close((2 * gram).to_dense(), 2 * dense)
    torch.testing.assert_close((gram + gram).to_dense(), 2 * dense)


@pytest.mark.parametrize("name", WITH_THEIRS)
def test_likelihoods_are_those_of_celerite2(name):
    ours, other = CASES[name]
    x = np.sort(np.random.default_rng(0).uniform(0, 20, 200))
    y, noise = np.sin(x), np.random.default_rng(1).uniform(0.1, 0.3, 200)
    reference = celerite2.GaussianProcess(other, t=x, diag=noise)
    gram = LaplaceGram(x, terms=ours, noise=noise)
    assert float(gram.log_prob(y)) == pytest.approx(reference.log_likelihood(y), rel=1e-11)
    targets = np.linspace(-1, 21, 30)
    predicted, conditional = gram.predict(targets, y), reference.condition(y, targets)
    np.testing.assert_allclose(predicted.mean, conditional.mean, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(predicted.variance, conditional.variance, rtol=1e-8, atol=1e-9)


def test_matern32_is_the_limit_of_celerite2():
    x = np.sort(np.random.default_rng(0).uniform(0, 20, 100))
    reference = celerite2.GaussianProcess(
        theirs.Matern32Term(sigma=1.3, rho=2.0, eps=1e-5), t=x, diag=0.1 * np.ones(100)
    )
    gram = LaplaceGram(x, terms=Matern32(2.0, 1.69), noise=0.1)
    assert float(gram.log_prob(np.sin(x))) == pytest.approx(
        reference.log_likelihood(np.sin(x)), rel=1e-7
    )


def test_batches_scales_and_precisions():
    x, v = 3 * uniform(2, 9), draw(3, 2, 9)
    sigma, scale = torch.tensor([1.0, 0.5], dtype=D), draw(9, seed=4)
    terms = SHO(sigma=sigma, rho=1.0, Q=2.0, scale=scale) + Matern52(sigma, scale=scale.abs())
    gram = LaplaceGram(x, terms=terms, noise=0.2)
    assert gram.shape == (2, 9, 9)
    for b in range(2):
        one = SHO(sigma=float(sigma[b]), rho=1.0, Q=2.0).value((x[b, :, None] - x[b]).flatten())
        two = Matern52(float(sigma[b])).value((x[b, :, None] - x[b]).flatten())
        one, two = one.reshape(9, 9), two.reshape(9, 9)
        dense = scale[:, None] * one * scale + scale.abs()[:, None] * two * scale.abs()
        torch.testing.assert_close(gram.to_dense()[b], dense + 0.2 * torch.eye(9, dtype=D))
    torch.testing.assert_close(gram.matvec(v), (gram.to_dense() @ v[..., None])[..., 0])
    torch.testing.assert_close(gram.solve(gram.matvec(v)), v)
    torch.testing.assert_close(gram.diagonal(), gram.to_dense().diagonal(dim1=-2, dim2=-1))
    low = LaplaceGram(x.float(), terms=SHO(sigma=1.0, rho=1.0, Q=2.0), noise=0.2)
    assert low.solve(v.float()).dtype is low.matvec(v.float()).dtype is torch.float32
    assert low.to_dense().dtype is torch.float32
    assert gram.to(torch.float32).dtype is torch.float32


# --- products -------------------------------------------------------------------------------------


@quick
@given(
    st.sampled_from(sorted(CASES)),
    st.integers(1, 30),
    st.integers(0, 30),
    st.integers(0, 2**31),
    st.floats(-3, 3).map(lambda k: 10**k),
)
def test_products_between_any_points(name, m, k, seed, spread):
    """The promise is 1e-14 of the sum of absolute terms; an envelope replaces an oscillation.

    The reference has relative errors of EPSILON times its exponents, of up to 745.
    """
    term, _ = CASES[name]
    x = spread * uniform(m + k, seed=seed)
    x[m:][::2] = x[:m].repeat(k // m + 1)[:k][::2]  # ties
    v = draw(2, m, seed=seed + 1)
    sources, targets = torch.arange(m), torch.arange(m, m + k)
    result = product(term, v, x, sources, targets)
    distance = x[m:, None] - x[:m]
    kernel = term.value(distance.flatten()).reshape(k, m)
    # The envelope: what the state at a source can be worth at a target.
    slowest = 0.0
    for block in term.blocks(x):
        gamma = 1 / block.lengthscales[0]
        omega = 1 / block.lengthscales[1] if len(block.lengthscales) == 2 else gamma
        rate = omega**2 / (gamma + math.sqrt(gamma**2 - omega**2)) if omega < gamma else gamma
        amplitude = max(abs(each) for each in block.weights)
        size = amplitude * (1 + gamma * distance.abs()) ** 2 * torch.exp(-rate * distance.abs())
        slowest = slowest + size
    bound = (slowest @ v.abs().mT).mT
    assert bool(((result - (kernel @ v.mT).mT).abs() <= 1e-13 * bound + 1e-300).all())
    own = product(term, v, x[:m])
    dense = term.value((x[:m, None] - x[:m]).flatten()).reshape(m, m)
    torch.testing.assert_close(own, v @ dense, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_of_products(name):
    term, _ = CASES[name]
    given = numbers(term)
    x = torch.tensor([0.0, 0.3, 0.3, 1.0, 2.5, 0.7], dtype=D, requires_grad=True)
    v = draw(4).requires_grad_()

    def between(v: torch.Tensor, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        made = term.replaced(**dict(zip(given, parameters, strict=True)))
        return product(made, v, x, torch.tensor([0, 1, 3, 4]), torch.tensor([5, 0, 2]))

    away = x.detach() + torch.tensor([0, 0, 0.1, 0, 0, 0], dtype=D)
    away.requires_grad_()

    def apart(v: torch.Tensor, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        made = term.replaced(**dict(zip(given, parameters, strict=True)))
        return product(made, v, x, torch.tensor([0, 1, 3, 4]), torch.tensor([5, 2]))

    assert gradcheck(apart, (v, away, *given.values()))
    assert gradgradcheck(apart, (v, away, *given.values()))
    # At ties, with sign(0) = 0, as autograd differentiates the dense formula.
    result = between(v, x, *given.values())
    made = term.replaced(**given)
    targets, sources = x[[5, 0, 2]], x[[0, 1, 3, 4]]
    dense = made.value((targets[:, None] - sources).flatten()).reshape(3, 4) @ v
    weights = draw(3, seed=3)
    ours = torch.autograd.grad(result @ weights, (v, x, *given.values()))
    other = torch.autograd.grad(dense @ weights, (v, x, *given.values()))
    for one, two in zip(ours, other, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)


# --- derivatives of the likelihood ----------------------------------------------------------------


def remade(terms: tuple[BaseTerm, ...], given: list[torch.Tensor]) -> list[BaseTerm]:
    left = iter(given)
    return [term.replaced(**{name: next(left) for name in numbers(term)}) for term in terms]


@names
def test_gradients_are_those_of_the_dense_density(name):
    terms = as_tuple(MODELS[name])
    x = 4 * uniform(30)
    x[[3, 17, 20]] = x[[8, 5, 5]]  # ties, with sign(0) = 0
    x.requires_grad_()
    noise = (0.1 + uniform(30, seed=1)).requires_grad_()
    v = draw(30, seed=2).requires_grad_()
    given = [each for term in terms for each in numbers(term).values()]
    gram = LaplaceGram(x, terms=remade(terms, given), noise=noise)
    inputs = (x, noise, v, *given)
    ours = torch.autograd.grad(gram.log_prob(v), inputs)
    normal = torch.distributions.MultivariateNormal(torch.zeros(30, dtype=D), gram.to_dense())
    other = torch.autograd.grad(normal.log_prob(v), inputs)
    for one, two in zip(ours, other, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


@names
def test_second_derivatives(name):
    terms = as_tuple(MODELS[name])
    x = torch.tensor([0.0, 0.4, 1.1, 2.9], dtype=D, requires_grad=True)
    noise = torch.tensor([0.5, 0.3, 0.2, 0.4], dtype=D, requires_grad=True)
    v = draw(4, seed=2).requires_grad_()
    given = [each for term in terms for each in numbers(term).values()]

    def results(x, noise, v, *given):
        gram = LaplaceGram(x, terms=remade(terms, given), noise=noise)
        return gram.log_prob(v), gram.logdet(), gram.solve(v)

    assert gradcheck(results, (x, noise, v, *given))
    assert gradgradcheck(results, (x, noise, v, *given))


# --- predictions ----------------------------------------------------------------------------------


@names
def test_predictions_are_the_dense_formula(name):
    x, targets = 4 * uniform(20), 5 * uniform(7, seed=3) - 0.5
    v, noise = draw(20, seed=2), 0.1 + uniform(20, seed=1)
    predicted = LaplaceGram(x, terms=MODELS[name], noise=noise).predict(targets, v)
    points = torch.cat((x, targets))
    whole = LaplaceGram(points, terms=MODELS[name]).to_dense()
    inner, across = whole[:20, :20] + torch.diag(noise), whole[20:, :20]
    mean = across @ torch.linalg.solve(inner, v)
    variance = whole.diagonal()[20:] - (across * torch.linalg.solve(inner, across.mT).mT).sum(-1)
    torch.testing.assert_close(predicted.mean, mean, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(predicted.variance, variance, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["underdamped", "matern32", "matern52", "celerite", "mixed"])
def test_predictions_interpolate(name):
    x, v = torch.linspace(0, 8, 9, dtype=D), draw(9)
    predicted = LaplaceGram(x, terms=MODELS[name]).predict(x, v)
    torch.testing.assert_close(predicted.mean, v, rtol=1e-10, atol=1e-10)
    assert float(predicted.variance.max()) < 1e-10


@names
def test_conditions(name):
    gram = LaplaceGram(4 * uniform(12), terms=MODELS[name], noise=0.2)
    observed, dense = torch.tensor([0, 2, 3, 7, 9, 10]), gram.to_dense()
    rest = torch.tensor([1, 4, 5, 6, 8, 11])
    conditional = gram.condition(observed, draw(6))
    solved = torch.linalg.solve(dense[observed][:, observed], dense[observed][:, rest])
    torch.testing.assert_close(conditional.mean, draw(6) @ solved)
    variance = dense[rest, rest] - (solved * dense[observed][:, rest]).sum(0)
    torch.testing.assert_close(conditional.variance, variance)


def test_samples_at_ties_and_their_covariance():
    x = torch.tensor([0.0, 1.0, 1.0, 2.5], dtype=D)
    scale = torch.tensor([1.0, -1.0, 2.0, 1.0], dtype=D)
    terms = SHO(sigma=1.0, rho=2.0, Q=3.0, scale=scale) + Matern52(1.0)
    gram = LaplaceGram(x, terms=terms)
    samples = gram.sample_at_ties((20000,), torch.Generator().manual_seed(0))
    covariance, dense = samples.mT.cov(), gram.to_dense()
    # Six standard deviations of an empirical covariance.
    spread = ((dense.diagonal()[:, None] * dense.diagonal() + dense**2) / 20000).sqrt()
    assert bool(((covariance - dense).abs() <= 6 * spread).all())
    places, v = torch.tensor([0.0, 1.0, 2.5], dtype=D), draw(3)
    drawn = LaplaceGram(places, terms=Matern32()).predict(x, v).sample(3)
    torch.testing.assert_close(drawn, v[[0, 1, 1, 2]].expand(3, 4), rtol=1e-6, atol=1e-6)


# --- matrices that are not positive definite ------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (Celerite(1.0, 3.0, 1.0, 2.0), r"term 0, Celerite\(.*d=2\), because abs.b d. > a c"),
        (Celerite(-1.0, 0.0, 1.0), r"term 0, Celerite\(a=-1, b=0, c=1, d=0\), because a < 0"),
        (Matern32() + Celerite(-2.0, 0.0, 1.0, 1.0), "term 1, Celerite"),
    ],
)
def test_indefinite_matrices_name_their_terms(terms, message):
    gram = LaplaceGram(torch.linspace(0, 3, 20, dtype=D), terms=terms)
    with pytest.raises(np.linalg.LinAlgError, match=message):
        gram.logdet()


def test_indefinite_terms_are_legal_in_definite_sums():
    x = torch.linspace(0, 3, 20, dtype=D)
    alone = Celerite(1.0, 3.0, 1.0, 2.0)
    with_noise = LaplaceGram(x, terms=alone, noise=50.0)
    dense = with_noise.to_dense()
    torch.testing.assert_close(with_noise.logdet(), torch.logdet(dense), rtol=1e-12, atol=1e-12)
    difference = Celerite(1.0, 0.0, 1.0) + Celerite(-0.4, 0.0, 2.0)
    gram = LaplaceGram(x, terms=difference)
    torch.testing.assert_close(gram.logdet(), torch.logdet(gram.to_dense()), rtol=1e-10, atol=1e-10)


def test_forward_mode():
    x, v = uniform(5), draw(5)
    with forward_ad.dual_level():
        smooth = LaplaceGram(x, terms=Matern32()).matvec(forward_ad.make_dual(v, v))
        torch.testing.assert_close(forward_ad.unpack_dual(smooth).tangent, smooth)
        for dual in (forward_ad.make_dual(x, v), x):
            gram = LaplaceGram(dual, terms=SHO(sigma=1.0, w0=1.0, Q=1.0))
            with pytest.raises(NotImplementedError, match="forward-mode"):
                gram.matvec(forward_ad.make_dual(v, v))


def test_ranks_refuse_other_terms():
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        with pytest.raises(NotImplementedError, match="terms has Matern32"):
            LaplaceGram(
                torch.arange(3.0, dtype=D),
                terms=Matern32(),
                group=torch.distributed.group.WORLD,
            )
    finally:
        torch.distributed.destroy_process_group()


def test_the_inverse_of_a_real_term_is_tridiagonal():
    x = 3 * uniform(6)
    for term in (Celerite(1.7, 0.0, 0.6), Term(1 / 0.6, 1.7)):
        order, diagonal, off = LaplaceGram(x, terms=term).precision()
        inverse = torch.linalg.inv(LaplaceGram(x, terms=term).to_dense())[order][:, order]
        torch.testing.assert_close(diagonal, inverse.diagonal())
        torch.testing.assert_close(off, inverse.diagonal(1))
    with pytest.raises(ValueError, match="tridiagonal only"):
        LaplaceGram(x, terms=Matern32()).precision()
    with pytest.raises(ValueError, match="tridiagonal only"):
        LaplaceGram(x, terms=Rotation(1.0, 2.0, 1.0, 1.0, 0.5)).precision()
