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

from .._support.sum_family import MAX_DEGREE
from ..torch.autograd import primitive
from ..torch.call import Call
from .damped_cosines import PLANE, TOLERANCE, Wave, fitted_waves

MAX_DIMENSION = 512
"""Fits for more dimensions take long, and so many need more directions than anybody computes."""


SMALL = 2000
"""Up to so many points, a call for many lines is faster than to sort each of them only once."""

AT_ONCE = 1 << 17
"""How many points the lines of such a call have."""


class LineKernel(Protocol):
    """A kernel between projections."""

    dimension: int
    """That of the sphere: d, or more if points of R^d are embedded by coordinates 0."""

    at_zero: float
    """f(0)."""

    tolerance: float
    """The largest error of f."""

    def product(self, values: Tensor, targets: Tensor, sources: Tensor | None) -> Tensor:
        """Multiply values ``[*b, m]`` for projections ``[H, n]`` and ``[H, m]``: ``[*b, H, n]``."""

    def at(self, distance: Tensor) -> Tensor:
        """F itself."""


class PolynomialKernel:
    """A polynomial of t, of degree at most 4, times the Laplace kernel."""

    tolerance = 0.0

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

    def at(self, distance: Tensor) -> Tensor:
        """Evaluate the polynomial by Horner's rule."""
        value = torch.zeros_like(distance)
        for coefficient in reversed(self.polynomial):
            value = value * distance + coefficient
        return value * torch.exp(-distance)


class CosineKernel:
    """A sum of damped cosines, for functions whose polynomial has a degree above 4."""

    tolerance = TOLERANCE

    def __init__(self, dimension: int, waves: tuple[Wave, ...]) -> None:
        self.dimension = dimension
        self.waves = waves
        self.at_zero = sum(wave.amplitude * math.cos(wave.phase) for wave in waves)

    def product(self, values: Tensor, targets: Tensor, sources: Tensor | None) -> Tensor:
        """Multiply in one pass of the core for each cosine."""
        points = targets.shape[-1] + (0 if sources is None else sources.shape[-1])
        if points > SMALL:
            row = values[..., None, :]
            others = [None] * len(targets) if sources is None else sources.unbind(0)
            pairs = zip(targets.unbind(0), others, strict=True)
            return torch.stack([self._summed(row, *pair) for pair in pairs], dim=-2)
        size = AT_ONCE // max(points, 1)
        row = values[..., None, None, :]
        parts = []
        for start in range(0, len(targets), size):
            some = slice(start, start + size)
            columns = None if sources is None else sources[some, None]
            parts.append(self._summed(row, targets[some, None], columns))
        return torch.cat(parts, dim=-2)

    def _summed(self, values: Tensor, targets: Tensor, sources: Tensor | None) -> Tensor:
        """Products ``[*b, n]`` of values ``[*b, 1, m]``, for lines with a dimension of cosines."""
        if values.is_complex():
            parts = (self._summed(v, targets, sources) for v in (values.real, values.imag))
            return torch.complex(*parts)

        def column(numbers: list[float]) -> Tensor:
            return torch.tensor(numbers, dtype=torch.float64, device=targets.device)

        lengthscale = column([1 / wave.rate for wave in self.waves])
        amplitude = column([wave.amplitude for wave in self.waves]).to(targets.dtype)
        call = Call(values, targets, sources, lengthscale, None, None, None)
        if any(wave.frequency for wave in self.waves):
            phase = column([wave.phase for wave in self.waves]).to(targets.dtype)
            call = call._replace(
                frequency=column([wave.frequency for wave in self.waves]),
                target_phase=phase[:, None].expand(-1, targets.shape[-1]),
                source_phase=torch.zeros_like(targets if sources is None else sources),
                real_part=True,
            )
        return (amplitude[:, None] * primitive(call)).sum(-2)

    def at(self, distance: Tensor) -> Tensor:
        """Add the cosines."""
        value = torch.zeros_like(distance)
        for amplitude, rate, frequency, phase in self.waves:
            damped = amplitude * torch.exp(-rate * distance)
            value = value + damped * torch.cos(frequency * distance + phase)
        return value


