"""A phase of training as a LightningModule. Importing this needs pytorch_lightning."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from laplex.optional import require

from .exit_stopping import Counters, ExitStopping
from .freezing import set_modes, trained_parts
from .model import MultiExitModel
from .objectives import Objective
from .seeding import EpochSeeds
from .strategies import Phase
from .training_result import EpochRecord

_FEATURE = "laplex.early_exit.train"
lightning = require("pytorch_lightning", extra="exits", feature=_FEATURE)
torchmetrics = require("torchmetrics", extra="exits", feature=_FEATURE)

#: What `PhaseModule` puts into a checkpoint beside Lightning's own.
KEY = "laplex_early_exit"


@dataclass(frozen=True)
class Recipe:
    """How to train: what is the same for all phases."""

    objective: Objective
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None
    learning_rate: float
    weight_decay: float
    scheduler: str | Callable[[Optimizer, int], Any] | None
    early_stopping: ExitStopping | None
    costs: Sequence[float] | None


class PhaseModule(lightning.LightningModule):  # type: ignore[misc, name-defined]
    """One phase.

    Parameters
    ----------
    model : MultiExitModel
        Frozen as the phase wants it.
    phase, index
        What is trained, and the place of the phase in its run.
    recipe : Recipe
    seeds : EpochSeeds
    loaders : (train, validation or None)
    history : list of EpochRecord
        Of the run so far; gets one more each epoch.
    checkpoint : Path, optional
        Where to save after each epoch.
    fingerprint : dict
        Of the run, for the checkpoint.
    """

    def __init__(
        self,
        model: MultiExitModel,
        phase: Phase,
        index: int,
        recipe: Recipe,
        seeds: EpochSeeds,
        loaders: tuple[Any, Any],
        history: list[EpochRecord],
        checkpoint: Path | None,
        fingerprint: dict[str, Any],
    ) -> None:
        super().__init__()
        self.model, self.phase, self.index = model, phase, index
        self.recipe, self.seeds, self.loaders = recipe, seeds, loaders
        self.history, self.checkpoint, self.fingerprint = history, checkpoint, fingerprint
        self.counters = None if recipe.early_stopping is None else Counters(recipe.early_stopping)
        self.best: dict[str, Tensor] | None = None
        self.finished = False
        exits = model.num_exits
        self.names = (*model.exit_names, "output")
        self.trained = {
            "backbone": [exits - 1],
            "heads": list(range(exits - 1)),
            "all": list(range(exits)),
        }[phase.train]
        mean = torchmetrics.MeanMetric
        self.means = nn.ModuleDict(
            {
                "loss": nn.ModuleList([mean(nan_strategy="disable")]),
                "train_loss": nn.ModuleList(mean(nan_strategy="disable") for _ in range(exits)),
                "val_loss": nn.ModuleList(mean(nan_strategy="disable") for _ in range(exits)),
                "val_accuracy": nn.ModuleList(mean(nan_strategy="disable") for _ in range(exits)),
            }
        )

    # --- data and seeds -----------------------------------------------------------------------

    def train_dataloader(self) -> Any:
        """The loader, seeded for the epoch: Lightning asks for it before each."""
        self.seeds.start(self.index, self.current_epoch)
        return self.loaders[0]

    def val_dataloader(self) -> Any:
        """The validation loader, or nothing."""
        return [] if self.loaders[1] is None else self.loaders[1]

    def on_train_epoch_start(self) -> None:
        """Modes and seeds, again: Lightning may have made a second iterator since."""
        set_modes(self.model, self.phase.train)
        self.seeds.start(self.index, self.current_epoch)

    # --- steps --------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """The objective on a batch."""
        x, labels = _pair(batch, "train_loader")
        _check_norms(self.model, self.phase, len(labels))
        losses = self.recipe.objective.losses(
            self.model,
            x,
            labels,
            self.phase.train,
            progress=self.trainer.global_step / max(1, self.trainer.estimated_stepping_batches),
            costs=self.recipe.costs,
        )
        _check_labels(labels, cast(Tensor, losses.logits[-1]), "train_loader")
        if not bool(torch.isfinite(losses.total)):
            raise self._diverged(losses.exits)
        self._means("loss", 0).update(losses.total.detach(), len(labels))
        for k, loss in enumerate(losses.exits):
            self._means("train_loss", k).update(loss, len(labels))
        return losses.total

    def validation_step(self, batch: Any, batch_index: int) -> None:
        """Loss and accuracy of every exit that has been trained by now, or is being trained."""
        x, labels = _pair(batch, "val_loader")
        logits = self.model(x)
        _check_labels(labels, logits[-1], "val_loader")
        for k, one in enumerate(logits):
            loss = nn.functional.cross_entropy(one.float(), labels)
            self._means("val_loss", k).update(loss, len(labels))
            right = (one.argmax(-1) == labels).float().mean()
            self._means("val_accuracy", k).update(right, len(labels))

    def on_train_epoch_end(self) -> None:
        """Record, log, count, save. Validation is over by now."""
        unknown = tuple([math.nan] * len(self.names))
        validated = self.loaders[1] is not None
        record = EpochRecord(
            phase=self.index,
            epoch=self.current_epoch,
            train=self.phase.train,
            loss=float(self._means("loss", 0).compute()),
            train_loss=self._computed("train_loss"),
            val_loss=self._computed("val_loss") if validated else unknown,
            val_accuracy=self._computed("val_accuracy") if validated else unknown,
        )
        for metrics in self.means.values():
            for metric in cast(nn.ModuleList, metrics):
                metric.reset()  # type: ignore[operator]
        self.history.append(record)
        self._log(record)
        if self.counters is not None:
            if self.counters.update([record.val_loss[k] for k in self.trained]):
                self.best = _weights(self.model)
            if self.counters.run_out:
                self.trainer.should_stop = True
        self.finished = self.trainer.should_stop or self.current_epoch + 1 >= self.phase.epochs
        if self.checkpoint is not None:
            part = self.checkpoint.with_name(self.checkpoint.name + ".part")
            self.trainer.save_checkpoint(part)
            if self.trainer.is_global_zero:
                os.replace(part, self.checkpoint)

    # --- optimiser ----------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """The optimiser of what the phase trains, and of nothing else."""
        parameters = [
            one
            for part in trained_parts(self.model, self.phase.train)
            for one in part.parameters()
            if one.requires_grad
        ]
        rate = self.phase.learning_rate or self.recipe.learning_rate
        if self.recipe.optimizer is None:
            optimizer: Optimizer = torch.optim.AdamW(
                parameters, lr=rate, weight_decay=self.recipe.weight_decay
            )
        else:
            optimizer = self.recipe.optimizer(parameters)
            if self.phase.learning_rate is not None:
                for group in optimizer.param_groups:
                    group["lr"] = rate
        if self.recipe.scheduler is None:
            return optimizer
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        scheduler = (
            CosineAnnealingLR(optimizer, T_max=steps)
            if isinstance(self.recipe.scheduler, str)
            else self.recipe.scheduler(optimizer, steps)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    # --- checkpoints --------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What Lightning does not know of."""
        checkpoint[KEY] = {
            "fingerprint": self.fingerprint,
            "phase": self.index,
            "finished": self.finished,
            "history": [vars(one) for one in self.history],
            "counters": None if self.counters is None else self.counters.state(),
            "best": self.best,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Counters and best weights; the history is the run's."""
        saved = checkpoint[KEY]
        if self.counters is not None:
            self.counters.load(saved["counters"])
        self.best = saved["best"]

    # --- inside -------------------------------------------------------------------------------

    def _means(self, what: str, k: int) -> Any:
        return cast(nn.ModuleList, self.means[what])[k]

    def _computed(self, what: str) -> tuple[float, ...]:
        return tuple(float(self._means(what, k).compute()) for k in range(len(self.names)))

    def _log(self, record: EpochRecord) -> None:
        shown = {"loss": record.loss, "phase": float(self.index)}
        for what in ("train_loss", "val_loss", "val_accuracy"):
            for name, value in zip(self.names, getattr(record, what), strict=True):
                if not math.isnan(value):
                    shown[f"{what}/{name}"] = value
        self.log_dict({key: torch.tensor(value) for key, value in shown.items()}, sync_dist=False)

    def _diverged(self, losses: Tensor) -> ValueError:
        bad = [name for name, one in zip(self.names, losses, strict=True) if not one.isfinite()]
        bad = [name for k, name in enumerate(self.names) if name in bad and k in self.trained]
        return ValueError(
            f"the loss of exit {bad[0] if bad else 'output'!r} is not finite in epoch "
            f"{self.current_epoch + 1} of phase {self.index + 1} ({self.phase.train}): take a "
            "smaller learning_rate, or look for NaN in the inputs"
        )


def _weights(model: MultiExitModel) -> dict[str, Tensor]:
    return copy.deepcopy({name: one.detach().cpu() for name, one in model.state_dict().items()})


def _pair(batch: Any, name: str) -> tuple[Any, Tensor]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        got = f"{len(batch)} things" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise ValueError(f"{name} must give batches (x, labels), got {got}")
    return batch[0], batch[1]


def _check_labels(labels: Tensor, logits: Tensor, name: str) -> None:
    classes = logits.shape[-1]
    if labels.dtype != torch.int64 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels of {name} must be int64 [{len(logits)}], one for each sample, got "
            f"{labels.dtype} {list(labels.shape)}"
        )
    wrong = (labels < 0) | (labels >= classes)
    if bool(wrong.any()):
        raise ValueError(
            f"labels of {name} must be 0 to {classes - 1}, as the model has {classes} classes, got "
            f"{int(labels[wrong][0])}"
        )


def _check_norms(model: MultiExitModel, phase: Phase, batch: int) -> None:
    if batch != 1:
        return
    for part in trained_parts(model, phase.train):
        for name, module in part.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
                raise ValueError(
                    f"train_loader gave a batch of one sample, of which BatchNorm ({name!r}) can't "
                    "take statistics: pass drop_last=True to the DataLoader, or larger batches"
                )
