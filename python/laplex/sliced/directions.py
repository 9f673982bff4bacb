"""Rules of few directions in R^d, whose weighted means are close to the mean over all of them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

Kind = Literal["auto", "orthogonal", "sobol", "random"]
KINDS = get_args(Kind)

GROUPS = 8
"""The number of independent rules from which a standard error is estimated."""

MAX_CACHED = 1 << 18
"""The most numbers of a rule that is kept for the next call; 32 of them take 64 MiB."""


class Rule(NamedTuple):
    """Directions and their weights."""

    directions: Tensor
    """Unit vectors ``[p, d]``."""
    weights: Tensor
    """Numbers ``[p]`` above 0 whose sum is 1."""

    @classmethod
    def of(cls, directions: Tensor) -> Rule:
        """Give all directions the same weight."""
        return cls(directions, directions.new_full((len(directions),), 1 / len(directions)))

    def to(self, like: Tensor) -> Rule:
        """The rule in the dtype and on the device of a tensor."""
        return Rule(self.directions.to(like), self.weights.to(like))


def draw_rules(
    kind: str, count: int, dimension: int, generator: torch.Generator | None, groups: int
) -> list[Rule]:
    """Draw ``groups`` independent rules that have ``count`` directions in all, or fewer.

    Parameters
    ----------
    kind
        One of `KINDS`. "auto" is a product of Gauss's rule and equal angles in three dimensions,
        equal angles in two, and "orthogonal" otherwise: blocks of d orthonormal vectors.
    count, dimension
        How many unit vectors of how many coordinates. Each is rotated uniformly.
    generator
        The source of randomness; None stands for one with a fixed seed, so that the same call gives
        the same directions.
    groups
        The number of rules.
    """
    if generator is None:
        fixed: list[Rule] = _fixed_rules(kind, count, dimension, groups)
        return fixed
    sizes = [count // groups + (k < count % groups) for k in range(groups)]
    with torch._C._DisableFuncTorch():  # under vmap, all calls have the same directions
        return [draw_rule(kind, size, dimension, generator) for size in sizes]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _fixed_rules(kind: str, count: int, dimension: int, groups: int) -> list[Rule]:
    # Tensors of a dispatch mode may be fake.
    if count * dimension > MAX_CACHED or is_in_torch_dispatch_mode():
        return _draw_fixed_rules(kind, count, dimension, groups)
    return _cached_rules(kind, count, dimension, groups)


def _draw_fixed_rules(kind: str, count: int, dimension: int, groups: int) -> list[Rule]:
    with torch.inference_mode(False):  # tensors that autograd can save, too
        return draw_rules(kind, count, dimension, torch.Generator().manual_seed(0), groups)


_cached_rules = lru_cache(maxsize=32)(_draw_fixed_rules)


def draw_rule(kind: str, count: int, dimension: int, generator: torch.Generator) -> Rule:
    """Draw a rule in float64; on a line, one direction is enough."""
    if dimension == 1:
        return Rule.of(torch.ones(1, 1, dtype=torch.float64, device="cpu"))
    if kind == "auto" and dimension == 3:
        directions, weights = product_rule(count)
        turned = directions.to(generator.device) @ rotation(3, generator)
        return Rule(turned, weights.to(generator.device))
    return Rule.of(draw_directions(kind, count, dimension, generator))


def draw_directions(kind: str, count: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Draw unit vectors ``[count, dimension]`` of equal weights."""
    if kind == "auto" and dimension == 2:
        turn = torch.rand((), generator=generator, dtype=torch.float64, device=generator.device)
        angle = (torch.arange(count, device=generator.device) + turn) * (math.pi / count)
        return torch.stack((angle.cos(), angle.sin()), -1)
    if kind == "sobol":
        return sobol(count, dimension, generator)
    if kind == "random":
        normal = torch.randn(
            count, dimension, generator=generator, dtype=torch.float64, device=generator.device
        )
        return torch.nn.functional.normalize(normal)
    if count < dimension:
        return frame(count, dimension, generator)
    blocks = -(-count // dimension)
    return torch.cat([rotation(dimension, generator) for _ in range(blocks)])[:count]


def rotation(dimension: int, generator: torch.Generator) -> Tensor:
    """Draw an orthogonal matrix uniformly."""
    return frame(dimension, dimension, generator).mT


def frame(count: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Draw orthonormal vectors ``[count, dimension]`` uniformly (Mezzadri, math-ph/0609050)."""
    normal = torch.randn(
        dimension, count, generator=generator, dtype=torch.float64, device=generator.device
    )
    q, r = torch.linalg.qr(normal)
    vectors: Tensor = (q * r.diagonal().sign()).mT
    return vectors


def product_rule(count: int) -> Rule:
    """Gauss's rule along an axis times equal angles on half of each circle around it.

    With m nodes and m angles, means of even polynomials up to degree 2 m - 1 are exact.
    """
    heights = math.isqrt(count)
    nodes, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(heights))
    angles = count // heights
    angle = torch.arange(angles, dtype=torch.float64, device="cpu") * (math.pi / angles)
    height, turn = (each.flatten() for each in torch.meshgrid(nodes, angle, indexing="ij"))
    radius = (1 - height.square()).sqrt()
    directions = torch.stack((radius * turn.cos(), radius * turn.sin(), height), -1)
    return Rule(directions, weights.repeat_interleave(angles) / (2 * angles))


def sobol(count: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Directions of normal vectors whose quantiles are a scrambled Sobol sequence."""
    seed = torch.randint(2**31, (), generator=generator, device=generator.device)
    engine: Any = torch.quasirandom.SobolEngine(  # type: ignore[no-untyped-call]
        dimension, scramble=True, seed=int(seed)
    )
    levels: Tensor = engine.draw(count, dtype=torch.float64).clamp(2.0**-32, 1 - 2.0**-32)
    return torch.nn.functional.normalize(torch.special.ndtri(levels)).to(generator.device)
