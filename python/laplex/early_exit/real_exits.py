"""Early exits at run time: a batch gets smaller on its way through a model."""

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


#: Number of samples that `has_to_replay` tries.
_PROBED = 8


class StopWalk(Exception):
    """Raised by the function passed to `MultiExitModel.walk` to skip the rest of the backbone."""


@dataclass(frozen=True)
class Prediction:
    """Result of `MultiExitModel.predict`.

    Attributes
    ----------
    logits : Tensor [batch, classes]
        Logits of each sample, from the exit that answered for it.
    exit_index : Tensor [batch], int64
        Index of that exit; 0 is the first.
    samples_per_segment : tuple of int
        Number of samples that each segment of the network computed, one entry for each exit.
    """

    logits: Tensor
    exit_index: Tensor
    samples_per_segment: tuple[int, ...]

    @property
    def labels(self) -> Tensor:
        """Predicted classes, Tensor [batch], int64."""
        return self.logits.argmax(-1)

    def __repr__(self) -> str:
        counts = torch.bincount(self.exit_index, minlength=len(self.samples_per_segment)).tolist()
        return (
            f"Prediction({len(self.exit_index)} samples; by exit {counts}; computed by segment "
            f"{list(self.samples_per_segment)})"
        )


class RealExits:
    """One batch on its way through a model in evaluation mode, with fewer samples at each exit.

    Parameters
    ----------
    model : MultiExitModel
    policy : Policy
    cuts : Tensor [K - 1]
        Thresholds of the policy, in units of its scores.
    batch : int
        Number of samples.
    """

    def __init__(self, model: MultiExitModel, policy: Policy, cuts: Tensor, batch: int) -> None:
        self.model, self.policy, self.cuts, self.batch = model, policy, cuts, batch
        self.logits: Tensor | None = None
        self.exit_index: Tensor | None = None
        self.rows: Tensor | None = None  # indices of the samples that have not left yet
        self.memory: Tensor | None = None
        self.computed = [0] * self.model.num_exits
        self.best: tuple[Tensor, Tensor, Tensor] | None = None  # score, logits, exit
        self.reader: Any = None

    def run(self, x: Any) -> Prediction:
        """Run a batch through the model; `MultiExitModel.predict` lists the exceptions."""
        self.reader = self.model.reader(x)
        if self.model.replays is None and self.batch > 1:
            self.model.replays = has_to_replay(self.model, x)
        if self.batch > 1 and self.model.replays is not False:  # correct for every backbone
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
        self._answer(self.model.num_exits - 1, self.reader.output(logits))

    def _run_replaying(self, x: Any) -> None:
        """The same, with a new run of the backbone for the samples that stay at each exit."""
        replay = Replay(self.model.backbone, self.model.exit_names)
        asked = 0  # number of exits that have decided in an earlier run
        stays: Tensor | None = None

        def at_exit(k: int, activation: Any) -> Any:
            nonlocal asked, stays
            if k >= asked:
                self._check_rows(activation, k)
                asked = k + 1
                stays = self._answer(k, self.reader.logits(k, activation))
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
            self._answer(self.model.num_exits - 1, self.reader.output(logits))
            return

    def _at_exit(self, k: int, activation: Any) -> Any:
        self._check_rows(activation, k)
        logits = self.reader.logits(k, activation)
        stays = self._answer(k, logits)
        if stays is None:
            return activation
        if not len(self._rows_of(logits)):
            raise StopWalk
        return map_tensors(lambda tensor: tensor[stays.to(tensor.device)], activation)

    def _answer(self, k: int, logits: Tensor) -> Tensor | None:
        """Store the answers of exit k for the samples that leave; return which stay (None: all).

        To keep a batch of one fast, nothing is copied when all samples stay or all leave.
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
        if leaving == count == self.batch:  # the whole batch leaves at once
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
        self.reader.carried = rows_of(self.reader.carried, stays)
        if self.best is not None:
            score, logits, exits = self.best
            self.best = (score[stays], logits[stays], exits[stays])
        return stays

    def _rows_of(self, logits: Tensor) -> Tensor:
        """Indices of the samples of the batch that have not left yet."""
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
                f"{where!r} has {batch_of(value, where)} rows for the {expected} samples that have "
                "not left: the backbone runs differently for fewer samples, so none can leave "
                "before it"
            )


def has_to_replay(model: MultiExitModel, x: Any) -> bool | None:
    """Find out, on a few samples of a batch, whether any data bypass an exit.

    For each exit, every other sample is made to leave there. The logits of the rest must then equal
    the logits that they have in the full batch. The result is None if the samples are too similar
    to tell.

    Parameters
    ----------
    model : MultiExitModel
        Must be in evaluation mode.
    x : Tensor [batch, ...], or nested
        At least 2 samples.

    Raises
    ------
    ValueError
        If the logits of a sample depend on the other samples of its batch, so that none may leave.
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
                "the logits of a sample depend on the other samples of its batch (a BatchNorm "
                "without running statistics?), so predictions would change when some leave: early "
                "exits need a backbone that treats samples independently in evaluation mode"
            )
    return not all(_passes_on(model, some, k, stays, wanted) for k in range(model.num_exits - 1))


def _passes_on(
    model: MultiExitModel, x: Any, k: int, stays: Tensor, wanted: Sequence[Tensor]
) -> bool:
    """Whether the activation of exit k is all that the backbone needs to continue."""
    found: list[Tensor] = []
    reader = model.reader(x)

    def at_exit(place: int, activation: Any) -> Any:
        found.append(reader.logits(place, activation))
        if place == k:
            reader.carried = rows_of(reader.carried, stays)
        return rows_of(activation, stays) if place == k else activation

    try:
        found.append(reader.output(model.walk(x, at_exit)))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError, ValueError, TypeError):
        return False  # the shapes no longer fit
    return all(
        one.shape == other.shape and _close(one, other)
        for one, other in zip(found[k + 1 :], wanted[k + 1 :], strict=True)
    )


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal up to the rounding that depends on the batch size."""
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
    ahead = now[0] > best[0]  # among equal scores the earlier exit wins, as with argmax
    return (
        torch.where(ahead, now[0], best[0]),
        torch.where(ahead[:, None], now[1], best[1]),
        torch.where(ahead, now[2], best[2]),
    )
