"""Failure prediction: whether scores separate right predictions from wrong ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.stats

from ..arrays import Array, Booleans, as_correct, as_scores, like, same_shape
from . import METRICS
from .base import Metric
from .per_exit import PerExit, each_exit


def failure_auroc(scores: Any, correct: Any) -> PerExit:
    r"""AUROC of failure prediction: how well each exit's scores separate right from wrong.

    It is the probability that a right prediction has a higher score than a wrong one,

    .. math::
        P(s^+ > s^-) + \tfrac12 P(s^+ = s^-)

    over all pairs of a right and a wrong prediction: the area under the ROC curve, with ties at
    their midrank.

    Parameters
    ----------
    scores : array or Tensor [exits, samples]
        Scores; higher is more confident.
    correct : array or Tensor [exits, samples] of bool
        Whether each prediction is right.

    Returns
    -------
    PerExit
        Numbers in [0, 1]; 0.5 is chance. NaN for an exit that is always right or never right.
        Its `PerExit.values` are a Tensor on the same device if `scores` is a Tensor.

    Raises
    ------
    TypeError, ValueError
        If scores are not finite, the shapes differ, or there are no samples.

    Examples
    --------
    >>> from laplex.early_exit import failure_auroc
    >>> failure_auroc([[0.9, 0.6, 0.6]], [[True, True, False]])
    PerExit([0.75], mean=0.75)
    """
    found, right = _checked(scores, correct)
    return each_exit(scores, auroc, found, right)


@METRICS.register("auroc", order=4)
class AUROC(Metric):
    """The probability that a right prediction has a higher score than a wrong one.

    0.5 is chance, 1 is perfect. Only the order of the scores matters, not their size.
    """

    label = "AUROC"
    better = "higher"
    proxy = True
    per_exit = staticmethod(lambda judged: failure_auroc(judged.scores, judged.correct))


def aurc(scores: Any, correct: Any) -> PerExit:
    r"""Area under the risk-coverage curve of each exit; lower is better.

    .. math::
        \frac1N \sum_{n=1}^N R_n, \qquad R_n = \text{error rate among the n highest scores}

    Parameters
    ----------
    scores, correct
        As in `failure_auroc`.

    Returns
    -------
    PerExit
        Numbers in [0, 1]: 0 for an exit that is always right; the error rate of the exit if its
        scores are random.

    Raises
    ------
    TypeError, ValueError
        As in `failure_auroc`.

    Notes
    -----
    The definition is that of Geifman et al. 2019 (arXiv 1805.08206). For samples with equal scores,
    :math:`R_n` is the expected value over all their orders, so the result does not depend on the
    order of the samples.
    """
    found, right = _checked(scores, correct)
    return each_exit(scores, _aurc, found, right)


@METRICS.register("aurc", order=5)
class AURC(Metric):
    """The error rate among the n highest scores, averaged over all n; lower is better."""

    label = "AURC"
    better = "lower"
    per_exit = staticmethod(lambda judged: aurc(judged.scores, judged.correct))


def eaurc(scores: Any, correct: Any) -> PerExit:
    r"""Excess area under the risk-coverage curve of each exit (E-AURC); lower is better.

    .. math::
        \text{E-AURC} = \text{AURC} - \text{AURC}^*, \qquad
        \text{AURC}^* = \frac1N \sum_{n=1}^N \frac{\max(0, n - N_+)}{n}

    Here :math:`\text{AURC}^*` is that of perfect scores, which rank all :math:`N_+` right
    predictions before the wrong ones. So E-AURC compares scores of exits of different accuracy.

    Parameters
    ----------
    scores, correct
        As in `failure_auroc`.

    Returns
    -------
    PerExit
        Numbers in [0, 1]: 0 for scores that separate right from wrong.

    Raises
    ------
    TypeError, ValueError
        As in `failure_auroc`.

    Notes
    -----
    The definition is that of Geifman et al. 2019 (arXiv 1805.08206). They approximate
    :math:`\text{AURC}^*` by :math:`r + (1 - r) \log(1 - r)` for the error rate r; here it is exact.
    """
    found, right = _checked(scores, correct)
    return each_exit(scores, _eaurc, found, right)


@METRICS.register("eaurc", order=5.1)
class EAURC(Metric):
    """AURC minus that of perfect scores for the same predictions; lower is better, 0 is perfect."""

    label = "E-AURC"
    better = "lower"
    per_exit = staticmethod(lambda judged: eaurc(judged.scores, judged.correct))


def augrc(scores: Any, correct: Any) -> PerExit:
    r"""Area under the generalised risk-coverage curve of each exit (AUGRC); lower is better.

    .. math::
        \int_0^1 G(c)\,dc, \qquad G(n / N) = \frac1N \#\{\text{errors among the n highest scores}\}

    with G linear in between. The generalised risk G is the probability that a prediction is both
    accepted and wrong, where AURC has that of being wrong *if* accepted. With the error rate r,
    AUGRC is :math:`(1 - \text{AUROC})\, r (1 - r) + r^2 / 2`.

    Parameters
    ----------
    scores, correct
        As in `failure_auroc`.

    Returns
    -------
    PerExit
        Numbers in [0, 1/2]: 0 for an exit that is always right, 1/2 for one that never is.

    Raises
    ------
    TypeError, ValueError
        As in `failure_auroc`.

    Notes
    -----
    The definition is that of Traub et al. 2024 (arXiv 2407.01032). Samples with equal scores have
    their midrank, so the result does not depend on the order of the samples.
    """
    found, right = _checked(scores, correct)
    return each_exit(scores, _augrc, found, right)


@METRICS.register("augrc", order=5.2)
class AUGRC(Metric):
    """The share of all samples that are both accepted and wrong, averaged over all coverages.

    Lower is better.
    """

    label = "AUGRC"
    better = "lower"
    per_exit = staticmethod(lambda judged: augrc(judged.scores, judged.correct))


def fpr95(scores: Any, correct: Any) -> PerExit:
    """False positive rate at 95 % true positive rate, for each exit; lower is better.

    A prediction is accepted if its score reaches a threshold. The threshold is the highest score at
    which at least 95 % of the right predictions are accepted; the result is the fraction of the
    wrong predictions that are then accepted. Nothing is interpolated, and predictions with equal
    scores are accepted together.

    Parameters
    ----------
    scores, correct
        As in `failure_auroc`.

    Returns
    -------
    PerExit
        Fractions in [0, 1]; NaN for an exit that is always right or never right.

    Raises
    ------
    TypeError, ValueError
        As in `failure_auroc`.
    """
    found, right = _checked(scores, correct)
    return each_exit(scores, _fpr95, found, right)


@METRICS.register("fpr95", order=6)
class FPR95(Metric):
    """The fraction of wrong predictions accepted along with 95 % of the right ones.

    Lower is better.
    """

    label = "FPR95"
    better = "lower"
    per_exit = staticmethod(lambda judged: fpr95(judged.scores, judged.correct))


def eefp_labels(correct: Any) -> Any:
    r"""Whether a sample may leave at each exit: the exit is right, or no later exit is.

    .. math::
        e_k = c_k \vee \neg\,(c_{k+1} \vee \dots \vee c_{K-1})

    Parameters
    ----------
    correct : array or Tensor [exits, samples] of bool
        Whether each exit is right about each sample; exits in depth order.

    Returns
    -------
    ndarray, or Tensor on the same device for a Tensor, [exits, samples] of bool
        All true for the last exit.

    Raises
    ------
    TypeError, ValueError
        If there are values other than booleans, the shape is wrong, or there are no samples.

    Notes
    -----
    This is our reading of the abstract of arXiv 2508.21495.
    """
    return like(correct, _may_leave(as_correct("correct", correct)))


def eefp(scores: Any, correct: Any) -> PerExit:
    """Early-exit failure prediction: how well scores separate samples that may leave from others.

    This is `failure_auroc` with `eefp_labels` in place of correctness. A sample that every later
    exit gets wrong as well loses nothing by leaving, so a high score for it is not a failure.

    Parameters
    ----------
    scores, correct
        As in `failure_auroc`; exits in depth order.

    Returns
    -------
    PerExit
        NaN for the last exit, after which no exit follows, and for exits where all samples may
        leave, or none. ``.mean`` is the mean over the other exits.

    Raises
    ------
    TypeError, ValueError
        As in `failure_auroc`.

    Notes
    -----
    This is our reading of the abstract of arXiv 2508.21495. Whether the paper uses this formula is
    not known.

    Examples
    --------
    No exit classifies the last sample correctly, so a high score for it is not a failure.

    >>> from laplex.early_exit import eefp
    >>> eefp([[0.9, 0.1, 0.5], [0.9, 0.9, 0.9]], [[True, False, False], [True, True, False]])
    PerExit([1, nan], mean=1)
    """
    found, right = _checked(scores, correct)
    # One class, so NaN, at the last exit.
    return each_exit(scores, auroc, found, _may_leave(right))


@METRICS.register("eefp", order=7)
class EEFP(Metric):
    """Early-exit failure prediction: the AUROC of whether a sample may leave at this exit.

    It may leave if the exit is right, or if no later exit is, since continuing would then cost more
    and gain nothing. It is undefined for the last exit, where every sample leaves.
    """

    label = "EEFP"
    better = "higher"
    proxy = True
    per_exit = staticmethod(lambda judged: eefp(judged.scores, judged.correct))


def _may_leave(correct: Booleans) -> Booleans:
    later = np.zeros_like(correct)
    later[:-1] = np.logical_or.accumulate(correct[:0:-1], axis=0)[::-1]
    return correct | ~later


def auroc(scores: Array, positive: Booleans) -> float:
    """Area under the ROC curve of scores [samples], ties at midranks; NaN if a class is absent."""
    positives = int(positive.sum())
    pairs = positives * (len(positive) - positives)
    if not pairs:
        return float("nan")
    ranks = scipy.stats.rankdata(scores)
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / pairs)


def _aurc(scores: Array, correct: Booleans) -> float:
    # Groups of equal scores, highest first; within a group the expected errors are evenly spread.
    _, group = np.unique(-scores, return_inverse=True)
    sizes = np.bincount(group)
    errors = np.bincount(group, ~correct)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    before = np.repeat(np.cumsum(errors) - errors, sizes)
    rate = np.repeat(errors / sizes, sizes)
    taken = np.arange(1, len(scores) + 1)
    return float(np.mean((before + rate * (taken - starts)) / taken))


def _eaurc(scores: Array, correct: Booleans) -> float:
    return _aurc(scores, correct) - _aurc(correct.astype(np.float64), correct)


def _augrc(scores: Array, correct: Booleans) -> float:
    # A wrong prediction adds 1 / N to G wherever it is accepted: the part of the coverage above it.
    above = scipy.stats.rankdata(scores)[~correct] - 0.5
    return float(above.sum()) / len(scores) ** 2


def _fpr95(scores: Array, correct: Booleans) -> float:
    rights, wrongs = np.sort(scores[correct]), scores[~correct]
    if not len(rights) or not len(wrongs):
        return float("nan")
    # The largest threshold that at least ceil(0.95 n) of n right answers reach.
    needed = -(-95 * len(rights) // 100)
    return float(np.mean(wrongs >= rights[-needed]))


def _checked(scores: Any, correct: Any) -> tuple[Array, Booleans]:
    found, right = as_scores("scores", scores), as_correct("correct", correct)
    same_shape("scores", found, "correct", right)
    return found, right
