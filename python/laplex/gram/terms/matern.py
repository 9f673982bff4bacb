"""`Matern32` and `Matern52`: Matern processes, one and two times differentiable."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

from torch import Tensor

from ...torch.call import Scalar
from ..checks import ArrayLike, ScalarLike
from .base import BaseTerm
from .blocks import Block


class _Matern(BaseTerm):
    DOMAINS: ClassVar[dict[str, str]] = dict.fromkeys(("lengthscale", "variance"), "positive")
    KERNEL: ClassVar[str]

    lengthscale: Scalar
    variance: Scalar
    scale: Tensor | None

    def __init__(
        self,
        lengthscale: ScalarLike = 1.0,
        variance: ScalarLike = 1.0,
        scale: ArrayLike | None = None,
    ) -> None:
        super().__init__(lengthscale=lengthscale, variance=variance, scale=scale)

    def times(self, factor: Scalar) -> _Matern:
        """See `BaseTerm.times`.

        :meta private:
        """
        return self.replaced(variance=self.multiplied("variance", factor))

    def matvec_kernel(self, like: Tensor) -> tuple[str, Scalar, Scalar]:
        """See `BaseTerm.matvec_kernel`.

        :meta private:
        """
        return self.KERNEL, self.number("lengthscale", like), self.number("variance", like)


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Matern32(_Matern):
    r"""The Matern covariance of smoothness 3/2, whose process has one derivative.

    .. math:: k(d) = \sigma^2 (1 + r)\, e^{-r}, \qquad r = \sqrt{3}\, d / \ell

    It is exact, and also the case Q = 1/2 of `SHO`.

    Parameters
    ----------
    lengthscale : float, Tensor or array, shape ``[*b]``
        The lengthscale :math:`\ell`, positive, in units of the anchors.
    variance : float, Tensor or array, shape ``[*b]``
        The variance :math:`\sigma^2`, positive.
    scale : Tensor or array, shape ``[*b, n]``, optional
        A factor of each anchor, of either sign. None stands for 1.

    Raises
    ------
    ValueError
        If a number is not positive and finite. Tensors are checked when they are used.
    """

    KERNEL: ClassVar[str] = "matern32"

    lengthscale: Scalar
    variance: Scalar
    scale: Tensor | None

    def blocks(self, like: Tensor) -> list[Block]:
        """See `BaseTerm.blocks`.

        :meta private:
        """
        time = self.number("lengthscale", like) / sqrt(3)
        return [Block((time, time), (0.0, 2 * self.number("variance", like)))]


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Matern52(_Matern):
    r"""The Matern covariance of smoothness 5/2, whose process has two derivatives.

    .. math:: k(d) = \sigma^2 (1 + r + r^2/3)\, e^{-r}, \qquad r = \sqrt{5}\, d / \ell

    Parameters
    ----------
    lengthscale : float, Tensor or array, shape ``[*b]``
        The lengthscale :math:`\ell`, positive, in units of the anchors.
    variance : float, Tensor or array, shape ``[*b]``
        The variance :math:`\sigma^2`, positive.
    scale : Tensor or array, shape ``[*b, n]``, optional
        A factor of each anchor, of either sign. None stands for 1.

    Raises
    ------
    ValueError
        If a number is not positive and finite. Tensors are checked when they are used.
    """

    KERNEL: ClassVar[str] = "matern52"

    lengthscale: Scalar
    variance: Scalar
    scale: Tensor | None

    def blocks(self, like: Tensor) -> list[Block]:
        """See `BaseTerm.blocks`.

        :meta private:
        """
        time, variance = self.number("lengthscale", like) / sqrt(5), self.number("variance", like)
        return [Block((time,) * 3, (variance,) * 3)]
