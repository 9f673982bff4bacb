"""Training strategies as sequences of phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..._support.arguments import positive, whole

#: One learning rate, or one for each of the parts "heads" and "backbone".
Rates = float | Mapping[str, float]

Part = Literal["backbone", "all", "heads"]
PARTS: tuple[Part, ...] = ("backbone", "all", "heads")

#: The parts that the phases of a strategy train, by the names of arXiv 2407.14320.
STRATEGIES: dict[str, tuple[Part, ...]] = {
    "disjoint": ("backbone", "heads"),
    "joint": ("all",),
    "mixed": ("backbone", "all"),
}


@dataclass(frozen=True)
class Phase:
    """A training phase: one part of the model learns, and the rest stays the same bit for bit.

    Parameters
    ----------
    train : "backbone", "all" or "heads"
        The part to train: the backbone from its own output, everything, or the heads only.
    epochs : int
        Number of epochs, at least 1.
    learning_rate : float or mapping, optional
        Learning rate of the phase, or one for each part, as
        ``{"backbone": 1e-4, "heads": 1e-2}``; by default that of the function
        `laplex.early_exit.train`.
    layer_decay : float, optional
        Factor of the learning rate for each segment before the last; by default that of `train`.

    Raises
    ------
    TypeError, ValueError
        If a value is invalid.
    """

    train: Part
    epochs: int
    learning_rate: float | dict[str, float] | None = None
    layer_decay: float | None = None

    def __post_init__(self) -> None:
        if self.train not in PARTS:
            raise ValueError(f"Phase.train must be one of {', '.join(PARTS)}, got {self.train!r}")
        object.__setattr__(self, "epochs", whole("Phase.epochs", self.epochs, 1))
        if self.learning_rate is not None:
            rates = checked_rates("Phase.learning_rate", self.learning_rate, self.train)
            object.__setattr__(self, "learning_rate", rates)
        if self.layer_decay is not None:
            checked_decay("Phase.layer_decay", self.layer_decay)


def checked_rates(name: str, rates: Any, part: Part | None = None) -> Rates:
    """Return learning rates, checked: a number, or a mapping from parts to numbers.

    Parameters
    ----------
    name : str
        Name of the argument.
    rates
        The value to check.
    part : "backbone", "all" or "heads", optional
        What is trained at these rates.

    Raises
    ------
    TypeError, ValueError
        If they are neither, a rate is not positive and finite, or one is missing.
    """
    if not isinstance(rates, Mapping):
        return positive(name, rates)
    if not rates or not set(rates) <= {"heads", "backbone"}:
        got = ", ".join(map(repr, rates)) or "nothing"
        raise ValueError(f"{name} must have numbers for 'backbone' and 'heads', got {got}")
    for needed in () if part is None else ("backbone", "heads") if part == "all" else (part,):
        if needed not in rates:
            raise ValueError(
                f"{name} has no number for {needed!r}, which a phase trains: add it, as in "
                "{'backbone': 1e-4, 'heads': 1e-2}"
            )
    return {one: positive(f"{name}[{one!r}]", rate) for one, rate in rates.items()}


def checked_decay(name: str, decay: Any) -> float:
    """Return a factor above 0 and at most 1, or raise an error."""
    number = positive(name, decay)
    if number > 1:
        raise ValueError(f"{name} must be at most 1, got {number:g}")
    return number


def phases_of(strategy: str | Sequence[Phase], epochs: int | None = None) -> tuple[Phase, ...]:
    """Return the phases of a strategy.

    Parameters
    ----------
    strategy : str or sequence of Phase
        ``"disjoint"`` trains the backbone, then the heads. ``"joint"`` trains everything at once.
        ``"mixed"`` trains the backbone, then everything. A sequence of phases may have any order,
        and several phases of one kind.
    epochs : int, optional
        Number of epochs of all phases together, 10 by default, for a strategy given by name. They
        are divided evenly; the first phases get the remainder. A `Phase` has its own number.

    Returns
    -------
    tuple of Phase

    Raises
    ------
    TypeError, ValueError
        If the strategy is unknown, there are fewer epochs than phases, there are no phases, or
        `epochs` is given together with phases.

    Examples
    --------
    >>> from laplex.early_exit.training.strategies import phases_of
    >>> [(phase.train, phase.epochs) for phase in phases_of("mixed", 5)]
    [('backbone', 3), ('all', 2)]
    """
    if isinstance(strategy, str):
        if strategy not in STRATEGIES:
            raise ValueError(
                f"strategy must be one of {', '.join(STRATEGIES)}, or a sequence of Phase, got "
                f"{strategy!r}"
            )
        parts = STRATEGIES[strategy]
        total = 10 if epochs is None else whole("epochs", epochs, 1)
        if total < len(parts):
            raise ValueError(
                f"epochs must be at least {len(parts)} for strategy={strategy!r}, one for each "
                f"phase, got {total}: pass more, or strategy='joint' (--strategy joint)"
            )
        each, more = divmod(total, len(parts))
        return tuple(Phase(part, each + (place < more)) for place, part in enumerate(parts))
    if epochs is not None:
        raise ValueError(
            "epochs is only for a strategy given by name: each Phase has its own, so leave it out"
        )
    if isinstance(strategy, Phase) or not isinstance(strategy, Sequence):
        raise TypeError(
            f"strategy must be a name or a sequence of Phase, got {type(strategy).__name__}: pass "
            '[Phase("all", 10)], for instance'
        )
    found: list[Any] = list(strategy)
    for place, phase in enumerate(found):
        if not isinstance(phase, Phase):
            raise TypeError(f"strategy[{place}] must be a Phase, got {type(phase).__name__}")
    if not found:
        raise ValueError("strategy has no phases: pass at least one")
    return tuple(found)
