"""`Celerite`: the general term of celerite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...torch.call import Scalar
from ..checks import ArrayLike, ScalarLike, all_of
from .base import BaseTerm, square_root
from .blocks import Block


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Celerite(BaseTerm):
    r"""The general term of celerite (arXiv 1703.09710, equation 8).

    .. math:: k(t) = e^{-c\, t}\, \bigl(a \cos(d\, t) + b \sin(d\, t)\bigr)

    By itself, it is positive semidefinite if and only if :math:`|b d| \le a c`. Other numbers are
    allowed, negative amplitudes too, if the matrix of all terms and the noise is positive definite.

    Parameters
    ----------
    a, b : float, Tensor or array, shape ``[*b]``
        Amplitudes, finite.
    c : float, Tensor or array, shape ``[*b]``
        The decay rate, positive.
    d : float, Tensor or array, shape ``[*b]``
        The angular frequency, finite. The number 0 gives celerite's real term, :math:`a e^{-c t}`,
        which costs less.
    scale : Tensor or array, shape ``[*b, n]``, optional
        A factor of each anchor, of either sign. None stands for 1.

    Raises
    ------
    ValueError
        If c is not positive and finite, or another number is not finite. Tensors are checked when
        they are used.
    """

    DOMAINS: ClassVar[dict[str, str]] = {
        "a": "finite",
        "b": "finite",
        "c": "positive",
        "d": "finite",
    }

    a: Scalar
    b: Scalar
    c: Scalar
    d: Scalar
    scale: Tensor | None

    def __init__(
        self,
        a: ScalarLike,
        b: ScalarLike = 0.0,
        c: ScalarLike = 1.0,
        d: ScalarLike = 0.0,
        scale: ArrayLike | None = None,
    ) -> None:
        super().__init__(a=a, b=b, c=c, d=d, scale=scale)

    def is_real(self) -> bool:
        """Whether the frequency is the number 0 (a tensor of zeros does not count).

        :meta private:
        """
        return not isinstance(self.d, Tensor) and self.d == 0

    def blocks(self, like: Tensor) -> list[Block]:
        """See `BaseTerm.blocks`.

        :meta private:
        """
        a, b, c, d = (self.number(name, like) for name in "abcd")
        if self.is_real():
            return [Block((1 / c,), (a,))]
        odd = b * d / c
        return [Block((1 / c, 1 / square_root(c**2 + d**2)), (a - odd, a + odd))]

    def times(self, factor: Scalar) -> Celerite:
        """See `BaseTerm.times`.

        :meta private:
        """
        return self.replaced(a=self.multiplied("a", factor), b=self.multiplied("b", factor))

    def indefinite(self) -> str | None:
        """See `BaseTerm.indefinite`.

        :meta private:
        """
        like = next((each for each in vars(self).values() if isinstance(each, Tensor)), None)
        blocks = self.blocks(torch.empty(0) if like is None else like)
        if all_of(blocks[0].weights[0], lambda weight: weight >= 0) and all_of(
            blocks[0].weights[-1], lambda weight: weight >= 0
        ):
            return None
        return f"{self!r}, because {'a < 0' if self.is_real() else 'abs(b d) > a c'}"

    def matvec_kernel(self, like: Tensor) -> tuple[str, Scalar, Scalar] | None:
        """See `BaseTerm.matvec_kernel`.

        :meta private:
        """
        if not self.is_real():
            return None
        return "matern12", 1 / self.number("c", like), self.number("a", like)

    def tensors(self, anchors: Tensor) -> dict[str, Tensor]:
        """See `BaseTerm.tensors`.

        :meta private:
        """
        found = super().tensors(anchors)
        if self.is_real():
            del found["d"]  # which must remain a number
        return found
