"""Dense formulas and drawn points for the tests of laplex.sliced."""

from __future__ import annotations

import math

import torch

from laplex.sliced.line_kernel import CosineKernel, EnergyKernel, line_kernel

D = torch.float64
KERNELS = ("laplace", "matern32", "energy")
#: The kernels of lines are exact here, fitted in the last one (energy is exact there too).
DIMENSIONS = (1, 2, 3, 4, 7, 12)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def kernel_at(kind: str, r: torch.Tensor) -> torch.Tensor:
    """The kernel at a distance in lengthscales."""
    if kind == "laplace":
        return torch.exp(-r)
    s = math.sqrt(3) * r
    return (1 + s) * torch.exp(-s) if kind == "matern32" else -r


def distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x[:, None] - y[None]).norm(dim=-1)


def line_at(kind: str, dimension: int, t: torch.Tensor) -> torch.Tensor:
    """The kernel on a line by its formula, for distances of projections in its own lengthscales."""
    line = line_kernel(kind, dimension)
    if isinstance(line, EnergyKernel):
        return -line.factor * t
    if isinstance(line, CosineKernel):
        parts = (
            w.amplitude * torch.exp(-w.rate * t) * torch.cos(w.frequency * t + w.phase)
            for w in line.waves
        )
        return sum(parts, start=torch.zeros_like(t))
    powers = torch.stack([t**p * c for p, c in enumerate(line.polynomial)]).sum(0)
    return powers * torch.exp(-t)


def dense(
    kind: str,
    x: torch.Tensor,
    y: torch.Tensor,
    directions: torch.Tensor,
    lengthscale: float | torch.Tensor = 1.0,
) -> torch.Tensor:
    """The matrix whose entries are means over given directions, by the formula."""
    scale = math.sqrt(3) if kind == "matern32" else 1.0
    d = x.shape[1]
    t = ((x[:, None] - y[None]) / lengthscale * scale) @ directions[:, :d].T
    return line_at(kind, d, t.abs()).mean(-1)


def unit_vectors(count: int, kind: str, dimension: int, seed: int = 0) -> torch.Tensor:
    sphere = line_kernel(kind, dimension).dimension
    return torch.nn.functional.normalize(draw(count, sphere, seed=seed))
