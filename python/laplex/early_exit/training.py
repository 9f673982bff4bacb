"""`train`: a model with exits, trained phase by phase on Lightning."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from laplex.optional import require

from .activations import batch_of
from .costs import count_costs
from .exit_stopping import ExitStopping
from .freezing import check_parts, training_only
from .model import MultiExitModel
from .objectives import Distillation, Objective, Weights
from .seeding import EpochSeeds
from .strategies import Phase, phases_of, positive, whole
from .training_result import EpochRecord, TrainingResult

if TYPE_CHECKING:
    from .lightning_phase import Recipe

CHECKPOINT = "last.ckpt"


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
    the bit, statistics of BatchNorm included, in every order of phases; whatever was frozen before
    stays frozen; flags and modes are put back at the end.

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
        From parameters to an optimiser, such as ``lambda p: SGD(p, lr=0.1, momentum=0.9)``; it
        gets those that the phase trains. AdamW with the next two when not given.
    learning_rate, weight_decay : float
    scheduler : "cosine", None, or callable
        Of the learning rate, by step, anew in each phase; or a function of an optimiser and the
        number of steps to a scheduler.
    early_stopping : ExitStopping, optional
        Needs `val_loader`.
    seed : int
        Everything random in epoch e of phase p follows from (seed, p, e): shuffling, dropout. The
        caller's generators are put back.
    checkpoint_dir : path, optional
        A checkpoint is written there after every epoch, complete or not at all.
    resume : bool
        Go on from the checkpoint, if there is one. The result is that of a run without
        interruption, to the bit, on the same machine with the same number of threads; an iterable
        without a length or with a shuffling of its own must see to that itself.
    precision : str
        Lightning's, such as ``"bf16-mixed"``.
    logger : Lightning logger, optional
        Gets the loss, and ``train_loss/NAME``, ``val_loss/NAME``, ``val_accuracy/NAME`` of every
        exit, once an epoch.
    callbacks : sequence of Lightning callbacks
    trainer_options : mapping, optional
        More arguments of ``pytorch_lightning.Trainer``: ``accelerator``, ``devices``,
        ``strategy="ddp"``, ``gradient_clip_val``, ...
    progress : bool
        Show a progress bar.

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
    """
    if not isinstance(model, MultiExitModel):
        raise TypeError(f"model must be a MultiExitModel, got {type(model).__name__}")
    phases = phases_of(strategy, epochs)
    objective = Objective(weights, gradient_equilibrium, detach, distillation, label_smoothing)
    objective.exit_weights(model.num_exits, costs=[1.0] * model.num_exits)
    check_parts(model)
    _check_loaders(train_loader, val_loader, early_stopping)
    if isinstance(scheduler, str) and scheduler != "cosine":
        raise ValueError(f"scheduler must be 'cosine', None or a function, got {scheduler!r}")
    if resume and checkpoint_dir is None:
        raise ValueError("resume needs a checkpoint_dir to go on from")
    require("pytorch_lightning", extra="exits", feature="laplex.early_exit.train")
    from .lightning_phase import Recipe

    recipe = Recipe(
        objective=objective,
        optimizer=optimizer,
        learning_rate=positive("learning_rate", learning_rate),
        weight_decay=float(weight_decay),
        scheduler=scheduler,
        early_stopping=early_stopping,
        costs=_relative_costs(model, train_loader) if weights == "sdn" else None,
    )
    fingerprint = _fingerprint(model, phases, recipe, whole("seed", seed, 0), precision)
    path = None if checkpoint_dir is None else Path(checkpoint_dir) / CHECKPOINT
    saved = _load(path, fingerprint) if path is not None and resume else None
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        "precision": precision,
        "logger": False if logger is None else logger,
        "callbacks": list(callbacks),
        "enable_progress_bar": progress,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        **(trainer_options or {}),
        "reload_dataloaders_every_n_epochs": 1,
    }
    run = _Run(model, phases, recipe, (train_loader, val_loader), path, fingerprint, options)
    seeds = EpochSeeds(seed, train_loader)
    device = next((one.device for one in model.parameters()), torch.device("cpu"))
    with _quiet(), seeds.in_place():
        run.go(seeds, saved)
    model.to(device)
    names = (*model.exit_names, "output")
    return TrainingResult(names, phases, tuple(run.history))


