"""The policy that counts how many exits in a row agree (PABEE)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from . import POLICIES
from .base import Fallback, Policy, Thresholds, check_classes


@POLICIES.register("patience")
class Patience(Policy):
    """Leave when `n` exits in a row have repeated the prediction of the exit before them (PABEE).

    The score is the number of exits in a row, up to this one, that repeated the prediction of the
    previous exit; a changed prediction resets it to 0. A sample thus leaves after `n` + 1 equal
    predictions in a row, and no sample leaves at the first exit unless `n` is 0.

    Parameters
    ----------
    n : int, or sequence of int
        Number of repetitions, at least 0.
    strict, fallback
        As in `Policy`.
    """

    usual_threshold = 1
    _argument = "n"

    def __init__(self, n: Thresholds, *, strict: bool = False, fallback: Fallback = "last") -> None:
        super().__init__(n, strict=strict, fallback=fallback)
        self._check_whole()

    def with_thresholds(self, thresholds: Thresholds) -> Policy:
        """Return a copy with other thresholds, as in `Policy.with_thresholds`.

        The thresholds must be whole numbers.
        """
        other = super().with_thresholds(thresholds)
        assert isinstance(other, Patience)
        other._check_whole()
        return other

    def score(self, k: int, logits: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Score the samples of a batch at one exit, as in `Policy.score`.

        Raises
        ------
        ValueError
            If there are fewer than 2 classes, so that all predictions agree.
        """
        check_classes(logits, type(self).__name__)
        label = logits.argmax(-1)
        if memory is None:
            streak = torch.zeros_like(label)
        else:
            streak = torch.where(label == memory[:, 0], memory[:, 1] + 1, 0)
        return streak.double(), torch.stack((label, streak), dim=1)

    def scaled(self, scaling: Any) -> Policy:
        """Return this policy, as in `Policy.scaled`.

        Temperatures change no prediction.
        """
        return self

    def _check_whole(self) -> None:
        numbers = [self.thresholds] if isinstance(self.thresholds, float) else self.thresholds
        for one in numbers:
            if one < 0 or one != math.floor(one):
                raise ValueError(f"n must be a whole number of at least 0, got {one:g}")
