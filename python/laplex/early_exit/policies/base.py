"""The base of all exit policies: a score of the logits of an exit, and thresholds to reach."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

__all__ = ["Fallback", "Policy", "Scorer", "SoftmaxPolicy", "Thresholds"]

Thresholds = float | Sequence[float]
Fallback = Literal["last", "most_confident"]


class Scorer(Protocol):
    """The interface that `LearnedScore` needs: scores of samples from the logits of one exit."""

    def score(self, k: int, logits: Tensor) -> Tensor:
        """Return scores ``[batch]`` for the logits ``[batch, classes]`` of exit ``k``."""
        ...


class Policy:
    """Base class of the exit policies.

    Parameters
    ----------
    thresholds : float or sequence of float
        One threshold for all exits, or one for each exit but the last.
    strict : bool
        If true, a sample leaves when its score is ``> threshold`` instead of ``>= threshold``.
    fallback : "last" or "most_confident"
        Which exit answers for a sample that reaches no threshold: the last exit (as in arXiv
        2407.14320), or the exit with the highest score, the last one included (as in shallow-deep
        networks). The cost is that of the last exit in both cases.

    Raises
    ------
    TypeError, ValueError
        If a threshold is not a finite number, or `fallback` is unknown.
    """

    #: Name of the policy in tables; by default the name of the class in lower case.
    label: ClassVar[str]
    #: Threshold of a policy that is selected by name alone. None for a policy that needs more than
    #: a threshold and cannot be selected by name.
    usual_threshold: ClassVar[float | None] = 0.5

    #: Name of the thresholds in messages.
    _argument = "threshold"

    def __init__(
        self, thresholds: Thresholds, *, strict: bool = False, fallback: Fallback = "last"
    ) -> None:
        self.thresholds = _checked(self._argument, thresholds)
        if fallback not in ("last", "most_confident"):
            raise ValueError(f"fallback must be 'last' or 'most_confident', got {fallback!r}")
        self.strict = bool(strict)
        self.fallback: Fallback = fallback

    def score(self, k: int, logits: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """Score the samples of a batch at one exit.

        Parameters
        ----------
        k : int
            Index of the exit.
        logits : Tensor [batch, classes]
            Logits of that exit.
        memory : Tensor [batch, ...], tuple of them, or None
            The memory that the call for exit ``k - 1`` returned, restricted to the samples that
            have not left; None at the first exit.

        Returns
        -------
        scores : Tensor [batch], float64
            Scores; higher is more confident.
        memory : Tensor [batch, ...], tuple of them, or None
            What the policy has to remember of each sample for the next exit.
        """
        raise NotImplementedError

    def scores(self, logits: Any) -> Tensor:
        """Score samples at every exit.

        Parameters
        ----------
        logits : Tensor or array [exits, samples, classes], or a sequence of [samples, classes]
            Logits of all exits.

        Returns
        -------
        Tensor [exits, samples], float64
            Scores; higher is more confident.
        """
        memory: Any = None
        found = []
        for k, one in enumerate(_stacked(logits)):
            score, memory = self.score(k, one, memory)
            found.append(score)
        return torch.stack(found)

    def cuts(self, num_exits: int) -> Tensor:
        """Return the thresholds in units of scores.

        Parameters
        ----------
        num_exits : int
            Number of exits of the model.

        Returns
        -------
        Tensor ``[num_exits - 1]``, float64
            One threshold for each exit but the last.

        Raises
        ------
        ValueError
            If the thresholds are for another number of exits.
        """
        if isinstance(self.thresholds, float):
            return torch.full((num_exits - 1,), self._cut(self.thresholds), dtype=torch.float64)
        if len(self.thresholds) != num_exits - 1:
            raise ValueError(
                f"{self._argument} has {_many(len(self.thresholds), 'entry', 'entries')}, but the "
                f"model has {_many(num_exits - 1, 'exit')} before the last: pass one number"
                + (f", or {num_exits - 1} of them" if num_exits > 2 else "")
            )
        return torch.tensor([self._cut(one) for one in self.thresholds], dtype=torch.float64)

    def reached(self, score: Tensor, cut: Tensor) -> Tensor:
        """Tell which scores reach a threshold, so that the samples leave.

        Parameters
        ----------
        score : Tensor
            Scores.
        cut : Tensor
            Thresholds in units of scores; they broadcast with the scores.

        Returns
        -------
        Tensor of bool
            Whether each score reaches its threshold.
        """
        return score > cut if self.strict else score >= cut

    def exit_index(self, logits: Any) -> Tensor:
        """Decide offline, from the logits of all exits, which exit answers for each sample.

        Parameters
        ----------
        logits
            As in `scores`.

        Returns
        -------
        Tensor [samples], int64
            The index of the exit, as `MultiExitModel.predict` returns it for the same logits.
        """
        return self.decide(self.scores(logits))[0]

    def decide(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Decide from scores which exit answers for each sample, and where computing stops.

        Parameters
        ----------
        scores : Tensor [exits, samples]
            As `scores` returns them.

        Returns
        -------
        exit_index, stopped_at : Tensor [samples], int64
            Indices of the exits. The two differ only for samples that fall back to an earlier, more
            confident exit.
        """
        last = len(scores) - 1
        cuts = self.cuts(last + 1).to(scores.device)
        leaves = self.reached(scores, torch.cat((cuts, cuts.new_full((1,), -math.inf)))[:, None])
        leaves[last] = True
        stopped_at = leaves.int().argmax(0)
        if self.fallback == "last":
            return stopped_at, stopped_at
        stays = ~leaves[:last].any(0)
        return torch.where(stays, scores.argmax(0), stopped_at), stopped_at

    def with_thresholds(self, thresholds: Thresholds) -> Policy:
        """Return a copy of the policy with other thresholds, in the units of the constructor.

        Parameters
        ----------
        thresholds : float or sequence of float
            The thresholds, as in the constructor.

        Returns
        -------
        Policy
            The copy.

        Raises
        ------
        TypeError, ValueError
            If a threshold is not a finite number.
        """
        other = copy.copy(self)
        other.thresholds = _checked(self._argument, thresholds)
        return other

    def with_cuts(self, cuts: Any) -> Policy:
        """Return a copy of the policy with other thresholds, in units of scores.

        Parameters
        ----------
        cuts : sequence of float
            One threshold for each exit but the last. They may be infinite: with ``inf`` no
            sample leaves at that exit, with ``-inf`` every sample does.

        Returns
        -------
        Policy
            The copy.

        Notes
        -----
        Thresholds of an evaluation suit only the score and the calibration that were evaluated:
        `Evaluation.policy_at` returns a policy that has both.
        """
        other = copy.copy(self)
        other.thresholds = tuple(self._cut(float(cut)) for cut in cuts)
        return other

    def scaled(self, scaling: Any) -> Policy | None:
        """Return the policy for logits that a `TemperatureScaling` scales.

        Parameters
        ----------
        scaling : TemperatureScaling
            The fitted scaling.

        Returns
        -------
        Policy or None
            A policy that takes the unscaled logits; None if there is none of this kind.
        """
        return None

    def _cut(self, threshold: float) -> float:
        """Convert a threshold to units of scores, or back."""
        return threshold

    def __repr__(self) -> str:
        shown = (
            f"{self.thresholds:g}"
            if isinstance(self.thresholds, float)
            else "[" + ", ".join(f"{one:g}" for one in self.thresholds) + "]"
        )
        more = ", strict=True" if self.strict else ""
        more += "" if self.fallback == "last" else f", fallback={self.fallback!r}"
        return f"{type(self).__name__}({shown}{more})"