class EnergyKernel:
    r"""-c |t|, which is minus the distance in R^d by its mean."""

    at_zero = 0.0
    tolerance = 0.0

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        log = math.lgamma((dimension + 1) / 2) - math.lgamma(dimension / 2)
        self.factor = math.sqrt(math.pi) * math.exp(log)

    def product(self, values: Tensor, targets: Tensor, sources: Tensor | None) -> Tensor:
        """Multiply by -c |t - s| = -c (t - s) sign(t - s), with sums of signs."""
        of_sources = targets if sources is None else sources
        spread = values[..., None, :].expand(*values.shape[:-1], *of_sources.shape)
        # A sum of signs does not change with the anchors, except where two of them meet.
        largest = largest_of(targets.detach(), of_sources.detach())
        anchors = targets.detach() / largest
        others = None if sources is None else sources.detach() / largest
        both = torch.stack((spread, spread * of_sources))
        # Anchors are at most 1 now, so that all factors exp(-t / endless) are 1.
        endless = torch.full((), 1e30, dtype=torch.float64, device=targets.device)
        call = Call(both, anchors, others, endless, None, None, None, parity=1)
        signs, moments = primitive(call).unbind()
        return (moments - targets * signs) * self.factor

    def at(self, distance: Tensor) -> Tensor:
        """Multiply."""
        return -self.factor * distance


def largest_of(*tensors: Tensor) -> Tensor:
    """The largest absolute value of all entries, and at least the smallest normal number."""
    least = tensors[0].new_tensor(torch.finfo(tensors[0].dtype).tiny)
    return torch.cat([least[None], *(each.abs().flatten() for each in tensors)]).amax()


def line_kernel(kernel: str, dimension: int) -> LineKernel:
    """Find the kernel on a line for points of R^d.

    Parameters
    ----------
    kernel
        "laplace", "matern32" or "energy".
    dimension
        The number of coordinates, d. For the first two kernels and an even d above 2, points are
        embedded in an odd dimension.

    Raises
    ------
    NotImplementedError
        If there are more than 512 coordinates (not for "energy").
    """
    if kernel == "energy":
        return EnergyKernel(dimension)
    sphere, polynomial, waves = _coefficients(kernel, dimension)
    if polynomial:
        return PolynomialKernel(sphere, polynomial, parity=4 if kernel == "matern32" else 0)
    return CosineKernel(sphere, tuple(Wave(*each) for each in waves))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _coefficients(
    kernel: str, dimension: int
) -> tuple[int, tuple[float, ...], tuple[tuple[float, ...], ...]]:
    """The dimension of the sphere, and either a polynomial or cosines.

    A compiler takes numbers for constants, but no objects.
    """
    return _cached_coefficients(kernel, dimension)


@lru_cache(maxsize=64)
def _cached_coefficients(
    kernel: str, dimension: int
) -> tuple[int, tuple[float, ...], tuple[tuple[float, ...], ...]]:
    if dimension == 2:
        return 2, (), tuple(tuple(wave) for wave in PLANE[kernel])
    smooth = kernel == "matern32"
    odd = dimension + 1 - dimension % 2
    if (odd - 1) // 2 + smooth <= MAX_DEGREE:
        return odd, tuple(float(each) for each in exact_polynomial(odd, smooth)), ()
    if dimension > MAX_DIMENSION:
        raise NotImplementedError(
            f"points have {dimension} coordinates, but kernel={kernel!r} is available for at most "
            f"{MAX_DIMENSION}: reduce the dimension first, or use kernel='energy'"
        )
    odd = max(odd, 11)  # for 9 and Matern-3/2, the amplitudes of a fit would be large
    waves = fitted_waves(exact_polynomial(odd, smooth), odd)
    return odd, (), tuple(tuple(wave) for wave in waves)


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
