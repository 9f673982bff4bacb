"""Synthetic exits for which calibration misleads: no exit classifies some samples correctly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..._support.arguments import whole
from ..arrays import Array, Booleans

#: Fraction of the samples that no exit classifies correctly.
_HOPELESS = 0.2
#: The difficulty at which each exit is right half of the time, and how steeply that changes.
_ABILITIES = (0.56, 0.79, 1.02)
_STEEPNESS = 10.0


@dataclass(frozen=True, eq=False, repr=False)
class FutilityToy:
    """Result of `futility_toy`: three exits and N samples.

    Attributes
    ----------
    correct : ndarray [3, N] of bool
        Whether each exit classifies each sample correctly.
    right_scores : ndarray [3, N]
        The exact probability that the exit is right, given the difficulty of the sample.
    leave_scores : ndarray [3, N]
        The exact probability that the exit is right or that no later exit is.
    costs : ndarray [3]
        Cost of a sample that leaves at each exit, in units of the whole network: 1/3, 2/3, 1.
    """

    correct: Booleans
    right_scores: Array
    leave_scores: Array
    costs: Array

    def __repr__(self) -> str:
        shown = ", ".join(f"{one:.1%}" for one in self.correct.mean(1))
        return f"FutilityToy({self.correct.shape[1]:,} samples; exits are right {shown})"


def futility_toy(samples: int = 20_000, *, seed: int = 0) -> FutilityToy:
    r"""Make three exits with exact scores, and samples of which a fifth is always misclassified.

    A sample has a difficulty d, uniform in (0, 1), and exit k is right about it with probability

    .. math::
        p_k = 1 / (1 + e^{-10 (a_k - d)}), \qquad a = (0.56, 0.79, 1.02),

    independently of the other exits. The exception is one sample in five, which every exit gets
    wrong: its p is 0. The first score is :math:`p_k`, which is perfectly calibrated. The second is
    :math:`p_k + (1 - p_k) \prod_{j > k} (1 - p_j)`, the probability that the exit is right or that
    no later exit is; taken as a confidence, it is far from calibrated. Yet leaving by the second
    score is better at every budget, because it spends nothing on samples that no exit gets right.
    ECE ranks the two scores in the wrong order, EEFP in the right one.

    Parameters
    ----------
    samples : int
        Number of samples N.
    seed : int
        Random seed of the difficulties and of which exits are right.

    Returns
    -------
    FutilityToy

    Raises
    ------
    TypeError, ValueError
        If ``samples`` is not a whole number of at least 1, or ``seed`` one of at least 0.

    Notes
    -----
    This is a minimal example of the argument of arXiv 2508.21495. The numbers 0.56, 10 and 0.23
    (the step from exit to exit) were chosen so that the accuracies at half the cost, with
    thresholds fitted to it (55.2 % and 64.6 % in expectation), and the ECE of the second score
    (0.238) come out as in another such example (55.2 %, 64.4 %, 0.238), whose construction is not
    known. No thresholds bring the first score near the second.
    """
    count = whole("samples", samples, 1)
    generator = np.random.default_rng(whole("seed", seed, 0))
    difficulty = generator.random(count)
    chances = 1 / (1 + np.exp(-_STEEPNESS * (np.array(_ABILITIES)[:, None] - difficulty)))
    chances[:, generator.random(count) < _HOPELESS] = 0.0
    correct = generator.random(chances.shape) < chances
    nobody = np.ones_like(chances)  # the probability that no later exit is right
    nobody[:-1] = np.cumprod(1 - chances[:0:-1], axis=0)[::-1]
    return FutilityToy(
        correct=correct,
        right_scores=chances,
        leave_scores=chances + (1 - chances) * nobody,
        costs=np.array([1, 2, 3]) / 3,
    )
