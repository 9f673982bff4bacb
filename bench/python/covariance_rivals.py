"""Photographs of one scene under changes, and covariance models that know where pixels are.

Rows are standardised images [count, dim] of shape (side, side, 3). Every model has the off-diagonal
squared error against a sample covariance, the log density, and the conditional mean of missing
pixels; none of them forms a matrix of all pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import scipy.optimize
import skimage.data
import torch
from torch import Tensor
from torch.nn import functional

#: Sizes at a side of 1024 pixels: the standard deviations of shifts, in pixels; of the logarithm of
#: the light; and of the noise of a pixel, in levels of 0 to 255. Then the numbers of independent
#: places of the two fields along a side.
SHIFT, LIGHT, NOISE = 6.0, 0.03, 4.0
SHIFT_PLACES, LIGHT_PLACES = 6, 3


@lru_cache
def _photograph(side: int) -> Tensor:
    """The photograph of a retina, [1, 3, size, size], with `side` pixels for 1024 of its own."""
    picture = torch.tensor(skimage.data.retina()).permute(2, 0, 1)[None].float()
    size = len(picture[0, 0]) * side // 1024
    return functional.interpolate(picture, size=(size, size), mode="area")


def photographs(count: int, side: int, seed: int) -> Tensor:
    """Draw photographs [count, side, side, 3] of the middle of a retina, levels 0 to 255.

    Each is the same photograph, moved by a smooth random field of shifts, under a light that is a
    smooth random field, with noise. Fields are cubic splines through independent normal values.
    """
    fine = min(1024, 4 * side)  # pixels are averages of finer ones, as in a camera
    picture = _photograph(fine)
    size = picture.shape[-1]
    first = (size - fine) // 2
    middle = torch.linspace(-1, 1, size)[first : first + fine]
    rows, columns = torch.meshgrid(middle, middle, indexing="ij")
    generator = torch.Generator().manual_seed(seed)

    def field(places: int, channels: int) -> Tensor:
        knots = torch.randn(1, channels, places, places, generator=generator)
        return functional.interpolate(knots, size=(fine, fine), mode="bicubic", align_corners=True)

    drawn = []
    for _ in range(count):
        shift = field(SHIFT_PLACES, 2)[0] * SHIFT * fine / 1024 * 2 / size
        places = torch.stack([columns + shift[0], rows + shift[1]], -1)[None]
        image = functional.grid_sample(picture, places, align_corners=True)
        image = image * torch.exp(LIGHT * field(LIGHT_PLACES, 1))
        noise = NOISE * fine / 1024 * torch.randn(image.shape, generator=generator)
        drawn.append(functional.avg_pool2d(image + noise, fine // side)[0].permute(1, 2, 0))
    return torch.stack(drawn)


class Model(Protocol):
    """A covariance of standardised pixels, diagonal noise included."""

    def error(self, rows: Tensor) -> float:
        """The off-diagonal squared error against the sample covariance of rows."""

    def log_prob(self, rows: Tensor) -> Tensor:
        """The log densities of rows."""

    def inpaint(self, rows: Tensor, missing: Tensor) -> Tensor:
        """The rows with their conditional means where `missing` [dim] is True."""

    def sample(self, count: int, seed: int) -> Tensor:
        """Samples [count, dim]."""


def own_square(rows: Tensor) -> float:
    """The off-diagonal squared norm of the sample covariance of rows."""
    gram = (rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows).double() / len(rows)
    return float(gram.square().sum() - rows.double().square().mean(0).square().sum())


def sample_error(rows: Tensor, others: Tensor) -> float:
    """The error of the sample covariance of rows against that of others."""
    between = (rows @ others.T).double().square().sum() / (len(rows) * len(others))
    diagonals = rows.square().mean(0).double() @ others.square().mean(0).double()
    square = own_square(others)
    return (square - 2 * float(between - diagonals) + own_square(rows)) / square


def low_rank_error(rows: Tensor, factors: Tensor) -> float:
    """The error of factors^T factors [rank, dim] against the sample covariance of rows."""
    inner = (rows @ factors.T).double().square().sum() / len(rows)
    diagonal = factors.double().square().sum(0)
    inner -= rows.double().square().mean(0) @ diagonal
    own = (factors @ factors.T).double().square().sum() - diagonal.square().sum()
    square = own_square(rows)
    return (square - 2 * float(inner) + float(own)) / square


class Independent:
    """Pixels without correlations."""

    def error(self, rows: Tensor) -> float:
        return 1.0

    def log_prob(self, rows: Tensor) -> Tensor:
        return -0.5 * (rows.double().square() + math.log(2 * math.pi)).sum(1)

    def inpaint(self, rows: Tensor, missing: Tensor) -> Tensor:
        return rows.masked_fill(missing, 0.0)

    def sample(self, count: int, seed: int) -> Tensor:
        raise NotImplementedError


class Factors:
    """Low rank + diagonal in every tile of the image, or in all of it: Woodbury in each tile."""

    def __init__(
        self, rows: Tensor, rank: int, side: int, tile: int, least: float, iterations: int
    ) -> None:
        self.side, self.tile = side, tile
        parts = self.tiles(rows)  # [tiles, count, numbers of a tile]
        count = parts.shape[1]
        gram = (parts @ parts.mT).double() / count
        vectors = torch.linalg.eigh(gram).eigenvectors
        scaled = vectors[..., -rank:].to(rows) / count**0.5
        self.loadings = parts.mT @ scaled  # the columns' squares are the eigenvalues
        variance = parts.square().mean(1)
        self.noise = (variance - self.loadings.square().sum(-1)).clamp_min(least)
        for _ in range(iterations):  # expectation maximisation of the likelihood
            factors = self.expected(parts)
            second = count * torch.linalg.inv(self.precision()) + factors.mT @ factors
            cross = parts.mT @ factors
            self.loadings = torch.linalg.solve(second, cross, left=False)
            explained = (self.loadings * cross).sum(-1) / count
            self.noise = (variance - explained).clamp_min(least)

    def tiles(self, rows: Tensor) -> Tensor:
        across, tile = self.side // self.tile, self.tile
        parts = rows.reshape(-1, across, tile, across, tile, 3).permute(1, 3, 0, 2, 4, 5)
        return parts.reshape(across**2, len(rows), tile * tile * 3)

    def whole(self, parts: Tensor) -> Tensor:
        across, tile = self.side // self.tile, self.tile
        rows = parts.reshape(across, across, -1, tile, tile, 3).permute(2, 0, 3, 1, 4, 5)
        return rows.reshape(parts.shape[1], -1)

    def precision(self, weights: Tensor | None = None) -> Tensor:
        inverse = 1 / self.noise if weights is None else weights
        rank = self.loadings.shape[-1]
        return torch.eye(rank) + self.loadings.mT @ (inverse[..., None] * self.loadings)

    def expected(self, parts: Tensor, weights: Tensor | None = None) -> Tensor:
        """The factors' conditional means [tiles, count, rank]."""
        inverse = 1 / self.noise if weights is None else weights
        right = (parts * inverse[:, None]) @ self.loadings
        return torch.linalg.solve(self.precision(inverse), right.mT).mT

    def error(self, rows: Tensor) -> float:
        parts, shared = self.tiles(rows), self.loadings.double()
        diagonal = shared.square().sum(-1)
        inner = (parts @ self.loadings).double().square().sum() / len(rows)
        inner -= (parts.double().square().mean(1) * diagonal).sum()
        own = (shared.mT @ shared).square().sum() - diagonal.square().sum()
        square = own_square(rows)
        return float(square - 2 * inner + own) / square

    def log_prob(self, rows: Tensor) -> Tensor:
        parts = self.tiles(rows)
        weighted = (parts / self.noise[:, None]) @ self.loadings
        square = (parts.square() / self.noise[:, None]).double().sum((0, 2))
        square = square - (weighted * self.expected(parts)).double().sum((0, 2))
        logdet = self.noise.double().log().sum() + torch.linalg.slogdet(self.precision())[1].sum()
        return -0.5 * (square + logdet + self.noise.numel() * math.log(2 * math.pi))

    def inpaint(self, rows: Tensor, missing: Tensor) -> Tensor:
        seen = ~self.tiles(missing[None].float())[:, 0].bool()
        means = self.expected(self.tiles(rows), seen / self.noise) @ self.loadings.mT
        return torch.where(missing, self.whole(means), rows)

    def sample(self, count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        tiles, numbers, rank = self.loadings.shape
        factors = torch.randn(tiles, count, rank, generator=generator)
        noise = self.noise.sqrt()[:, None] * torch.randn(tiles, count, numbers, generator=generator)
        return self.whole(factors @ self.loadings.mT + noise)


@dataclass
class _Separable:
    """The matrix (K x K x A) + noise, by the eigenvectors of its small factors."""

    vectors: tuple[Tensor, Tensor, Tensor]
    values: Tensor  # [side, side, 3], noise included

    @classmethod
    def of(cls, side: int, lengthscale: float, colours: Tensor, noise: float) -> _Separable:
        place = torch.arange(side)
        kernel = torch.exp(-(place[:, None] - place).abs() / lengthscale)
        along, basis = torch.linalg.eigh(kernel)
        tint, tints = torch.linalg.eigh((1 - noise) * colours)
        values = along[:, None, None] * along[:, None] * tint + noise
        return cls((basis, basis, tints), values.clamp_min(noise))

    def rotate(self, images: Tensor, back: bool = False) -> Tensor:
        row, column, tint = (v if back else v.T for v in self.vectors)
        turned = torch.einsum("ab,nbcd->nacd", row, images)
        return torch.einsum("ab,ncbd->ncad", column, turned) @ tint.T

    def times(self, images: Tensor, power: float) -> Tensor:
        return self.rotate(self.rotate(images) * self.values**power, back=True)


class Stationary:
    """A Laplace kernel of rows times one of columns times a covariance of colours, plus noise.

    Its two numbers, one lengthscale and one noise, have the largest likelihood on the middle of the
    images, which is as good as any part of them for a stationary model.
    """

    def __init__(self, rows: Tensor, side: int) -> None:
        images = rows.reshape(-1, side, side, 3)
        size = min(side, 128)
        first = (side - size) // 2
        middle = images[:8, first : first + size, first : first + size]
        flat = images.reshape(-1, 3)
        colours = flat.T @ flat / len(flat)

        def loss(point: list[float]) -> float:
            lengthscale, noise = math.exp(point[0]), 1 / (1 + math.exp(-point[1]))
            model = _Separable.of(size, lengthscale, colours, noise)
            square = (model.rotate(middle).square() / model.values).sum() / len(middle)
            return float(square + model.values.log().sum()) / model.values.numel()

        start = [math.log(size / 4), -2.0]
        found = scipy.optimize.minimize(loss, start, method="Nelder-Mead", options={"maxfev": 40}).x
        self.lengthscale, self.noise = math.exp(found[0]), 1 / (1 + math.exp(-found[1]))
        self.colours, self.side = colours, side
        self.matrix = _Separable.of(side, self.lengthscale, colours, self.noise)

    def error(self, rows: Tensor) -> float:
        images = rows.reshape(-1, self.side, self.side, 3)
        signal = (self.matrix.values - self.noise).double()
        inner = float((self.matrix.rotate(images).square() * signal).double().sum() / len(rows))
        diagonal = (1 - self.noise) * self.colours.diagonal().double()
        variances = images.double().square().mean(0).sum((0, 1))
        inner -= float(variances @ diagonal)
        own = float(signal.square().sum() - self.side**2 * diagonal.square().sum())
        square = own_square(rows)
        return (square - 2 * inner + own) / square

    def log_prob(self, rows: Tensor) -> Tensor:
        images = rows.reshape(-1, self.side, self.side, 3)
        square = (self.matrix.rotate(images).square() / self.matrix.values).double().sum((1, 2, 3))
        logdet = self.matrix.values.double().log().sum()
        return -0.5 * (square + logdet + rows.shape[1] * math.log(2 * math.pi))

    def inpaint(self, rows: Tensor, missing: Tensor, iterations: int = 60) -> Tensor:
        """Conjugate gradients on the seen pixels, preconditioned by the inverse for all pixels."""
        shape = (-1, self.side, self.side, 3)
        seen = (~missing).float().reshape(shape)
        target = rows.reshape(shape) * seen
        weights, rest = torch.zeros_like(target), target.clone()
        ready = seen * self.matrix.times(rest, -1.0)
        direction, old = ready.clone(), (rest * ready).sum((1, 2, 3), keepdim=True)
        first = old.clone()
        for _ in range(iterations):
            product = seen * self.matrix.times(direction, 1.0)
            step = old / (direction * product).sum((1, 2, 3), keepdim=True).clamp_min(1e-30)
            weights, rest = weights + step * direction, rest - step * product
            ready = seen * self.matrix.times(rest, -1.0)
            new = (rest * ready).sum((1, 2, 3), keepdim=True)
            direction, old = ready + new / old.clamp_min(1e-30) * direction, new
            if bool((new < 1e-6 * first).all()):
                break
        filled = (self.matrix.times(weights, 1.0) - self.noise * weights).flatten(1)
        return torch.where(missing, filled, rows)

    def sample(self, count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        white = torch.randn(count, self.side, self.side, 3, generator=generator)
        return self.matrix.times(white, 0.5).flatten(1)


def neighbour_means(images: Tensor, missing: Tensor) -> Tensor:
    """Fill missing pixels of images [count, side, side, 3] with the mean of known neighbours.

    The neighbours are those in the smallest square of side 3, 5, 9, 17, ... with a known pixel.
    """
    known = (~missing).double()
    values, filled, reach = images * known, (images * known), 1
    unfilled = missing
    while bool(unfilled.any()):
        count = _box_sum(known, reach)
        now = unfilled & (count > 0.5)
        filled = torch.where(now, _box_sum(values, reach) / count.clamp_min(0.5), filled)
        unfilled, reach = unfilled & ~now, 2 * reach
    return filled.to(images)


def _box_sum(images: Tensor, reach: int) -> Tensor:
    """Sums [..., side, side, 3] over squares of side 2 reach + 1, from running sums."""
    for axis in (-3, -2):
        length = images.shape[axis]
        running = images.cumsum(axis)
        last = torch.arange(length).add(reach).clamp_max(length - 1)
        before = torch.arange(length) - reach - 1
        first = running.index_select(axis, before.clamp_min(0))
        shape = [1] * images.dim()
        shape[axis] = length
        images = running.index_select(axis, last) - first * (before >= 0).reshape(shape)
    return images
