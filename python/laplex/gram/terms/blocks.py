"""`Block`: one of the independent Markov processes that the terms of a covariance are made of."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from ...torch.call import Scalar

#: Of cos(sqrt(z)) and sin(sqrt(z))/sqrt(z), for |z| <= 1: the next terms are below 1e-19.
_TERMS = 10


class Block(NamedTuple):
    r"""A process with one, two or three columns of state, see `laplex.gram.factor.Covariance`.

    Attributes
    ----------
    lengthscales : tuple of float or Tensor ``[*b]``
        One for each column. A damped oscillator has :math:`1/\gamma` and :math:`1/\omega_0`, a
        Matern-5/2 process three times :math:`1/\lambda`.
    weights : tuple of float or Tensor ``[*b]``
        One for each column, of the same kinds.
    """

    lengthscales: tuple[Scalar, ...]
    weights: tuple[Scalar, ...]

    def map(self, change: Callable[[Scalar], Scalar]) -> Block:
        """A copy in which every number is replaced by the result of `change`."""
        lengthscales = tuple(change(each) for each in self.lengthscales)
        if self.is_critical():
            lengthscales = (lengthscales[0], lengthscales[0])
        return Block(lengthscales, tuple(change(each) for each in self.weights))

    def is_critical(self) -> bool:
        """Whether the two rates of an oscillator are one number, as in a Matern-3/2 process."""
        return len(self.lengthscales) == 2 and self.lengthscales[0] is self.lengthscales[1]

    def value(self, distance: Tensor) -> Tensor:
        """The covariance at distances of either sign, with which the parameters broadcast."""
        distance = distance.abs()
        rates = [1 / each for each in self.lengthscales]
        if len(rates) == 1:
            return self.weights[0] * torch.exp(-rates[0] * distance)
        if len(rates) == 3:
            r = rates[0] * distance
            return self.weights[0] * (1 + r + r.square() / 3) * torch.exp(-r)
        one, two = self.weights
        if self.is_critical():  # the same numbers, several times faster
            cosine = torch.exp(-rates[0] * distance)
            sine = distance * cosine
        else:
            cosine, sine = damped_waves(rates[0], rates[1], distance)
        return 0.5 * (one + two) * cosine + 0.5 * rates[0] * (two - one) * sine

    def psd(self, frequency: Tensor) -> Tensor:
        r"""The power spectral density :math:`\int k e^{-i \omega t} dt / \sqrt{2 \pi}`."""
        square = frequency.square()
        rates = [1 / each for each in self.lengthscales]
        if len(rates) == 1:
            density = self.weights[0] * rates[0] / (rates[0] ** 2 + square)
        elif len(rates) == 3:
            density = 8 / 3 * self.weights[0] * rates[0] ** 5 / (rates[0] ** 2 + square) ** 3
        else:
            damping, undamped = rates
            one, two = self.weights
            numerator = damping * (two * undamped**2 + one * square)
            density = numerator / ((square - undamped**2) ** 2 + 4 * damping**2 * square)
        return sqrt(2 / pi) * density


def damped_waves(damping: Scalar, undamped: Scalar, time: Tensor) -> tuple[Tensor, Tensor]:
    r"""Compute :math:`e^{-\gamma t} \cos(\sqrt\kappa t)` and its sine over :math:`\sqrt\kappa`.

    Here :math:`\kappa = \omega_0^2 - \gamma^2` has any sign; the functions are entire in it.
    """
    gamma, omega = (
        torch.as_tensor(each, dtype=torch.float64, device=time.device)
        for each in (damping, undamped)
    )
    kappa = (omega - gamma) * (omega + gamma)
    z = kappa * time.square()
    decay = torch.exp(-gamma * time)
    # Numbers that are not chosen are replaced, so that derivatives have no NaN.
    small = z.abs() <= 1
    minus = torch.where(small, -z, 0.0)
    cosine = sine = torch.ones_like(z)
    for k in range(_TERMS, 0, -1):
        cosine = 1 + cosine * minus / ((2 * k - 1) * (2 * k))
        sine = 1 + sine * minus / ((2 * k) * (2 * k + 1))
    root = torch.where(small, 1.0, kappa.abs()).sqrt()
    angle = torch.where(z > 0, root * time, 0.0)
    # exp(-gamma t) cosh(eta t), without a difference of nearly equal rates
    slow = torch.exp(-omega.square() / (gamma + root) * time)
    return (
        torch.where(
            small,
            decay * cosine,
            torch.where(z > 0, decay * angle.cos(), 0.5 * slow * (1 + torch.exp(-2 * root * time))),
        ),
        torch.where(
            small,
            decay * sine * time,
            torch.where(z > 0, decay * angle.sin(), -0.5 * slow * torch.expm1(-2 * root * time))
            / root,
        ),
    )