class SoftmaxPolicy(Policy):
    """Base class of the policies that use only the softmax probabilities of each exit.

    They need at least 2 classes.
    """

    def __init__(
        self, threshold: Thresholds, *, strict: bool = False, fallback: Fallback = "last"
    ) -> None:
        super().__init__(threshold, strict=strict, fallback=fallback)

    def score(self, k: int, logits: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Score the samples of a batch at one exit, as in `Policy.score`.

        Raises
        ------
        ValueError
            If there are fewer than 2 classes.
        """
        check_classes(logits, type(self).__name__)
        # Always in double: float32 rounds probabilities near 1 to one value, and ties there would
        # make thresholds jump.
        return self.of_probabilities(logits.double().softmax(-1)), None

    def of_probabilities(self, probabilities: Tensor) -> Tensor:
        """Compute scores from the probabilities of one exit.

        Parameters
        ----------
        probabilities : Tensor ``[..., classes]``, float64
            The probabilities.

        Returns
        -------
        Tensor ``[...]``
            Scores; higher is more confident.
        """
        raise NotImplementedError


def check_classes(logits: Tensor, whose: str) -> None:
    """Check that there are classes to choose from: any single logit has the probability 1.

    Raises
    ------
    ValueError
        If there are fewer than 2.
    """
    if logits.shape[-1] < 2:
        raise ValueError(
            f"{whose} needs logits of at least 2 classes, got {logits.shape[-1]}: give the model "
            "two outputs, or pass a policy of your own"
        )


def _stacked(logits: Any) -> Sequence[Tensor]:
    if isinstance(logits, (list, tuple)):
        found: Sequence[Tensor] = [torch.as_tensor(one) for one in logits]
    else:
        found = list(torch.as_tensor(logits))
    if not found or any(one.ndim != 2 or one.shape != found[0].shape for one in found):
        shapes = [list(one.shape) for one in found]
        raise ValueError(
            f"logits must be [exits, samples, classes], got {shapes if shapes else 'none'}"
        )
    return [one.detach() for one in found]


def _checked(name: str, value: Any) -> float | tuple[float, ...]:
    if isinstance(value, (str, bytes)) or value is None:
        raise TypeError(
            f"{name} must be a number, or one for each exit but the last, got {value!r}"
        )
    try:
        if getattr(value, "ndim", None) == 0 or not hasattr(value, "__len__"):
            found: float | tuple[float, ...] = float(value)
        else:
            found = tuple(float(one) for one in value)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must be a number, or one for each exit but the last, got {value!r}"
        ) from None
    for one in [found] if isinstance(found, float) else found:
        if not math.isfinite(one):
            raise ValueError(f"{name} must be finite, got {one}")
    return found


def _many(number: int, one: str, more: str | None = None) -> str:
    return f"{number} {one if number == 1 else more or one + 's'}"
