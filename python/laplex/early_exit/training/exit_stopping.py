"""Early stopping with one counter for each exit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..._support.arguments import not_negative, whole


@dataclass(frozen=True)
class ExitStopping:
    """End a phase when no exit that it trains gets better any more.

    Every exit has its own counter of epochs without progress (as in arXiv 2407.14320, our reading);
    a phase ends when all have run out.

    Parameters
    ----------
    patience : int
        Epochs without progress after which an exit's counter has run out.
    min_delta : float
        What counts as progress, in units of the validation loss.
    restore_best : bool
        At the end of a phase go back to the weights of the epoch with the least mean validation
        loss over the exits that the phase trains.
    """

    patience: int = 5
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        whole("ExitStopping.patience", self.patience, 1)
        not_negative("ExitStopping.min_delta", self.min_delta)


@dataclass
class Counters:
    """The best loss of each exit and for how many epochs it has not been beaten."""

    rule: ExitStopping
    best: list[float] = field(default_factory=list)
    waited: list[int] = field(default_factory=list)
    best_mean: float = math.inf

    def update(self, losses: Sequence[float]) -> bool:
        """Take the validation losses of an epoch; say whether their mean is the best so far.

        NaN is no progress, and never the best.
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
        """Whether every exit's counter has."""
        return bool(self.waited) and min(self.waited) >= self.rule.patience

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self.best, "waited": self.waited, "best_mean": self.best_mean}

    def load(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.best, self.waited = list(state["best"]), list(state["waited"])
        self.best_mean = float(state["best_mean"])
