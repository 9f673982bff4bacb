"""The checkpoint of a training run, and the check that it belongs to this run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..batches import batch_count
from ..model import MultiExitModel
from .settings import TrainingSettings
from .strategies import Phase

#: Name of the checkpoint in the folder of a run.
CHECKPOINT = "last.ckpt"


def fingerprint_of(
    model: MultiExitModel,
    phases: Sequence[Phase],
    settings: TrainingSettings,
    *,
    seed: int,
    precision: str | int,
    train_loader: Any,
    trainer_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The settings that must match for a run to resume from a checkpoint, as plain values.

    Functions and data are not compared; the caller has to keep them the same.
    """
    shapes = [
        f"{name} {list(one.shape)} {one.dtype}"
        for name, one in model.state_dict().items()
        if isinstance(one, Tensor)
    ]
    # Another set of frozen parameters gives another optimizer state.
    shapes += [f"{name} frozen" for name, one in model.named_parameters() if not one.requires_grad]
    return {
        "exits": list(model.exit_names),
        "model": hashlib.sha256("\n".join(shapes).encode()).hexdigest()[:16],
        "phases": [
            [phase.train, phase.epochs, phase.learning_rate, phase.layer_decay] for phase in phases
        ],
        "objective": ", ".join(
            f"{one.name}={'a function' if callable(value) else repr(value)}"
            for one in fields(settings.objective)
            for value in [getattr(settings.objective, one.name)]
        ),
        "optimizer": "AdamW" if settings.optimizer is None else "a function",
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "layer_decay": settings.layer_decay,
        "scheduler": "a function" if callable(settings.scheduler) else settings.scheduler,
        "early_stopping": repr(settings.early_stopping),
        "seed": seed,
        "precision": str(precision),
        "batches": batch_count(train_loader),
        "steps": {
            name: str(value)
            for name, value in (trainer_options or {}).items()
            if name in ("accumulate_grad_batches", "gradient_clip_algorithm", "gradient_clip_val")
        },
    }


def load_checkpoint(path: Path, fingerprint: dict[str, Any]) -> dict[str, Any] | None:
    """Read the weights and the state of a `PhaseModule`, or return None if there is no file.

    Returns
    -------
    dict or None
        ``{"model": weights, "state": the result of PhaseModule.get_extra_state}``.

    Raises
    ------
    ValueError
        If the file is broken, or belongs to another run.
    """
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        state = saved["_extra_state"]
        found = dict(state["fingerprint"])
    except Exception as error:  # torch raises many kinds for files that it did not write
        first = (str(error).splitlines() or [repr(error)])[0]
        raise ValueError(
            f"{path} is not a checkpoint of train, or is broken ({first}): remove it, or pass "
            "another checkpoint_dir"
        ) from error
    for name, wanted in fingerprint.items():
        if found.get(name) != wanted:
            raise ValueError(
                f"{path} is a checkpoint of another run: its {name} is {found.get(name)!r}, not "
                f"{wanted!r}: pass the value that the run was started with, or another "
                "checkpoint_dir"
            )
    weights = {
        name.removeprefix("model."): value
        for name, value in saved.items()
        if name.startswith("model.")
    }
    return {"model": weights, "state": state}
