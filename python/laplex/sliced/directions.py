"""Sets of directions in R^d over which the mean of a function is close to that over all."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Kind = Literal["auto", "orthogonal", "sobol", "random"]
KINDS = get_args(Kind)

GROUPS = 8
"""The number of independent sets from which a standard error is estimated."""


def draw_directions(
    kind: str, count: int, dimension: int, generator: torch.Generator | None
) -> Tensor:
    """Draw unit vectors ``[count, dimension]`` in float64, each uniform on the sphere by itself.

    Parameters
    ----------
    kind
        One of `KINDS`. "auto" is a Fibonacci lattice in three dimensions, equal angles in two, and
        "orthogonal" otherwise: blocks of d orthonormal vectors.
    count, dimension
        How many vectors of how many coordinates.
    generator
        The source of randomness; None stands for one with a fixed seed, so that the same call gives
        the same directions.
    """
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    if dimension == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if kind == "auto" and dimension == 2:
        turn = torch.rand((), generator=generator, dtype=torch.float64, device=generator.device)
        angle = (torch.arange(count, device=generator.device) + turn) * (math.pi / count)
        return torch.stack((angle.cos(), angle.sin()), -1)
    if kind == "auto" and dimension == 3:
        return fibonacci(count).to(generator.device) @ rotation(3, generator)
    if kind == "sobol":
        return sobol(count, dimension, generator)
    if kind == "random":
        normal = torch.randn(
            count, dimension, generator=generator, dtype=torch.float64, device=generator.device
        )
        return torch.nn.functional.normalize(normal)
    blocks = -(-count // dimension)
    return torch.cat([rotation(dimension, generator) for _ in range(blocks)])[:count]


def draw_groups(
    kind: str, count: int, dimension: int, generator: torch.Generator | None, groups: int
) -> list[Tensor]:
    """Draw ``groups`` independent sets that have ``count`` directions in all."""
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    sizes = [count // groups + (k < count % groups) for k in range(groups)]
    return [draw_directions(kind, size, dimension, generator) for size in sizes]


def rotation(dimension: int, generator: torch.Generator) -> Tensor:
    """Draw an orthogonal matrix uniformly (Mezzadri, arXiv math-ph/0609050)."""
    normal = torch.randn(
        dimension, dimension, generator=generator, dtype=torch.float64, device=generator.device
    )
    q, r = torch.linalg.qr(normal)
    turned: Tensor = q * r.diagonal().sign()
    return turned


def fibonacci(count: int) -> Tensor:
    """The lattice of the golden angle on half a sphere, which is enough for even functions."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    height = index / count
    angle = index * math.pi * (1 + math.sqrt(5))
    radius = (1 - height.square()).sqrt()
    return torch.stack((radius * angle.cos(), radius * angle.sin(), height), -1)


def sobol(count: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Directions of normal vectors whose quantiles are a scrambled Sobol sequence."""
    seed = torch.randint(2**31, (), generator=generator, device=generator.device)
    engine: Any = torch.quasirandom.SobolEngine(  # type: ignore[no-untyped-call]
        dimension, scramble=True, seed=int(seed)
    )
    levels: Tensor = engine.draw(count, dtype=torch.float64).clamp(2.0**-32, 1 - 2.0**-32)
    return torch.nn.functional.normalize(torch.special.ndtri(levels)).to(generator.device)
