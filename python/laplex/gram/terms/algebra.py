"""`Operand`: the arithmetic of terms; `TermSum`: their sums."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from ...torch.call import Scalar
from ..checks import ScalarLike, as_tensor, positive

if TYPE_CHECKING:
    from .base import BaseTerm


class Operand:
    """A term, as far as ``+`` and ``*`` are concerned."""

    #: Makes a term of two; the module `products` sets it, which needs terms itself.
    _product: ClassVar[Callable[[Any, Any], BaseTerm]]

    def times(self, factor: Scalar) -> Any:
        """The term multiplied by a positive number, or by float64 numbers ``[*b]``.

        :meta private:
        """
        raise NotImplementedError

    def __add__(self, other: object) -> TermSum:
        return TermSum((self,)) + other  # type: ignore[arg-type]

    def __radd__(self, other: object) -> TermSum:
        return TermSum((self,)).__radd__(other)  # type: ignore[arg-type]

    def __mul__(self, factor: object) -> Any:
        """Multiply the covariance by that of a term or a sum, or by positive numbers ``[*b]``."""
        if isinstance(factor, Operand):
            return Operand._product(self, factor)
        if isinstance(factor, TermSum):
            return TermSum(self * term for term in factor)
        scale: Scalar
        if isinstance(factor, (Tensor, np.ndarray)):
            scale = as_tensor("factor", factor).double()
        elif isinstance(factor, Real):
            scale = float(factor)
        else:
            return NotImplemented
        if not positive(scale):
            raise ValueError(
                f"a term can only be multiplied by positive, finite numbers, got {factor}"
            )
        return self.times(scale)

    __rmul__ = __mul__


class TermSum(tuple["BaseTerm", ...]):
    """A sum of terms: what ``+`` returns, and what `LaplaceGram` takes as ``terms``.

    It is the tuple of its terms. Sums can be added with ``+``. With ``*``, they can be multiplied
    by positive numbers, by terms and by sums; a product of sums is the sum of all products.

    Parameters
    ----------
    iterable : iterable of terms
        The terms.
    """

    __slots__ = ()

    def __add__(self, other: object) -> TermSum:
        if isinstance(other, Operand):
            return TermSum((*self, other))  # type: ignore[arg-type]
        return TermSum((*self, *other)) if isinstance(other, TermSum) else NotImplemented

    def __radd__(self, other: object) -> TermSum:
        if isinstance(other, Operand):
            return TermSum((other, *self))  # type: ignore[arg-type]
        return self if isinstance(other, int) and other == 0 else NotImplemented  # of sum()

    def __mul__(self, factor: Any) -> TermSum:
        """Multiply the covariance by that of a term or a sum, or by positive numbers ``[*b]``."""
        if isinstance(factor, TermSum):
            return TermSum(one * two for one in self for two in factor)
        return TermSum(term * factor for term in self)

    __rmul__ = __mul__

    def value(self, distance: ScalarLike) -> Tensor:
        """Return the covariance function at distances, without scales and phases.

        Parameters
        ----------
        distance : float, Tensor or array, shape ``[*b, m]``
            Distances of either sign. Their leading dimensions broadcast with the parameters.

        Returns
        -------
        Tensor ``[*b, m]``
            The sum of the covariances of the terms.
        """
        return sum((term.value(distance) for term in self[1:]), self[0].value(distance))

    def psd(self, frequency: ScalarLike) -> Tensor:
        """Return the power spectral density of the covariance function, see `Term.psd`.

        Parameters
        ----------
        frequency : float, Tensor or array, shape ``[*b, m]``
            Angular frequencies. Their leading dimensions broadcast with the parameters.

        Returns
        -------
        Tensor ``[*b, m]``
            The sum of the densities of the terms.
        """
        return sum((term.psd(frequency) for term in self[1:]), self[0].psd(frequency))

    def __repr__(self) -> str:
        return " + ".join(map(repr, self))
