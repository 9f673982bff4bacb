"""Early stopping with one counter for each exit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..._support.arguments import not_negative, whole


@dataclass(frozen=True)
class ExitStopping:
    """Early stopping: end a phase when none of the exits that it trains improves any more.

    Every exit has its own counter of epochs without improvement (our reading of arXiv 2407.14320).
    A phase ends when all counters have reached `patience`.

    Parameters
    ----------
    patience : int
        Number of epochs without improvement, at least 1.
    min_delta : float
        Smallest decrease of the validation loss that counts as an improvement.
    restore_best : bool
        Whether to restore, at the end of a phase, the weights of the epoch with the lowest mean
        validation loss over the exits that the phase trains.

    Raises
    ------
    TypeError, ValueError
        If ``patience`` is not a whole number of at least 1, or ``min_delta`` is negative.
    """

    patience: int = 5
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        whole("ExitStopping.patience", self.patience, 1)
        not_negative("ExitStopping.min_delta", self.min_delta)


@dataclass
class Counters:
    """The best loss of each exit, and the number of epochs since it was reached."""

    rule: ExitStopping
    best: list[float] = field(default_factory=list)
    waited: list[int] = field(default_factory=list)
    best_mean: float = math.inf

    def update(self, losses: Sequence[float]) -> bool:
        """Add the validation losses of an epoch; return whether their mean is the best so far.

        NaN counts as no improvement, and is never the best.
        """
        if not self.best:
            self.best, self.waited = [math.inf] * len(losses), [0] * len(losses)
        for k, loss in enumerate(losses):
            if loss < self.best[k] - self.rule.min_delta:
                self.best[k], self.waited[k] = loss, 0
            else:
                self.waited[k] += 1
        mean = sum(losses) / len(losses)
        if not mean < self.best_mean:
            return False
        self.best_mean = mean
        return True

    @property
    def run_out(self) -> bool:
        """Whether the counters of all exits have reached the patience."""
        return bool(self.waited) and min(self.waited) >= self.rule.patience

    def state(self) -> dict[str, Any]:
        """The counters as plain values, for a checkpoint."""
        return {"best": self.best, "waited": self.waited, "best_mean": self.best_mean}

    def load(self, state: dict[str, Any]) -> None:
        """Restore the counters from a checkpoint."""
        self.best, self.waited = list(state["best"]), list(state["waited"])
        self.best_mean = float(state["best_mean"])
