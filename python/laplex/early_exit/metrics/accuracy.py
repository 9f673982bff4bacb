"""How often each exit is right."""

from __future__ import annotations

from ..arrays import Array
from . import METRICS
from .base import Judged, Metric


@METRICS.register("accuracy", order=0)
class Accuracy(Metric):
    """The part of the samples that an exit gets right."""

    label = "accuracy"
    meaning = "How many of all samples the exit alone gets right."
    better = "higher"
    percent = True

    @staticmethod
    def per_exit(judged: Judged) -> Array:
        """Numbers [K]."""
        accuracy: Array = judged.correct.mean(1)
        return accuracy
