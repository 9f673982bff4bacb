"""Products of terms: their processes against the product of the factors, and what is refused.

test_terms.py and test_terms_gram.py have products among their cases, too.
"""

from __future__ import annotations

import math
import pickle

import mpmath
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from laplex.gram import (
    SHO,
    Celerite,
    LaplaceGPRegressor,
    LaplaceGram,
    Matern32,
    Matern52,
    Rotation,
    Term,
    TermProduct,
    TermSum,
)
from laplex.gram.parameters import GramParameters
from laplex.gram.terms import BaseTerm
from strategies import quick

D = torch.float64
EPSILON = torch.finfo(D).eps
NEAR = 1e-3  # |Q - 1/2| of an oscillator that counts as critical is a quarter of this

pytestmark = pytest.mark.usefixtures("one_thread")

rates = st.floats(-2, 2).map(lambda k: 10**k)
exponentials = st.builds(Term, rates, rates)
oscillators = st.builds(lambda w, q: SHO(sigma=1.0, w0=w, Q=q), rates, rates)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def by_blocks(term: BaseTerm, distance: torch.Tensor) -> torch.Tensor:
    blocks = term.blocks(distance)
    return sum((block.value(distance) for block in blocks[1:]), blocks[0].value(distance))


def exact_values(term: SHO, distances: torch.Tensor) -> list[mpmath.mpf]:
    omega, quality = mpmath.mpf(term.w0), mpmath.mpf(term.Q)
    gamma = omega / (2 * quality)
    root = mpmath.sqrt(mpmath.mpc(omega**2 - gamma**2))
    return [
        (mpmath.exp(-gamma * d) * (mpmath.cos(root * d) + gamma * mpmath.sin(root * d) / root)).real
        for d in map(mpmath.mpf, distances.tolist())
    ]


@quick
@given(oscillators, oscillators, rates)
def test_two_oscillators(one, two, spread):
    """The two waves are 1 / sqrt|4 Q^2 - 1| larger than their sum, for either factor.

    Angles have relative errors of EPSILON; they are at most 2 Q where anything is left.
    """
    assume(min(abs(each.Q - 0.5) for each in (one, two)) > NEAR)
    distance = spread * torch.linspace(0, 3, 7, dtype=D)
    with mpmath.workdps(50):
        pairs = zip(exact_values(one, distance), exact_values(two, distance), strict=True)
        expected = torch.tensor([float(a * b) for a, b in pairs], dtype=D)
    size = math.prod(1 + 1 / math.sqrt(abs(4 * each.Q**2 - 1)) for each in (one, two))
    error = 100 * EPSILON * size * (1 + 2 * one.Q + 2 * two.Q)
    made = one * two
    assert len(made.blocks(distance)) == 2
    torch.testing.assert_close(by_blocks(made, distance), expected, rtol=0, atol=error)


@pytest.mark.parametrize("gap", [0.3, 1e-2, 1e-3])
@pytest.mark.parametrize("qualities", [(3.0, 3.0), (3.0, 1.0), (0.2, 0.3), (0.2, 2.0)])
def test_short_gaps_without_noise(gap, qualities):
    """The waves cancel: pivots of order gap^3 are differences of numbers of order gap."""
    one, two = (SHO(sigma=1.0, w0=2.0, Q=each) for each in qualities)
    x = gap * torch.arange(8, dtype=D) ** 1.1
    distance = (x[:, None] - x).abs().flatten()
    with mpmath.workdps(120):
        pairs = zip(exact_values(one, distance), exact_values(two, distance), strict=True)
        entries = [a * b for a, b in pairs]
        root = mpmath.cholesky(mpmath.matrix([entries[8 * k : 8 * k + 8] for k in range(8)]))
        expected = float(2 * sum(mpmath.log(root[k, k]) for k in range(8)))
    ours = float(LaplaceGram(x, terms=one * two).logdet())
    assert abs(ours - expected) <= 100 * 8 * EPSILON * (1 + gap**-2)


@quick
@given(exponentials, st.one_of(oscillators, exponentials, st.builds(Matern32, rates)), rates)
def test_an_exponential_times_a_term(one, two, spread):
    distance = spread * torch.linspace(0, 3, 7, dtype=D)
    made = two * one
    expected = one.value(distance) * two.value(distance)
    angles = 2 * two.Q if isinstance(two, SHO) else 1
    error = 100 * EPSILON * (1 + angles) * float(expected[0])
    torch.testing.assert_close(by_blocks(made, distance), expected, rtol=0, atol=error)
    (block,) = made.blocks(distance)
    assert all(weight >= 0 for weight in block.weights)  # positive semidefinite, as its factors


