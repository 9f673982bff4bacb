"""Log density and samples: exact for one head, by GPyTorch's linear_operator for a sum."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from laplex._support.optional import require

from ..laplace_gram import LaplaceGram
from .heads import Heads
from .matching import NOISE_FLOOR

if TYPE_CHECKING:
    from .model import LaplaceCovariance

#: Relative residual at which conjugate gradients stop, and their maximal number of iterations.
_RESIDUAL, _MOST_ITERATIONS = 1e-4, 2000
#: Rank of the pivoted Cholesky factor that preconditions them: few eigenvalues are large.
_PRECONDITIONER = 100
_QUADRATURE_ITERATIONS = 100
#: The least noise variances of standardised pixels among which likelihood steps start.
_LEAST_NOISE = (0.3, 0.1, 0.03, 0.01, NOISE_FLOOR)


def double(heads: Heads) -> Heads:
    """Return the heads in float64, in which all solutions are computed."""
    return Heads(*(None if part is None else part.double() for part in heads))  # type: ignore[arg-type]


def gram(heads: Heads, noise: Tensor, head: int = 0) -> LaplaceGram:
    """Return the exact algebra of one head with noise [n]."""
    return LaplaceGram(
        heads.anchors[head],
        phase=None if heads.phases is None else heads.phases[head],
        scale=heads.scales[head],
        noise=noise,
    )


def linear_operator(heads: Heads, noise: Tensor) -> Any:
    """Return the sum of heads with noise [n] as a ``LinearOperator``."""
    require("linear_operator", extra="gp", feature="LaplaceCovariance with several heads")
    from .linear_operator import HeadsLinearOperator

    return HeadsLinearOperator.of(heads).add_diagonal(noise)


@contextmanager
def iterations() -> Iterator[None]:
    """Make linear_operator iterate to a small residual; by default it stops at a residual of 1."""
    settings = require("linear_operator", extra="gp").settings
    with (
        settings.cg_tolerance(_RESIDUAL),
        settings.max_cg_iterations(_MOST_ITERATIONS),
        settings.max_preconditioner_size(_PRECONDITIONER),
        settings.max_lanczos_quadrature_iterations(_QUADRATURE_ITERATIONS),
    ):
        yield


def operator(model: LaplaceCovariance, deviation: Tensor) -> Any:
    """Return the covariance of pixels with standard deviations [n] as a ``LinearOperator``."""
    heads = double(model.parts())
    heads = heads._replace(scales=heads.scales * deviation)
    return linear_operator(heads, model.noise.double() * deviation.square())


def log_prob(model: LaplaceCovariance, rows: Tensor) -> Tensor:
    """Log density of images [n, dim], float64 [n].

    The computation uses standardised pixels, which keeps the condition number small, and then
    subtracts the logarithm of the Jacobian.
    """
    values = model.standardise(rows).double()
    heads, noise = double(model.parts()), model.noise.double()
    jacobian = model.deviation.double().log().sum()
    if model.heads == 1:
        return gram(heads, noise).log_prob(values) - jacobian
    matrix = linear_operator(heads, noise)
    with iterations():
        squares, logdet = matrix.inv_quad_logdet(values.mT, logdet=True, reduce_inv_quad=False)
    density: Tensor = -0.5 * (squares + logdet + model.dim * math.log(2 * math.pi))
    return density - jacobian


@torch.no_grad()
def raise_noise(model: LaplaceCovariance, rows: Tensor) -> None:
    """Raise small noise variances to the one of a few values that makes images [n, dim] likeliest.

    Matching leaves pixels whose variance the heads explain with hardly any noise of their own. The
    images are then so unlikely that the first steps would only undo that.
    """
    matched = model.log_noise.clone()
    densities = {}
    for least in _LEAST_NOISE:
        model.log_noise.copy_(matched.clamp_min(math.log(least)))
        densities[least] = float(log_prob(model, rows).mean())
    best = max(densities, key=lambda least: densities[least])
    model.log_noise.copy_(matched.clamp_min(math.log(best)))


def sample(model: LaplaceCovariance, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw standardised images [count, dim], float64, as sums of independent samples of the heads.

    Each head gets an equal part of the noise, so that none is singular if its anchors coincide.
    """
    heads, noise = double(model.parts()), model.noise.double() / model.heads
    drawn = [
        gram(heads, noise, head).sample((count,), generator=generator)
        for head in range(model.heads)
    ]
    return torch.stack(drawn).sum(0)
