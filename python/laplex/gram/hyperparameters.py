"""`Hyperparameters`: the numbers of terms and a noise variance, as a vector of logarithms."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .terms import SHO, BaseTerm, Celerite, Matern32, Matern52, Rotation, Term, checked_terms

Array = npt.NDArray[np.float64]

#: An anchor for the checks of terms, which have no anchors here.
_LIKE = torch.zeros(1, dtype=torch.float64)
#: Without bounds of its own, a number stays within this factor of its start.
WIDE = 1e8


#: Kernels by name: their terms for a typical length along the line and a variance.
KERNELS: dict[str, Callable[[float, float], BaseTerm]] = {
    "laplace": Term,
    "matern12": Term,
    "matern32": Matern32,
    "matern52": Matern52,
    "sho": lambda length, power: SHO(sigma=sqrt(power), rho=length, Q=1.0),
    "rotation": lambda length, power: Rotation(sqrt(power), length, Q0=1.0, dQ=1.0, f=0.5),
    "celerite": lambda length, variance: Celerite(
        variance, 0.05 * variance, 1 / length, 5 / length
    ),
}


@dataclass(frozen=True)
class Hyperparameters:
    """The numbers of a sum of terms and its noise variance, some of which are free.

    An optimiser sees `theta`, the logarithms of the absolute values of the free ones. So a number
    keeps its sign, and one that is 0 is never free.

    Attributes
    ----------
    terms
        Terms that hold the numbers at the start.
    start
        All numbers by name: for a single term ``lengthscale``, in a sum ``0.lengthscale``, and
        ``noise`` at the end.
    free
        The names of the numbers that an optimiser changes.
    bounds
        The smallest and the largest absolute value of each free number.
    coupled
        For the name of each free b of a `Celerite` term, those of its a, c and d. Its coordinate in
        `theta` is that of the ratio ``b d / (a c)``, whose bound 1 keeps the term positive
        semidefinite: the likelihood may well have its maximum there, as that of an SHO has.
    """

    terms: tuple[BaseTerm, ...]
    start: dict[str, float]
    free: tuple[str, ...]
    bounds: dict[str, tuple[float, float]]
    coupled: dict[str, tuple[str, str, str]]

    @classmethod
    def checked(
        cls,
        terms: Sequence[BaseTerm],
        noise: float,
        *,
        bounds: Mapping[str, Sequence[float]] | None = None,
        fixed: str | Collection[str] | None = (),
        movable: Collection[str] = (),
    ) -> Hyperparameters:
        """Check a caller's terms, bounds and fixed names.

        The numbers named in `movable` are defaults, which bounds may move. Any other number must
        lie within its bounds.

        Raises
        ------
        TypeError, ValueError
            If a name is unknown, bounds are no bounds, or a start lies outside of them.
        """
        start = {name: float(value) for name, value in _numbers(terms).items()} | {"noise": noise}
        for term in terms:
            term.check(_LIKE)
        if not 0 <= noise < np.inf:
            raise ValueError(f"noise must be finite and not negative, got {noise:g}")
        if not isinstance(bounds, (Mapping, type(None))):
            raise TypeError(
                "bounds must be a dict of names of parameters to (low, high), got "
                f"{type(bounds).__name__}"
            )
        fixed = {fixed} if isinstance(fixed, str) else set(fixed or ())
        fixed_names = {name for one in fixed for name in _matching(one, "fixed", start)}
        free = tuple(name for name, value in start.items() if value and name not in fixed_names)
        limits = {name: (abs(start[name]) / WIDE, abs(start[name]) * WIDE) for name in free}
        given: dict[str, tuple[float, float]] = {}
        for one, pair in (bounds or {}).items():
            limit = _pair(one, pair)
            given |= dict.fromkeys(_matching(one, "bounds", start), limit)
        for name, (low, high) in given.items():
            value = abs(start[name])
            if name in movable and value:
                start[name] = value = min(max(value, low), high)
            if name in free and not low <= value <= high:
                raise ValueError(
                    f"{name} starts at {value:g}, outside of its bounds ({low:g}, {high:g}): "
                    "change one of the two"
                )
        limits |= {name: limit for name, limit in given.items() if name in free}
        coupled = _coupled(terms, free)
        for b, (a, c, d) in coupled.items():
            if b in given:
                raise ValueError(f"bounds cannot hold for {b}: fit keeps |b d| <= a c instead")
            largest = start[a] * start[c] / abs(start[d])
            limits[b] = (abs(start[b]) / WIDE, max(largest, abs(start[b])))
        return cls(tuple(terms), start, free, limits, coupled)

    def theta(self) -> Array:
        """The logarithms ``[k]`` of the free numbers at the start."""
        return np.log(np.abs([self.start[name] for name in self.free], dtype=np.float64))

    def log_bounds(self) -> Array:
        """The bounds ``[k, 2]`` of `theta`."""
        return np.log([self.bounds[name] for name in self.free]).reshape(-1, 2)

    def numbers(self, theta: Array) -> dict[str, float]:
        """All numbers by name, for one vector of logarithms ``[k]``."""
        moved = self._moved(torch.from_numpy(np.asarray(theta, np.float64)))
        return {name: float(value) for name, value in moved.items()}

    def model(self, theta: Tensor) -> tuple[list[BaseTerm], Tensor | float]:
        """The terms and the noise variance for logarithms ``[k]``, with derivatives."""
        return self._made(self._moved(theta))

    def _moved(self, theta: Tensor) -> dict[str, Any]:
        """All numbers for logarithms: at `theta`, they are those of the start, bit for bit."""
        factors = (theta - torch.from_numpy(self.theta())).exp()
        factor = dict(zip(self.free, factors.unbind(), strict=True))
        numbers: dict[str, Any] = {**self.start}
        for name, each in factor.items():
            numbers[name] = self.start[name] * each
        for b, (a, c, d) in self.coupled.items():
            numbers[b] = numbers[b] * (factor.get(a, 1.0) * factor.get(c, 1.0) / factor.get(d, 1.0))
        return numbers

    def _made(self, numbers: Mapping[str, Any]) -> tuple[list[BaseTerm], Any]:
        """The terms and the noise for numbers by name."""
        terms = [
            term.replaced(**{own: numbers[name] for name, own in names.items()})
            for term, names in zip(self.terms, _names(self.terms), strict=True)
        ]
        return terms, numbers["noise"]

    def made(self, theta: Array) -> list[BaseTerm]:
        """The terms for logarithms ``[k]``, with plain floats as parameters."""
        return self._made(self.numbers(theta))[0]

    def at_bounds(self, theta: Array) -> Iterable[tuple[str, str, float]]:
        """The free numbers that lie at a bound: name, which bound, and its value."""
        for name, value, limits in zip(self.free, theta, self.log_bounds(), strict=True):
            low, high = self.bounds[name]
            if low == high or name in self.coupled:
                continue
            for side, limit in zip(("lower", "upper"), limits, strict=True):
                if abs(value - limit) < 1e-6:  # relative, of the number itself
                    yield name, side, low if side == "lower" else high


def started(
    kernel: object,
    length: float,
    power: float,
    *,
    given: Mapping[str, Any],
    noise: float | None,
    bounds: Mapping[str, Sequence[float]] | None,
    fixed: str | Collection[str] | None,
) -> Hyperparameters:
    """The parameters of a kernel before a fit.

    Parameters
    ----------
    kernel
        A name of `KERNELS`, a term, or several terms.
    length, power
        A typical length along the line and the mean square of the values, for a named kernel.
    given
        The numbers that a caller gave for a named kernel, by their names; None stands for none.
    noise
        The noise variance, or None for a tenth of the power.
    bounds, fixed
        As for `Hyperparameters.checked`.
    """
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in (*given.items(), ("noise", noise)):
        if isinstance(value, bool) or not isinstance(value, (Real, type(None))):
            raise TypeError(f"{name} must be a float or None, got {type(value).__name__}")
    terms = _terms(kernel, length, power)
    movable = set() if noise is not None else {"noise"}
    if isinstance(kernel, str):
        (term,) = terms
        for name in given:
            if not hasattr(term, name):
                raise ValueError(
                    f"kernel={kernel!r} has no {name}: pass the term of laplex.gram with the "
                    "values from which to start"
                )
        movable |= vars(term).keys() - given.keys()
        terms = (type(term)(**{**vars(term), **{name: float(given[name]) for name in given}}),)
    elif given:
        raise ValueError(
            f"{next(iter(given))} belongs to a kernel that is named: set it in the term that you "
            "pass as kernel"
        )
    start = 0.1 * power if noise is None else float(noise)
    return Hyperparameters.checked(terms, start, bounds=bounds, fixed=fixed, movable=movable)


def known_noise(alpha: Any, n: int) -> Array:
    """The known noise variances as an array ``[]`` or ``[n]``."""
    try:
        known = np.array(alpha, np.float64)
    except (TypeError, ValueError):
        known = np.array(np.nan)
    if known.shape == (1,):
        known = known[0]
    if known.shape not in ((), (n,)):
        raise ValueError(
            f"alpha must be a number or have one for each of the {n} values, got shape "
            f"{list(known.shape)}"
        )
    if not np.all((known >= 0) & (known < np.inf)):
        raise ValueError("alpha must hold finite variances, none of them negative")
    return known


def _terms(kernel: object, length: float, power: float) -> tuple[BaseTerm, ...]:
    """The terms of a kernel."""
    if isinstance(kernel, str) and kernel in KERNELS:
        return (KERNELS[kernel](length, power),)
    terms = (kernel,) if isinstance(kernel, BaseTerm) else kernel
    if isinstance(terms, str) or not isinstance(terms, Iterable) or not tuple(terms):
        raise (ValueError if isinstance(kernel, str) else TypeError)(
            f"kernel must be one of {', '.join(map(repr, KERNELS))}, a term of laplex.gram or "
            f"several of them, got {kernel!r}"
        )
    return checked_terms(terms)


def _names(terms: Sequence[BaseTerm]) -> list[dict[str, str]]:
    """For each term, its own parameter names by the names of the numbers."""
    one = len(terms) == 1
    return [
        {own if one else f"{number}.{own}": own for own in term.tensors(_LIKE)}
        for number, term in enumerate(terms)
    ]


def _numbers(terms: Sequence[BaseTerm]) -> dict[str, Tensor]:
    """The numbers of all terms by name."""
    found = {}
    for term, names in zip(terms, _names(terms), strict=True):
        tensors = term.tensors(_LIKE)
        for name, own in names.items():
            if tensors[own].dim():
                raise ValueError(
                    f"kernel has a {own} of shape {list(tensors[own].shape)}, but each parameter "
                    "of a regressor is one number: use laplex.gram.LaplaceGram for batches and "
                    "for parameters of each point"
                )
            found[name] = tensors[own].detach()
    return found


def _coupled(terms: Sequence[BaseTerm], free: Collection[str]) -> dict[str, tuple[str, str, str]]:
    """See `Hyperparameters.coupled`."""
    found = {}
    for term, names in zip(terms, _names(terms), strict=True):
        if isinstance(term, Celerite) and term.indefinite() is None:
            by_own = {own: name for name, own in names.items()}
            if by_own.get("b") in free and "d" in by_own:
                found[by_own["b"]] = (by_own["a"], by_own["c"], by_own["d"])
    return found


def _matching(name: str, argument: str, start: Mapping[str, float]) -> list[str]:
    """The numbers of a name: ``0.Q`` is that of the first term, ``Q`` that of every term."""
    found = [one for one in start if name in (one, one.rpartition(".")[-1])]
    if not found:
        raise ValueError(
            f"{argument} has the name {name!r}, but the parameters are {', '.join(start)}"
        )
    return found


def _pair(name: str, pair: object) -> tuple[float, float]:
    numbers = tuple(pair) if isinstance(pair, Iterable) and not isinstance(pair, str) else ()
    if len(numbers) != 2 or not all(isinstance(each, Real) for each in numbers):
        raise TypeError(
            f"bounds of {name} must be two numbers (low, high), got {pair!r}: to keep a parameter "
            "as it is, name it in fixed="
        )
    low, high = (float(each) for each in numbers)
    if not 0 < low <= high < np.inf:
        raise ValueError(f"bounds of {name} must be 0 < low <= high < inf, got ({low:g}, {high:g})")
    return low, high
