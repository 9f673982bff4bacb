"""State blocks against 500-bit arithmetic, without noise at any spacing."""

from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from laplex.gram import factor as factors
from laplex.gram.factor import Covariance, Gram
from strategies import quick

EPS = torch.finfo(torch.float64).eps
DIGITS = 400  # those of determinants: of variances of about the fifth power of 1e-16

# Blocks as (gamma, omega, weights) of oscillators, (rate, weight) of one column, and Matern-5/2 of
# rate 1. An oscillator of the quality factor Q has gamma = omega / (2 Q).
OSCILLATORS: dict[str, list[Any]] = {
    f"sho {q}": [(0.5 / q, 1.0, 0.0, 2.0)] for q in (0.01, 0.5, 3.0, 1000.0)
}
SINGLE: dict[str, list[Any]] = OSCILLATORS | {"matern52": [()], "celerite": [(0.3, 1.0, 0.5, 1.5)]}
SUMS: dict[str, list[Any]] = {
    "sho + ou": [(1 / 6, 1.0, 0.0, 2.0), (0.7, 0.5)],
    "sho + matern32": [(1 / 6, 1.0, 0.0, 2.0), (1.7, 1.7, 0.0, 0.6)],
}


def model(blocks: list[Any], anchors: np.ndarray[Any, Any], noise: float) -> Covariance:
    lengthscale: list[float] = []
    weights: list[float] = []
    loadings: list[float] = []
    for block in blocks:
        size = len(block) // 2 if block else 3
        lengthscale += [1 / rate for rate in block[:size]] if block else [1.0] * 3
        weights += block[size:] if block else [1.0] * 3
        loadings += [1.0] + [0.0] * (size - 1)
    n = len(anchors)
    return Covariance(
        torch.tensor(anchors)[None],
        torch.tensor(lengthscale, dtype=torch.float64)[None],
        torch.tensor(loadings, dtype=torch.float64).repeat(1, n, 1),
        torch.full((1, n), noise, dtype=torch.float64),
        torch.tensor(weights, dtype=torch.float64)[None],
        tuple(len(block) // 2 if block else 3 for block in blocks),
    )


def numbers(tensor: Tensor | None) -> list[Any]:
    assert tensor is not None
    return [mpmath.mpf(each) for each in tensor[0].tolist()]


def kernel(blocks: tuple[int, ...], rates: list[Any], weights: list[Any], d: Any) -> Any:
    total, j = mpmath.mpf(0), 0
    for size in blocks:
        gamma, w = 1 / rates[j], weights[j]
        if size == 1:
            factor = w
        elif size == 2:
            omega, second = 1 / rates[j + 1], weights[j + 1]
            root = mpmath.sqrt(omega**2 - gamma**2)
            sine = mpmath.sin(root * d) / root if root else d
            factor = (w + second) / 2 * mpmath.cos(root * d) + gamma * (second - w) / 2 * sine
        else:
            factor = w * (1 + gamma * d + (gamma * d) ** 2 / 3)
        total += mpmath.re(mpmath.exp(-gamma * d) * factor)
        j += size
    return total


def exact_variances(
    blocks: tuple[int, ...], t: list[Any], rates: list[Any], weights: list[Any], noise: list[Any]
) -> tuple[list[Any], mpmath.matrix]:
    """D of A = L D L^T, and A."""
    n = len(t)
    matrix = mpmath.matrix(n, n)
    for i in range(n):
        for k in range(n):
            matrix[i, k] = kernel(blocks, rates, weights, abs(t[i] - t[k])) + noise[i] * (i == k)
    variances: list[Any] = []
    rows: list[list[Any]] = []
    for i in range(n):
        row: list[Any] = []
        for k in range(i):
            known = sum(row[m] * rows[k][m] * variances[m] for m in range(k))
            row.append((matrix[i, k] - known) / variances[k])
        rows.append(row)
        variances.append(matrix[i, i] - sum(row[m] ** 2 * variances[m] for m in range(i)))
    return variances, matrix


def anchors_of(seed: int, n: int, spacing: float, spread: float) -> np.ndarray[Any, Any]:
    """Regular ones for a spread of 0."""
    random = np.random.default_rng(seed)
    result: np.ndarray[Any, Any] = np.cumsum(10 ** (spacing - spread * random.random(n)))
    return result


def check(covariance: Covariance, tolerance: float) -> None:
    n = covariance.anchors.shape[-1]
    values = np.random.default_rng(1).standard_normal(n).tolist()
    gram = Gram(covariance)
    logs = gram.log_variances()[0].tolist()
    found = gram.solve(torch.tensor([[values]], dtype=torch.float64))[0, 0].tolist()
    density = float(gram.log_prob(torch.tensor([[values]], dtype=torch.float64)))
    with mpmath.workdps(DIGITS):
        t, rates, noise, weights = (
            numbers(each)
            for each in (
                covariance.anchors,
                covariance.lengthscale,
                covariance.noise,
                covariance.weights,
            )
        )
        variances, matrix = exact_variances(covariance.blocks, t, rates, weights, noise)
        for log, variance in zip(logs, variances, strict=True):
            # A logarithm has its own rounding, of up to half a unit of its last place.
            error = float(abs(mpmath.mpf(log) - mpmath.log(variance)))
            assert error <= tolerance + EPS * abs(log)
        # Solutions extrapolate the values across gaps of unlike lengths, and their rounding too.
        tolerance = max(tolerance, 2**20 * EPS)
        solution = mpmath.lu_solve(matrix, mpmath.matrix(values))
        size = max(abs(each) for each in solution)
        assert max(abs(a - b) for a, b in zip(solution, found, strict=True)) <= tolerance * size
        quadratic = sum(a * b for a, b in zip(solution, values, strict=True))
        logdet = sum(mpmath.log(each) for each in variances)
        expected = -(quadratic + logdet + n * mpmath.log(2 * mpmath.pi)) / 2
        assert abs(density - expected) <= tolerance * n * (quadratic + abs(logdet) + n)


@pytest.mark.parametrize("noise", [0.0, 1e-10, 0.1])
@pytest.mark.parametrize("name", [*SINGLE, *SUMS])
@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_variances_have_their_digits_at_any_spacing(name: str, noise: float, spread: float) -> None:
    for spacing in (-16.0, -12.0, -8.0, -4.0, -2.0, 0.0, 3.0, 6.0):
        covariance = model((SINGLE | SUMS)[name], anchors_of(1, 6, spacing, spread), noise)
        if name == "sho + matern32" and noise == 0.0 and spacing < -2.0:
            continue  # which process has moved is in no digit of the anchors' covariances
        # Where D is more than 2^-20 of the variance, the filter is one of covariances, whose
        # rounding may be 2^20 times as large in D.
        check(covariance, 64 * EPS * 2.0**20)


@quick
@given(
    st.integers(0, 10**6), st.sampled_from([*SINGLE]), st.floats(-16, -8), st.sampled_from([0, 3])
)
def test_close_anchors_without_noise_lose_nothing(
    seed: int, name: str, spacing: float, spread: int
) -> None:
    # A few units of each rotation, of which D of a point depends on few: what was before is
    # forgotten by the third power of a contraction.
    check(model(SINGLE[name], anchors_of(seed, 7, spacing, spread), 0.0), 2048 * EPS)


@pytest.mark.parametrize("name", ["sho 3.0", "sho 0.5", "matern52", "sho + ou"])
def test_ties_without_noise_are_singular_and_with_noise_are_not(name: str) -> None:
    anchors = np.array([0.0, 1e-9, 2e-9, 2e-9, 3e-9, 1.0])
    with pytest.raises(np.linalg.LinAlgError, match="coincide"):
        Gram(model((SINGLE | SUMS)[name], anchors, 0.0))
    check(model((SINGLE | SUMS)[name], anchors, 0.1), 1e-12)
    anchors[:] = 1.0
    with pytest.raises(np.linalg.LinAlgError, match="coincide"):
        Gram(model((SINGLE | SUMS)[name], anchors, 0.0))


def exact_gradients(covariance: Covariance) -> list[list[float]]:
    """Derivatives of the log determinant by anchors, lengthscales and weights, by differences."""
    result = []
    with mpmath.workdps(DIGITS):
        t, rates, noise, weights = (
            numbers(each)
            for each in (
                covariance.anchors,
                covariance.lengthscale,
                covariance.noise,
                covariance.weights,
            )
        )
        step = mpmath.mpf(10) ** -(DIGITS // 3)

        def logdet() -> Any:
            found = exact_variances(covariance.blocks, t, rates, weights, noise)[0]
            return sum(mpmath.log(each) for each in found)

        for array in (t, rates, weights):
            gradient = []
            for k, at in enumerate(array):
                array[k] = at + step
                above = logdet()
                array[k] = at - step
                gradient.append(float((above - logdet()) / (2 * step)))
                array[k] = at
            result.append(gradient)
    return result


@pytest.mark.parametrize("name", ["sho 3.0", "sho 0.5", "matern52", "celerite"])
@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_gradients_of_the_determinant_have_their_digits(
    name: str, noise: float, spread: float
) -> None:
    for spacing in (-12.0, -8.0, -4.0, -2.0, 0.0):
        covariance = model(SINGLE[name], anchors_of(2, 6, spacing, spread), noise)
        gram = Gram(covariance)
        given = [each.clone().requires_grad_() for each in covariance.tensors if each is not None]
        anchors, lengthscale, loadings, noises, weights = given
        at = Covariance(anchors, lengthscale, loadings, noises, weights, covariance.blocks)
        found = torch.autograd.grad(
            factors.log_variances(gram, at).sum(), (anchors, lengthscale, weights)
        )
        expected = exact_gradients(covariance)
        gap = float(covariance.anchors.diff().min())
        # Derivatives by logarithms: by one anchor in units of the shortest gap.
        for ours, theirs, unit in zip(found, expected, (gap, 1.0, 1.0), strict=True):
            error = float((ours[0] - torch.tensor(theirs, dtype=torch.float64)).abs().max())
            size = max(abs(each) for each in theirs)
            assert error * unit <= 1e-9 * (size * unit if noise == 0.0 else 1.0)
