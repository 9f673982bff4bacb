"""Functions for the `basis` of a `LaplaceGram`."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from math import inf, pi

import torch
from torch import Tensor

from .checks import positive


def constant(points: Tensor) -> Tensor:
    """Return 1 at each point: the basis of an intercept.

    Parameters
    ----------
    points : Tensor ``[..., n]``
        The points.

    Returns
    -------
    Tensor ``[..., n]``
        Ones.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from laplex.gram import LaplaceGram, constant
    >>> gram = LaplaceGram(np.arange(4), basis=constant)
    >>> gram.coefficients(torch.full((4,), 7.0, dtype=torch.float64)).mean
    tensor([7.0000], dtype=torch.float64)
    """
    return torch.ones_like(points)


@dataclass(frozen=True)
class polynomial:
    r"""Legendre polynomials of degree 0 to `degree` on an interval: the basis of a polynomial.

    The functions are :math:`P_k(u)` with :math:`u = (2x - low - high)/(high - low)`, by
    Bonnet's recurrence. On the interval they are between -1 and 1 and nearly orthogonal, so that
    no digits are lost, as they would be with powers of x.

    Parameters
    ----------
    degree : int
        The highest degree, at least 0. Degree 1 is a line: an intercept and a slope.
    low, high : float
        The ends of the interval, usually the first and the last anchor. The functions are defined
        outside, too, where they grow.

    Examples
    --------
    >>> import numpy as np
    >>> from laplex.gram import LaplaceGram, polynomial
    >>> days = np.arange(100)
    >>> gram = LaplaceGram(days, lengthscale=5.0, noise=0.1, basis=polynomial(1, 0, 99))
    >>> line = gram.coefficients(3.0 + 0.5 * days).mean  # at the middle, and half of the rise
    >>> line.numpy().round(6)
    array([27.75, 24.75])
    """

    degree: int
    low: float
    high: float

    def __post_init__(self) -> None:
        if operator.index(self.degree) < 0:
            raise ValueError(f"degree must be at least 0, got {self.degree}")
        if not -inf < float(self.low) < float(self.high) < inf:
            raise ValueError(
                f"low and high must be finite and ascending, got {self.low} and {self.high}"
            )

    def __call__(self, points: Tensor) -> Tensor:
        """Return the polynomials at some points.

        Parameters
        ----------
        points : Tensor ``[..., n]``
            The points.

        Returns
        -------
        Tensor ``[..., n, degree + 1]``
            The values.
        """
        low, high = float(self.low), float(self.high)
        u = ((points - low) - (high - points)) / (high - low)
        found = [torch.ones_like(points), u]
        for k in range(1, self.degree):
            found.append(((2 * k + 1) * u * found[k] - k * found[k - 1]) / (k + 1))
        return torch.stack(found[: self.degree + 1], -2).mT


@dataclass(frozen=True, eq=False)
class harmonics:
    r"""Cosines and sines of a period and its fractions: the basis of a strictly periodic signal.

    The functions are :math:`\cos(2 \pi k x / P)` for k = 1 to `count`, followed by the sines. For
    an oscillation whose phase wanders, use a term with a frequency instead.

    Parameters
    ----------
    period : float or Tensor, shape ``[]``
        The period P, positive, which may require gradients.
    count : int
        The number of frequencies, at least 1. There are twice as many functions.

    Examples
    --------
    >>> import numpy as np
    >>> from laplex.gram import LaplaceGram, harmonics
    >>> days = np.arange(100)
    >>> gram = LaplaceGram(days, lengthscale=5.0, noise=0.1, basis=harmonics(7.0))
    >>> gram.coefficients(2 * np.sin(2 * np.pi * days / 7)).mean.numpy().round(6) + 0.0
    array([0., 2.])
    """

    period: float | Tensor
    count: int = 1

    def __post_init__(self) -> None:
        period = self.period if isinstance(self.period, Tensor) else float(self.period)
        if not positive(period):
            raise ValueError(f"period must be positive and finite, got {self.period}")
        if operator.index(self.count) < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")

    def __call__(self, points: Tensor) -> Tensor:
        """Return the functions at some points.

        Parameters
        ----------
        points : Tensor ``[..., n]``
            The points.

        Returns
        -------
        Tensor ``[..., n, 2 * count]``
            The values.
        """
        multiples = torch.arange(1, self.count + 1, dtype=points.dtype, device=points.device)
        angles = (2 * pi * points / self.period)[..., None, :] * multiples[:, None]
        return torch.cat((angles.cos(), angles.sin()), -2).mT
