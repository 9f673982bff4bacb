"""`SHOKernel`: a stochastically driven, damped harmonic oscillator."""

from __future__ import annotations

from math import pi
from typing import Any

import torch
from gpytorch.constraints import Interval, Positive
from gpytorch.priors import Prior
from torch import Tensor

from ..terms import SHO, BaseTerm
from .line_kernel import LineKernel

_NAMES = ("sigma", "w0", "Q")


class SHOKernel(LineKernel):
    r"""The covariance of a stochastically driven, damped harmonic oscillator.

    The formulas are those of `laplex.gram.SHO`, with celerite2's names. The kernel learns the
    standard deviation :math:`\sigma`, the undamped angular frequency :math:`\omega_0` and the
    quality factor Q, so that it needs no ``ScaleKernel``.

    Parameters
    ----------
    sigma_prior, w0_prior, Q_prior : gpytorch.priors.Prior, optional
        Priors of the parameters.
    sigma_constraint, w0_constraint, Q_constraint : gpytorch.constraints.Interval, optional
        Constraints of the parameters. By default, each is positive.
    **kwargs
        Arguments of ``gpytorch.kernels.Kernel``: ``batch_shape`` and ``active_dims``.

    Attributes
    ----------
    sigma, w0, Q : Tensor ``[*b, 1, 1]``
        The parameters, which can be set.
    S0, rho, tau : Tensor ``[*b, 1, 1]``
        The power :math:`S_0 = \sigma^2 / (\omega_0 Q)`, the undamped period
        :math:`\rho = 2\pi/\omega_0`, and the damping time scale :math:`\tau = 2Q/\omega_0`. Setting
        one changes `sigma`, `w0` or `Q`, in this order.
    """

    has_lengthscale = False

    def __init__(
        self,
        *,
        sigma_prior: Prior | None = None,
        w0_prior: Prior | None = None,
        Q_prior: Prior | None = None,
        sigma_constraint: Interval | None = None,
        w0_constraint: Interval | None = None,
        Q_constraint: Interval | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        priors = (sigma_prior, w0_prior, Q_prior)
        constraints = (sigma_constraint, w0_constraint, Q_constraint)
        for name, prior, constraint in zip(_NAMES, priors, constraints, strict=True):
            raw = torch.nn.Parameter(torch.zeros(*self.batch_shape, 1, 1))
            self.register_parameter(f"raw_{name}", raw)
            self.register_constraint(f"raw_{name}", constraint or Positive())
            if prior is not None:
                self.register_prior(f"{name}_prior", prior, name)

    def term(self) -> BaseTerm:
        """See `LineKernel.term`.

        :meta private:
        """
        return SHO(**{name: getattr(self, name)[..., 0, 0] for name in _NAMES})

    @property
    def sigma(self) -> Tensor:
        """The standard deviation of the process, ``[*b, 1, 1]``."""
        return self._value("sigma")

    @sigma.setter
    def sigma(self, value: float | Tensor) -> None:
        self._set("sigma", value)

    @property
    def w0(self) -> Tensor:
        """The undamped angular frequency, ``[*b, 1, 1]``."""
        return self._value("w0")

    @w0.setter
    def w0(self, value: float | Tensor) -> None:
        self._set("w0", value)

    @property
    def Q(self) -> Tensor:
        """The quality factor, ``[*b, 1, 1]``."""
        return self._value("Q")

    @Q.setter
    def Q(self, value: float | Tensor) -> None:
        self._set("Q", value)

    @property
    def S0(self) -> Tensor:
        """The power of the spectral density, ``[*b, 1, 1]``."""
        return self.sigma.square() / (self.w0 * self.Q)

    @S0.setter
    def S0(self, value: float | Tensor) -> None:
        value = self._positive("S0", value)
        self._set("sigma", (value * self.w0 * self.Q).detach().sqrt())

    @property
    def rho(self) -> Tensor:
        """The undamped period, ``[*b, 1, 1]``."""
        return 2 * pi / self.w0

    @rho.setter
    def rho(self, value: float | Tensor) -> None:
        self._set("w0", 2 * pi / self._positive("rho", value))

    @property
    def tau(self) -> Tensor:
        """The damping time scale, ``[*b, 1, 1]``."""
        return 2 * self.Q / self.w0

    @tau.setter
    def tau(self, value: float | Tensor) -> None:
        value = self._positive("tau", value)
        self._set("Q", 0.5 * value * self.w0.detach())

    def _value(self, name: str) -> Tensor:
        constraint = getattr(self, f"raw_{name}_constraint")
        value: Tensor = constraint.transform(getattr(self, f"raw_{name}"))
        return value
