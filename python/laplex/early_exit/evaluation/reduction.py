"""What an evaluation keeps of the logits: a few numbers of each sample at each exit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..arrays import Array, Integers, correctness
from ..metrics import METRICS
from ..metrics.base import Judged
from ..metrics.score_heads import ScoreHeads
from ..metrics.temperature import TemperatureScaling
from ..policies.base import Policy
from ..policies.learned import LearnedScore
from ..policies.max_softmax import MaxSoftmax
from .gathering import Shard
from .outputs import Outputs
from .real_policies import Calibration

#: About how many logits are reduced at once: 2 MiB in float64, which caches hold.
_AT_ONCE = 2**18
#: A whole number of vectors of every processor.
_ROWS = 64


class Rule(NamedTuple):
    """How logits are scored.

    Attributes
    ----------
    policy : Policy
    calibration : TemperatureScaling, ScoreHeads or None
        The fitted calibration.
    name : str
        Name of the calibration.
    """

    policy: Policy
    calibration: Calibration
    name: str

    @property
    def is_confidence(self) -> bool:
        """Whether the scores are confidences: a largest probability, or a learned one."""
        policy = self.policy
        return type(policy) is MaxSoftmax or (
            isinstance(policy, LearnedScore)
            and isinstance(policy.scorer, (ScoreHeads, TemperatureScaling))
        )

    def reduce_scores(self, logits: Array, labels: Integers) -> dict[str, NDArray[Any]]:
        """The scores of the policy for logits [K, n, C], and the labels."""
        return {"labels": labels[None], "scores": self._scores(self._calibrated(logits))}

    def reduce_all(self, logits: Array, labels: Integers) -> dict[str, NDArray[Any]]:
        """All that the metrics and the curves need, as arrays [any, n, ...]."""
        changed = self._calibrated(logits)
        found = {
            "labels": labels[None],
            "correct": correctness(logits, labels),
            "scores": self._scores(changed),
        }
        if not self.is_confidence:
            found["confidence"] = MaxSoftmax(0.5).scores(torch.from_numpy(changed)).numpy()
        for name, kind in METRICS.items():
            if kind.per_sample is not None:
                kept = np.asarray(kind.per_sample(changed, labels))
                if kept.shape[:2] != logits.shape[:2]:
                    raise ValueError(
                        f"per_sample of the metric {name!r} must return an array "
                        f"{[*logits.shape[:2], '...']}, by exit and sample, got {list(kept.shape)}"
                    )
                found[f"metric {name}"] = kept
        return found

    def judged(self, found: Shard, bins: int) -> Judged:
        """The input of the metrics that have no numbers of their own; see `of_metric`."""
        arrays = found.arrays
        scores = arrays["scores"]
        return Judged(
            None,
            arrays["labels"][0],
            arrays["correct"],
            scores,
            arrays.get("confidence", scores),
            bins,
        )

    def _calibrated(self, logits: Array) -> Array:
        if isinstance(self.calibration, TemperatureScaling):
            scaled: Array = self.calibration.transform(logits)
            return scaled
        return logits

    def _scores(self, changed: Array) -> Array:
        with torch.no_grad():
            scores: Array = self.policy.scores(torch.from_numpy(changed)).cpu().numpy()
        return scores.astype(np.float64, copy=False)


def of_metric(name: str, judged: Judged, found: Shard) -> Judged:
    """The input of one metric."""
    return judged._replace(per_sample=found.arrays.get(f"metric {name}"))


class Reducer:
    """Reduces logits, in chunks whose size depends on the exits and the classes alone.

    So the numbers of the samples do not depend on the batches in which their logits come. The last
    chunk is filled up to whole vectors: processors compute what is left over by other instructions,
    and the bits of a sample would depend on how many come after it.

    Parameters
    ----------
    reduce : function of logits [K, n, C] in float64 and labels [n]
        Returns arrays [any, n, ...].
    """

    def __init__(self, reduce: Callable[[Array, Integers], dict[str, NDArray[Any]]]) -> None:
        self._reduce = reduce
        self._rest: tuple[NDArray[Any], Integers] | None = None
        self._columns: dict[str, NDArray[Any]] = {}  # with room for more samples
        self._count = 0
        self._shape = (0, 0)

    def take(self, logits: NDArray[Any], labels: Integers) -> None:
        """Reduce more samples: logits [K, n, C] of any type, labels [n]."""
        if self._rest is not None:
            logits = np.concatenate([self._rest[0], logits], axis=1)
            labels = np.concatenate([self._rest[1], labels])
        exits, samples, classes = logits.shape
        self._shape = exits, classes
        rows = max(_AT_ONCE // (exits * classes) // _ROWS, 1) * _ROWS
        whole = samples - samples % rows
        for start in range(0, whole, rows):
            self._add(logits[:, start : start + rows], labels[start : start + rows])
        self._rest = logits[:, whole:].copy(), labels[whole:].copy()

    def result(self, exits: int) -> Shard:
        """The arrays of all samples."""
        if self._rest is not None and len(self._rest[1]):
            self._add(*self._rest)
        if not self._count:
            return Shard(exits, 0, {})
        names = list(self._columns)  # one at a time, so that only ever one is held twice
        arrays = {name: self._columns.pop(name)[:, : self._count].copy() for name in names}
        return Shard(*self._shape, arrays)

    def _add(self, logits: NDArray[Any], labels: Integers) -> None:
        start, count = self._count, len(labels)
        # In C order, which decides how sums are added up: logits[:, rows] may have another.
        rows = np.minimum(np.arange(-(-count // _ROWS) * _ROWS), count - 1)
        found = self._reduce(logits.take(rows, axis=1).astype(np.float64), labels[rows])
        self._count += count
        for name, one in found.items():
            column = self._columns.get(name)
            if column is None or column.shape[1] < self._count:
                # Small arrays of each chunk would lie between the logits of one chunk and the next,
                # and the heap could not use the room between them again.
                grown = np.empty((len(one), 2 * self._count, *one.shape[2:]), one.dtype)
                if column is not None:
                    grown[:, :start] = column[:, :start]
                column = self._columns[name] = grown
            column[:, start : self._count] = one[:, :count]


def reduced(
    outputs: Outputs, reduce: Callable[[Array, Integers], dict[str, NDArray[Any]]]
) -> Shard:
    """Reduce logits that have been collected and checked."""
    reducer = Reducer(reduce)
    reducer.take(outputs.logits, outputs.labels)
    return reducer.result(len(outputs.exit_names))
