"""The folder of a training run, which ``laplex exits train`` writes and the other commands read.

It contains ``config.yaml`` (all settings), ``checkpoints/`` (to resume from), ``history.json``
(losses and accuracies of each epoch) and, written last, ``weights.pt`` (a state_dict). Evaluations
and analyses are written to the same folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ... import __version__
from ..._support.complete_files import remove_empty, replacing
from ..._support.settings_files import to_yaml
from ..model import MultiExitModel
from ..training.exit_stopping import ExitStopping
from ..training.objectives import Distillation
from ..training.result import TrainingResult
from ..training.strategies import Phase, phases_of
from ..training.trainer import CHECKPOINT, train
from .backbones import NAMES, build_model
from .datasets import Splits, load_splits
from .settings import CONFIG, KEYS, WEIGHTS, RunSettings, check_finished, read_settings
from .sources import check_trusted

T = TypeVar("T")

HISTORY, CHECKPOINTS = "history.json", "checkpoints"
# The settings that `train` has arguments for; a new one of such a name needs no change here.
_PASSED_ON = set(KEYS) & set(signature(train).parameters)


@dataclass(frozen=True, eq=False)
class Run:
    """A finished training run in a folder."""

    folder: Path
    settings: RunSettings
    #: Whether the functions that the settings name may be called.
    trusted: bool = False

    @classmethod
    def open(cls, folder: Path, trusted: bool = False) -> Run:
        """Open the run in a folder; a ValueError says if there is none, or it is not finished."""
        check_finished(folder)
        return cls(folder, read_settings(folder / CONFIG), trusted)

    @property
    def strategy(self) -> str:
        """The strategy's name, or its phases."""
        if isinstance(self.settings.strategy, str):
            return self.settings.strategy
        return " + ".join(f"{one['train']} {one['epochs']}" for one in self.settings.strategy)

    @cached_property
    def splits(self) -> Splits:
        """The data; a ValueError for functions that may not be called."""
        if not self.trusted:
            check_trusted(self.settings, self.folder)
        return load_splits(self.settings)

    @cached_property
    def model(self) -> MultiExitModel:
        """The trained model, in evaluation mode, on the CPU; a ValueError if it cannot be read."""
        model = build_model(self.splits, self.settings, pretrained=False)
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
        return json.loads((self.folder / HISTORY).read_text("utf-8"))  # type: ignore[no-any-return]

    @property
    def training(self) -> TrainingResult:
        """Losses and accuracies of each epoch."""
        return TrainingResult.from_dict(self.history["training"])


def train_run(
    settings: RunSettings,
    out: Path,
    *,
    resume: bool,
    progress: bool,
    tell: Callable[[str], object] = print,
) -> Run:
    """Train a model and write its folder, which must exist; `tell` gets what was chosen for it."""
    named = isinstance(settings.strategy, str)
    strategy: Any = settings.strategy if named else [Phase(**one) for one in settings.strategy]  # type: ignore[arg-type]
    phases = phases_of(strategy, settings.epochs)
    splits = load_splits(settings)
    model = build_model(splits, settings)
    if splits.about:
        tell(splits.about)
    if settings.exits is None and settings.backbone not in NAMES:
        tell(f"Exits at {', '.join(model.exit_names)} of {settings.backbone}")
    arguments = {key: getattr(settings, key) for key in _PASSED_ON} | {
        "strategy": phases,
        "epochs": None,
        "distillation": settings.distillation and Distillation(**settings.distillation),
        "scheduler": None if settings.scheduler == "none" else settings.scheduler,
        "early_stopping": settings.patience and ExitStopping(settings.patience),
        "trainer_options": {"accelerator": settings.accelerator, "devices": 1},
    }
    epochs = sum(one.epochs for one in phases) if named else None
    resolved = replace(settings, exits=model.exit_names, epochs=epochs)
    with replacing(out / CONFIG) as part:
        text = to_yaml(resolved, "Settings of a run of `laplex exits train`.")
        part.write_text(text, encoding="utf-8")
    begin = time.monotonic()
    try:
        result = train(
            model,
            splits.loader("train", settings.batch_size, shuffle=True),
            splits.loader("validation", settings.batch_size),
            checkpoint_dir=out / CHECKPOINTS,
            resume=resume,
            progress=progress,
            **arguments,
        )
    except BaseException:
        if not has_checkpoint(out):  # nothing to resume
            (out / CONFIG).unlink(missing_ok=True)
            remove_empty([out / CHECKPOINTS])
        raise
    history = {
        "kind": "laplex.early_exit.run",
        "training": result.to_dict(),
        "data": splits.name,
        "samples": splits.samples(),
        "classes": list(splits.class_names),
        "seconds": round(time.monotonic() - begin, 3),
        "resumed": resume,
        "versions": {"laplex": __version__, "torch": torch.__version__, "numpy": np.__version__},
    }
    write_json(out / HISTORY, history)
    with replacing(out / WEIGHTS) as part:
        torch.save(model.cpu().state_dict(), part)
    return Run.open(out, trusted=True)


def has_checkpoint(out: Path) -> bool:
    """Whether there is a checkpoint to resume from."""
    return (out / CHECKPOINTS / CHECKPOINT).is_file()


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file, completely or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path, command: str, make: Callable[[Any], T]) -> T | None:
    """What `make` makes of a JSON file that a command wrote, or None if there is no file."""
    if not path.is_file():
        return None
    try:
        return make(json.loads(path.read_text("utf-8")))
    except (KeyError, TypeError, AttributeError, ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"{path} was not written by `laplex exits {command}` ({error}): run it again"
        ) from error
