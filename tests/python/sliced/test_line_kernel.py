"""Kernels on a line: their means over the sphere are the kernels, and fits are as close as told."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch

from laplex.sliced.damped_cosines import TOLERANCE
from laplex.sliced.line_kernel import MAX_DIMENSION, CosineKernel, exact_polynomial, line_kernel
from sliced_cases import KERNELS, D, kernel_at, line_at


def mean_over_sphere(kind: str, dimension: int, r: torch.Tensor) -> torch.Tensor:
    """E f(r |xi_1|), where xi_1 has the density (1 - s^2)^((d - 3) / 2): Gauss quadrature."""
    sphere = line_kernel(kind, dimension).dimension
    nodes, weights = np.polynomial.legendre.leggauss(400)
    angle = torch.tensor((nodes + 1) * math.pi / 4, dtype=D)
    mass = torch.tensor(weights, dtype=D) * angle.cos() ** (sphere - 2)
    return line_at(kind, dimension, r[:, None] * angle.sin()) @ (mass / mass.sum())


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("dimension", [2, 3, 4, 6, 8, 9, 10, 11, 16, 33, 64, 301])
def test_the_mean_over_all_directions_is_the_kernel(kind, dimension):
    r = torch.linspace(0, 12, 50, dtype=D)
    found = mean_over_sphere(kind, dimension, r * (math.sqrt(3) if kind == "matern32" else 1))
    if kind == "matern32":
        s = math.sqrt(3) * r
        expected = (1 + s) * torch.exp(-s)
    else:
        expected = kernel_at(kind, r)
    fitted = isinstance(line_kernel(kind, dimension), CosineKernel)
    # A mean of errors is at most the largest of them.
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=TOLERANCE if fitted else 1e-12)


@pytest.mark.parametrize("kind", ["laplace", "matern32"])
@pytest.mark.parametrize("dimension", [8, 10, 12, 20, 65, 200, MAX_DIMENSION])
def test_fits_are_as_close_as_told(kind, dimension):
    line = line_kernel(kind, dimension)
    if not isinstance(line, CosineKernel):
        pytest.skip("the polynomial is exact")
    polynomial = exact_polynomial(line.dimension, kind == "matern32")
    t = torch.cat((torch.linspace(0, 3, 40, dtype=D), torch.logspace(0.5, 2, 30, dtype=D)))
    t = t * 3 / math.sqrt(line.dimension)
    with mpmath.workdps(60 + 2 * len(polynomial)):
        coefficients = [mpmath.mpf(c.numerator) / c.denominator for c in reversed(polynomial)]
        exact = [
            float(mpmath.polyval(coefficients, mpmath.mpf(x)) * mpmath.exp(-mpmath.mpf(x)))
            for x in t.tolist()
        ]
    found = line_at(kind, dimension, t)
    torch.testing.assert_close(found, torch.tensor(exact, dtype=D), rtol=0, atol=TOLERANCE)
    assert sum(wave.amplitude for wave in line.waves) <= 1e3
    assert line.at_zero == pytest.approx(1, abs=TOLERANCE)


def test_the_polynomials_are_those_of_the_literature():
    def floats(dimension, smooth=False):
        return [float(each) for each in exact_polynomial(dimension, smooth)]

    assert floats(3) == [1, -1]
    assert floats(5) == pytest.approx([1, -5 / 3, 1 / 3])
    assert floats(7) == pytest.approx([1, -33 / 15, 12 / 15, -1 / 15])
    # In R^3, f = k + t k': for (1 + t) exp(-t), (1 + t - t^2) exp(-t).
    assert floats(3, True) == [1, 1, -1]
