r"""The alternating solver: codes for a rotation, then the rotation that fits the codes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .basis import DenseBasis
from .moments import Moments

#: Number of passes that must together gain less than the tolerance before the solver stops.
PATIENCE = 5


@dataclass
class Search:
    r"""State of the search for a rotation, which is also the content of a checkpoint.

    A pass sums up :math:`M = \sum s x^T` for the current rotation. Nesterov's momentum extrapolates
    M from the last two passes, and the next rotation is the polar factor of the result, so that
    momentum costs no second polar factor. If it makes the loss worse, the search discards the pass,
    restarts the momentum and goes on from the polar factor of M itself (O'Donoghue and Candes,
    2015), so ``losses`` never grow.

    Attributes
    ----------
    rotation : Tensor [d, d]
        The rotation of the next pass.
    centre : Tensor [d]
        The centre b of the next pass.
    learn_centre : bool
        Whether to learn b.
    found, origin : Moments and Tensor [d, d]
        The moments of the last pass that was not discarded, and the rotation that made them.
    """

    rotation: Tensor
    centre: Tensor
    learn_centre: bool = False
    found: Moments | None = None
    origin: Tensor | None = None
    momentum: float = 1.0
    losses: list[float] = field(default_factory=list)
    passes: int = 0
    extrapolated: bool = False

    def state(self) -> dict[str, Any]:
        """Return a copy of the state for ``restore``, of plain types."""
        found = None if self.found is None else dict(vars(self.found))
        return dict(vars(self), losses=list(self.losses), found=found)

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Search:
        """Return the search from a copy of its state."""
        found = None if state["found"] is None else Moments(**state["found"])
        return cls(**{**state, "losses": list(state["losses"]), "found": found})

    def advance(self, found: Moments) -> None:
        """Use the moments of all rows, for the current rotation and centre."""
        if not found.count:
            raise ValueError(
                "the embeddings have no rows in a later pass: pass a source that can be read again"
            )
        self.passes += 1
        rounding = torch.finfo(self.rotation.dtype).eps  # must not decide
        if self.extrapolated and found.loss > self.losses[-1] * (1 + rounding):
            self.momentum, self.extrapolated = 1.0, False
            self._go(*self.solution())
            return
        self.losses.append(found.loss)
        momentum = 0.5 * (1 + math.sqrt(1 + 4 * self.momentum**2))
        ahead, before = (self.momentum - 1) / momentum, self.found
        self.found, self.origin, self.momentum = found, self.rotation, momentum
        self.extrapolated = ahead > 0 and before is not None
        if before is not None and self.extrapolated:
            beyond = found.correlation + ahead * (found.correlation - before.correlation)
            found = replace(found, correlation=beyond)
        self._go(*self._solved(found, self.rotation))

    def solution(self) -> tuple[Tensor, Tensor]:
        """Return the rotation [d, d] and centre [d] that fit the last accepted codes best."""
        if self.found is None or self.origin is None:
            return self.rotation, self.centre
        return self._solved(self.found, self.origin)

    def finished(self) -> tuple[DenseBasis, Tensor]:
        """Return the basis and centre of the last accepted pass; the basis is solved in float64."""
        dtype = self.rotation.dtype
        exact = replace(self, origin=None if self.origin is None else self.origin.double())
        rotation, centre = exact.solution()
        return DenseBasis(rotation.to(dtype)), centre

    def converged(self, tolerance: float) -> bool:
        """Whether the last passes gained less than the tolerance, a fraction of the variance."""
        return len(self.losses) > PATIENCE and self.gain < tolerance

    @property
    def gain(self) -> float:
        """By how much the last five passes lowered the loss, or all if there were fewer."""
        return self.losses[max(0, len(self.losses) - 1 - PATIENCE)] - self.losses[-1]

    def _solved(self, found: Moments, rotation: Tensor) -> tuple[Tensor, Tensor]:
        solution = found.solve(rotation)
        if not self.learn_centre:
            return solution, self.centre
        return solution, found.mean - found.mean_code @ solution.double()

    def _go(self, rotation: Tensor, centre: Tensor) -> None:
        self.rotation, self.centre = rotation.to(self.rotation.dtype), centre


def search(
    found: Search,
    total: Callable[[Callable[[Any], Moments]], Moments],
    ks: Sequence[int],
    scale: float,
    *,
    max_passes: int,
    tolerance: float,
    after: Callable[[Search], None] | None = None,
) -> Search:
    """Pass over the data until the gain is below the tolerance, or ``max_passes`` are made.

    ``total(make)`` returns the sum of ``make(rows)``, `Moments`, over all parts of the data.
    ``after`` is called after each pass, to show the progress or write a checkpoint.
    """
    while found.passes < max_passes and not found.converged(tolerance):
        make = partial(
            Moments.of,
            rotation=found.rotation,
            centre=found.centre,
            k=ks,
            scale=scale,
            means=found.learn_centre,
        )
        found.advance(total(make))
        if after is not None:
            after(found)
    return found
