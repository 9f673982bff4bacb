r"""The alternating solver: codes for a rotation, then the rotation for the codes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .basis import DenseBasis, nearest_rotation
from .topk import top_k

#: Passes that must together gain less than the tolerance before the solver stops.
_PATIENCE = 5
#: The part of the old rotation in the new one's Procrustes problem: decides where the data do not.
_PROXIMITY = 1e-7


@dataclass
class Search:
    r"""State of the search for a rotation; everything that a checkpoint holds.

    The rotation of each pass is extrapolated from the last two by Nesterov's momentum. Where that
    makes the loss worse, the pass is not counted, momentum starts anew and the search goes back
    (O'Donoghue and Candes, 2015): the loss of `losses` never grows. On embeddings of words 20
    passes reach what 50 do without, and 50 what 200 do.
    """

    rotation: Tensor
    centre: Tensor
    solution: Tensor = field(init=False)
    momentum: float = 1.0
    losses: list[float] = field(default_factory=list)
    passes: int = 0
    extrapolated: bool = False

    def __post_init__(self) -> None:
        self.solution = self.rotation

    def state(self) -> dict[str, Any]:
        """A copy that `restore` takes back."""
        return dict(vars(self), losses=list(self.losses))

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Search:
        """The search as it was."""
        search = cls(state["rotation"], state["centre"])
        vars(search).update(state, losses=list(state["losses"]))
        return search

    def advance(
        self,
        batches: Iterable[Tensor],
        ks: Sequence[int],
        scale: float,
        *,
        learn_centre: bool = False,
    ) -> None:
        """One pass over the data."""
        found = sweep(batches, self.rotation, self.centre, ks, scale, means=learn_centre)
        self.passes += 1
        if self.extrapolated and found.loss > self.losses[-1]:
            self.rotation, self.momentum, self.extrapolated = self.solution, 1.0, False
            return
        self.losses.append(found.loss)
        dtype = self.rotation.dtype
        size = found.correlation.norm() * _PROXIMITY
        solution = nearest_rotation(found.correlation + size * self.rotation)
        if learn_centre:
            self.centre = found.mean - found.mean_code @ solution
        momentum = 0.5 * (1 + math.sqrt(1 + 4 * self.momentum**2))
        ahead = (self.momentum - 1) / momentum
        self.rotation = solution.to(dtype)
        self.extrapolated = ahead > 0
        if self.extrapolated:
            self.rotation = nearest_rotation(
                solution + ahead * (solution - self.solution.double())
            ).to(dtype)
        self.momentum, self.solution = momentum, solution.to(dtype)

    def converged(self, tolerance: float) -> bool:
        """Whether the last passes gained less than the tolerance, in parts of the variance."""
        if len(self.losses) <= _PATIENCE:
            return False
        return self.losses[-1 - _PATIENCE] - self.losses[-1] < tolerance


@dataclass(frozen=True)
class Sweep:
    """Sums of a pass, float64.

    Attributes
    ----------
    loss : float
    correlation : Tensor [d, d]
        S^T (Z - b) / scale^2.
    mean, mean_code : Tensor [d]
        Of embeddings and of codes.
    count : int
        Rows.
    """

    loss: float
    correlation: Tensor
    mean: Tensor
    mean_code: Tensor
    count: int


def sweep(
    batches: Iterable[Tensor],
    rotation: Tensor,
    centre: Tensor,
    ks: Sequence[int],
    scale: float,
    *,
    means: bool = False,
) -> Sweep:
    r"""Codes of all rows, and what the next rotation follows from.

    The loss is the squared reconstruction error in parts of the variance, scale^2, averaged over
    ks: :math:`\langle |z-b|^2 - |T_k(U (z-b))|^2 \rangle / \text{scale}^2` for orthogonal U.
    The means, which a learned centre needs, cost as much as a selection: without `means` they are
    not computed.
    """
    correlation = torch.zeros_like(rotation, dtype=torch.float64)
    total = torch.zeros_like(correlation[0])
    total_code = torch.zeros_like(total)
    lost = torch.zeros_like(total[0])
    near = centre.to(rotation.dtype)
    count = 0
    for batch in batches:
        z = (batch - near).div_(scale)  # squares of tiny or huge numbers would not fit a float32
        coordinates = z @ rotation.T
        for k in ks:
            codes = top_k(coordinates, k)
            correlation += codes.T @ z
            # Of the coordinates left out, not a difference of sums: exact where little is lost.
            left_out = torch.linalg.vector_norm(coordinates - codes, dim=1)
            lost += left_out.double().square().sum()
            if means:
                total_code += codes.sum(0, dtype=torch.float64)
        if means:
            total += z.sum(0, dtype=torch.float64)
        count += len(batch)
    if not count:
        raise ValueError("there are no rows to pass over: their source can be read only once")
    codes_seen = count * len(ks)
    loss = float(lost) / codes_seen
    mean = total * (scale / count) + near
    return Sweep(loss, correlation, mean, total_code * (scale / codes_seen), count)


def search(
    found: Search,
    batches: Callable[[], Iterable[Tensor]],
    ks: Sequence[int],
    scale: float,
    *,
    max_passes: int,
    tolerance: float,
    learn_centre: bool = False,
    after: Callable[[Search], None] | None = None,
) -> Search:
    """Pass over the data until nothing is gained, or `max_passes` of it are made.

    `after` is called after each pass, to show it or to keep it.
    """
    while found.passes < max_passes and not found.converged(tolerance):
        found.advance(batches(), ks, scale, learn_centre=learn_centre)
        if after is not None:
            after(found)
    return found


def finished(found: Search) -> DenseBasis:
    """The basis of the last accepted solution."""
    return DenseBasis(nearest_rotation(found.solution).to(found.solution.dtype))
