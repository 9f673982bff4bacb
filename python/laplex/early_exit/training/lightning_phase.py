"""A phase of training as a LightningModule. Importing this needs pytorch_lightning."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from laplex._support.complete_files import replacing
from laplex._support.optional import require

from ..batches import inputs_and_labels
from ..model import MultiExitModel, evaluating
from .batch_checks import check_single
from .epoch_means import EpochMeans
from .exit_stopping import Counters
from .freezing import set_modes
from .quiet_lightning import hush
from .result import EpochRecord
from .seeding import EpochSeeds
from .settings import TrainingSettings
from .strategies import Phase

lightning = require("pytorch_lightning", extra="exits", feature="laplex.early_exit.train")


class PhaseModule(lightning.LightningModule):  # type: ignore[misc, name-defined]
    """One training phase.

    Parameters
    ----------
    model : MultiExitModel
        The model, frozen as the phase requires.
    phase, index
        The phase, and its index in the run.
    settings : TrainingSettings
    seeds : EpochSeeds
    loaders : (train, validation or None)
    history : list of EpochRecord
        Records of the run so far. One is appended after each epoch.
    checkpoint : Path, optional
        Where to save after each epoch.
    fingerprint : dict
        Fingerprint of the run, for the checkpoint.

    Attributes
    ----------
    best : dict of Tensor, or None
        The weights of the epoch with the lowest validation loss, for early stopping.
    steps : int
        Number of batches since the run started, as loggers count them.
    """

    def __init__(
        self,
        model: MultiExitModel,
        phase: Phase,
        index: int,
        settings: TrainingSettings,
        seeds: EpochSeeds,
        loaders: tuple[Any, Any],
        history: list[EpochRecord],
        checkpoint: Path | None,
        fingerprint: dict[str, Any],
    ) -> None:
        super().__init__()
        self.model, self.phase, self.index = model, phase, index
        self.settings, self.seeds, self.loaders = settings, seeds, loaders
        self.history, self.checkpoint, self.fingerprint = history, checkpoint, fingerprint
        self.counters = (
            None if settings.early_stopping is None else Counters(settings.early_stopping)
        )
        self.best: dict[str, Tensor] | None = None
        self.finished = False
        self.steps = 0
        self.total_steps = math.inf
        exits = model.num_exits
        self.names = model.output_names
        self.trained = {
            "backbone": [exits - 1],
            "heads": list(range(exits - (model.output_head is None))),
            "all": list(range(exits)),
        }[phase.train]
        sizes = {"loss": 1, "train_loss": exits, "val_loss": exits, "val_accuracy": exits}
        self.means = nn.ModuleDict({what: EpochMeans(size) for what, size in sizes.items()})

    def setup(self, stage: str) -> None:
        """Silence Lightning's advice in the processes that it starts, too."""
        hush()

    # --- data and seeds -----------------------------------------------------------------------

    def train_dataloader(self) -> Any:
        """The training loader, seeded for the epoch. Lightning calls this before each epoch."""
        self.seeds.start(self.index, self.current_epoch, self.global_rank)
        return _one_loader(self.loaders[0])

    def val_dataloader(self) -> Any:
        """The validation loader, or an empty list."""
        return [] if self.loaders[1] is None else _one_loader(self.loaders[1])

    def on_train_epoch_start(self) -> None:
        """Set modes and seeds again, since Lightning may have made a second iterator."""
        set_modes(self.model, self.phase.train)
        self.seeds.start(self.index, self.current_epoch, self.global_rank)

    # --- steps --------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """Compute the objective on a batch."""
        x, labels = inputs_and_labels(batch, "train_loader")
        part, objective = self.phase.train, self.settings.objective
        if isinstance(labels, Tensor) and len(labels) == 1:
            check_single(self.model, part, x)
        if part == "backbone" and not self.current_epoch and not batch_index:
            with evaluating(self.model), torch.no_grad():  # leaves statistics unchanged
                self.model(x)  # so that heads that do not fit are refused before a later phase
        progress = self.trainer.global_step / self.total_steps
        losses = objective(
            self.model,
            x,
            labels,
            part,
            progress=progress,
            costs=self.settings.costs,
            name="train_loader",
        )
        if not bool(torch.isfinite(losses.total)):
            raise self._diverged(losses.exits)
        self._means("loss").update(losses.total[None], losses.count)
        self._means("train_loss").update(losses.exits, losses.count)
        self.log("loss", losses.total, prog_bar=True, logger=False)
        return losses.total

    def on_validation_epoch_start(self) -> None:
        """Reset the means: an epoch may validate more than once, and the last time counts."""
        self._reset("val_loss", "val_accuracy")

    def validation_step(self, batch: Any, batch_index: int) -> None:
        """Compute loss and accuracy of every exit, including heads that are not trained yet."""
        x, labels = inputs_and_labels(batch, "val_loader")
        logits = self.model(x)
        loss = self.settings.objective.exit_loss
        loss.check(labels, logits[-1], "val_loader")
        count = loss.count(logits[-1], labels)
        for what, means in (
            ("val_loss", [loss.mean(one, labels, smoothed=False) for one in logits]),
            ("val_accuracy", [loss.accuracy(one, labels) for one in logits]),
        ):
            self._means(what).update(torch.stack(means), count)

    def on_train_epoch_end(self) -> None:
        """Record, log, count and save. Validation has already run."""
        if not self._means("loss").update_called:
            raise ValueError("train_loader yielded no batches: pass one with at least one batch")
        validated = self._means("val_loss").update_called
        record = EpochRecord(
            phase=self.index,
            epoch=self.current_epoch,
            train=self.phase.train,
            loss=self._means("loss").numbers()[0],
            train_loss=self._means("train_loss").numbers(),
            val_loss=self._means("val_loss").numbers(),
            val_accuracy=self._means("val_accuracy").numbers(),
        )
        self._reset(*self.means)
        self.history.append(record)
        self._log(record)
        if self.counters is not None and validated:
            if self.counters.update([record.val_loss[k] for k in self.trained]):
                self.best = _weights(self.model)
            if self.counters.run_out:
                self.trainer.should_stop = True
        self.finished = self.trainer.should_stop or self.current_epoch + 1 >= self.phase.epochs
        self.steps = self.trainer.fit_loop.epoch_loop._batches_that_stepped
        if self.checkpoint is not None:
            self._save(self.checkpoint)

    # --- optimiser ----------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Make the optimiser of the parameters that the phase trains."""
        optimizer = self.settings.make_optimizer(self.model, self.phase)
        steps = self.trainer.estimated_stepping_batches
        if 0 < steps < math.inf:
            self.total_steps = steps
        elif self.settings.needs_length is not None:
            raise ValueError(
                f"train_loader has no length, but {self.settings.needs_length} needs it: pass a "
                "loader with a length, or scheduler=None and weights other than 'sdn'"
            )
        if self.settings.scheduler is None:
            return optimizer
        scheduler = self.settings.make_scheduler(optimizer, int(steps))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    # --- state --------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """The state of the run, for checkpoints and for the processes that Lightning starts."""
        return {
            "fingerprint": self.fingerprint,
            "phase": self.index,
            "finished": self.finished,
            "steps": self.steps,
            "history": [vars(one) for one in self.history],
            "counters": None if self.counters is None else self.counters.state(),
            "best": self.best,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the state that `get_extra_state` returned."""
        self.history[:] = [EpochRecord(**one) for one in state["history"]]
        if self.counters is not None:
            self.counters.load(state["counters"])
        self.best, self.finished, self.steps = state["best"], state["finished"], state["steps"]

    def _save(self, path: Path) -> None:
        first = self.trainer.is_global_zero  # one process writes, but all must take part
        with replacing(path) if first else nullcontext(path) as part:
            self.trainer.save_checkpoint(part)

    # --- inside -------------------------------------------------------------------------------

    def _means(self, what: str) -> EpochMeans:
        return cast(EpochMeans, self.means[what])

    def _reset(self, *names: str) -> None:
        for name in names:
            self._means(name).reset()

    def _log(self, record: EpochRecord) -> None:
        # Lightning restarts the count of epochs in each phase; here it continues.
        shown = {"phase": float(self.index), "epoch": float(len(self.history) - 1)}
        shown["loss"] = record.loss
        for what in ("train_loss", "val_loss", "val_accuracy"):
            for name, value in zip(self.names, getattr(record, what), strict=True):
                if not math.isnan(value):
                    shown[f"{what}/{name}"] = value
        self.log_dict(shown)

    def _diverged(self, losses: Tensor) -> ValueError:
        bad = [self.names[k] for k in self.trained if not bool(losses[k].isfinite())]
        what = f"the loss of exit {bad[0]!r}" if bad else "the loss"
        return ValueError(
            f"{what} is not finite in epoch {self.current_epoch + 1} of phase {self.index + 1} "
            f"({self.phase.train}): try a smaller learning_rate, or look for NaN in the inputs"
        )


def _weights(model: MultiExitModel) -> dict[str, Tensor]:
    return copy.deepcopy({name: one.detach().cpu() for name, one in model.state_dict().items()})


class _Listed:
    """A wrapped list of batches, which Lightning would otherwise treat as a list of loaders."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _one_loader(loader: Any) -> Any:
    return _Listed(loader) if isinstance(loader, (list, tuple)) else loader
