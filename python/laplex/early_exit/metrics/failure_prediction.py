"""Whether scores tell right answers from wrong ones, and who may leave from who should go on."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.stats

from ..arrays import Array, Booleans, as_correct, as_scores, same_shape
from . import METRICS
from .base import Metric
from .per_exit import PerExit, each_exit


def failure_auroc(scores: Any, correct: Any) -> PerExit:
    r"""Of each exit, the probability that a right answer has a higher score than a wrong one.

    .. math::
        P(s^+ > s^-) + \tfrac12 P(s^+ = s^-)

    over all pairs of a right and a wrong answer: the area under the ROC curve, ties at their
    midrank.

    Parameters
    ----------
    scores : array or Tensor [exits, samples]
        Higher is surer.
    correct : array or Tensor [exits, samples] of bool

    Returns
    -------
    PerExit
        In [0, 1], 0.5 by chance; NaN for an exit that is always right, or never.

    Raises
    ------
    TypeError, ValueError
        Scores that are not finite, shapes that differ, no samples.

    Examples
    --------
    >>> from laplex.early_exit import failure_auroc
    >>> failure_auroc([[0.9, 0.6, 0.6]], [[True, True, False]])
    PerExit([0.75], mean=0.75)
    """
    found, right = _checked(scores, correct)
    return each_exit(auroc, found, right)


@METRICS.register("auroc", order=4)
class AUROC(Metric):
    """The probability that a right answer has a higher score than a wrong one.

    0.5 is chance, 1 is perfect. It looks at the order of scores alone, not at their size.
    """

    label = "AUROC"
    better = "higher"
    proxy = True
    per_exit = staticmethod(lambda judged: failure_auroc(judged.scores, judged.correct))


def aurc(scores: Any, correct: Any) -> PerExit:
    r"""Area under the risk-coverage curve of each exit; lower is better.

    .. math::
        \frac1N \sum_{n=1}^N R_n, \qquad R_n = \text{part of wrong ones among the n surest}

    Parameters
    ----------
    scores, correct
        As in `failure_auroc`.

    Returns
    -------
    PerExit
        In [0, 1]: 0 for an exit that is always right; its error rate by chance.

    Raises
    ------
    TypeError, ValueError
        As `failure_auroc`.

    Notes
    -----
    That of Geifman et al. 2019 (arXiv 1805.08206). Among samples of one score any order is as
    good: :math:`R_n` is its expected value over their orders, so that the result does not depend
    on how samples are listed.
    """
    found, right = _checked(scores, correct)
    return each_exit(_aurc, found, right)


@METRICS.register("aurc", order=5)
class AURC(Metric):
    """The part of wrong answers among the surest, over all numbers of them; lower is better."""

    label = "AURC"
    better = "lower"
    per_exit = staticmethod(lambda judged: aurc(judged.scores, judged.correct))


def fpr95(scores: Any, correct: Any) -> PerExit:
    """How many wrong answers are taken where 95 % of the right ones are; lower is better.

    Answers are taken from a score on. Of the scores at which at least 95 % of the right answers are
    taken, the highest counts: nothing is interpolated, and answers of one score go together.

    Parameters
    ----------
    scores, correct
        As in `failure_auroc`.

    Returns
    -------
    PerExit
        Part of the wrong answers, in [0, 1]; NaN for an exit that is always right, or never.

    Raises
    ------
    TypeError, ValueError
        As `failure_auroc`.
    """
    found, right = _checked(scores, correct)
    return each_exit(_fpr95, found, right)


@METRICS.register("fpr95", order=6)
class FPR95(Metric):
    """How many wrong answers are taken where 95 % of the right ones are; lower is better."""

    label = "FPR95"
    better = "lower"
    per_exit = staticmethod(lambda judged: fpr95(judged.scores, judged.correct))


def eefp_labels(correct: Any) -> Booleans:
    r"""Where a sample may leave: the exit is right, or no later one is.

    .. math::
        e_k = c_k \vee \neg\,(c_{k+1} \vee \dots \vee c_{K-1})

    Parameters
    ----------
    correct : array or Tensor [exits, samples] of bool

    Returns
    -------
    ndarray [exits, samples] of bool
        All true for the last exit.

    Raises
    ------
    TypeError, ValueError
        Something else than booleans, another shape, no samples.

    Notes
    -----
    Our reading of the abstract of arXiv 2508.21495.
    """
    right = as_correct("correct", correct)
    later = np.zeros_like(right)
    later[:-1] = np.logical_or.accumulate(right[:0:-1], axis=0)[::-1]
    return right | ~later


def eefp(scores: Any, correct: Any) -> PerExit:
    """Early-exit failure prediction: how well a score tells who may leave from who should go on.

    `failure_auroc` against `eefp_labels` instead of correctness. A sample that every later exit
    gets wrong as well loses nothing by leaving, so that a high score for it is no failure.

    Parameters
    ----------
    scores, correct
        As in `failure_auroc`; exits in depth order.

    Returns
    -------
    PerExit
        NaN for the last exit, which nobody goes on from, and where all samples may leave, or none;
        ``.mean`` is over the other exits.

    Raises
    ------
    TypeError, ValueError
        As `failure_auroc`.

    Notes
    -----
    Our reading of the abstract of arXiv 2508.21495; whether its formula is this one isn't known.

    Examples
    --------
    Nobody gets the last sample right: to be sure of it is no failure.

    >>> from laplex.early_exit import eefp
    >>> eefp([[0.9, 0.1, 0.5], [0.9, 0.9, 0.9]], [[True, False, False], [True, True, False]])
    PerExit([1, nan], mean=1)
    """
    found, right = _checked(scores, correct)
    return each_exit(auroc, found, eefp_labels(right))  # one class, so NaN, at the last exit


@METRICS.register("eefp", order=7)
class EEFP(Metric):
    """Early-exit failure prediction: AUROC of who may leave.

    A sample that no later exit gets right either may, as going on would cost more and bring
    nothing. There is none at the last exit, from which nobody goes on.
    """

    label = "EEFP"
    better = "higher"
    proxy = True
    per_exit = staticmethod(lambda judged: eefp(judged.scores, judged.correct))


def auroc(scores: Array, positive: Booleans) -> float:
    """Area under the ROC curve of scores [samples], ties at midranks; NaN without two classes."""
    positives = int(positive.sum())
    pairs = positives * (len(positive) - positives)
    if not pairs:
        return float("nan")
    ranks = scipy.stats.rankdata(scores)
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / pairs)


def _aurc(scores: Array, correct: Booleans) -> float:
    # Groups of equal scores, the surest first; within one the errors come evenly, in expectation.
    _, group = np.unique(-scores, return_inverse=True)
    sizes = np.bincount(group)
    errors = np.bincount(group, ~correct)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    before = np.repeat(np.cumsum(errors) - errors, sizes)
    rate = np.repeat(errors / sizes, sizes)
    taken = np.arange(1, len(scores) + 1)
    return float(np.mean((before + rate * (taken - starts)) / taken))


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
