"""`SHO`: a stochastically driven, damped harmonic oscillator."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import ClassVar

from torch import Tensor

from ...torch.call import Scalar
from ..checks import ArrayLike, ScalarLike
from .base import BaseTerm, one_of, square_root
from .blocks import Block


@dataclass(frozen=True, eq=False, init=False, repr=False)
class SHO(BaseTerm):
    r"""A stochastically driven, damped harmonic oscillator.

    Its power spectral density is

    .. math::

        S(\omega) = \sqrt{\frac{2}{\pi}}\, \frac{S_0\, \omega_0^4}
            {(\omega^2 - \omega_0^2)^2 + \omega_0^2 \omega^2 / Q^2}

    and its variance is :math:`\sigma^2 = S_0 \omega_0 Q`. The oscillator is underdamped for
    Q > 1/2, and overdamped for Q < 1/2. At Q = 1/2, where no formula degrades, it is the
    Matern-3/2 process. Names and conventions are those of celerite2's ``SHOTerm``
    (`arXiv 1703.09710 <https://arxiv.org/abs/1703.09710>`_, equation 20).

    Give one parameter of each pair.

    Parameters
    ----------
    sigma : float, Tensor or array, shape ``[*b]``
        The standard deviation :math:`\sigma`, positive.
    S0 : float, Tensor or array, shape ``[*b]``
        In place of `sigma`: the power :math:`S_0` of the formula, positive.
    w0 : float, Tensor or array, shape ``[*b]``
        The undamped angular frequency :math:`\omega_0`, positive.
    rho : float, Tensor or array, shape ``[*b]``
        In place of `w0`: the undamped period :math:`2\pi/\omega_0`, positive.
    Q : float, Tensor or array, shape ``[*b]``
        The quality factor, positive.
    tau : float, Tensor or array, shape ``[*b]``
        In place of `Q`: the damping time scale :math:`2Q/\omega_0`, positive.
    scale : Tensor or array, shape ``[*b, n]``, optional
        A factor of each anchor, of either sign. None stands for 1.

    Raises
    ------
    ValueError
        If both or neither of two alternatives are given, or a number is not positive and finite.
        Tensors are checked when they are used.
    """

    DOMAINS: ClassVar[dict[str, str]] = dict.fromkeys(
        ("sigma", "S0", "w0", "rho", "Q", "tau"), "positive"
    )

    sigma: Scalar | None
    S0: Scalar | None
    w0: Scalar | None
    rho: Scalar | None
    Q: Scalar | None
    tau: Scalar | None
    scale: Tensor | None

    def __init__(
        self,
        *,
        sigma: ScalarLike | None = None,
        S0: ScalarLike | None = None,
        w0: ScalarLike | None = None,
        rho: ScalarLike | None = None,
        Q: ScalarLike | None = None,
        tau: ScalarLike | None = None,
        scale: ArrayLike | None = None,
    ) -> None:
        one_of("SHO", sigma=sigma, S0=S0)
        one_of("SHO", w0=w0, rho=rho)
        one_of("SHO", Q=Q, tau=tau)
        super().__init__(sigma=sigma, S0=S0, w0=w0, rho=rho, Q=Q, tau=tau, scale=scale)

    def blocks(self, like: Tensor) -> list[Block]:
        """See `BaseTerm.blocks`.

        :meta private:
        """
        if self.w0 is None:
            undamped = self.number("rho", like) / (2 * pi)
        else:
            undamped = 1 / self.number("w0", like)
        tau = self.number("tau", like) if self.Q is None else 2 * self.number("Q", like) * undamped
        if self.sigma is None:
            twice = self.number("S0", like) * tau / undamped**2
        else:
            twice = 2 * self.number("sigma", like) ** 2
        return [Block((tau, undamped), (0.0, twice))]

    def times(self, factor: Scalar) -> SHO:
        """See `BaseTerm.times`.

        :meta private:
        """
        if self.sigma is None:
            return self.replaced(S0=self.multiplied("S0", factor))
        return self.replaced(sigma=self.multiplied("sigma", square_root(factor)))
