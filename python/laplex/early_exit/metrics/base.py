"""The base of all metrics of an evaluation: one number for each exit, with its description."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

from ..arrays import Array, Booleans, Integers

__all__ = ["Judged", "Metric"]


class Judged(NamedTuple):
    """The input of a metric, for K exits and N samples.

    Attributes
    ----------
    per_sample : array [K, N, ...] or None
        What `Metric.per_sample` returned for all samples; None for a metric without it.
    labels : integer array [N]
        Labels.
    correct : boolean array [K, N]
        Whether each exit is right about each sample.
    scores : array [K, N]
        Scores of the policy.
    confidence : array [K, N]
        Confidences in [0, 1].
    bins : int
        Number of bins of the calibration error.
    """

    per_sample: Any
    labels: Integers
    correct: Booleans
    scores: Array
    confidence: Array
    bins: int


class Metric:
    """Base class of the metrics. A metric is a class that is never instantiated.

    Its docstring explains the metric to a reader who has never met it: reports quote it.
    """

    #: Heading of its column in tables.
    label: ClassVar[str]
    #: Whether a higher or a lower value is better.
    better: ClassVar[Literal["higher", "lower"]]
    #: Whether tables show it in per cent.
    percent: ClassVar[bool] = False
    #: Whether comparisons correlate its mean with the area under the curve.
    proxy: ClassVar[bool] = False

    #: What the metric needs of the logits of a batch, if anything, as a static method: from
    #: calibrated logits, array ``[K, n, classes]`` in float64, and labels ``[n]``, neither of which
    #: it changes, it makes an array ``[K, n, ...]`` of what to keep of each sample. Those of all
    #: batches together are `Judged.per_sample`. An evaluation holds no logits: its memory grows by
    #: what a metric returns here, and one that cannot do without all logits returns the logits.
    per_sample: ClassVar[Any] = None

    @staticmethod
    def per_exit(judged: Judged) -> Any:
        """Compute one number for each exit.

        Parameters
        ----------
        judged : Judged
            What is known of the samples at each exit.

        Returns
        -------
        array ``[K]``
            The numbers; NaN where the metric is undefined.
        """
        raise NotImplementedError

    @classmethod
    def meaning(cls) -> str:
        """The docstring as running text."""
        return " ".join((cls.__doc__ or "").split())
