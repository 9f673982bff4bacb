"""`train`: a model with exits, trained phase by phase on Lightning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from laplex._support.optional import require

from ..._support.arguments import whole
from ..activations import map_tensors
from ..batches import check_model, device_of
from ..costs import count_costs
from ..model import MultiExitModel
from .batch_checks import check_loaders, check_single, last_batch_is_one, pair_of
from .checkpoints import CHECKPOINT as CHECKPOINT
from .checkpoints import fingerprint_of, load_checkpoint
from .exit_stopping import ExitStopping
from .freezing import check_parts, training_only
from .objectives import Distillation, Objective, Weights
from .quiet_lightning import interruptible, quiet
from .recipe import Recipe
from .result import EpochRecord, TrainingResult
from .seeding import EpochSeeds
from .strategies import Phase, phases_of

#: What `train` tells Lightning's Trainer itself, and by which argument to say it.
_OWN_OPTIONS = {
    "max_epochs": "epochs, or the epochs of each Phase,",
    "min_epochs": "epochs, or the epochs of each Phase,",
    "max_steps": "epochs, or the epochs of each Phase,",
    "min_steps": "epochs, or the epochs of each Phase,",
    "precision": "precision",
    "logger": "logger",
    "callbacks": "callbacks",
    "enable_progress_bar": "progress",
    "reload_dataloaders_every_n_epochs": "nothing: loaders are gone through anew in each epoch",
}


def train(
    model: MultiExitModel,
    train_loader: Any,
    val_loader: Any = None,
    *,
    strategy: str | Sequence[Phase] = "mixed",
    epochs: int | None = None,
    weights: Weights = "equal",
    gradient_equilibrium: bool = False,
    detach: bool = False,
    distillation: Distillation | None = None,
    label_smoothing: float = 0.0,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
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

    Each phase is one `fit` of a Lightning Trainer. What a phase does not train stays the same to
    the bit, statistics of BatchNorm included, in every order of phases. What was frozen before
    (``requires_grad_(False)``) stays the same throughout, with the statistics of frozen modules.
    Flags and modes are put back at the end.

    Parameters
    ----------
    model : MultiExitModel
    train_loader, val_loader : DataLoader, or another iterable of pairs
        ``(x, labels)`` with x as the model takes it and labels int64 [batch].
    strategy : "mixed", "joint", "disjoint", or sequence of Phase
        As in `phases_of`; our reading of arXiv 2407.14320.
    epochs : int, optional
        Of all phases together (10 when not given); only with a strategy by name.
    weights, gradient_equilibrium, detach, distillation, label_smoothing
        As in `Objective`.
    optimizer : callable, optional
        From parameters to a new optimiser, such as ``lambda p: SGD(p, lr=0.1, momentum=0.9)``; it
        gets those that the phase trains. AdamW with the next two when not given.
    learning_rate, weight_decay : float
        Of AdamW. The learning rate of a Phase is set in an optimiser of your own, too.
    scheduler : "cosine", None, or callable
        Of the learning rate, by step, anew in each phase; or a function of an optimiser and the
        number of steps to a scheduler.
    early_stopping : ExitStopping, optional
        Needs `val_loader`.
    seed : int
        Everything random in epoch e of phase p follows from (seed, p, e): shuffling, dropout,
        augmentation by torch, NumPy's or Python's global generator. The caller's generators are put
        back.
    checkpoint_dir : path, optional
        A checkpoint is written there after every epoch, complete or not at all.
    resume : bool
        Go on from the checkpoint, if there is one. The result is that of a run without
        interruption, to the bit, on the same machine with the same number of threads, and where a
        GPU's kernels are deterministic. Workers that a DataLoader keeps (``persistent_workers``)
        draw other random numbers; an iterable that is no DataLoader must see to its shuffling
        itself.
    precision : str
        Lightning's, such as ``"bf16-mixed"``.
    logger : Lightning logger, optional
        Gets ``loss``, and ``train_loss/NAME``, ``val_loss/NAME``, ``val_accuracy/NAME`` of every
        exit, once an epoch; epochs and steps are counted on from phase to phase.
    callbacks : sequence of Lightning callbacks
        The same ones in all phases.
    trainer_options : mapping, optional
        More arguments of ``pytorch_lightning.Trainer``: ``accelerator``, ``devices`` (1 when not
        given), ``strategy="ddp"``, ``gradient_clip_val``, ... Among several processes Lightning
        shares out the batches, shuffles by a seed of its own (``seed_everything``), and validates
        on a few samples twice where they don't divide.
    progress : bool
        Show Lightning's progress bar.

    Returns
    -------
    TrainingResult

    Raises
    ------
    ImportError
        Without pytorch_lightning: ``pip install "laplex[exits]"``.
    ValueError, TypeError
        Bad settings, before any work; labels out of range, a batch of one with BatchNorm, a loss
        that is not finite; a checkpoint of another run.
    KeyboardInterrupt
        On Ctrl-C, after which `resume` goes on.
    """
    check_model(model)
    phases = phases_of(strategy, epochs)
    objective = Objective(weights, gradient_equilibrium, detach, distillation, label_smoothing)
    recipe = Recipe(objective, optimizer, learning_rate, weight_decay, scheduler, early_stopping)
    seed = whole("seed", seed, 0)
    _check_phases(model, phases, objective)
    check_loaders(train_loader, val_loader)
    if early_stopping is not None and val_loader is None:
        raise ValueError("early_stopping needs a val_loader to look at")
    if resume and checkpoint_dir is None:
        raise ValueError("resume needs a checkpoint_dir to go on from")
    options = _options(trainer_options, precision, logger, callbacks, progress)

    seeds = EpochSeeds(seed, train_loader, val_loader)
    run = _Run(model, phases, recipe, (train_loader, val_loader), seeds, options)
    with seeds.in_place():
        run.look_ahead()
    saved = None
    if checkpoint_dir is not None:
        run.path = Path(checkpoint_dir) / CHECKPOINT
        run.fingerprint = fingerprint_of(
            model,
            phases,
            recipe,
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
        recipe: Recipe,
        loaders: tuple[Any, Any],
        seeds: EpochSeeds,
        options: dict[str, Any],
    ) -> None:
        self.model, self.phases, self.recipe, self.loaders = model, phases, recipe, loaders
        self.seeds, self.options = seeds, options
        self.path: Path | None = None
        self.fingerprint: dict[str, Any] = {}
        self.history: list[EpochRecord] = []
        self.steps = 0

    def look_ahead(self) -> None:
        """Take from a first batch what must be known before any work."""
        counts, single = self.recipe.objective.weights == "sdn", last_batch_is_one(self.loaders[0])
        if not counts and not single:
            return
        device = device_of(self.model)
        x, _ = pair_of(next(iter(self.loaders[0]), None), "train_loader")
        x = map_tensors(lambda one: one[:1].to(device), x)
        if counts:
            costs = [float(one) for one in count_costs(self.model, x).relative]
            self.recipe = replace(self.recipe, costs=costs)
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
            self.recipe,
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
        rule = self.recipe.early_stopping
        if rule is not None and rule.restore_best and best is not None:
            self.model.load_state_dict(best)


def _check_phases(model: MultiExitModel, phases: Sequence[Phase], objective: Objective) -> None:
    """Refuse phases in which nothing would be trained."""
    check_parts(model)
    costs = [1.0] * model.num_exits
    objective.exit_weights(model.num_exits, costs=costs)
    for part in dict.fromkeys(phase.train for phase in phases):
        objective.exit_weights(model.num_exits, part, costs=costs)
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
            raise ValueError(f"trainer_options has {name!r}: pass {instead} to train")
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
