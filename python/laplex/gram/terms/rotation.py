"""`Rotation`: the brightness of a rotating, spotted star."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import ClassVar

from torch import Tensor

from ...torch.call import Scalar
from ..checks import ArrayLike, ScalarLike, all_of
from .base import BaseTerm, square_root
from .blocks import Block


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Rotation(BaseTerm):
    r"""The sum of two `SHO` terms, at a period and at half of it, for rotating stars.

    Its two oscillators have the quality factors and undamped frequencies

    .. math::

        Q_1 &= \tfrac12 + Q_0 + \Delta Q, & \omega_1 &= \frac{4 \pi Q_1}{P \sqrt{4 Q_1^2 - 1}}, \\
        Q_2 &= \tfrac12 + Q_0, & \omega_2 &= \frac{8 \pi Q_2}{P \sqrt{4 Q_2^2 - 1}},

    and the variances :math:`\sigma^2/(1 + f)` and :math:`f \sigma^2/(1 + f)`. Names and conventions
    are those of celerite2's ``RotationTerm``.

    Parameters
    ----------
    sigma : float, Tensor or array, shape ``[*b]``
        The standard deviation :math:`\sigma` of the sum, positive.
    period : float, Tensor or array, shape ``[*b]``
        The period P of the first oscillator, positive.
    Q0 : float, Tensor or array, shape ``[*b]``
        The quality factor of the second oscillator less one half, positive.
    dQ : float, Tensor or array, shape ``[*b]``
        How much the quality factor of the first oscillator is larger. ``Q0 + dQ`` must be positive.
    f : float, Tensor or array, shape ``[*b]``
        The variance of the second oscillator over that of the first, at least 0.
    scale : Tensor or array, shape ``[*b, n]``, optional
        A factor of each anchor, of either sign. None stands for 1.

    Raises
    ------
    ValueError
        If a number is outside of its range. Tensors are checked when they are used.
    """

    DOMAINS: ClassVar[dict[str, str]] = {
        "sigma": "positive",
        "period": "positive",
        "Q0": "positive",
        "dQ": "finite",
        "f": "not negative",
    }

    sigma: Scalar
    period: Scalar
    Q0: Scalar
    dQ: Scalar
    f: Scalar
    scale: Tensor | None

    def __init__(
        self,
        sigma: ScalarLike,
        period: ScalarLike,
        Q0: ScalarLike,
        dQ: ScalarLike,
        f: ScalarLike,
        scale: ArrayLike | None = None,
    ) -> None:
        super().__init__(sigma=sigma, period=period, Q0=Q0, dQ=dQ, f=f, scale=scale)

    def check_numbers(self, like: Tensor) -> None:
        """See `BaseTerm.check_numbers`.

        :meta private:
        """
        super().check_numbers(like)
        first = self.number("Q0", like) + self.number("dQ", like)
        if not all_of(first, lambda each: each > 0):
            raise ValueError(f"Rotation: Q0 + dQ must be positive, got {first}")

    def blocks(self, like: Tensor) -> list[Block]:
        """See `BaseTerm.blocks`.

        :meta private:
        """
        sigma, period, q0, dq, f = (self.number(name, like) for name in self.DOMAINS)
        first = sigma**2 / (1 + f)
        return [_mode(period, q0 + dq, first), _mode(0.5 * period, q0, f * first)]

    def times(self, factor: Scalar) -> Rotation:
        """See `BaseTerm.times`.

        :meta private:
        """
        return self.replaced(sigma=self.multiplied("sigma", square_root(factor)))


def _mode(period: Scalar, excess: Scalar, variance: Scalar) -> Block:
    """An oscillator whose quality factor Q is larger than 1/2 by `excess`."""
    # 4 Q^2 - 1 = 4 excess (excess + 1), and the damping time is 2 Q / omega.
    tau = period * square_root(excess * (excess + 1)) / pi
    return Block((tau, tau / (1 + 2 * excess)), (0.0, 2 * variance))
