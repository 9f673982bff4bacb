"""The function `train`: train a model with exits phase by phase, with Lightning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from laplex._support.optional import require

from ..._support.arguments import whole
from ..activations import first_rows, map_tensors
from ..batches import check_model, device_of, inputs_and_labels
from ..costs import count_costs
from ..model import MultiExitModel
from .batch_checks import check_loaders, check_single, last_batch_is_one
from .checkpoints import CHECKPOINT as CHECKPOINT
from .checkpoints import fingerprint_of, load_checkpoint
from .exit_loss import Loss
from .exit_stopping import ExitStopping
from .freezing import check_parts, training_only
from .objectives import Combine, Distillation, Objective, Weights
from .quiet_lightning import interruptible, quiet
from .rates import depths_of
from .result import EpochRecord, TrainingResult
from .seeding import EpochSeeds
from .settings import TrainingSettings
from .strategies import Phase, Rates, checked_rates, phases_of

#: Options that `train` sets for Lightning's Trainer, and the argument of `train` to use instead.
_OWN_OPTIONS = {
    "max_epochs": "epochs, or the epochs of each Phase,",
    "min_epochs": "epochs, or the epochs of each Phase,",
    "max_steps": "epochs, or the epochs of each Phase,",
    "min_steps": "epochs, or the epochs of each Phase,",
    "precision": "precision",
    "logger": "logger",
    "callbacks": "callbacks",
    "enable_progress_bar": "progress",
    "reload_dataloaders_every_n_epochs": "nothing (loaders are read anew in each epoch)",
}


def train(
    model: MultiExitModel,
    train_loader: Any,
    val_loader: Any = None,
    *,
    strategy: str | Sequence[Phase] = "mixed",
    epochs: int | None = None,
    weights: Weights = "equal",
    loss: Loss = "cross-entropy",
    class_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    distillation: Distillation | None = None,
    gradient_equilibrium: bool = False,
    detach: bool = False,
    combine: Combine | None = None,
    optimizer: Callable[[Iterable[Any]], Optimizer] | None = None,
    learning_rate: Rates = 1e-3,
    weight_decay: float = 1e-2,
    layer_decay: float = 1.0,
    scheduler: str | Callable[[Optimizer, int], Any] | None = "cosine",
    early_stopping: ExitStopping | None = None,
    seed: int = 0,
    checkpoint_dir: str | Path | None = None,
    resume: bool = False,
    precision: str | int = "32-true",
    logger: Any = None,
    callbacks: Sequence[Any] = (),
    trainer_options: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> TrainingResult:
    """Train a model with exits, in place, phase by phase.

    Each phase is one ``fit`` of a Lightning Trainer. The part that a phase does not train stays the
    same bit for bit, including BatchNorm statistics, in any order of phases. Parameters that you
    froze before (``requires_grad_(False)``), and the statistics of frozen modules, never change.
    All flags and modes are restored at the end.

    Parameters
    ----------
    model : MultiExitModel
        The model, which is trained in place.
    train_loader : DataLoader, or another iterable of batches
        Batches ``(x, labels)``; ``(x1, x2, ..., labels)`` for a backbone of several arguments; or
        mappings with ``"labels"`` or ``"label"`` beside the inputs. Labels suit the loss; those of
        the cross-entropy are class indices, int64 [batch].
    val_loader : like ``train_loader``, optional
        Validation samples.
    strategy : "mixed", "joint", "disjoint", or sequence of Phase
        ``"mixed"`` trains the backbone, then everything; ``"joint"`` trains everything at once;
        ``"disjoint"`` trains the backbone, then the heads. This is our reading of arXiv 2407.14320.
        Alternatively, pass your own phases.
    epochs : int, optional
        Number of epochs of all phases together, 10 by default. Only for a strategy given by name;
        the epochs are divided evenly among its phases.
    weights, loss, class_weights, label_smoothing, distillation
        As in `Objective`.
    gradient_equilibrium, detach, combine
        As in `Objective`.
    optimizer : callable, optional
        A function from parameters to a new optimiser, such as
        ``lambda p: SGD(p, lr=0.1, momentum=0.9)``. It receives the parameters that the phase
        trains or, if these have several learning rates, a list of parameter groups. The default is
        AdamW with the next two arguments. `scheduler` changes the rate of this optimiser, too: pass
        None to keep it.
    learning_rate : float, or mapping with "backbone" and "heads"
        Learning rate, or that of each part. An optimiser of your own chooses its rate itself; a
        mapping, and the learning rate of a `Phase`, take precedence over it.
    weight_decay : float
        Weight decay of AdamW.
    layer_decay : float
        Factor of the backbone's learning rate for each segment before the last, above 0 and at most
        1. Segment k ends when the module of exit k has run. A parameter belongs to the segment in
        which its module first starts, as one run of the backbone shows. Heads keep their rate. A
        `Phase` may have its own factor.
    scheduler : "cosine", None, or callable
        Schedule of the learning rate, which restarts in each phase and steps after each batch:
        along a cosine to 0, or constant. Alternatively, a function that takes an optimiser and the
        number of steps, and returns a scheduler.
    early_stopping : ExitStopping, optional
        Rule that ends phases early. It needs `val_loader`.
    seed : int
        Random seed. All randomness in epoch e of phase p follows from (seed, p, e): shuffling,
        dropout, and augmentation that uses the global generator of torch, NumPy or Python. The
        state of these generators is restored afterwards.
    checkpoint_dir : path, optional
        Folder for a checkpoint, which is written after every epoch, completely or not at all.
    resume : bool
        Whether to continue from the checkpoint if there is one. The result equals that of an
        uninterrupted run bit for bit, on the same machine with the same number of threads, and on a
        GPU if its kernels are deterministic. There are two exceptions: workers that a DataLoader
        keeps (``persistent_workers``) draw other random numbers, and an iterable that is not a
        DataLoader has to seed its own shuffling.
    precision : str
        Precision for Lightning, such as ``"bf16-mixed"``.
    logger : Lightning logger, optional
        Receives, once an epoch, ``loss`` and, for every exit, ``train_loss/NAME``,
        ``val_loss/NAME`` and ``val_accuracy/NAME``. Epochs and steps count on from phase to phase.
    callbacks : sequence of Lightning callbacks
        Callbacks for all phases.
    trainer_options : mapping, optional
        More arguments of ``pytorch_lightning.Trainer``, such as ``accelerator``, ``devices``
        (1 by default), ``strategy="ddp"`` or ``gradient_clip_val``. With several processes,
        Lightning divides the batches among them, shuffles with a seed of its own
        (``seed_everything``), and validates on a few samples twice if they do not divide evenly.
    progress : bool
        Whether to show Lightning's progress bar.

    Returns
    -------
    TrainingResult

    Raises
    ------
    ImportError
        If pytorch_lightning is not installed: ``pip install "laplex[exits]"``.
    ValueError, TypeError
        If a setting is invalid, which is checked before any work; if labels are out of range, a
        BatchNorm gets a batch of one sample, or a loss is not finite; or if the checkpoint belongs
        to another run.
    KeyboardInterrupt
        On Ctrl-C. Call again with `resume` to continue.
    """
    check_model(model)
    phases = phases_of(strategy, epochs)
    objective = Objective(
        weights,
        gradient_equilibrium,
        detach,
        distillation,
        label_smoothing,
        loss,
        class_weights,
        combine,
    )
    settings = TrainingSettings(
        objective,
        optimizer,
        learning_rate,
        weight_decay,
        layer_decay,
        scheduler,
        early_stopping,
    )
    seed = whole("seed", seed, 0)
    _check_phases(model, phases, settings)
    check_loaders(train_loader, val_loader)
    if early_stopping is not None and val_loader is None:
        raise ValueError("early_stopping needs validation losses: pass a val_loader")
    if resume and checkpoint_dir is None:
        raise ValueError("resume=True needs the folder of a checkpoint: pass checkpoint_dir")
    options = _options(trainer_options, precision, logger, callbacks, progress)

    seeds = EpochSeeds(seed, train_loader, val_loader)
    run = _Run(model, phases, settings, (train_loader, val_loader), seeds, options)
    with seeds.in_place():
        run.look_ahead()
    saved = None
    if checkpoint_dir is not None:
        run.path = Path(checkpoint_dir) / CHECKPOINT
        run.fingerprint = fingerprint_of(
            model,
            phases,
            settings,
            seed=seed,
            precision=precision,
            train_loader=train_loader,
            trainer_options=trainer_options,
        )
        saved = load_checkpoint(run.path, run.fingerprint) if resume else None
        run.path.parent.mkdir(parents=True, exist_ok=True)
    device = device_of(model)
    try:
        with quiet(), seeds.in_place(), torch.enable_grad():
            run.go(saved)
    finally:
        model.to(device)
    names = model.output_names
    return TrainingResult(names, phases, tuple(run.history))


class _Run:
    """The phases, one after the other."""

    def __init__(
        self,
        model: MultiExitModel,
        phases: tuple[Phase, ...],
        settings: TrainingSettings,
        loaders: tuple[Any, Any],
        seeds: EpochSeeds,
        options: dict[str, Any],
    ) -> None:
        self.model, self.phases, self.settings, self.loaders = model, phases, settings, loaders
        self.seeds, self.options = seeds, options
        self.path: Path | None = None
        self.fingerprint: dict[str, Any] = {}
        self.history: list[EpochRecord] = []
        self.steps = 0

    def look_ahead(self) -> None:
        """Run the checks and counts that need a first batch, before any work."""
        objective, single = self.settings.objective, last_batch_is_one(self.loaders[0])
        counts = objective.weights == "sdn" or objective.combine is not None
        decays = [self.settings.layer_decay, *(phase.layer_decay for phase in self.phases)]
        by_depth = any(one not in (None, 1.0) for one in decays)
        if not counts and not single and not by_depth:
            return
        device = device_of(self.model)
        x, _ = inputs_and_labels(next(iter(self.loaders[0]), None), "train_loader")
        x = map_tensors(lambda one: one.to(device), first_rows(x, 1, "x of train_loader"))
        if counts:
            costs = [float(one) for one in count_costs(self.model, x).relative]
            self.settings = replace(self.settings, costs=costs)
        if by_depth:
            self.settings = replace(self.settings, depths=depths_of(self.model, x))
        for part in dict.fromkeys(phase.train for phase in self.phases) if single else ():
            with training_only(self.model, part):
                check_single(self.model, part, x)

    def go(self, saved: dict[str, Any] | None) -> None:
        """Run the phases that are left."""
        first, within = 0, False
        if saved is not None:
            state = saved["state"]
            self.history[:] = [EpochRecord(**one) for one in state["history"]]
            self.steps = state["steps"]
            first, within = state["phase"], not state["finished"]
            if not within:
                self.model.load_state_dict(saved["model"])
                self._restore_best(state["best"])
                first += 1
        for index in range(first, len(self.phases)):
            with training_only(self.model, self.phases[index].train):
                self._phase(index, within and index == first)

    def _phase(self, index: int, within: bool) -> None:
        from .lightning_phase import PhaseModule, lightning

        phase = self.phases[index]
        module = PhaseModule(
            self.model,
            phase,
            index,
            self.settings,
            self.seeds,
            self.loaders,
            self.history,
            self.path,
            self.fingerprint,
        )
        trainer = lightning.Trainer(max_epochs=phase.epochs, **self.options)
        # Loggers count steps by this; a checkpoint brings its own.
        trainer.fit_loop.epoch_loop._batches_that_stepped = self.steps
        with interruptible():
            trainer.fit(module, ckpt_path=self.path if within else None)
        self.steps = module.steps
        self._restore_best(module.best)

    def _restore_best(self, best: dict[str, Any] | None) -> None:
        rule = self.settings.early_stopping
        if rule is not None and rule.restore_best and best is not None:
            self.model.load_state_dict(best)


def _check_phases(
    model: MultiExitModel, phases: Sequence[Phase], settings: TrainingSettings
) -> None:
    """Check that every phase has something to train, and learning rates for it."""
    check_parts(model)
    for phase in phases:
        if phase.learning_rate is None:
            checked_rates("learning_rate", settings.learning_rate, phase.train)
    exits, costs = model.num_exits, [1.0] * model.num_exits
    objective, output_head = settings.objective, model.output_head is not None
    objective.exit_weights(exits, costs=costs)
    for part in dict.fromkeys(phase.train for phase in phases):
        objective.exit_weights(exits, part, costs=costs, output_head=output_head)
        with training_only(model, part):
            pass


def _options(
    more: Mapping[str, Any] | None,
    precision: str | int,
    logger: Any,
    callbacks: Sequence[Any],
    progress: bool,
) -> dict[str, Any]:
    """The arguments of Lightning's Trainer."""
    for name, instead in _OWN_OPTIONS.items():
        if name in (more or {}):
            raise ValueError(
                f"trainer_options has {name!r}, which train sets itself: pass {instead} to train"
            )
    callbacks = list(callbacks)
    lightning = require("pytorch_lightning", extra="exits", feature="laplex.early_exit.train")
    saves = any(isinstance(one, lightning.callbacks.Checkpoint) for one in callbacks)
    return {
        "precision": precision,
        "logger": False if logger is None else logger,
        "callbacks": callbacks,
        "enable_progress_bar": bool(progress),
        "enable_model_summary": False,
        "enable_checkpointing": saves,
        "num_sanity_val_steps": 0,
        "devices": 1,
        **(more or {}),
        "reload_dataloaders_every_n_epochs": 1,  # so that each epoch is seeded before its iterator
    }
