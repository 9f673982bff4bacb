"""Covariance matching: the squared Frobenius distance to a sample covariance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from laplex.torch.functional import matvec

from .heads import Heads

#: The smallest variance of a pixel's own noise, for standardised pixels.
NOISE_FLOOR = 1e-3
#: Up to this many pixels, cross terms of heads are exact sums over all unit vectors.
EXACT_UP_TO = 2048
#: The most rows, and the most entries of all heads, in one product.
_BLOCK, _ENTRIES = 512, 2**24
#: Variances below this part of the largest are not exact enough for exact cross terms.
_LEAST_SQUARE = 1e-4
#: Ridge of a pixel's normal equations, relative to their trace.
_RIDGE = 1e-4


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
    heads: Heads,
    moments: Moments,
    rows: Tensor,
    weight: float,
    probes: Tensor,
    orthogonal: bool = False,
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
    orthogonal : bool
        The rows are orthogonal to each other and the weight is 1, as `square_root` makes them. The
        cross terms are then exact in the span of the rows, and the probes estimate the rest. With
        few images a fitted C is nearly zero outside that span, and the estimate nearly exact.

    Returns
    -------
    Tensor, a scalar, differentiable

    Notes
    -----
    The identities follow by expanding |S - C|^2; the random signs are those of Hutchinson (1990).
    Exact sums in a subspace, which costs nothing here because the products with the rows are needed
    anyway, are the idea of Hutch++ (arXiv 2010.09649).
    """
    excess = (heads.diagonal() + NOISE_FLOOR - moments.variance).clamp_min(0)
    off_diagonal = off_diagonal_distance(heads, moments, rows, weight, probes, orthogonal)
    return off_diagonal + excess.square().sum()


def off_diagonal_distance(
    heads: Heads,
    moments: Moments,
    rows: Tensor,
    weight: float,
    probes: Tensor,
    orthogonal: bool = False,
) -> Tensor:
    """Return the first sum of `squared_distance`, over pairs of different pixels."""
    inner, cross = _sums(heads, rows, weight, probes, orthogonal)
    diagonal = heads.diagonal()
    own = (weight * rows.square().sum(0) * diagonal).sum()
    model = heads.squared_norm() + cross - diagonal.square().sum()
    return moments.off_diagonal - 2 * (inner - own) + model


def _sums(
    heads: Heads, rows: Tensor, weight: float, probes: Tensor, orthogonal: bool
) -> tuple[Tensor, Tensor]:
    """Return sum_n w z_n^T C z_n and the cross terms of different heads."""
    inner = cross = rows.new_zeros(())
    at_once = min(_BLOCK, max(1, _ENTRIES // heads.anchors.numel()))
    squares = rows.square().sum(1)
    # In smaller directions, rounding has made the rows less than orthogonal.
    exact = squares > _LEAST_SQUARE * squares.max() if orthogonal else torch.zeros_like(squares) > 0
    if orthogonal and len(probes):
        directions = rows[exact] / squares[exact].sqrt()[:, None]
        probes = probes - (probes @ directions.T) @ directions
    per_square = torch.where(exact, 1 / squares, 0.0)
    for block, share in zip(
        torch.split(rows, at_once), torch.split(per_square, at_once), strict=True
    ):
        parts = heads.products(block)
        whole = parts.sum(-2)
        inner = inner + weight * (whole * block).sum()
        if orthogonal:
            crossing = whole.square().sum(-1) - parts.square().sum((-2, -1))
            cross = cross + (share * crossing).sum()
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


@torch.no_grad()
def square_root(rows: Tensor, weight: float) -> Tensor:
    """Return orthogonal rows R [k, n] with R^T R = w Z^T Z and k = min(N, n), the longest first.

    These are the principal components of Z [N, n], each times the square root of its variance.
    """
    root: Tensor
    if len(rows) > rows.shape[1]:
        values, vectors = torch.linalg.eigh(weight * (rows.T @ rows).double())
        root = values.clamp_min(0).sqrt()[:, None] * vectors.T
        return root.to(rows.dtype).flip(0)
    vectors = torch.linalg.eigh((rows @ rows.T).double()).eigenvectors.flip(1)
    root = weight**0.5 * vectors.T.to(rows) @ rows
    return root


@torch.no_grad()
def best_amplitudes(heads: Heads, head: int, rows: Tensor, weight: float) -> Tensor:
    r"""Return the amplitudes [2 or 1, n] of a head that are best for each pixel by itself.

    With the amplitudes :math:`a_i = s_i (\cos\theta_i, \sin\theta_i)`, an entry of the head is
    :math:`k_{ij}\, a_i \cdot a_j`. Given those of all other pixels, that of a pixel solves the
    normal equations

    .. math::
        \sum_{j \ne i} k_{ij}^2\, a_j a_j^T\, a_i = \sum_{j \ne i} R_{ij} k_{ij}\, a_j,

    whose sums are products with kernels. R is what the other heads leave of S = w Z^T Z. With
    several heads, the rows must be orthogonal and w = 1, as `square_root` makes them, and the other
    heads are taken in the span of the rows only.
    """
    anchors, old = heads.anchors[head], heads.amplitudes()[head]
    right = torch.zeros_like(old)
    at_once = max(1, _ENTRIES // (old.numel() * len(heads.anchors)))
    squares = rows.square().sum(1)
    exact = squares > _LEAST_SQUARE * squares.max()
    columns = (torch.split(part, at_once) for part in (rows, squares, exact))
    for block, square, kept in zip(*columns, strict=True):
        left_over = weight * block
        if len(heads.anchors) > 1:
            parts = heads.products(block)
            others = parts.sum(1) - parts[:, head]
            left_over = left_over - torch.where(kept, 1 / square, 0.0)[:, None] * others
        products = matvec(block[:, None] * old, anchors)
        right += torch.einsum("nj,ncj->cj", left_over, products)
        right -= (left_over * block).sum(0) * old
    pairs = old[:, None] * old
    left = (matvec(pairs, anchors, lengthscale=0.5) - pairs).permute(2, 0, 1)
    trace = left.diagonal(dim1=1, dim2=2).sum(-1)
    ridge = _RIDGE * trace + torch.finfo(trace.dtype).tiny
    left = left + ridge[:, None, None] * torch.eye(len(old)).to(left)
    best: Tensor = torch.linalg.solve(left, right.T[..., None])[..., 0].T
    return best
