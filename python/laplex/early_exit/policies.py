"""When a sample leaves: exit policies, the same rule offline and in `MultiExitModel.predict`.

A policy scores the logits of an exit; a sample leaves at the first exit whose score reaches the
exit's threshold. The last exit takes whoever is left.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Thresholds = float | Sequence[float]
Fallback = Literal["last", "most_confident"]


class Scorer(Protocol):
    """What `LearnedScore` asks: a score of each sample from the logits of one exit."""

    def score(self, k: int, logits: Tensor) -> Tensor:
        """Scores ``[batch]`` of exit ``k`` for its logits ``[batch, classes]``."""
        ...


class Policy:
    """Base of the exit rules.

    Parameters
    ----------
    thresholds : float or sequence of float
        One for all exits, or one for each exit but the last.
    strict : bool
        A sample leaves when its score is ``> threshold`` instead of ``>= threshold``.
    fallback : "last" or "most_confident"
        Who answers for a sample that no exit let go: the last exit (as in arXiv 2407.14320), or
        the exit with the highest score, the last one included (as in shallow-deep networks). The
        cost is that of the last exit either way.

    Raises
    ------
    TypeError, ValueError
        A threshold is not a finite number, or `fallback` is neither.
    """

    #: What the thresholds are called in messages and in `repr`.
    _argument = "threshold"

    def __init__(
        self, thresholds: Thresholds, *, strict: bool = False, fallback: Fallback = "last"
    ) -> None:
        self.thresholds = _checked(self._argument, thresholds)
        if fallback not in ("last", "most_confident"):
            raise ValueError(f"fallback must be 'last' or 'most_confident', got {fallback!r}")
        self.strict = bool(strict)
        self.fallback: Fallback = fallback

    def score(self, k: int, logits: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Scores of one exit, sample by sample, and what to remember of each sample.

        Parameters
        ----------
        k : int
            The exit.
        logits : Tensor [batch, classes]
        memory : Tensor [batch, ...] or None
            What the call for exit ``k - 1`` returned, of the samples that are still there.

        Returns
        -------
        scores : Tensor [batch], float64
            Higher is surer.
        memory : Tensor [batch, ...] or None
        """
        raise NotImplementedError

    def scores(self, logits: Any) -> Tensor:
        """Scores of every exit.

        Parameters
        ----------
        logits : Tensor or array [exits, samples, classes], or a sequence of [samples, classes]

        Returns
        -------
        Tensor [exits, samples], float64
            Higher is surer.
        """
        memory: Tensor | None = None
        found = []
        for k, one in enumerate(_stacked(logits)):
            score, memory = self.score(k, one, memory)
            found.append(score)
        return torch.stack(found)

    def cuts(self, num_exits: int) -> Tensor:
        """The thresholds in units of scores, Tensor [num_exits - 1] in float64.

        Raises
        ------
        ValueError
            There are thresholds for another number of exits.
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
        """Whether a score lets a sample go, Tensor of bool."""
        return score > cut if self.strict else score >= cut

    def exit_index(self, logits: Any) -> Tensor:
        """The exit that answers for each sample, decided offline from all logits.

        Parameters
        ----------
        logits : as in `scores`

        Returns
        -------
        Tensor [samples], int64
            What `MultiExitModel.predict` gives for the same logits.
        """
        return self.decide(self.scores(logits))[0]

    def decide(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The exits that answer and the exits where computing stopped, from scores.

        Parameters
        ----------
        scores : Tensor [exits, samples]

        Returns
        -------
        exit_index, stopped_at : Tensor [samples], int64
            They differ only for samples that fell back to an earlier, most confident exit.
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
        """The same rule with other thresholds, in the constructor's units."""
        other = copy.copy(self)
        other.thresholds = _checked(self._argument, thresholds)
        return other

    def with_cuts(self, cuts: Any) -> Policy:
        """The same rule with thresholds given in units of scores, one for each exit but the last.

        Infinite ones are allowed here: ``inf`` lets nobody go, ``-inf`` everybody.
        """
        other = copy.copy(self)
        other.thresholds = tuple(self._cut(float(cut)) for cut in cuts)
        return other

    def _cut(self, threshold: float) -> float:
        """A threshold in units of scores, and back."""
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


