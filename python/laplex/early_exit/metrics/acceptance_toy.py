"""Exits made up by a formula, on which calibration misleads: some samples are beyond help."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..._support.arguments import whole
from ..arrays import Array, Booleans

#: Part of the samples that no exit gets right.
_HOPELESS = 0.2
#: The difficulty at which each exit is right every other time, and how steeply that changes.
_ABILITIES = (0.56, 0.79, 1.02)
_STEEPNESS = 10.0


@dataclass(frozen=True, eq=False, repr=False)
class FutilityToy:
    """What `futility_toy` makes: three exits, N samples.

    Attributes
    ----------
    correct : ndarray [3, N] of bool
    right_scores : ndarray [3, N]
        Exactly the probability of being right, given how difficult a sample is.
    leave_scores : ndarray [3, N]
        Exactly the probability that the exit is right or that no later one is.
    costs : ndarray [3]
        Of a sample that leaves at each exit, in units of the whole network: 1/3, 2/3, 1.
    """

    correct: Booleans
    right_scores: Array
    leave_scores: Array
    costs: Array

    def __repr__(self) -> str:
        shown = ", ".join(f"{one:.1%}" for one in self.correct.mean(1))
        return f"FutilityToy({self.correct.shape[1]:,} samples; exits are right {shown})"


def futility_toy(samples: int = 20_000, *, seed: int = 0) -> FutilityToy:
    r"""Three exits that know exactly how sure they may be, and a fifth of samples beyond help.

    A sample has a difficulty d, even in (0, 1), and exit k is right about it with probability

    .. math::
        p_k = 1 / (1 + e^{-10 (a_k - d)}), \qquad a = (0.56, 0.79, 1.02),

    independently of the other exits; save for one sample in five, which every exit gets wrong,
    p = 0. One score is :math:`p_k`, perfectly calibrated; the other is
    :math:`p_k + (1 - p_k) \prod_{j > k} (1 - p_j)`, the probability of being right or beyond help,
    which as a confidence is far from calibrated. Yet leaving by the second is better at every
    budget: it spends nothing on samples that can't be helped. ECE ranks the two scores the wrong
    way, EEFP the right way.

    Parameters
    ----------
    samples : int
    seed : int
        Of difficulties and of who is right.

    Returns
    -------
    FutilityToy

    Notes
    -----
    What arXiv 2508.21495 argues, in the least example. The numbers 0.56, 0.23 from exit to exit and
    10 were chosen so that the accuracies at half the cost, with thresholds fitted to it (55.2 % and
    64.6 % in expectation), and the ECE of the second score (0.238) come out as in another such
    example (55.2 %, 64.4 %, 0.238), whose construction isn't known. There are no thresholds with
    which the first score gets near the second.
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
