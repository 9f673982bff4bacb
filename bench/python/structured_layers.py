"""Layers with structured weights, written from their formulas as peers of `LaplexLinear`.

A layer has `in_features` n, `out_features` m and a whole number `size`, its rank, number of blocks
or depth. `count` says how many parameters its weight has, without the bias. For independent inputs
of unit variance, the outputs have unit variance on average over outputs and initial values.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from laplex.nn import LaplexLinear


def normal(*shape: int, variance: float) -> nn.Parameter:
    """Draw independent normal values."""
    return nn.Parameter(torch.randn(shape) * math.sqrt(variance))


class Structured(nn.Module):
    """A layer that multiplies by a weight it may never form, and adds a bias."""

    #: Whether forming the weight and multiplying by it is faster, with more rows than inputs.
    forms_weight: ClassVar[bool] = True

    def __init__(self, n: int, m: int, size: int) -> None:
        super().__init__()
        self.in_features, self.out_features, self.size = n, m, size
        self.draw(n, m, size)
        self.bias = nn.Parameter(torch.zeros(m))

    @staticmethod
    def count(n: int, m: int, size: int) -> int:
        """The number of parameters of the weight."""
        raise NotImplementedError

    @staticmethod
    def most(n: int, m: int, count: int) -> int:
        """The largest size to consider for so many parameters."""
        return min(n, m) // 2

    def draw(self, n: int, m: int, size: int) -> None:
        """Set the initial parameters of the weight."""
        raise NotImplementedError

    def product(self, rows: Tensor) -> Tensor:
        """Multiply rows ``[count, n]`` by the transposed weight."""
        raise NotImplementedError

    def formed(self) -> Tensor:
        """The dense weight ``[m, n]``."""
        return self.product(torch.eye(self.in_features, dtype=self.bias.dtype)).T

    def forward(self, rows: Tensor) -> Tensor:
        """Apply the layer to ``[..., n]``."""
        flat = rows.reshape(-1, self.in_features)
        if self.forms_weight and len(flat) > self.in_features:
            return linear(rows, self.formed(), self.bias)
        return (self.product(flat) + self.bias).unflatten(0, rows.shape[:-1])


class Dense(Structured):
    """Any matrix; the size is ignored."""

    @staticmethod
    def count(n: int, m: int, size: int) -> int:
        return n * m

    def draw(self, n: int, m: int, size: int) -> None:
        self.matrix = normal(m, n, variance=1 / n)

    def product(self, rows: Tensor) -> Tensor:
        return rows @ self.matrix.T

    def formed(self) -> Tensor:
        return self.matrix


class LowRank(Structured):
    """W = U V with `size` columns of U."""

    forms_weight = False

    @staticmethod
    def count(n: int, m: int, size: int) -> int:
        return size * (n + m)

    def draw(self, n: int, m: int, size: int) -> None:
        self.inner = normal(size, n, variance=1 / n)
        self.outer = normal(m, size, variance=1 / size)

    def product(self, rows: Tensor) -> Tensor:
        return rows @ self.inner.T @ self.outer.T


class BlockDiagonal(Structured):
    """`size` blocks on the diagonal, whose outputs are then dealt out in turn, as in ShuffleNet."""

    @staticmethod
    def count(n: int, m: int, size: int) -> int:
        return size * math.ceil(n / size) * math.ceil(m / size)

    def draw(self, n: int, m: int, size: int) -> None:
        self.width = math.ceil(n / size)
        self.blocks = normal(size, self.width, math.ceil(m / size), variance=size / n)

    def product(self, rows: Tensor) -> Tensor:
        split = pad(rows, (0, self.size * self.width - self.in_features))
        parts = split.unflatten(1, (self.size, self.width)).transpose(0, 1) @ self.blocks
        return parts.permute(1, 2, 0).flatten(1)[:, : self.out_features]

    def formed(self) -> Tensor:
        where = torch.eye(self.size)[None, :, :, None]
        weight = (self.blocks.permute(2, 0, 1)[:, :, None] * where).flatten(2).flatten(0, 1)
        return weight[: self.out_features, : self.in_features]


class Monarch(Structured):
    """W = P L P R: block-diagonal matrices and the permutation P of a transpose (Dao et al., 2022).

    The blocks of R have `size` rows and those of L have `size` columns, so each of the
    size x size blocks of W has rank one. Square weights with size = sqrt(n) are the original.
    """

    @staticmethod
    def count(n: int, m: int, size: int) -> int:
        return size**2 * (math.ceil(n / size) + math.ceil(m / size))

    def draw(self, n: int, m: int, size: int) -> None:
        self.width = math.ceil(n / size)
        self.inner = normal(size, self.width, size, variance=size / n)
        self.outer = normal(size, size, math.ceil(m / size), variance=1 / size)

    def product(self, rows: Tensor) -> Tensor:
        split = pad(rows, (0, self.size * self.width - self.in_features))
        parts = split.unflatten(1, (self.size, self.width)).transpose(0, 1) @ self.inner
        parts = parts.permute(2, 1, 0) @ self.outer  # blocks and what is in them change roles
        return parts.permute(1, 2, 0).flatten(1)[:, : self.out_features]

    def formed(self) -> Tensor:
        # Output block j takes its i-th input from the j-th row of input block i.
        blocks = self.outer.permute(2, 0, 1)[..., None] * self.inner.permute(2, 0, 1)
        return blocks.flatten(2).flatten(0, 1)[: self.out_features, : self.in_features]


class Butterfly(Structured):
    """W = B_1 ... B_log2(N), each of N / 2 blocks of 2 x 2 at one stride (Dao et al., 2019).

    N is the power of two above both sides. The size is ignored. The blocks start as rotations.
    """

    @staticmethod
    def count(n: int, m: int, size: int) -> int:
        depth = math.ceil(math.log2(max(n, m, 2)))
        return depth * 2 * 2**depth

    def draw(self, n: int, m: int, size: int) -> None:
        self.depth = math.ceil(math.log2(max(n, m, 2)))
        angle = 2 * math.pi * torch.rand(self.depth, 2**self.depth // 2)
        sine, cosine = angle.sin(), angle.cos()
        factors = torch.stack([cosine, -sine, sine, cosine], -1).unflatten(-1, (2, 2))
        factors[-1] *= math.sqrt(2**self.depth / n)
        self.factors = nn.Parameter(factors)

    def product(self, rows: Tensor) -> Tensor:
        values = pad(rows, (0, 2**self.depth - self.in_features))
        for power, factor in enumerate(self.factors):
            pairs = values.unflatten(1, (-1, 2, 2**power))
            blocks = factor.unflatten(0, (-1, 2**power))
            values = (pairs[:, :, None] * blocks.permute(0, 2, 3, 1)).sum(3).flatten(1)
        return values[:, : self.out_features]


class BlockCirculant(Structured):
    """Blocks of size x size that are circulant, by FFT; one block is a circulant matrix."""

    @staticmethod
    def count(n: int, m: int, size: int) -> int:
        return size * math.ceil(n / size) * math.ceil(m / size)

    def draw(self, n: int, m: int, size: int) -> None:
        self.columns = normal(math.ceil(m / size), math.ceil(n / size), size, variance=1 / n)

    def product(self, rows: Tensor) -> Tensor:
        size = self.size
        split = pad(rows, (0, self.columns.shape[1] * size - self.in_features))
        spectrum = torch.fft.rfft(split.unflatten(1, (-1, size)))
        spectrum = torch.einsum("rjf,ijf->rif", spectrum, torch.fft.rfft(self.columns))
        return torch.fft.irfft(spectrum, n=size).flatten(1)[:, : self.out_features]

    def formed(self) -> Tensor:
        place = torch.arange(self.size)
        which = (place[:, None] - place).remainder(self.size).flatten()
        # A product instead of an index, whose gradient is many times slower.
        blocks = self.columns @ (which == place[:, None]).to(self.columns.dtype)
        blocks = blocks.unflatten(2, (self.size, self.size))
        weight = blocks.transpose(1, 2).flatten(2).flatten(0, 1)
        return weight[: self.out_features, : self.in_features]


class ToeplitzLike(Structured):
    """W = sum_i Z_1(g_i) Z_-1(h_i): displacement rank `size` (Sindhwani et al., 2015), by FFT.

    Z_1(g) is the circulant matrix with first column g, and Z_-1(h) the skew-circulant one: its
    entries above the diagonal change their sign. Two terms contain every Toeplitz matrix.
    """

    @staticmethod
    def count(n: int, m: int, size: int) -> int:
        return 2 * size * max(n, m)

    def draw(self, n: int, m: int, size: int) -> None:
        side = max(n, m)
        variance = 1 / math.sqrt(size * n * side)
        self.circulant = normal(size, side, variance=variance)
        self.skew = normal(size, side, variance=variance)

    def product(self, rows: Tensor) -> Tensor:
        side = self.skew.shape[1]
        angle = torch.arange(side, dtype=rows.dtype) * (math.pi / side)
        turn = torch.polar(torch.ones_like(angle), angle)
        turned = torch.fft.fft(pad(rows, (0, side - self.in_features)) * turn)
        terms = torch.fft.ifft(turned[:, None] * torch.fft.fft(self.skew * turn))
        terms = torch.fft.rfft((terms * turn.conj()).real)
        spectrum = (terms * torch.fft.rfft(self.circulant)).sum(1)
        return torch.fft.irfft(spectrum, n=side)[:, : self.out_features]


class CirculantDiagonal(Structured):
    """W = D_k C_k ... D_1 C_1: diagonal and circulant factors, as in ACDC (Moczulski et al., 2016).

    The circulant factors start orthogonal, with random phases, and the diagonals as random signs.
    """

    @staticmethod
    def count(n: int, m: int, size: int) -> int:
        return 2 * size * max(n, m)

    def draw(self, n: int, m: int, size: int) -> None:
        side = max(n, m)
        phases = torch.exp(2j * math.pi * torch.rand(size, side // 2 + 1))
        phases[:, 0] = 1
        if side % 2 == 0:
            phases[:, -1] = 1
        self.circulant = nn.Parameter(torch.fft.irfft(phases, n=side))
        signs = 1.0 - 2.0 * torch.randint(2, (size, side))
        signs[-1] *= math.sqrt(side / n)
        self.diagonal = nn.Parameter(signs)

    def product(self, rows: Tensor) -> Tensor:
        side = self.diagonal.shape[1]
        values = pad(rows, (0, side - self.in_features))
        for spectrum, diagonal in zip(torch.fft.rfft(self.circulant), self.diagonal, strict=True):
            values = torch.fft.irfft(torch.fft.rfft(values) * spectrum, n=side) * diagonal
        return values[:, : self.out_features]


def divisor(number: int) -> int:
    """The largest divisor that is not above the square root."""
    return max(each for each in range(1, math.isqrt(number) + 1) if number % each == 0)


class Kronecker(Structured):
    """W = sum_i A_i (x) B_i with `size` terms, and sides split as evenly as they divide."""

    @staticmethod
    def count(n: int, m: int, size: int) -> int:
        few, some = divisor(m), n // divisor(n)
        return size * (few * some + (m // few) * (n // some))

    def draw(self, n: int, m: int, size: int) -> None:
        few, some = divisor(m), n // divisor(n)
        self.left = normal(size, few, some, variance=1 / (some * math.sqrt(size)))
        self.right = normal(size, m // few, n // some, variance=some / (n * math.sqrt(size)))

    def product(self, rows: Tensor) -> Tensor:
        block = rows.unflatten(1, (self.left.shape[2], -1))
        terms = torch.einsum("rbd,kcd,kab->rac", block, self.right, self.left)
        return terms.flatten(1)

    def formed(self) -> Tensor:
        products = self.left.flatten(1).T @ self.right.flatten(1)
        shape = (*self.left.shape[1:], *self.right.shape[1:])
        return products.reshape(shape).transpose(1, 2).flatten(2).flatten(0, 1)


class Vera(Structured):
    """W = diag(b) B diag(d) A with fixed random A and B, and learned b and d (Kopiczko, 2024).

    A has `size` rows, which the budget makes many: only the scalings are counted.
    """

    @staticmethod
    def count(n: int, m: int, size: int) -> int:
        return size + m

    @staticmethod
    def most(n: int, m: int, count: int) -> int:
        return count

    def draw(self, n: int, m: int, size: int) -> None:
        self.register_buffer("first", torch.randn(size, n) / math.sqrt(n))
        self.register_buffer("second", torch.randn(m, size) / math.sqrt(size))
        self.inner = nn.Parameter(torch.ones(size))
        self.outer = nn.Parameter(torch.ones(m))

    def product(self, rows: Tensor) -> Tensor:
        return (rows @ self.first.T * self.inner) @ self.second.T * self.outer


class Laplex(LaplexLinear):
    """A `LaplexLinear` that also forms its weight where the rows outnumber its inputs."""

    def forward(self, rows: Tensor) -> Tensor:
        if rows.numel() > self.in_features**2:
            return linear(rows, self.weight, self.bias)
        return super().forward(rows)


class ShortLaplex(Laplex):
    """A `Laplex` that starts with a quarter of the usual lengthscale, and so with a higher rank."""

    def _initial_lengthscale(self) -> float:
        return super()._initial_lengthscale() / 4
