r"""The kernels on a line whose means over all directions are kernels in R^d.

If a kernel of the distance r is the power series :math:`k(r) = \sum_p a_p r^p`, then

.. math::

    f(t) = \sum_p \frac{a_p}{E|\xi_1|^p}\, t^p, \qquad
    E|\xi_1|^p = \frac{\Gamma(d/2)\, \Gamma((p+1)/2)}{\sqrt\pi\, \Gamma((d+p)/2)}

satisfies :math:`k(|z|) = E f(|\langle\xi, z\rangle|)` for a direction :math:`\xi` drawn uniformly
on the unit sphere of R^d (Hertrich, arXiv 2401.08260). For odd d, :math:`1/E|\xi_1|^p` is a
polynomial in p, so the f of a polynomial times :math:`e^{-r}` is a polynomial times :math:`e^{-t}`.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from ..torch.autograd import primitive
from ..torch.call import MAX_DEGREE, Call
from .damped_cosines import Wave, fitted_waves

MAX_DIMENSION = 512
"""Fits for more dimensions take long, and so many need more directions than anybody computes."""


class LineKernel(Protocol):
    """A kernel between projections."""

    dimension: int
    """That of the sphere: d, or more if points of R^d are embedded by coordinates 0."""

    at_zero: float
    """f(0)."""

    def product(self, values: Tensor, targets: Tensor, sources: Tensor | None) -> Tensor:
        """Multiply values ``[*b, m]`` for projections ``[H, n]`` and ``[H, m]``: ``[*b, H, n]``."""


class PolynomialKernel:
    """A polynomial of t, of degree at most 4, times the Laplace kernel."""

    def __init__(self, dimension: int, polynomial: tuple[float, ...], parity: int) -> None:
        self.dimension = dimension
        self.polynomial = polynomial
        self.parity = parity
        self.at_zero = polynomial[0]

    def product(self, values: Tensor, targets: Tensor, sources: Tensor | None) -> Tensor:
        """Multiply in one pass of the core."""
        one = torch.ones((), dtype=torch.float64, device=targets.device)
        form = (False, self.parity, self.polynomial)
        return primitive(Call(values[..., None, :], targets, sources, one, None, None, None, *form))


class CosineKernel:
    """A sum of damped cosines, for functions whose polynomial has a degree above 4."""

    def __init__(self, dimension: int, waves: tuple[Wave, ...]) -> None:
        self.dimension = dimension
        self.waves = waves
        self.at_zero = sum(wave.amplitude * math.cos(wave.phase) for wave in waves)

    def product(self, values: Tensor, targets: Tensor, sources: Tensor | None) -> Tensor:
        """Multiply in one pass of the core for each cosine."""

        def column(numbers: list[float]) -> Tensor:
            return torch.tensor(numbers, dtype=torch.float64, device=targets.device)

        lengthscale = column([1 / wave.rate for wave in self.waves])
        frequency = column([wave.frequency for wave in self.waves])
        phase = column([wave.phase for wave in self.waves]).to(targets.dtype)
        amplitude = column([wave.amplitude for wave in self.waves]).to(targets.dtype)
        call = Call(
            values[..., None, None, :],
            targets[:, None, :],
            None if sources is None else sources[:, None, :],
            lengthscale,
            frequency,
            phase[:, None].expand(-1, targets.shape[-1]),
            targets.new_zeros((targets if sources is None else sources).shape[-1]),
            real_part=True,
        )
        if values.is_complex():
            parts = (call._replace(values=part) for part in (call.values.real, call.values.imag))
            sums = torch.complex(*map(primitive, parts))
        else:
            sums = primitive(call)
        return (amplitude[:, None] * sums).sum(-2)


class EnergyKernel:
    r"""-c |t|, which is minus the distance in R^d by its mean."""

    at_zero = 0.0

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        log = math.lgamma((dimension + 1) / 2) - math.lgamma(dimension / 2)
        self.factor = math.sqrt(math.pi) * math.exp(log)

    def product(self, values: Tensor, targets: Tensor, sources: Tensor | None) -> Tensor:
        """Multiply by -c |t - s| = -c (t - s) sign(t - s), with sums of signs."""
        of_sources = targets if sources is None else sources
        spread = values[..., None, :].expand(*values.shape[:-1], *of_sources.shape)
        # A sum of signs does not change with the anchors, except where two of them meet.
        anchors = (targets.detach(), None if sources is None else sources.detach())
        both = torch.stack((spread, spread * of_sources))
        endless = torch.full((), 1e30, dtype=torch.float64, device=targets.device)
        call = Call(both, *anchors, endless, None, None, None, parity=1)
        signs, moments = primitive(call).unbind()
        return (moments - targets * signs) * self.factor


@lru_cache(maxsize=64)
def line_kernel(kernel: str, dimension: int) -> LineKernel:
    """Find the kernel on a line for points of R^d.

    Parameters
    ----------
    kernel
        "laplace", "matern32" or "energy".
    dimension
        The number of coordinates, d. The first two kernels have a closed form for odd d, so points
        of an even dimension are embedded.

    Raises
    ------
    NotImplementedError
        If there are more than 512 coordinates (not for "energy").
    """
    if kernel == "energy":
        return EnergyKernel(dimension)
    smooth = kernel == "matern32"
    odd = dimension + 1 - dimension % 2
    polynomial = exact_polynomial(odd, smooth)
    if len(polynomial) - 1 <= MAX_DEGREE:
        coefficients = tuple(float(each) for each in polynomial)
        return PolynomialKernel(odd, coefficients, parity=4 if smooth else 0)
    if dimension > MAX_DIMENSION:
        raise NotImplementedError(
            f"points have {dimension} coordinates, but kernel={kernel!r} is available for at most "
            f"{MAX_DIMENSION}: reduce the dimension first, or use kernel='energy'"
        )
    odd = max(odd, 11)  # for 9 and Matern-3/2, the amplitudes of a fit would be large
    return CosineKernel(odd, fitted_waves(exact_polynomial(odd, smooth), odd))


def exact_polynomial(dimension: int, smooth: bool) -> list[Fraction]:
    """The coefficients of q, for which f(t) = q(t) exp(-t), for an odd dimension.

    ``smooth`` selects the kernel (1 + r) exp(-r) in place of exp(-r).
    """
    half = (dimension - 1) // 2
    degree = half + smooth
    series = [Fraction((-1) ** p, math.factorial(p)) for p in range(degree + 1)]
    if smooth:
        series = [a + (series[p - 1] if p else 0) for p, a in enumerate(series)]
    for p in range(degree + 1):
        for i in range(half):
            series[p] *= Fraction(p + 1 + 2 * i, 1 + 2 * i)  # 1 / E|xi_1|^p, factor by factor
    return [
        sum((series[p] / math.factorial(k - p) for p in range(k + 1)), Fraction(0))
        for k in range(degree + 1)
    ]
