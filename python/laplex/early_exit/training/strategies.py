"""Training strategies as sequences of phases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..._support.arguments import positive, whole

Part = Literal["backbone", "all", "heads"]
PARTS: tuple[Part, ...] = ("backbone", "all", "heads")

#: The parts that the phases of a strategy train, in the names of arXiv 2407.14320.
STRATEGIES: dict[str, tuple[Part, ...]] = {
    "disjoint": ("backbone", "heads"),
    "joint": ("all",),
    "mixed": ("backbone", "all"),
}


@dataclass(frozen=True)
class Phase:
    """A stretch of training in which one part of a model learns and the rest stays bit for bit.

    Parameters
    ----------
    train : "backbone", "all" or "heads"
        The backbone alone, by its own output; everything; the heads alone.
    epochs : int
        At least 1.
    learning_rate : float, optional
        That of `train` when not given.

    Raises
    ------
    TypeError, ValueError
        For values that are none of these.
    """

    train: Part
    epochs: int
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if self.train not in PARTS:
            raise ValueError(f"Phase.train must be one of {', '.join(PARTS)}, got {self.train!r}")
        object.__setattr__(self, "epochs", whole("Phase.epochs", self.epochs, 1))
        if self.learning_rate is not None:
            rate = positive("Phase.learning_rate", self.learning_rate)
            object.__setattr__(self, "learning_rate", rate)


def phases_of(strategy: str | Sequence[Phase], epochs: int | None = None) -> tuple[Phase, ...]:
    """The phases of a strategy.

    Parameters
    ----------
    strategy : str or sequence of Phase
        ``"disjoint"``: the backbone, then the heads. ``"joint"``: everything. ``"mixed"``: the
        backbone, then everything. Or phases in any order, also several of a kind.
    epochs : int, optional
        Of all phases together, for a strategy by name: shared out evenly, what is left over to the
        first ones. 10 when not given. Phases have their own.

    Raises
    ------
    TypeError, ValueError
        An unknown strategy, fewer epochs than phases, no phases, or epochs beside phases.

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
                f"phase, got {total}"
            )
        each, more = divmod(total, len(parts))
        return tuple(Phase(part, each + (place < more)) for place, part in enumerate(parts))
    if epochs is not None:
        raise ValueError("epochs goes with a strategy by name: each Phase has its own")
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
