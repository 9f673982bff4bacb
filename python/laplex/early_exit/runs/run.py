"""The folder of a training run, which ``laplex exits train`` writes and the other commands read.

It contains ``config.yaml`` (all settings), ``checkpoints/`` (to resume from), ``history.json``
(losses and accuracies of each epoch) and, written last, ``weights.pt`` (a state_dict). Evaluations
and analyses are written to the same folder.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ... import __version__
from ..._support.complete_files import replacing
from ..model import MultiExitModel
from ..training.exit_stopping import ExitStopping
from ..training.objectives import Distillation
from ..training.result import TrainingResult
from ..training.strategies import Phase, phases_of
from ..training.trainer import CHECKPOINT, train
from .backbones import build_model
from .datasets import ImageSplits, load_splits
from .run_folder import CHECKPOINTS, CONFIG, HISTORY, WEIGHTS, check_finished
from .settings import KEYS, RunSettings, read_settings

# Settings that are passed to `train` unchanged; a new one with the same name needs no change here.
_PASSED_ON = (set(KEYS) & set(inspect.signature(train).parameters)) - {
    "strategy",
    "epochs",
    "distillation",
    "scheduler",
}


@dataclass(frozen=True, eq=False)
class Run:
    """A finished training run.

    Attributes
    ----------
    folder : Path
    settings : RunSettings
    """

    folder: Path
    settings: RunSettings

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open the run in a folder.

        Raises
        ------
        ValueError
            If there is no run, or it is not finished.
        """
        check_finished(folder)
        return cls(folder, read_settings(folder / CONFIG))

    @property
    def strategy(self) -> str:
        """The strategy's name, or its phases."""
        if isinstance(self.settings.strategy, str):
            return self.settings.strategy
        return " + ".join(f"{one['train']} {one['epochs']}" for one in self.settings.strategy)

    @cached_property
    def splits(self) -> ImageSplits:
        """The images."""
        return _splits(self.settings)

    @cached_property
    def model(self) -> MultiExitModel:
        """The trained model, in evaluation mode, on the CPU.

        Raises
        ------
        ValueError
            If the weights do not fit the model that the settings describe.
        """
        model = _model(self.settings, self.splits)
        path = self.folder / WEIGHTS
        try:
            model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # torch raises many kinds for files that it did not write
            first = (str(error).splitlines() or [repr(error)])[0]
            raise ValueError(
                f"{path} does not hold the weights of the model of {self.folder / CONFIG}: {first}"
            ) from error
        return model.eval()

    @cached_property
    def history(self) -> dict[str, Any]:
        """Contents of ``history.json``: ``training``, ``data``, ``seconds``, ``versions``, ..."""
        values: dict[str, Any] = json.loads((self.folder / HISTORY).read_text("utf-8"))
        return values

    @property
    def training(self) -> TrainingResult:
        """Losses and accuracies of each epoch."""
        return TrainingResult.from_dict(self.history["training"])


def train_run(settings: RunSettings, out: Path, *, resume: bool, progress: bool) -> Run:
    """Train a model and write its folder.

    Parameters
    ----------
    settings : RunSettings
    out : Path
        An existing folder.
    resume : bool
        Whether to continue from its checkpoint.
    progress : bool
        Whether to show Lightning's progress bar.

    Raises
    ------
    OSError, ValueError, TypeError
        If data are missing, settings exclude each other, or the checkpoint is of another run.
    """
    phases = _phases(settings)
    splits = _splits(settings)
    model = _model(settings, splits)
    resolved = replace(
        settings,
        exits=model.exit_names,
        epochs=sum(one.epochs for one in phases) if isinstance(settings.strategy, str) else None,
    )
    begin = time.monotonic()
    with _config(out, resolved):
        result = train(
            model,
            splits.loader("train", settings.batch_size, shuffle=True),
            splits.loader("validation", 500),
            strategy=phases,
            distillation=None
            if settings.distillation is None
            else Distillation(**settings.distillation),
            scheduler=None if settings.scheduler == "none" else settings.scheduler,
            early_stopping=None if settings.patience is None else ExitStopping(settings.patience),
            checkpoint_dir=out / CHECKPOINTS,
            resume=resume,
            trainer_options={"accelerator": settings.accelerator, "devices": 1},
            progress=progress,
            **{name: getattr(settings, name) for name in _PASSED_ON},
        )
    model.cpu()
    history = {
        "kind": "laplex.early_exit.run",
        "training": result.to_dict(),
        "data": splits.name,
        "samples": {split: len(labels) for split, labels in splits.labels.items()},
        "classes": list(splits.class_names),
        "seconds": round(time.monotonic() - begin, 3),
        "resumed": resume,
        "versions": {"laplex": __version__, "torch": torch.__version__, "numpy": np.__version__},
    }
    write_json(out / HISTORY, history)
    with replacing(out / WEIGHTS) as part:
        torch.save(model.state_dict(), part)
    return Run.open(out)


def has_checkpoint(out: Path) -> bool:
    """Whether there is a checkpoint to resume from."""
    return (out / CHECKPOINTS / CHECKPOINT).is_file()


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file, completely or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def _config(out: Path, settings: RunSettings) -> Iterator[None]:
    """Write the settings, and remove them if the run ends before its first checkpoint."""
    with replacing(out / CONFIG) as part:
        part.write_text(settings.to_yaml(), encoding="utf-8")
    try:
        yield
    except BaseException:
        if not has_checkpoint(out):
            (out / CONFIG).unlink(missing_ok=True)
            with suppress(OSError):
                (out / CHECKPOINTS).rmdir()
        raise


def _phases(settings: RunSettings) -> tuple[Phase, ...]:
    if isinstance(settings.strategy, str):
        return phases_of(settings.strategy, settings.epochs)
    return phases_of([Phase(**phase) for phase in settings.strategy], settings.epochs)


def _splits(settings: RunSettings) -> ImageSplits:
    return load_splits(settings.data, validation=settings.validation, images=settings.images)


def _model(settings: RunSettings, splits: ImageSplits) -> MultiExitModel:
    return build_model(
        splits,
        backbone=settings.backbone,
        options=settings.backbone_options,
        exits=settings.exits,
        head=settings.head,
        seed=settings.seed,
    )
