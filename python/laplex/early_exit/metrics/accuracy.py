"""Accuracy of each exit."""

from __future__ import annotations

from ..arrays import Array
from . import METRICS
from .base import Judged, Metric


@METRICS.register("accuracy", order=0)
class Accuracy(Metric):
    """The fraction of all samples that the exit alone classifies correctly."""

    label = "accuracy"
    better = "higher"
    percent = True

    @staticmethod
    def per_exit(judged: Judged) -> Array:  # noqa: D102  (as in the base)
        accuracy: Array = judged.correct.mean(1)
        return accuracy
