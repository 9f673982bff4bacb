"""Calibration, or whether confidences are probabilities of being right: ECE, NLL, Brier score."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import scipy.special
from torch import Tensor

from ..._support.arguments import one_of
from ..._support.optional import require
from ..arrays import Array, Booleans, Integers, as_labels, as_numbers, as_numpy, like
from . import METRICS
from .base import Metric
from .per_exit import PerExit, each_exit, single
from .reliability_diagram import as_confidence, reliability

Norm = Literal["l1", "l2", "max"]


def ece(
    confidence: Any, correct: Any, bins: int = 15, norm: Norm = "l1", adaptive: bool = False
) -> float | Tensor | PerExit:
    r"""Expected calibration error: the distance between confidence and accuracy, over bins.

    .. math::
        \text{l1: } \sum_b w_b |a_b - c_b|, \qquad
        \text{l2: } \Bigl(\sum_b w_b (a_b - c_b)^2\Bigr)^{1/2}, \qquad
        \text{max: } \max_{b:\,w_b > 0} |a_b - c_b|

    Here :math:`w_b` is the fraction of the samples in bin b, :math:`c_b` their mean confidence, and
    :math:`a_b` their accuracy.

    Parameters
    ----------
    confidence, correct, bins
        As in `reliability`, which computes the bins.
    norm : "l1", "l2" or "max"
        How the differences are combined; see the formula.
    adaptive : bool
        As in `reliability`.

    Returns
    -------
    float, or PerExit for confidences of several exits
        For Tensors, a Tensor ``[]``, or PerExit of a Tensor, in float64 on the same device.

    Raises
    ------
    TypeError, ValueError
        As in `reliability`, or if `norm` is unknown.

    Notes
    -----
    With norm "l1", this is the error of Naeini et al. 2015 and Guo et al. 2017.

    Examples
    --------
    >>> from laplex.early_exit import ece
    >>> ece([0.25, 0.25, 1.0, 1.0], [False, True, True, True], bins=2)
    0.125
    """
    one_of("norm", norm, Norm)
    table = reliability(confidence, correct, bins, adaptive=adaptive)

    def error(counts: Integers, means: Array, accuracy: Array) -> float:
        there = counts > 0
        weights = counts[there] / counts.sum()
        gaps = np.abs(accuracy[there] - means[there])
        if norm == "max":
            return float(gaps.max())
        return float(weights @ gaps if norm == "l1" else np.sqrt(weights @ gaps**2))

    if table.counts.ndim == 1:
        return single(confidence, error(table.counts, table.confidence, table.accuracy))
    return each_exit(confidence, error, table.counts, table.confidence, table.accuracy)


@METRICS.register("ece", order=3)
class ECE(Metric):
    """Expected calibration error: the distance between the exit's confidence and its accuracy.

    0 means, for instance, that the exit is right about 80 % of the samples for which its confidence
    is 80 %.
    """

    label = "ECE"
    better = "lower"
    proxy = True
    per_exit = staticmethod(lambda judged: ece(judged.confidence, judged.correct, judged.bins))


def smooth_ece(confidence: Any, correct: Any) -> float | Tensor | PerExit:
    """Calibration error without bins: the smooth ECE of Blasiok and Nakkiran (arXiv 2309.12236).

    Parameters
    ----------
    confidence : array or Tensor [samples], or [exits, samples]
        Confidences in [0, 1].
    correct : array or Tensor of bool, of the same shape
        Whether each prediction is right.

    Returns
    -------
    float, or PerExit for confidences of several exits
        For Tensors, a Tensor ``[]``, or PerExit of a Tensor, in float64 on the same device.

    Raises
    ------
    ImportError
        If relplot, which computes it, is not installed: ``pip install "laplex[smooth-ece]"``.
    TypeError, ValueError
        As in `reliability`.
    """
    scores, right = as_confidence(confidence, correct)
    relplot = require("relplot", extra="smooth-ece", feature="laplex.early_exit.smooth_ece")

    def error(one: Array, hits: Booleans) -> float:
        return float(relplot.smECE(one, hits.astype(np.float64)))

    if scores.ndim == 1:
        return single(confidence, error(scores, right))
    return each_exit(confidence, error, scores, right)


def nll(logits: Any, labels: Any) -> float | Tensor | PerExit:
    r"""Mean negative log-likelihood :math:`-\log p_y` of the labels, in nats.

    Parameters
    ----------
    logits : array or Tensor [samples, classes], or [exits, samples, classes]
        Logits; their softmax is p.
    labels : array or Tensor [samples]
        Class indices, integers in [0, classes).

    Returns
    -------
    float, or PerExit for logits of several exits
        For Tensors, a Tensor ``[]``, or PerExit of a Tensor, in float64 on the same device.

    Raises
    ------
    TypeError, ValueError
        If logits are not finite, labels are out of range, or the shapes do not match.
    """
    return _mean(logits, _nll(*_logits_and_labels(logits, labels)))


@METRICS.register("nll", order=1)
class NLL(Metric):
    """Negative logarithm of the probability that the exit gives the right class; lower is better.

    Confident mistakes are penalised without limit.
    """

    label = "NLL"
    better = "lower"
    per_sample = staticmethod(lambda logits, labels: _nll(logits, labels))  # defined below
    per_exit = staticmethod(lambda judged: judged.per_sample.mean(1))


def brier(logits: Any, labels: Any) -> float | Tensor | PerExit:
    r"""Mean Brier score :math:`\sum_c (p_c - [c = y])^2`, between 0 and 2.

    This is the sum over all classes, as in Brier (1950). Some libraries divide it by the number of
    classes.

    Parameters
    ----------
    logits, labels
        As in `nll`.

    Returns
    -------
    float, or PerExit for logits of several exits
        For Tensors, a Tensor ``[]``, or PerExit of a Tensor, in float64 on the same device.

    Raises
    ------
    TypeError, ValueError
        As in `nll`.
    """
    return _mean(logits, _brier(*_logits_and_labels(logits, labels)))


@METRICS.register("brier", order=2)
class Brier(Metric):
    """Squared distance of the probabilities from the right class, from 0 to 2; lower is better."""

    label = "Brier"
    better = "lower"
    per_sample = staticmethod(lambda logits, labels: _brier(logits, labels))
    per_exit = staticmethod(lambda judged: judged.per_sample.mean(1))


def log_softmax(logits: Array) -> Array:
    """Log-probabilities over the last dimension."""
    found: Array = scipy.special.log_softmax(logits, axis=-1)
    return found


def _nll(logits: Array, labels: Integers) -> Array:
    """The loss of each sample [..., samples], from logits [..., samples, classes]."""
    where = np.broadcast_to(labels, logits.shape[:-1])[..., None]
    return -np.take_along_axis(log_softmax(logits), where, -1)[..., 0]


def _brier(logits: Array, labels: Integers) -> Array:
    """The score of each sample [..., samples], from logits [..., samples, classes]."""
    wanted = np.arange(logits.shape[-1]) == labels[:, None]
    scores: Array = ((np.exp(log_softmax(logits)) - wanted) ** 2).sum(-1)
    return scores


def _mean(given: Any, losses: Array) -> float | Tensor | PerExit:
    if losses.ndim == 1:
        return single(given, float(losses.mean()))
    return PerExit(like(given, losses.mean(-1)))


def _logits_and_labels(logits: Any, labels: Any) -> tuple[Array, Integers]:
    """Check both."""
    found = as_numpy("logits", logits)
    if found.ndim == 2:
        numbers = as_numbers("logits", found, 2, "[samples, classes]")
    else:
        numbers = as_numbers("logits", found, 3, "[samples, classes] or [exits, samples, classes]")
    return numbers, as_labels("labels", labels, *numbers.shape[-2:])
