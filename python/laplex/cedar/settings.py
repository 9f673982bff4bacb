"""Parameters of a fit, which are checked against the data before any work."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from laplex._support.options import setting

from .transforms import TRANSFORMS

SOLVERS = ("auto", "procrustes", "adam", "pursuit")
CENTRES = ("mean", "learned", "none")
PARAMETRIZATIONS = ("expm", "cayley")

#: The widest embeddings for which `solver="auto"` chooses procrustes.
_WIDEST_FOR_PROCRUSTES = 4096
_STEPS = {"procrustes": 300, "adam": 2000, "pursuit": 40}
_HEADS = 16


def whole(name: str, value: object) -> int:
    """Check that a value is a positive integer, and return it."""
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
    """Check that a value is a finite number, and return it."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    found = float(value)
    if found != found or abs(found) == float("inf"):
        raise ValueError(f"{name} must be finite, got {found}")
    return found


def not_negative(name: str, value: object) -> float:
    """Check that a value is a finite number of at least 0, and return it."""
    found = number(name, value)
    if found < 0:
        raise ValueError(f"{name} must not be negative, got {found}")
    return found


def positive(name: str, value: object) -> float:
    """Check that a value is a finite number above 0, and return it."""
    found = number(name, value)
    if found <= 0:
        raise ValueError(f"{name} must be positive, got {found}")
    return found


def one_of(choices: Iterable[str]) -> Callable[[str, Any], str]:
    """Make a check for one of some words, which are looked up when a value is checked."""

    def check(name: str, value: Any) -> str:
        known = list(choices)
        if not isinstance(value, str) or value not in known:
            listed = ", ".join(map(repr, known[:-1])) + f" or {known[-1]!r}"
            raise ValueError(f"{name} must be {listed}, got {value!r}")
        return value

    return check


def or_none(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """Make a check that also accepts None."""
    return lambda name, value: None if value is None else check(name, value)


@dataclass(frozen=True)
class Settings:
    """Checked parameters of a fit, all of plain types, so that a checkpoint can hold them.

    All but ``ks`` are options of ``laplex cedar fit`` too.
    """

    ks: tuple[int, ...]
    basis: str = setting(
        TRANSFORMS.default,
        "Kind of the matrix U: a rotation (orthogonal), any invertible matrix (invertible), "
        "more atoms than columns (frame) or, for very wide embeddings, a product of rotations by "
        "Laplace kernels (laplex).",
        one_of(TRANSFORMS),
        choices=TRANSFORMS,
        former="--transform",
    )
    solver: str = setting(
        "auto",
        "Solver: procrustes alternates between codes and rotation, adam takes gradient steps, "
        "pursuit finds frames, and auto uses procrustes for rotations of up to 4096 columns, "
        "pursuit for frames and adam otherwise.",
        one_of(SOLVERS),
        choices=SOLVERS,
    )
    parametrization: str = setting(
        "expm",
        "How adam parametrises a rotation: by the matrix exponential (expm) or the Cayley "
        "transform (cayley).",
        one_of(PARAMETRIZATIONS),
        choices=PARAMETRIZATIONS,
    )
    center: str = setting(
        "mean",
        "Vector to subtract from the embeddings: their mean, a learned vector, or none.",
        one_of(CENTRES),
        choices=CENTRES,
    )
    n_init: int = setting(
        1,
        "Number of starts: one of all rows, the model, and others of disjoint parts of the rows. "
        "With 3 or more you can tell which axes other rows confirm.",
        whole,
        least=1,
    )
    max_iter: int = setting(
        None,
        "Maximum number of passes over the data (procrustes, pursuit) or of steps (adam).",
        or_none(whole),
        least=1,
        unset="300 passes, 2000 steps, or 40 passes for a frame",
    )
    tol: float = setting(
        1e-5,
        "Procrustes and pursuit stop when five passes together gain less than this fraction of the "
        "variance.",
        not_negative,
        least=0,
    )
    batch_size: int = setting(1024, "Number of rows in a step of adam.", whole, least=1)
    learning_rate: float = setting(0.01, "Learning rate of adam.", positive)
    heads: int = setting(
        None,
        "Number of rotations in the product, for --basis laplex.",
        or_none(whole),
        least=1,
        unset="16",
    )

    redundancy: int = setting(
        2, "Number of axes for each column of the embeddings, for --basis frame.", whole, least=1
    )

    @property
    def learn_centre(self) -> bool:
        """Whether the centre b is learned."""
        return self.center == "learned"


def checked_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check those parameters that need no data, except ``k``, each by itself."""
    return {
        one.name: one.metadata["check"](one.name, given[one.name])
        for one in fields(Settings)
        if one.metadata and one.name in given
    }


def settings_of(given: Mapping[str, Any], dim: int) -> Settings:
    """Check the parameters of an estimator for embeddings of ``dim`` columns.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not valid; the message names it and the remedy.
    """
    values = checked_parameters(given)
    basis, solver = values["basis"], values["solver"]
    alternates = TRANSFORMS[basis].alternates
    if TRANSFORMS[basis].pursues:
        _check_frame(values)
        values["solver"] = "pursuit"
    elif solver == "pursuit":
        raise ValueError(
            f"solver='pursuit' finds frames only: for basis={basis!r} pass solver='auto'"
        )
    elif solver == "auto":
        found = alternates and dim <= _WIDEST_FOR_PROCRUSTES
        values["solver"] = "procrustes" if found else "adam"
    elif solver == "procrustes" and not alternates:
        raise ValueError(
            f"solver='procrustes' finds rotations only: for basis={basis!r} pass solver='adam' "
            "or solver='auto'"
        )
    for name, usual in (("max_iter", _STEPS[values["solver"]]), ("heads", _HEADS)):
        if values[name] is None:
            values[name] = usual
    return Settings(ks=checked_ks(given["k"], dim), **values)


def _check_frame(values: Mapping[str, Any]) -> None:
    """Refuse parameters that the search for a frame does not know."""
    for name, known, why in (
        ("solver", ("auto", "pursuit"), "a frame has a solver of its own"),
        ("center", ("mean", "none"), "the centre of a frame is not learned"),
    ):
        if values[name] not in known:
            raise ValueError(
                f"{name} must be {' or '.join(map(repr, known))} for basis={values['basis']!r}, "
                f"got {values[name]!r}: {why}"
            )


def checked_ks(k: object, dim: int | None = None) -> tuple[int, ...]:
    """Return one k or several, checked, in ascending order."""
    several = isinstance(k, Iterable) and not isinstance(k, (str, bytes))
    ks = tuple(sorted({whole("k", one) for one in k})) if several else (whole("k", k),)  # type: ignore[attr-defined]
    if not ks:
        raise ValueError("k is empty: pass a number of entries, or several of them")
    if dim is not None and ks[-1] > dim:
        raise ValueError(
            f"k={ks[-1]} is more than the {dim} features of X: k must be at most {dim}, and well "
            "below it for a sparse code"
        )
    return ks
