"""The terms of a covariance: their functions against mpmath and celerite2, sums and refusals."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from torch.autograd import gradcheck, gradgradcheck

import laplex
from laplex.gram import SHO, Celerite, LaplaceGram, Matern32, Matern52, Rotation, Term, TermSum
from laplex.gram.parameters import GramParameters
from strategies import quick
from terms_cases import CASES, WITH_THEIRS, numbers

D = torch.float64
EPSILON = torch.finfo(D).eps

pytestmark = pytest.mark.usefixtures("one_thread")


def t(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers if len(numbers) != 1 else numbers[0], dtype=D)


# --- the functions --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_THEIRS)
def test_the_functions_are_those_of_celerite2(name):
    term, other = CASES[name]
    points = np.linspace(-20, 20, 101)
    for ours, reference in (
        (term.value(points), other.get_value(points)),
        (term.psd(points), other.get_psd(points)),
    ):
        # Both sum at most four products of sines and exponentials, of angles up to 80.
        np.testing.assert_allclose(ours.numpy(), reference, rtol=1e-12, atol=200 * EPSILON)


@pytest.mark.parametrize("name", CASES)
def test_the_power_spectrum_is_the_transform_of_the_covariance(name):
    term, _ = CASES[name]
    for frequency in (0.0, 0.7, 3.1):
        integral, _ = quad(
            lambda d, w=frequency: float(term.value(d)) * math.cos(w * d), 0, 60, limit=2000,
            epsabs=1e-11,
        )  # fmt: skip
        expected = math.sqrt(2 / math.pi) * integral
        assert float(term.psd(frequency)) == pytest.approx(expected, rel=1e-8, abs=1e-9)


def oscillator(gamma: Any, omega: Any, a: Any, b: Any, d: Any) -> Any:
    """e^{-gamma d} (a cos(root d) + b sin(root d) / root) with 60 digits, root^2 of any sign."""
    root = mpmath.sqrt(omega**2 - gamma**2)
    if root == 0:
        return mpmath.exp(-gamma * d) * (a + b * d)
    wave = a * mpmath.cos(root * d) + b * mpmath.sin(root * d) / root
    return (mpmath.exp(-gamma * d) * wave).real


@quick
@given(
    st.one_of(
        st.floats(-3, 3).map(lambda k: 10**k),
        st.sampled_from([0.5, 0.5 + 1e-9, 0.5 - 1e-9, 0.5 + 1e-16, 0.5 - 1e-5, 0.55, 0.45]),
    ),
    st.floats(-3, 3).map(lambda k: 10**k),
    st.floats(-16, 3).map(lambda k: 10**k),
)
def test_an_oscillator_of_any_quality_is_accurate(quality, frequency, distance):
    """The error of an angle of A radians is of order A EPSILON; it is at most 2 Q before decay.

    Q has a rounding error itself, which moves the root by as much as Q^2 / |4 Q^2 - 1| of its
    relative error; the covariance does not notice, because it is entire in the root's square.
    """
    term = SHO(sigma=1.0, w0=frequency, Q=quality)
    value = float(term.value(distance))
    with mpmath.workdps(60):
        omega, d = mpmath.mpf(frequency), mpmath.mpf(distance)
        gamma = omega / (2 * mpmath.mpf(quality))
        expected = oscillator(gamma, omega, mpmath.mpf(1), gamma, d)
    assert abs(value - float(expected)) <= 50 * EPSILON * (1 + 2 * quality)
    overdamped = quality < 0.5
    if overdamped:  # positive everywhere, so it has relative digits as far as its exponent has
        slow = frequency**2 / (2 * float(gamma)) * distance
        if slow < 300:
            assert value == pytest.approx(float(expected), rel=(100 + 20 * slow) * EPSILON)


@quick
@given(st.floats(-6, 3).map(lambda k: 10**k), st.floats(-16, 3).map(lambda k: 10**k))
def test_matern_terms_are_accurate(lengthscale, distance):
    with mpmath.workdps(60):
        ratio = mpmath.mpf(distance) / mpmath.mpf(lengthscale)
        r, s = mpmath.sqrt(3) * ratio, mpmath.sqrt(5) * ratio
        expected = (
            float((1 + r) * mpmath.exp(-r)),
            float((1 + s + s**2 / 3) * mpmath.exp(-s)),
        )
    for kind, reference in zip((Matern32, Matern52), expected, strict=True):
        value = float(kind(lengthscale).value(distance))
        assert value == pytest.approx(reference, rel=40 * EPSILON * (1 + float(s)), abs=1e-300)


def test_critical_oscillators_are_matern_processes():
    lengthscale, d = 1.7, np.linspace(0, 9, 50)
    matern = Matern32(lengthscale, 2.0).value(d)
    critical = SHO(sigma=math.sqrt(2.0), w0=math.sqrt(3) / lengthscale, Q=0.5).value(d)
    torch.testing.assert_close(matern, critical, rtol=1e-13, atol=1e-15)


def test_alternative_parameters_agree():
    w0, quality, s0, d = 2.3, 1.7, 0.4, np.linspace(0, 5, 20)
    sigma, rho, tau = math.sqrt(s0 * w0 * quality), 2 * math.pi / w0, 2 * quality / w0
    expected = SHO(S0=s0, w0=w0, Q=quality).value(d)
    for power in ({"S0": s0}, {"sigma": sigma}):
        for frequency in ({"w0": w0}, {"rho": rho}):
            for damping in ({"Q": quality}, {"tau": tau}):
                other = SHO(**power, **frequency, **damping).value(d)
                torch.testing.assert_close(other, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_derivatives_of_the_functions(name):
    term, _ = CASES[name]
    given = numbers(term)
    d = t(0.0, 1e-3, 0.4, 1.1, 3.0).requires_grad_()

    def functions(d: torch.Tensor, *parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        made = term.replaced(**dict(zip(given, parameters, strict=True)))
        return made.value(d[1:]), made.psd(d)

    assert gradcheck(functions, (d, *given.values()))
    assert gradgradcheck(functions, (d, *given.values()))


def test_batches_and_dtypes():
    sigma, rho, quality = t(1.0, 2.0), t(0.5, 3.0)[:, None], t(0.3, 2.0)
    term = SHO(sigma=sigma, rho=rho, Q=quality)
    values = term.value(torch.linspace(0, 1, 5, dtype=D))
    assert values.shape == (2, 2, 5)
    for i in range(2):
        for j in range(2):
            one = SHO(sigma=float(sigma[j]), rho=float(rho[i]), Q=float(quality[j]))
            torch.testing.assert_close(values[i, j], one.value(torch.linspace(0, 1, 5, dtype=D)))
    assert Matern32().value(torch.ones(3)).dtype is torch.float32
    assert Matern32().value(1).dtype is D
    assert Matern52(np.array([1, 2])).value(np.arange(3)[None]).shape == (2, 3)
    parameter = torch.nn.Parameter(torch.tensor(2.0))
    assert Matern32(parameter).lengthscale is parameter


# --- sums, copies and names -----------------------------------------------------------------------


def test_sums_and_multiples():
    one, two, three = SHO(sigma=1.0, rho=2.0, Q=3.0), Matern52(2.0), Term(1.0, 2.0)
    d = np.linspace(0, 4, 9)
    total = one + two + three
    assert isinstance(total, TermSum)
    assert tuple(total) == (one, two, three) == tuple(one + (two + three))
    torch.testing.assert_close(total.value(d), one.value(d) + two.value(d) + three.value(d))
    torch.testing.assert_close(total.psd(d), one.psd(d) + two.psd(d) + three.psd(d))
    assert tuple(sum([one, two])) == (one, two)
    torch.testing.assert_close((2 * total * 1.5).value(d), 3 * total.value(d))
    for term in [case for case, _ in CASES.values()] + [SHO(S0=1.0, w0=2.0, Q=3.0)]:
        torch.testing.assert_close((2 * term).value(d), 2 * term.value(d))
        several = (term * t(1.0, 3.0)).value(d)
        torch.testing.assert_close(several, t(1.0, 3.0)[:, None] * term.value(d))
    for wrong in (1.0, None, "a"):
        with pytest.raises(TypeError):
            one + wrong
        with pytest.raises(TypeError):
            total + wrong
    with pytest.raises(TypeError):
        one * "a"
    for factor in (-1.0, 0.0, math.nan, t(1.0, -1.0)):
        with pytest.raises(ValueError, match="positive, finite numbers"):
            factor * one


@pytest.mark.parametrize("name", CASES)
def test_copies_names_and_texts(name):
    term, _ = CASES[name]
    d = np.linspace(0, 4, 9)
    for other in (pickle.loads(pickle.dumps(term)), copy.deepcopy(term)):
        torch.testing.assert_close(other.value(d), term.value(d), rtol=0, atol=0)
        assert repr(other) == repr(term)
    x = torch.linspace(0, 3, 4, dtype=D)
    parameters = GramParameters.checked(x, term, 0.1)
    again = GramParameters.from_named(parameters.named())
    (made,) = again.terms
    assert type(made) is type(term)
    assert len(made.blocks(x)[0].weights) == len(term.blocks(x)[0].weights)
    torch.testing.assert_close(made.value(d), term.value(d), rtol=0, atol=0)
    with pytest.raises(AttributeError):
        term.scale = None


def test_texts():
    assert repr(SHO(sigma=1.5, w0=2, Q=0.5)) == "SHO(sigma=1.5, w0=2, Q=0.5)"
    assert repr(Matern32(t(1.0, 2.0)) + Celerite(1.0)) == (
        "Matern32(lengthscale=Tensor[2], variance=1) + Celerite(a=1, b=0, c=1, d=0)"
    )


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SHO(sigma=1.0, S0=1.0, w0=1.0, Q=1.0), "one of sigma and S0, got sigma and S0"),
        (lambda: SHO(sigma=1.0, w0=1.0, rho=1.0, Q=1.0), "one of w0 and rho, got w0 and rho"),
        (lambda: SHO(sigma=1.0, w0=1.0, Q=1.0, tau=1.0), "one of Q and tau, got Q and tau"),
        (lambda: SHO(w0=1.0, Q=1.0), "one of sigma and S0, got neither"),
        (lambda: SHO(sigma=-1.0, w0=1.0, Q=1.0), "sigma must be positive and finite, got -1"),
        (lambda: SHO(sigma=1.0, w0=1.0, Q=0.0), "Q must be positive and finite, got 0"),
        (lambda: SHO(sigma=1.0, w0=1.0, Q=-2.0), "Q must be positive and finite, got -2"),
        (lambda: SHO(sigma=math.nan, w0=1.0, Q=1.0), "sigma must be finite, got nan"),
        (lambda: SHO(sigma=1.0, rho=0.0, tau=1.0), "rho must be positive and finite, got 0"),
        (lambda: SHO(sigma=1.0, rho=1.0, tau=math.inf), "tau must be finite, got inf"),
        (lambda: Matern32(0.0), "lengthscale must be positive and finite, got 0"),
        (lambda: Matern52(1.0, -1.0), "variance must be positive and finite, got -1"),
        (lambda: Celerite(1.0, 0.0, 0.0, 1.0), "c must be positive and finite, got 0"),
        (lambda: Celerite(math.nan), "a must be finite, got nan"),
        (lambda: Rotation(1.0, 1.0, -0.5, 1.0, 0.1), "Q0 must be positive and finite, got -0.5"),
        (lambda: Rotation(1.0, 1.0, 0.5, 1.0, -0.1), "f must be not negative and finite, got -0.1"),
        (lambda: Rotation(1.0, 0.0, 0.5, 1.0, 0.1), "period must be positive and finite, got 0"),
    ],
)
def test_bad_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("term", "error", "message"),
    [
        (SHO(sigma=t(1.0, -1.0), w0=1.0, Q=1.0), ValueError, "sigma must be positive and finite"),
        (SHO(sigma=1.0, w0=1.0, Q=t(0.0)), ValueError, "Q must be positive and finite"),
        (SHO(sigma=1e100, w0=1.0, Q=1.0), ValueError, "SHO times the square of scale"),
        (SHO(sigma=1.0, w0=1e-300, Q=1e100), ValueError, "a time scale that is not a positive"),
        (Matern32(t(math.nan)), ValueError, "lengthscale must be positive and finite"),
        (Matern52(1.0, scale=torch.ones(2)), ValueError, "scale has shape .* number of anchors"),
        (Matern52(1.0, scale=t(1.0, math.nan, 1.0)), ValueError, "scale must be finite"),
        (Matern52(1.0, scale=torch.ones(3, dtype=torch.int64)), TypeError, "scale must be float32"),
        (Celerite(1.0, t(math.inf), 1.0, 1.0), ValueError, "b must be finite"),
        (Rotation(1.0, 1.0, 0.5, -0.5, 0.1), ValueError, "Q0 \\+ dQ must be positive"),
        (Term(variance=-1.0), ValueError, "variance must be .* Celerite\\(a, 0, 1 / lengthscale"),
    ],
)
def test_bad_numbers_of_a_matrix(term, error, message):
    with pytest.raises(error, match=message):
        LaplaceGram(torch.arange(3, dtype=D), terms=term)


def test_bad_types():
    with pytest.raises(TypeError, match="lengthscale must be a float or a torch tensor, got str"):
        Matern32("a")
    with pytest.raises(TypeError, match="scale must be a torch tensor or a NumPy array"):
        Matern32(1.0, scale={1.0})
    with pytest.raises(TypeError):
        SHO(1.0, 2.0, 3.0)
    with pytest.raises(TypeError, match="distance must be a float"):
        Matern32().value("a")
    assert laplex.gram.TermSum is TermSum
