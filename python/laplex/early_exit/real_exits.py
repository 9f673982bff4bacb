"""Early exits at run time: a batch gets smaller on its way through a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .activations import map_tensors, rows_of
from .policies.base import Policy
from .probing import Plan, check_logits, probe, structure_of
from .replaying import Replica, cut_at
from .walking import StopWalk

if TYPE_CHECKING:
    from .model import MultiExitModel


#: Inputs whose structure differs from call to call must not fill the memory.
_MOST_PLANS = 64


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
    x
        The inputs.
    batch : int
        Number of samples.
    """

    def __init__(
        self, model: MultiExitModel, policy: Policy, cuts: Tensor, x: Any, batch: int
    ) -> None:
        self.model, self.policy, self.cuts, self.batch = model, policy, cuts, batch
        self._start(x)

    def _start(self, x: Any) -> None:
        self.reader = self.model.reader(x)
        self.logits: Tensor | None = None
        self.exit_index: Tensor | None = None
        self.rows: Tensor | None = None  # indices of the samples that have not left yet
        self.memory: Any = None
        self.computed = [0] * self.model.num_exits
        self.best: tuple[Tensor, Tensor, Tensor] | None = None  # score, logits, exit

    def run(self, x: Any) -> Prediction:
        """Run a batch through the model; `MultiExitModel.predict` lists the exceptions."""
        if self.batch < 2:
            self._run_directly(x, None)
        else:
            structure, plans = structure_of(x), self.model.plans
            plan = plans.get(structure)
            if plan is None:
                plan = probe(self.model, x)
                if plan.replays is not None:
                    if len(plans) >= _MOST_PLANS:
                        plans.clear()
                    plans[structure] = plan
            if plan.replays is not False:  # correct for every backbone
                self._run_replaying(x, plan)
            elif not self._run_directly(x, plan):
                # The backbone has treated this batch differently from the one that was tried.
                self._start(x)
                plans[structure] = plan = probe(self.model, x)
                plan.replays = True
                self._run_replaying(x, plan)
        assert self.logits is not None
        assert self.exit_index is not None
        return Prediction(self.logits, self.exit_index, tuple(self.computed))

    def _run_directly(self, x: Any, plan: Plan | None) -> bool:
        """Cut the activation at each exit; returns whether the backbone could go on with it."""

        def at_exit(k: int, activation: Any) -> Any:
            stays = self._answer(k, self.reader.logits(k, activation))
            if stays is None:
                return activation
            if not bool(stays.any()):
                raise StopWalk
            assert plan is not None
            activation = cut_at(activation, stays, plan.exits[k])
            if activation is None:
                raise ValueError("the rows of an activation are not known")
            return activation

        try:
            logits = self.model.walk(x, at_exit)
            self._answer(self.model.num_exits - 1, self.reader.output(logits))
        except StopWalk:
            pass
        except torch.OutOfMemoryError:
            raise
        except Exception:  # torch and libraries raise many kinds for shapes that do not fit
            if self.rows is None or len(self.rows) == self.batch:  # nothing has been cut
                raise
            return False
        return True

    def _run_replaying(self, x: Any, plan: Plan) -> None:
        """The same, with a new run of the backbone for the samples that stay at each exit."""
        replica = Replica(self.model.backbone, self.model.module_names)
        asked = 0  # number of exits that have decided in an earlier run
        batch = self.batch
        stays: Tensor | None = None

        def at_exit(k: int, activation: Any) -> Any:
            nonlocal asked, stays
            asked = k + 1
            stays = self._answer(k, self.reader.logits(k, activation))
            if stays is not None:
                raise StopWalk
            return activation

        while True:
            try:
                logits = self.model.walk(x, at_exit, replica=replica, start=asked)
            except StopWalk:
                assert stays is not None
                if not bool(stays.any()):
                    return
                x = rows_of(x, stays, batch)
                replica.keep(stays, plan.calls)
                batch = int(stays.sum())
                continue
            self._answer(self.model.num_exits - 1, self.reader.output(logits))
            return

    def _answer(self, k: int, logits: Tensor) -> Tensor | None:
        """Store the answers of exit k for the samples that leave; return which stay (None: all).

        To keep a batch of one fast, nothing is copied when all samples stay or all leave.
        """
        count = self.batch if self.rows is None else len(self.rows)
        check_logits(logits, count, self.model.output_names[k])
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
        self.memory = map_tensors(lambda tensor: tensor[stays], self.memory)
        self.reader.keep(stays)
        if self.best is not None:
            score, logits, exits = self.best
            self.best = (score[stays], logits[stays], exits[stays])
        return stays

    def _rows_of(self, logits: Tensor) -> Tensor:
        """Indices of the samples of the batch that have not left yet."""
        if self.rows is None:
            self.rows = torch.arange(self.batch, device=logits.device)
        return self.rows


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
