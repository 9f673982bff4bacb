r"""The alternating solver: codes for a rotation, then the rotation that fits the codes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .basis import DenseBasis, nearest_rotation
from .topk import top_k

#: Number of passes that must together gain less than the tolerance before the solver stops.
_PATIENCE = 5
#: Weight of the old rotation in the Procrustes problem; it decides where the data do not.
_PROXIMITY = 1e-7


@dataclass
class Search:
    r"""State of the search for a rotation, which is also the content of a checkpoint.

    Nesterov's momentum extrapolates the rotation of each pass from the last two. If that makes the
    loss worse, the search discards the pass, restarts the momentum and goes back (O'Donoghue and
    Candes, 2015), so ``losses`` never grow. On embeddings of words, 20 passes reach what 50 passes
    reach without momentum, and 50 passes what 200 reach.
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
        """Return a copy of the state for ``restore``."""
        return dict(vars(self), losses=list(self.losses))

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Search:
        """Return the search from a copy of its state."""
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
        """Make one pass over the data."""
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
        """Whether the last passes gained less than the tolerance, a fraction of the variance."""
        if len(self.losses) <= _PATIENCE:
            return False
        return self.losses[-1 - _PATIENCE] - self.losses[-1] < tolerance


@dataclass(frozen=True)
class Sweep:
    """Sums of a pass over the data, in float64.

    Attributes
    ----------
    loss : float
        Squared error as a fraction of the variance.
    correlation : Tensor [d, d]
        S^T (Z - b) / scale^2.
    mean, mean_code : Tensor [d]
        Means of the embeddings and of the codes.
    count : int
        Number of rows.
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
    r"""Compute the codes of all rows and the sums that determine the next rotation.

    The loss is the squared reconstruction error as a fraction of the variance scale^2, averaged
    over ks: :math:`\langle |z-b|^2 - |T_k(U (z-b))|^2 \rangle / \text{scale}^2` for orthogonal U.
    A learned centre needs the means. They cost as much as a selection, so they are computed only
    with ``means=True``.
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
            # Summed over the omitted coordinates, not as a difference: exact where little is lost.
            left_out = torch.linalg.vector_norm(coordinates - codes, dim=1)
            lost += left_out.double().square().sum()
            if means:
                total_code += codes.sum(0, dtype=torch.float64)
        if means:
            total += z.sum(0, dtype=torch.float64)
        count += len(batch)
    if not count:
        raise ValueError(
            "the embeddings have no rows in a later pass: pass a source that can be read again"
        )
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
    """Pass over the data until the gain is below the tolerance, or ``max_passes`` are made.

    ``after`` is called after each pass, to show the progress or write a checkpoint.
    """
    while found.passes < max_passes and not found.converged(tolerance):
        found.advance(batches(), ks, scale, learn_centre=learn_centre)
        if after is not None:
            after(found)
    return found


def finished(found: Search) -> DenseBasis:
    """Return the basis of the last accepted solution."""
    return DenseBasis(nearest_rotation(found.solution).to(found.solution.dtype))