class MaxSoftmax(Policy):
    """Leave when the largest softmax probability reaches the threshold.

    Parameters
    ----------
    threshold : float or sequence of float
        Probabilities, 0 to 1.
    strict, fallback
        As in `Policy`.

    Examples
    --------
    >>> import torch
    >>> from laplex.early_exit import MaxSoftmax
    >>> logits = torch.tensor([[[0.0, 5.0], [0.0, 1.0]], [[0.0, 1.0], [2.0, 0.0]]])
    >>> MaxSoftmax(0.9).exit_index(logits)
    tensor([0, 1])
    """

    def __init__(
        self, threshold: Thresholds, *, strict: bool = False, fallback: Fallback = "last"
    ) -> None:
        super().__init__(threshold, strict=strict, fallback=fallback)

    def score(self, k: int, logits: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """As in `Policy.score`."""
        return _probabilities(logits).amax(-1), None


class Entropy(Policy):
    """Leave when the entropy of the softmax probabilities is at most the threshold, in nats.

    Scores are *minus* the entropy. `strict` means ``<``.

    Parameters
    ----------
    threshold : float or sequence of float
        Entropies, 0 to log(classes).
    strict, fallback
        As in `Policy`.
    """

    def __init__(
        self, threshold: Thresholds, *, strict: bool = False, fallback: Fallback = "last"
    ) -> None:
        super().__init__(threshold, strict=strict, fallback=fallback)

    def score(self, k: int, logits: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """As in `Policy.score`."""
        return torch.special.entr(_probabilities(logits)).sum(-1).neg(), None

    def _cut(self, threshold: float) -> float:
        return -threshold


class Margin(Policy):
    """Leave when the two largest softmax probabilities differ by the threshold or more.

    Parameters
    ----------
    threshold : float or sequence of float
        Differences, 0 to 1. With a single class the margin is its probability, 1.
    strict, fallback
        As in `Policy`.
    """

    def __init__(
        self, threshold: Thresholds, *, strict: bool = False, fallback: Fallback = "last"
    ) -> None:
        super().__init__(threshold, strict=strict, fallback=fallback)

    def score(self, k: int, logits: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """As in `Policy.score`."""
        top = _probabilities(logits).topk(min(2, logits.shape[-1]), dim=-1).values
        return top[..., 0] - top[..., 1] if top.shape[-1] == 2 else top[..., 0], None


class Patience(Policy):
    """Leave when `n` exits in a row, after the first, confirmed the prediction before them (PABEE).

    The score is the number of exits, up to this one, that repeated the prediction of the exit
    before; a changed prediction sets it to 0. So `n` + 1 equal predictions in a row let a sample
    go, and the first exit is left by none unless `n` is 0.

    Parameters
    ----------
    n : int, or sequence of int
        At least 0.
    strict, fallback
        As in `Policy`.
    """

    _argument = "n"

    def __init__(self, n: Thresholds, *, strict: bool = False, fallback: Fallback = "last") -> None:
        super().__init__(n, strict=strict, fallback=fallback)
        self._check_whole()

    def with_thresholds(self, thresholds: Thresholds) -> Policy:
        """The same rule with other thresholds."""
        other = super().with_thresholds(thresholds)
        assert isinstance(other, Patience)
        other._check_whole()
        return other

    def score(self, k: int, logits: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """As in `Policy.score`."""
        label = logits.argmax(-1)
        if memory is None:
            streak = torch.zeros_like(label)
        else:
            streak = torch.where(label == memory[:, 0], memory[:, 1] + 1, 0)
        return streak.double(), torch.stack((label, streak), dim=1)

    def _check_whole(self) -> None:
        numbers = [self.thresholds] if isinstance(self.thresholds, float) else self.thresholds
        for one in numbers:
            if one < 0 or one != math.floor(one):
                raise ValueError(f"n must be a whole number of at least 0, got {one:g}")


class LearnedScore(Policy):
    """Leave when a score that was learned reaches the threshold.

    Parameters
    ----------
    scorer : object with ``score(k, logits [batch, classes]) -> Tensor [batch]``
        For instance a fitted `ScoreHeads`.
    threshold : float or sequence of float
        In units of the score.
    strict, fallback
        As in `Policy`.
    """

    def __init__(
        self,
        scorer: Scorer,
        threshold: Thresholds,
        *,
        strict: bool = False,
        fallback: Fallback = "last",
    ) -> None:
        super().__init__(threshold, strict=strict, fallback=fallback)
        if not callable(getattr(scorer, "score", None)):
            raise TypeError(
                f"scorer must have a method score(k, logits), got {type(scorer).__name__}: pass a "
                "fitted ScoreHeads"
            )
        self.scorer = scorer

    def score(self, k: int, logits: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """As in `Policy.score`."""
        score = self.scorer.score(k, logits)
        if not isinstance(score, Tensor) or score.shape != logits.shape[:-1]:
            got = list(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ValueError(
                f"scorer.score must give a Tensor [{len(logits)}], one score for each sample, got "
                f"{got}"
            )
        return score.double(), None

    def cuts(self, num_exits: int) -> Tensor:
        """As in `Policy.cuts`; also refuses a scorer that was fitted for other exits."""
        fitted = getattr(self.scorer, "num_exits", num_exits)
        if fitted != num_exits:
            raise ValueError(
                f"scorer was fitted for {fitted} exits, but the model has {num_exits}: fit it on "
                "outputs of this model"
            )
        return super().cuts(num_exits)


def _probabilities(logits: Tensor) -> Tensor:
    # In double whatever the logits are: float32 rounds what is near 1 to one value, and ties there
    # would make thresholds jump.
    return logits.double().softmax(-1)


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
