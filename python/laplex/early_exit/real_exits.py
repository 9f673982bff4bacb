"""Exits left for real: a batch that gets smaller on its way through a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .activations import batch_of, map_tensors
from .policies.base import Policy
from .replaying import Replay, rows_of

if TYPE_CHECKING:
    from .model import MultiExitModel


#: Samples on which `has_to_replay` finds out.
_PROBED = 8


class StopWalk(Exception):
    """Raised by the visitor of `MultiExitModel.walk` to leave the rest of the backbone undone."""


@dataclass(frozen=True)
class Prediction:
    """What `MultiExitModel.predict` returns.

    Attributes
    ----------
    logits : Tensor [batch, classes]
        Of the exit that answered for each sample.
    exit_index : Tensor [batch], int64
        That exit, 0 the first.
    samples_per_segment : tuple of int
        How many samples each segment of the network truly computed, one for each exit.
    """

    logits: Tensor
    exit_index: Tensor
    samples_per_segment: tuple[int, ...]

    @property
    def labels(self) -> Tensor:
        """The predicted classes, Tensor [batch], int64."""
        return self.logits.argmax(-1)

    def __repr__(self) -> str:
        counts = torch.bincount(self.exit_index, minlength=len(self.samples_per_segment)).tolist()
        return (
            f"Prediction({len(self.exit_index)} samples; by exit {counts}; computed by segment "
            f"{list(self.samples_per_segment)})"
        )


class RealExits:
    """One batch on its way through a model in evaluation mode, fewer samples at each exit.

    Parameters
    ----------
    model : MultiExitModel
    policy : Policy
    cuts : Tensor [K - 1]
        Its thresholds in units of scores.
    batch : int
    """

    def __init__(self, model: MultiExitModel, policy: Policy, cuts: Tensor, batch: int) -> None:
        self.model, self.policy, self.cuts, self.batch = model, policy, cuts, batch
        self.logits: Tensor | None = None
        self.exit_index: Tensor | None = None
        self.rows: Tensor | None = None  # which samples are still there
        self.memory: Tensor | None = None
        self.computed = [0] * self.model.num_exits
        self.best: tuple[Tensor, Tensor, Tensor] | None = None  # score, logits, exit

    def run(self, x: Any) -> Prediction:
        """Send a batch through; `MultiExitModel.predict` says what may go wrong."""
        if self.model.replays is None and self.batch > 1:
            self.model.replays = has_to_replay(self.model, x)
        if self.batch > 1 and self.model.replays is not False:  # right whatever passes by
            self._run_replaying(x)
        else:
            self._run_directly(x)
        assert self.logits is not None
        assert self.exit_index is not None
        return Prediction(self.logits, self.exit_index, tuple(self.computed))

    def _run_directly(self, x: Any) -> None:
        try:
            logits = self.model.walk(x, self._at_exit)
        except StopWalk:
            return
        self._check_rows(logits, self.model.num_exits - 1)
        self._answer(self.model.num_exits - 1, logits)

    def _run_replaying(self, x: Any) -> None:
        """The same with a new run of the backbone for the samples that stay at each exit."""
        replay = Replay(self.model.backbone, self.model.exit_names)
        asked = 0  # exits that were asked in an earlier run
        stays: Tensor | None = None

        def at_exit(k: int, activation: Any) -> Any:
            nonlocal asked, stays
            if k >= asked:
                self._check_rows(activation, k)
                asked = k + 1
                stays = self._answer(k, self.model.head_logits(k, activation))
                if stays is not None:
                    raise StopWalk
            return activation

        while True:
            try:
                with replay.running():
                    logits = self.model.walk(x, at_exit)
            except StopWalk:
                assert stays is not None
                if not bool(stays.any()):
                    return
                x = rows_of(x, stays)
                replay.keep(stays)
                continue
            self._check_rows(logits, self.model.num_exits - 1)
            self._answer(self.model.num_exits - 1, logits)
            return

    def _at_exit(self, k: int, activation: Any) -> Any:
        self._check_rows(activation, k)
        logits = self.model.head_logits(k, activation)
        stays = self._answer(k, logits)
        if stays is None:
            return activation
        if not len(self._rows_of(logits)):
            raise StopWalk
        return map_tensors(lambda tensor: tensor[stays.to(tensor.device)], activation)

    def _answer(self, k: int, logits: Tensor) -> Tensor | None:
        """Take the answers of exit k for those who leave there; say who stays, None for all.

        A batch of one asks for speed: nothing is moved about when all stay or all leave.
        """
        count = len(logits)
        self.computed[k] = count
        final = k == self.model.num_exits - 1
        answer, exits = logits, torch.full((count,), k, device=logits.device)
        leaves = None
        if not final or self.policy.fallback == "most_confident":
            score, self.memory = self.policy.score(k, logits, self.memory)
            if self.policy.fallback == "most_confident":
                self.best = _better(self.best, (score, logits, exits))
                if final:
                    answer, exits = self.best[1], self.best[2]
            if not final:
                leaves = self.policy.reached(score, self.cuts[k].to(score.device))
        leaving = count if leaves is None else int(leaves.sum())
        if leaving == 0 and not final:
            return None
        if leaving == count == self.batch:  # all at once, the first to leave
            self.logits, self.exit_index = answer, exits
            self.rows = exits.new_empty(0)
            return exits.new_zeros(count, dtype=torch.bool)
        rows = self._rows_of(logits)
        if self.logits is None or self.exit_index is None:
            self.logits, self.exit_index = logits.new_empty((self.batch, logits.shape[1])), rows + 0
        if leaves is None:
            leaves = torch.ones_like(exits, dtype=torch.bool)
        gone = rows[leaves]
        self.logits[gone] = answer[leaves].to(self.logits.dtype)
        self.exit_index[gone] = exits[leaves]
        stays = ~leaves
        self.rows = rows[stays]
        self.memory = None if self.memory is None else self.memory[stays]
        if self.best is not None:
            score, logits, exits = self.best
            self.best = (score[stays], logits[stays], exits[stays])
        return stays

    def _rows_of(self, logits: Tensor) -> Tensor:
        """Which samples of the batch are still there."""
        if self.rows is None:
            self.rows = torch.arange(self.batch, device=logits.device)
        return self.rows

    def _check_rows(self, value: Any, k: int) -> None:
        expected = self.batch if self.rows is None else len(self.rows)
        where = "the output" if k == self.model.num_exits - 1 else self.model.exit_names[k]
        if batch_of(value, where) != expected:
            if self.rows is None:
                raise ValueError(
                    f"exit {where!r} has {batch_of(value, where)} rows for {expected} samples: "
                    "attach at a module whose output has the batch as its first dimension"
                )
            raise ValueError(
                f"{where!r} has {batch_of(value, where)} rows for the {expected} samples that are "
                "still there: the backbone does not run in the same way for fewer samples, so "
                "none can leave before"
            )


def has_to_replay(model: MultiExitModel, x: Any) -> bool | None:
    """Whether something passes an exit by, found out on some samples of a batch.

    For each exit, every other sample leaves there; what the rest give must be what they give
    together with them. None where the samples are too much alike to tell.

    Parameters
    ----------
    model : MultiExitModel
        In evaluation mode.
    x : Tensor [batch, ...] or nested
        At least 2 samples.

    Raises
    ------
    ValueError
        What a sample gives depends on the other samples of its batch: nothing may leave.
    """
    count = min(_PROBED, batch_of(x, "x"))
    some = map_tensors(lambda tensor: tensor[:count], x)
    stays = torch.arange(count) % 2 == 1
    together = model(some)
    wanted = [rows_of(one, stays) for one in together]
    if all(_close(one, one.roll(1, 0)) for one in together):
        return None
    for left, right in zip(model(rows_of(some, stays)), wanted, strict=True):
        if not _close(left, right):
            raise ValueError(
                "what the backbone gives for a sample depends on the other samples of its batch (a "
                "BatchNorm without running statistics?), so that predictions would change when "
                "some leave: real exits need samples that are independent in evaluation mode"
            )
    return not all(_passes_on(model, some, k, stays, wanted) for k in range(model.num_exits - 1))


def _passes_on(
    model: MultiExitModel, x: Any, k: int, stays: Tensor, wanted: Sequence[Tensor]
) -> bool:
    """Whether the activation of exit k is all that the backbone needs to go on."""
    found: list[Tensor] = []

    def at_exit(place: int, activation: Any) -> Any:
        if place > k:
            found.append(model.head_logits(place, activation))
        return rows_of(activation, stays) if place == k else activation

    try:
        found.append(model.walk(x, at_exit))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError, ValueError, TypeError):
        return False  # the shapes tell
    return all(
        one.shape == other.shape and _close(one, other)
        for one, other in zip(found, wanted[k + 1 :], strict=True)
    )


def _close(one: Tensor, other: Tensor) -> bool:
    """Equal up to the rounding by which the size of a batch changes sums."""
    rounding = 1e-8 if one.dtype == torch.float64 else 1e-3
    if one.dtype in (torch.float16, torch.bfloat16):
        rounding = 0.1
    scale = float(other.abs().nan_to_num(0, 0, 0).amax()) if other.numel() else 0.0
    return torch.allclose(one, other, rtol=rounding, atol=rounding * scale, equal_nan=True)


def _better(
    best: tuple[Tensor, Tensor, Tensor] | None, now: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    if best is None:
        return now
    ahead = now[0] > best[0]  # the earlier exit where scores are equal, as argmax has it
    return (
        torch.where(ahead, now[0], best[0]),
        torch.where(ahead[:, None], now[1], best[1]),
        torch.where(ahead, now[2], best[2]),
    )
