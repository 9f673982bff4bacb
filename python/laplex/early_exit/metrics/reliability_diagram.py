"""Reliability diagrams: the mean confidence and the accuracy of each bin of confidences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._support.arguments import whole
from ..._support.optional import require
from ..arrays import Array, Booleans, Integers, as_correct, as_numbers, as_numpy, same_shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: How far above 1 a softmax in float32 may be.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Reliability:
    """Result of `reliability`: the mean confidence and the accuracy of each bin of confidences.

    Attributes
    ----------
    edges : ndarray [bins + 1], or [exits, bins + 1]
        Edges of the bins. Bin b holds the confidences in (edges[b], edges[b + 1]]; the first bin
        also holds its lower edge.
    counts : ndarray [bins] of int64, or [exits, bins]
        Number of samples in each bin.
    confidence, accuracy : ndarray [bins], or [exits, bins]
        Mean confidence and accuracy of each bin; NaN for a bin without samples.
    """

    edges: Array
    counts: Integers
    confidence: Array
    accuracy: Array

    def plot(self) -> Figure:
        """Plot accuracy against confidence, with one panel for each exit.

        Returns
        -------
        matplotlib.figure.Figure
            The figure. It is not shown; save it with ``savefig``.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        require("matplotlib", extra="exits", feature="laplex.early_exit.Reliability.plot")
        from matplotlib.figure import Figure

        panels = len(np.atleast_2d(self.counts))
        figure = Figure(figsize=(2.8 * panels + 0.4, 3.2), layout="constrained")
        row = figure.subplots(1, panels, sharex=True, sharey=True, squeeze=False)[0]
        for k, axes in enumerate(row):
            self.draw(axes, k)
            axes.set_xlabel("confidence")
            axes.set_title(f"exit {k}" if self.counts.ndim == 2 else "")
        row[0].set_ylabel("accuracy")
        return figure

    def draw(self, axes: Axes, k: int = 0) -> None:
        """Draw the bins of one exit as dots, sized by their share of the samples.

        Parameters
        ----------
        axes : matplotlib.axes.Axes
            Where to draw.
        k : int
            Index of the exit.
        """
        counts, means, accuracy = (
            np.atleast_2d(one)[k] for one in (self.counts, self.confidence, self.accuracy)
        )
        there = counts > 0
        axes.plot([0, 1], [0, 1], color="0.75", linewidth=1, zorder=1)
        axes.vlines(means[there], means[there], accuracy[there], color="C3", linewidth=1, zorder=2)
        sizes = 10 + 150 * counts[there] / counts.sum()
        axes.scatter(means[there], accuracy[there], s=sizes, color="C0", zorder=3)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")


def reliability(
    confidence: Any, correct: Any, bins: int = 15, *, adaptive: bool = False
) -> Reliability:
    """Sort confidences into bins, and compute the mean confidence and the accuracy of each bin.

    Parameters
    ----------
    confidence : array or Tensor [samples], or [exits, samples]
        Confidences in [0, 1].
    correct : array or Tensor of bool, of the same shape
        Whether each prediction is right.
    bins : int
        Number of bins.
    adaptive : bool
        If true, the edges are quantiles of the confidences, so that all bins hold about the same
        number of samples; otherwise all bins have the same width. Equal confidences always share a
        bin, whatever their order, so some adaptive bins may be empty.

    Returns
    -------
    Reliability

    Raises
    ------
    TypeError, ValueError
        If confidences are outside [0, 1], the shapes differ, or there are no samples.

    Notes
    -----
    A bin includes its upper edge but not its lower edge, as in Guo et al. 2017 (arXiv 1706.04599),
    so a confidence of exactly 1 is in the last bin. The first bin includes 0.
    """
    scores, right = as_confidence(confidence, correct)
    bins = whole("bins", bins, 1)
    parts = [
        _binned(one, hits, bins, adaptive)
        for one, hits in zip(np.atleast_2d(scores), np.atleast_2d(right), strict=True)
    ]
    stacked = [np.stack(column) for column in zip(*parts, strict=True)]
    edges, counts, means, accuracy = stacked if scores.ndim == 2 else [one[0] for one in stacked]
    return Reliability(edges, counts, means, accuracy)


def as_confidence(confidence: Any, correct: Any) -> tuple[Array, Booleans]:
    """Check probabilities [samples] or [exits, samples], and whether the predictions were right.

    Raises
    ------
    TypeError, ValueError
        As in `reliability`.
    """
    found = as_numpy("confidence", confidence)
    ndim = 1 if found.ndim == 1 else 2
    scores = as_numbers("confidence", found, ndim, "[samples] or [exits, samples]")
    if scores.min() < -_ROUNDING or scores.max() > 1 + _ROUNDING:
        raise ValueError(
            f"confidence must be in [0, 1], got {scores.min():g} to {scores.max():g}: pass "
            "probabilities, such as the largest softmax probability"
        )
    scores = scores.clip(0, 1)
    right = as_correct("correct", correct, ndim)
    same_shape("confidence", scores, "correct", right)
    return scores, right


def _binned(
    confidence: Array, correct: Booleans, bins: int, adaptive: bool
) -> tuple[Array, Integers, Array, Array]:
    edges = np.linspace(0, 1, bins + 1)
    if adaptive:
        # Bin b ends with the ceil((b + 1) n / bins)-th smallest.
        ends = -(-np.arange(1, bins) * len(confidence) // bins) - 1
        edges[1:-1] = np.sort(confidence)[np.maximum(ends, 0)]
    place = np.searchsorted(edges[1:-1], confidence, side="left")
    counts = np.bincount(place, minlength=bins).astype(np.int64)
    divisor = np.where(counts > 0, counts, np.nan)
    return (
        edges,
        counts,
        np.bincount(place, confidence, bins) / divisor,
        np.bincount(place, correct, bins) / divisor,
    )