@quick
@given(
    st.floats(0, 5),
    st.floats(0, 5),
    st.sampled_from([Matern32(0.7), SHO(sigma=1.0, w0=2.0, Q=0.2), Celerite(1.0, 0.3, 1.0, 2.0)]),
    st.integers(0, 2**31),
)
def test_frequencies_phases_and_scales(first, second, other, seed):
    x, phase, scale = 4 * uniform(9, seed=seed), 3 * uniform(9, seed=seed + 1), uniform(9)
    scaled = other.replaced(scale=scale + 0.5)
    factors = Term(2.0, 1.5, first, phase), scaled, Term(3.0, 0.5, second)
    gram = LaplaceGram(x, terms=factors[0] * factors[1] * factors[2], noise=0.1)
    matrices = [LaplaceGram(x, terms=each).to_dense() for each in factors]
    dense = matrices[0] * matrices[1] * matrices[2] + 0.1 * torch.eye(9, dtype=D)
    torch.testing.assert_close(gram.to_dense(), dense)
    torch.testing.assert_close(gram.logdet(), torch.logdet(dense))
    v = uniform(9, seed=seed + 2)
    torch.testing.assert_close(gram @ v, dense @ v)
    torch.testing.assert_close(gram.solve(v), torch.linalg.solve(dense, v))


def test_spectra_of_cosines():
    """The spectrum of a product with a cosine is moved both ways."""
    frequency = torch.linspace(-6, 6, 25, dtype=D)
    plain = Matern32(0.7) * Term(2.0)
    made = Matern32(0.7) * Term(2.0, 1.0, 3.0)
    expected = 0.5 * (plain.psd(frequency - 3) + plain.psd(frequency + 3))
    torch.testing.assert_close(made.psd(frequency), expected)
    waves = Celerite(1.0, 0.3, 1.0, 2.0) * Term(2.0, 1.0, 3.0)
    blocks = waves.blocks(frequency)  # this one has blocks, too
    expected = blocks[0].psd(frequency) + blocks[1].psd(frequency)
    torch.testing.assert_close(waves.psd(frequency), expected)


def test_products_of_sums():
    one, two, three = Term(1.0), SHO(sigma=1.0, rho=2.0, Q=3.0), Celerite(1.0, 0.1, 0.5, 2.0)
    d = torch.linspace(0, 4, 9, dtype=D)
    for made, count in (
        ((one + two) * (two + three), 4),
        ((one + two) * three, 2),
        (three * (one + two), 2),
        (2 * ((one + two) * three), 2),
    ):
        assert isinstance(made, TermSum)
        assert len(made) == count
        assert all(isinstance(term, TermProduct) for term in made)
    product = (one + two) * (two + three)
    sums = (one.value(d) + two.value(d)) * (two.value(d) + three.value(d))
    torch.testing.assert_close(product.value(d), sums)
    assert (one * two * three).factors == (one * (two * three)).factors == (one, two, three)
    torch.testing.assert_close((one * two * 3.0).value(d), 3 * one.value(d) * two.value(d))
    assert repr(one * two + three) == f"{one!r} * {two!r} + {three!r}"


def test_parameters_stay_those_of_the_factors():
    lengthscale = torch.nn.Parameter(torch.tensor(2.0, dtype=D))
    product = SHO(sigma=1.0, rho=2.0, Q=3.0) * Term(lengthscale)
    assert product.parameters()["1.lengthscale"] is lengthscale
    x, d = uniform(6), torch.ones(1, dtype=D)
    LaplaceGram(x, terms=product, noise=0.1).logdet().backward()
    assert lengthscale.grad is not None
    with torch.no_grad():
        lengthscale.fill_(5.0)
    torch.testing.assert_close(product.value(d), SHO(sigma=1.0, rho=2.0, Q=3.0).value(d)
                               * Term(5.0).value(d))  # fmt: skip
    parameters = GramParameters.checked(x, product + Term(), 0.1)
    named = parameters.named()
    assert "0.SHO*Term.1.lengthscale" in named
    (again, plain) = GramParameters.from_named(named).terms
    assert isinstance(again, TermProduct)
    assert isinstance(plain, Term)
    torch.testing.assert_close(again.value(d), product.value(d), rtol=0, atol=0)
    gram = LaplaceGram(x, terms=product + Term(), noise=0.1)
    assert pickle.loads(pickle.dumps(gram)).logdet() == gram.logdet()


