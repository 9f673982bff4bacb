"""Parameters of a fit, checked against the data before any work."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .estimator import CEDAR

TRANSFORMS = ("orthogonal", "invertible", "laplex")
SOLVERS = ("auto", "procrustes", "adam")
CENTRES = ("mean", "learned", "none")
PARAMETRIZATIONS = ("expm", "cayley")

#: The widest embeddings whose rotation `solver="auto"` takes from a singular value decomposition.
_WIDEST_FOR_PROCRUSTES = 1024
_STEPS = {"procrustes": 100, "adam": 2000}
_HEADS = 16


@dataclass(frozen=True)
class Settings:
    """What a fit goes by; all of it plain, so that a checkpoint can hold it."""

    ks: tuple[int, ...]
    transform: str
    solver: str
    parametrization: str
    center: str
    n_init: int
    max_iter: int
    tol: float
    batch_size: int
    learning_rate: float
    heads: int

    @property
    def learn_centre(self) -> bool:
        """Whether b is learned."""
        return self.center == "learned"


def settings_of(model: CEDAR, dim: int) -> Settings:
    """Parameters of an estimator for embeddings of `dim` columns.

    Raises
    ------
    TypeError, ValueError
        With the name of the parameter and the remedy.
    """
    transform = one_of("transform", model.get_params(deep=False)["transform"], TRANSFORMS)
    solver = one_of("solver", model.solver, SOLVERS)
    if solver == "auto":
        alternates = transform == "orthogonal" and dim <= _WIDEST_FOR_PROCRUSTES
        solver = "procrustes" if alternates else "adam"
    elif solver == "procrustes" and transform != "orthogonal":
        raise ValueError(
            f"solver='procrustes' finds rotations: for transform={transform!r} pass solver='adam' "
            "or leave it 'auto'"
        )
    tol = number("tol", model.tol)
    if tol < 0:
        raise ValueError(f"tol must not be negative, got {tol}")
    rate = number("learning_rate", model.learning_rate)
    if rate <= 0:
        raise ValueError(f"learning_rate must be positive, got {rate}")
    return Settings(
        ks=checked_ks(model.k, dim),
        transform=transform,
        solver=solver,
        parametrization=one_of("parametrization", model.parametrization, PARAMETRIZATIONS),
        center=one_of("center", model.center, CENTRES),
        n_init=whole("n_init", model.n_init),
        max_iter=_STEPS[solver] if model.max_iter is None else whole("max_iter", model.max_iter),
        tol=tol,
        batch_size=whole("batch_size", model.batch_size),
        learning_rate=rate,
        heads=_HEADS if model.heads is None else whole("heads", model.heads),
    )


def checked_ks(k: object, dim: int | None = None) -> tuple[int, ...]:
    """K, or several, in ascending order."""
    several = isinstance(k, Iterable) and not isinstance(k, (str, bytes))
    ks = tuple(sorted({whole("k", one) for one in k})) if several else (whole("k", k),)  # type: ignore[attr-defined]
    if not ks:
        raise ValueError("k is empty: pass a number of entries, or several of them")
    if dim is not None and ks[-1] > dim:
        raise ValueError(
            f"k={ks[-1]} entries of a code of {dim}: X has {dim} features, so k must be at most "
            f"{dim}, and well below it for a sparse code"
        )
    return ks


def whole(name: str, value: object) -> int:
    """A positive integer."""
    try:
        if isinstance(value, bool):
            raise TypeError
        found = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if found < 1:
        raise ValueError(f"{name} must be at least 1, got {found}")
    return found


def number(name: str, value: object) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    found = float(value)
    if found != found or abs(found) == float("inf"):
        raise ValueError(f"{name} must be finite, got {found}")
    return found


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """One of some words."""
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(map(repr, choices[:-1])) + f" or {choices[-1]!r}"
        raise ValueError(f"{name} must be {listed}, got {value!r}")
    return value
