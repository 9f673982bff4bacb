"""Covariance matching: the squared Frobenius distance to a sample covariance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .heads import Heads

#: The smallest variance of a pixel's own noise, for standardised pixels.
NOISE_FLOOR = 1e-3
#: Up to this many pixels, cross terms of heads are exact sums over all unit vectors.
EXACT_UP_TO = 2048
#: The most rows, and the most entries of all heads, in one product.
_BLOCK, _ENTRIES = 512, 2**24


@dataclass(frozen=True)
class Moments:
    """Moments of all centred images Z [N, n] that matching needs, with S = Z^T Z / N.

    Attributes
    ----------
    variance : Tensor [n]
        Diagonal of S.
    squared_norm : float
        |S|_F^2.
    """

    variance: Tensor
    squared_norm: float

    @property
    def off_diagonal(self) -> float:
        """Squared Frobenius norm of S without its diagonal."""
        return self.squared_norm - float(self.variance.double().square().sum())


def probe_vectors(dim: int, count: int | None, generator: torch.Generator | None) -> Tensor:
    """Return vectors q [k, dim] with E sum_k q q^T = 1: unit vectors (None) or random signs."""
    if count is None:
        return torch.eye(dim)
    signs = 2 * torch.randint(2, (count, dim), generator=generator) - 1
    return torch.mul(signs, max(count, 1) ** -0.5)


def squared_distance(
    heads: Heads, moments: Moments, rows: Tensor, weight: float, probes: Tensor
) -> Tensor:
    r"""Squared Frobenius distance of S and :math:`C + \mathrm{diag}(\nu)` for the best noise.

    .. math::
        \sum_{i \ne j} (S - C)_{ij}^2 + \sum_i \max(C_{ii} + \epsilon - S_{ii}, 0)^2

    The noise takes up what the heads leave of a pixel's variance, and is at least
    :math:`\epsilon`. The diagonal therefore counts only where the heads exceed the variance. For
    the other entries,

    .. math::
        |S - C|^2 = |S|^2 - 2 \sum_n w\, z_n^T C z_n
            + \sum_h |C_h|^2 + \sum_q (|C q|^2 - \sum_h |C_h q|^2)

    where everything is exact in O(n log n) except the last sum, the cross terms of different heads.

    Parameters
    ----------
    heads : Heads
    moments : Moments
        Of all images.
    rows : Tensor [rows, n]
        Centred images for which the weighted sum w Z^T Z equals S, exactly or on average.
    weight : float
        The weight w.
    probes : Tensor [k, n]
        Vectors from `probe_vectors`. The result is exact with unit vectors and unbiased with random
        signs.

    Returns
    -------
    Tensor, a scalar, differentiable

    Notes
    -----
    The identities follow by expanding |S - C|^2; the random signs are those of Hutchinson (1990).
    """
    excess = (heads.diagonal() + NOISE_FLOOR - moments.variance).clamp_min(0)
    off_diagonal = off_diagonal_distance(heads, moments, rows, weight, probes)
    return off_diagonal + excess.square().sum()


def off_diagonal_distance(
    heads: Heads, moments: Moments, rows: Tensor, weight: float, probes: Tensor
) -> Tensor:
    """Return the first sum of `squared_distance`, over pairs of different pixels."""
    inner, cross = _sums(heads, rows, weight, probes)
    diagonal = heads.diagonal()
    own = (weight * rows.square().sum(0) * diagonal).sum()
    model = heads.squared_norm() + cross - diagonal.square().sum()
    return moments.off_diagonal - 2 * (inner - own) + model


def _sums(heads: Heads, rows: Tensor, weight: float, probes: Tensor) -> tuple[Tensor, Tensor]:
    """Return sum_n w z_n^T C z_n and the cross terms of different heads."""
    inner = cross = rows.new_zeros(())
    at_once = min(_BLOCK, max(1, _ENTRIES // heads.anchors.numel()))
    for block in torch.split(rows, at_once):
        inner = inner + weight * (heads.products(block).sum(-2) * block).sum()
    for block in torch.split(probes, at_once):
        parts = heads.products(block)
        cross = cross + parts.sum(-2).square().sum() - parts.square().sum()
    return inner, cross


def best_noise(heads: Heads, variance: Tensor) -> Tensor:
    """Return the noise [n] that makes the model's variances equal to those of the images."""
    return (variance - heads.diagonal()).clamp_min(NOISE_FLOOR)


def gram_squared_norm(rows: Tensor) -> float:
    """Squared Frobenius norm of Z^T Z for Z [N, n], by blocks of Z Z^T or Z^T Z."""
    sides = rows if rows.shape[0] <= rows.shape[1] else rows.T
    total = 0.0
    for start, left in enumerate(torch.split(sides, _BLOCK)):
        for stop, right in enumerate(torch.split(sides, _BLOCK)[: start + 1]):
            square = float((left @ right.T).double().square().sum())
            total += square if start == stop else 2 * square
    return total


def square_root(rows: Tensor, weight: float) -> Tensor:
    """Return R [n, n] with R^T R = w Z^T Z, which replaces Z if it has more rows than columns."""
    values, vectors = torch.linalg.eigh(weight * (rows.T @ rows).double())
    root: Tensor = values.clamp_min(0).sqrt()[:, None] * vectors.T
    return root.to(rows.dtype)
