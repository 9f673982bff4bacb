"""Settings shared by all training phases: objective, optimiser, scheduler, early stopping."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, ReduceLROnPlateau

from ..._support.arguments import not_negative
from ..model import MultiExitModel
from .exit_stopping import ExitStopping
from .objectives import Objective
from .rates import groups_of, set_rates
from .strategies import Phase, Rates, checked_decay, checked_rates


@dataclass(frozen=True)
class TrainingSettings:
    """Settings shared by all training phases.

    Parameters
    ----------
    objective : Objective
    optimizer : callable, optional
        A function from parameters to an optimiser; by default AdamW with the next arguments.
    learning_rate : float or mapping
    weight_decay : float
    layer_decay : float
        Factor of the learning rate for each segment before the last.
    scheduler : "cosine", None, or callable
        A function from an optimiser and the number of steps to a scheduler that steps after each
        batch.
    early_stopping : ExitStopping, optional
    costs : sequence of K floats, optional
        Costs of the exits relative to the backbone, if the objective needs them.
    depths : mapping of str to int, optional
        Depth of each parameter of the backbone, if a phase has a `layer_decay`; see `depths_of`.

    Raises
    ------
    TypeError, ValueError
        If a value is invalid.
    """

    objective: Objective
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None
    learning_rate: Rates = 1e-3
    weight_decay: float = 1e-2
    layer_decay: float = 1.0
    scheduler: str | Callable[[Optimizer, int], Any] | None = "cosine"
    early_stopping: ExitStopping | None = None
    costs: Sequence[float] | None = None
    depths: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "learning_rate", checked_rates("learning_rate", self.learning_rate)
        )
        checked_decay("layer_decay", self.layer_decay)
        object.__setattr__(self, "weight_decay", not_negative("weight_decay", self.weight_decay))
        if self.optimizer is not None and not callable(self.optimizer):
            raise TypeError(
                "optimizer must be a function of parameters, such as lambda p: SGD(p, lr=0.1), got "
                f"{self.optimizer!r}"
            )
        known = self.scheduler is None or self.scheduler == "cosine" or callable(self.scheduler)
        if not known:
            raise ValueError(
                f"scheduler must be 'cosine', None or a function, got {self.scheduler!r}"
            )
        if not isinstance(self.early_stopping, (ExitStopping, type(None))):
            raise TypeError(
                "early_stopping must be an ExitStopping such as ExitStopping(patience=5), got "
                f"{self.early_stopping!r}"
            )

    @property
    def needs_length(self) -> str | None:
        """The argument that needs the number of steps of a phase, if any does."""
        if self.scheduler is not None:
            return "scheduler='cosine'" if self.scheduler == "cosine" else "scheduler"
        return "weights='sdn'" if self.objective.weights == "sdn" else None

    def make_optimizer(self, model: MultiExitModel, phase: Phase) -> Optimizer:
        """Make the optimiser of the parameters that a phase trains.

        A function of the caller's own gets these parameters or, if they need several learning
        rates, groups of them; it chooses the rates unless they are given.

        Raises
        ------
        TypeError, ValueError
            If `optimizer` does not return an optimiser, or returns one of other parameters.
        """
        rates = self.learning_rate if phase.learning_rate is None else phase.learning_rate
        decay = self.layer_decay if phase.layer_decay is None else phase.layer_decay
        groups = groups_of(model, phase.train, None if decay == 1.0 else self.depths)
        several = isinstance(rates, Mapping) or decay != 1.0
        parameters: list[Any] = [one for group in groups for one in group.parameters]
        if several:
            parameters = [{"params": one.parameters, "name": one.name} for one in groups]
        if self.optimizer is None:
            made: Any = AdamW(parameters, weight_decay=self.weight_decay)
        else:
            made = self.optimizer(parameters)
        if not isinstance(made, Optimizer):
            raise TypeError(
                f"optimizer must return a torch.optim.Optimizer, got {type(made).__name__}"
            )
        own = self.optimizer is not None and phase.learning_rate is None
        set_rates(made, groups, None if own and not isinstance(rates, Mapping) else rates, decay)
        return made

    def make_scheduler(self, optimizer: Optimizer, steps: int) -> LRScheduler | None:
        """Make the scheduler for a phase with a given number of steps.

        Raises
        ------
        TypeError
            If `scheduler` does not return a scheduler that steps without a metric.
        """
        if self.scheduler is None:
            return None
        if isinstance(self.scheduler, str):
            return CosineAnnealingLR(optimizer, T_max=steps)
        made = self.scheduler(optimizer, steps)
        if not isinstance(made, LRScheduler) or isinstance(made, ReduceLROnPlateau):
            raise TypeError(
                "scheduler must return a torch.optim.lr_scheduler.LRScheduler that steps by batch, "
                f"without a metric, got {type(made).__name__}"
            )
        return made