class _Run:
    """The phases, one after the other."""

    def __init__(
        self,
        model: MultiExitModel,
        phases: tuple[Phase, ...],
        recipe: Recipe,
        loaders: tuple[Any, Any],
        path: Path | None,
        fingerprint: dict[str, Any],
        options: dict[str, Any],
    ) -> None:
        self.model, self.phases, self.recipe, self.loaders = model, phases, recipe, loaders
        self.path, self.fingerprint, self.options = path, fingerprint, options
        self.history: list[EpochRecord] = []

    def go(self, seeds: EpochSeeds, saved: dict[str, Any] | None) -> None:
        from .lightning_phase import KEY

        first, within = 0, False
        if saved is not None:
            state = saved[KEY]
            self.history.extend(EpochRecord.from_dict(one) for one in state["history"])
            first, within = state["phase"], not state["finished"]
            if not within:
                weights = {
                    name.removeprefix("model."): value
                    for name, value in saved["state_dict"].items()
                    if name.startswith("model.")
                }
                self._load(weights)
                self._restore_best(state["best"])
                first += 1
        for index in range(first, len(self.phases)):
            with training_only(self.model, self.phases[index].train):
                self._phase(index, seeds, within and index == first)

    def _phase(self, index: int, seeds: EpochSeeds, within: bool) -> None:
        from .lightning_phase import PhaseModule, lightning

        phase = self.phases[index]
        module = PhaseModule(
            self.model,
            phase,
            index,
            self.recipe,
            seeds,
            self.loaders,
            self.history,
            self.path,
            self.fingerprint,
        )
        trainer = lightning.Trainer(max_epochs=phase.epochs, **self.options)
        trainer.fit(module, ckpt_path=self.path if within else None)
        if trainer.interrupted:  # Lightning takes Ctrl-C for a wish to end well
            raise KeyboardInterrupt
        self._restore_best(module.best)

    def _restore_best(self, best: dict[str, Any] | None) -> None:
        rule = self.recipe.early_stopping
        if rule is not None and rule.restore_best and best is not None:
            self._load(best)

    def _load(self, weights: Mapping[str, Any]) -> None:
        self.model.load_state_dict(dict(weights))


def _check_loaders(train_loader: Any, val_loader: Any, stopping: ExitStopping | None) -> None:
    for name, loader in (("train_loader", train_loader), ("val_loader", val_loader)):
        if loader is None:
            continue
        if not hasattr(loader, "__iter__"):
            raise TypeError(f"{name} must be a DataLoader, got {type(loader).__name__}")
        if hasattr(loader, "__len__") and len(loader) == 0:
            raise ValueError(f"{name} is empty: with drop_last=True it needs one whole batch")
    if train_loader is None:
        raise TypeError("train_loader is None: pass a DataLoader")
    if stopping is not None and val_loader is None:
        raise ValueError("early_stopping needs a val_loader to look at")


def _relative_costs(model: MultiExitModel, loader: Any) -> list[float]:
    x = next(iter(loader))[0]
    device = next((one.device for one in model.parameters()), torch.device("cpu"))
    moved = x.to(device) if isinstance(x, torch.Tensor) else x
    batch_of(moved, "x")
    return [float(one) for one in count_costs(model, moved).relative]


def _fingerprint(
    model: MultiExitModel,
    phases: tuple[Phase, ...],
    recipe: Recipe,
    seed: int,
    precision: str | int,
) -> dict[str, Any]:
    """What must agree for a run to go on from a checkpoint."""
    shapes = [f"{name} {list(one.shape)} {one.dtype}" for name, one in model.state_dict().items()]
    return {
        "exits": list(model.exit_names),
        "model": hashlib.sha256("\n".join(shapes).encode()).hexdigest()[:16],
        "phases": [[phase.train, phase.epochs, phase.learning_rate] for phase in phases],
        "objective": repr(recipe.objective),
        "learning_rate": recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
        "scheduler": recipe.scheduler if isinstance(recipe.scheduler, str) else None,
        "early_stopping": repr(recipe.early_stopping),
        "seed": seed,
        "precision": str(precision),
    }


def _load(path: Path, fingerprint: dict[str, Any]) -> dict[str, Any] | None:
    from .lightning_phase import KEY

    if not path.exists():
        return None
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = saved[KEY]["fingerprint"]
    except Exception as error:  # torch raises what it likes for files that are none of its own
        first = (str(error).splitlines() or [repr(error)])[0]
        raise ValueError(f"{path} is no checkpoint of train, or a broken one: {first}") from error
    for name, wanted in fingerprint.items():
        if found.get(name) != wanted:
            raise ValueError(
                f"{path} is a checkpoint of another run: its {name} is {found.get(name)!r}, not "
                f"{wanted!r}: pass what it was begun with, or another checkpoint_dir"
            )
    return saved


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning without its tips and advice; its errors stay."""
    loggers = [
        logging.getLogger(name)
        for name in (
            "pytorch_lightning",
            "pytorch_lightning.utilities.rank_zero",
            "lightning_fabric",
            "lightning_fabric.utilities.rank_zero",
        )
    ]
    levels = [one.level for one in loggers]
    with warnings.catch_warnings():
        for module in ("pytorch_lightning", "lightning_fabric"):
            warnings.filterwarnings("ignore", module=module)
        for one in loggers:
            one.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for one, level in zip(loggers, levels, strict=True):
                one.setLevel(level)