def test_batches():
    lengthscale, quality = torch.tensor([1.0, 2.0], dtype=D), torch.tensor([[3.0], [0.9]], dtype=D)
    x = 3 * uniform(6)
    product = Term(lengthscale) * SHO(sigma=1.0, rho=2.0, Q=quality) * Celerite(1.0, 0.1, 1.0, 1.0)
    gram = LaplaceGram(x, terms=product, noise=0.1)
    assert gram.shape == (2, 2, 6, 6)
    torch.testing.assert_close(gram.logdet(), torch.logdet(gram.to_dense()))
    for i in range(2):
        for j in range(2):
            one = Term(float(lengthscale[j])) * SHO(sigma=1.0, rho=2.0, Q=float(quality[i]))
            one = one * Celerite(1.0, 0.1, 1.0, 1.0)
            expected = LaplaceGram(x, terms=one, noise=0.1).to_dense()
            torch.testing.assert_close(gram.to_dense()[i, j], expected)


def test_predictions_of_one_product():
    x, new = 4 * uniform(20), 4 * uniform(5, seed=1)
    terms = (Term(3.0) + Matern32(2.0)) * Term(2.0, 1.0, 3.0)
    v = uniform(20, seed=2)
    gram = LaplaceGram(x, terms=terms, noise=0.1)
    both = [gram.predict(new, v, term=k).mean for k in range(2)]
    torch.testing.assert_close(sum(both), gram.predict(new, v).mean)
    across = terms[1].value((new[:, None] - x).flatten()).reshape(5, 20)
    torch.testing.assert_close(both[1], across @ gram.solve(v))


def test_a_regressor_fits_a_product():
    x = torch.linspace(0, 10, 40, dtype=D).numpy()[:, None]
    kernel = SHO(sigma=1.0, rho=2.0, Q=3.0) * Term(4.0)
    model = LaplaceGPRegressor(kernel, noise=0.1, fixed=["1.variance", "0.Q"])
    y = torch.sin(3 * torch.from_numpy(x[:, 0])).numpy() + 2 * uniform(40).numpy() - 1
    before = LaplaceGram(x[:, 0], terms=kernel, noise=0.1).log_prob(y)
    model.fit(x, y)
    assert model.log_marginal_likelihood_value_ > float(before)


CRITICAL = "a critical oscillator .* use a Term in place of one of them"


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        (Matern52(), Matern32(), "a Matern52 cannot be multiplied by another term; use Matern32"),
        (Matern52(), Term(2.0), "there is no Matern52.* Term.lengthscale=2.*: a Matern52"),
        (Term(2.0, 1.0, 3.0), Matern52(), "there is no Term.*frequency=3.* Matern52"),
        (Matern32(), Matern32(), CRITICAL),
        (Matern32(), SHO(sigma=1.0, w0=1.0, Q=2.0), CRITICAL),
        (SHO(sigma=1.0, w0=1.0, Q=0.5001), Celerite(1.0, 0.1, 1.0, 1.0), CRITICAL),
        (Rotation(1.0, 2.0, 1.0, 1.0, 0.5), SHO(sigma=1.0, w0=1.0, Q=0.5), CRITICAL),
    ],
)
def test_products_that_need_another_state(one, two, message):
    for pair in ((one, two), (two, one)):
        with pytest.raises(NotImplementedError, match=message if pair[0] is one else "there is no"):
            pair[0] * pair[1]
    with pytest.raises(NotImplementedError, match="there is no"):
        (one + Term()) * two


def test_tensors_are_checked_when_they_are_used():
    quality = torch.tensor([0.3, 2.0], dtype=D)
    mixed = SHO(sigma=1.0, w0=1.0, Q=quality) * SHO(sigma=1.0, w0=1.0, Q=2.0)
    with pytest.raises(NotImplementedError, match=r"there is no SHO.*Q on both sides of 1/2"):
        LaplaceGram(uniform(3), terms=mixed)
    with pytest.raises(ValueError, match="Q must be positive"):
        LaplaceGram(uniform(3), terms=Term() * SHO(sigma=1.0, w0=1.0, Q=-quality))
    with pytest.raises(ValueError, match="Q must be positive"):
        (Term() * SHO(sigma=1.0, w0=1.0, Q=-quality)).value(1.0)
    with pytest.raises(ValueError, match="the product times the square of scale"):
        Term(1.0, 1e100) * Celerite(1e60, 0.0, 1.0)
    with pytest.raises(TypeError):
        Term() * "a"


def test_an_indefinite_factor_is_named():
    gram = LaplaceGram(uniform(20), terms=Celerite(1.0, 3.0, 1.0, 2.0) * Term(50.0))
    with pytest.raises(ValueError, match=r"term 0, .* the factor Celerite.* abs.b d. > a c"):
        gram.logdet()
