"""What every metric of an evaluation is: a number of each exit, and what to say of it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

from ..arrays import Array, Booleans, Integers


class Judged(NamedTuple):
    """What metrics look at, of K exits and N samples."""

    logits: Array
    """[K, N, classes], calibrated."""
    labels: Integers
    """[N]"""
    correct: Booleans
    """[K, N]"""
    scores: Array
    """[K, N], the policy's."""
    confidence: Array
    """[K, N], in [0, 1]."""
    bins: int
    """Of the calibration error."""


class Metric:
    """Base of the metrics, which are classes that are never made.

    The docstring of a metric says what it is to a reader who never met it: reports quote it.
    """

    #: The heading of its column.
    label: ClassVar[str]
    better: ClassVar[Literal["higher", "lower"]]
    #: Whether tables show it in per cent.
    percent: ClassVar[bool] = False
    #: Whether comparisons look how its mean goes with the area under the curve.
    proxy: ClassVar[bool] = False

    @staticmethod
    def per_exit(judged: Judged) -> Any:
        """The numbers [K], NaN where it is undefined."""
        raise NotImplementedError

    @classmethod
    def meaning(cls) -> str:
        """The docstring as running text."""
        return " ".join((cls.__doc__ or "").split())
