"""`TermSum`: a sum of terms."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..checks import ScalarLike
from .base import BaseTerm


class TermSum(tuple[BaseTerm, ...]):
    """A sum of terms: what ``+`` returns, and what `LaplaceGram` takes as ``terms``.

    It is the tuple of its terms. Sums can be added with ``+``, and multiplied by positive
    numbers with ``*``.
    """

    __slots__ = ()

    def __add__(self, other: object) -> TermSum:
        if isinstance(other, BaseTerm):
            return TermSum((*self, other))
        return TermSum((*self, *other)) if isinstance(other, TermSum) else NotImplemented

    def __radd__(self, other: object) -> TermSum:
        if isinstance(other, BaseTerm):
            return TermSum((other, *self))
        return self if isinstance(other, int) and other == 0 else NotImplemented  # of sum()

    def __mul__(self, factor: Any) -> TermSum:
        """Multiply the covariance by a positive number, or by numbers ``[*b]``."""
        return TermSum(term * factor for term in self)

    __rmul__ = __mul__

    def value(self, distance: ScalarLike) -> Tensor:
        """Return the covariance function at distances ``[*b, m]``, see `Term.value`."""
        return sum((term.value(distance) for term in self[1:]), self[0].value(distance))

    def psd(self, frequency: ScalarLike) -> Tensor:
        """Return the power spectral density at angular frequencies ``[*b, m]``."""
        return sum((term.psd(frequency) for term in self[1:]), self[0].psd(frequency))

    def __repr__(self) -> str:
        return " + ".join(map(repr, self))
