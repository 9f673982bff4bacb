"""The policy that compares a learned score with a threshold."""

from __future__ import annotations

from torch import Tensor

from . import POLICIES
from .base import Fallback, Policy, Scorer, Thresholds


@POLICIES.register("learned")
class LearnedScore(Policy):
    """Leave when a learned score reaches the threshold.

    Parameters
    ----------
    scorer : object with a method ``score(k, logits)``
        Returns scores, Tensor [batch], for the logits, Tensor [batch, classes], of exit k. For
        instance a fitted `ScoreHeads` or `TemperatureScaling`.
    threshold : float or sequence of float
        Thresholds in units of the score.
    strict, fallback
        As in `Policy`.
    """

    label = "learned score"
    usual_threshold = None

    def __init__(
        self,
        scorer: Scorer,
        threshold: Thresholds,
        *,
        strict: bool = False,
        fallback: Fallback = "last",
    ) -> None:
        super().__init__(threshold, strict=strict, fallback=fallback)
        if not callable(getattr(scorer, "score", None)):
            raise TypeError(
                f"scorer must have a method score(k, logits), got {type(scorer).__name__}: pass a "
                "fitted ScoreHeads"
            )
        self.scorer = scorer

    def score(self, k: int, logits: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Score the samples of a batch at one exit, as in `Policy.score`.

        Raises
        ------
        ValueError
            If the scorer does not return one score for each sample.
        """
        score = self.scorer.score(k, logits)
        if not isinstance(score, Tensor) or score.shape != logits.shape[:-1]:
            got = list(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ValueError(
                f"scorer.score must return a Tensor [{len(logits)}], one score for each sample, "
                f"got {got}"
            )
        return score.double(), None

    def cuts(self, num_exits: int) -> Tensor:
        """Return the thresholds in units of scores, as in `Policy.cuts`.

        Raises
        ------
        ValueError
            If the thresholds or the scorer are for another number of exits.
        """
        fitted = getattr(self.scorer, "num_exits", num_exits)
        if fitted != num_exits:
            raise ValueError(
                f"scorer was fitted for {fitted} exits, but the model has {num_exits}: fit it on "
                "outputs of this model"
            )
        return super().cuts(num_exits)
