"""`LaplaceKernel`: the Ornstein-Uhlenbeck kernel, with an optional oscillation."""

from __future__ import annotations

from typing import Any

import torch
from gpytorch.constraints import Interval, Positive
from gpytorch.priors import Prior
from linear_operator import LinearOperator
from torch import Tensor

from ...torch.linear_operator import LaplaceLinearOperator
from ...torch.operator import LaplaceOperator
from ..terms import BaseTerm, Term
from .line_kernel import LineKernel


def _frequency_of(kernel: LaplaceKernel) -> Tensor | None:
    return kernel.frequency


def _set_frequency(kernel: LaplaceKernel, value: float | Tensor) -> None:
    kernel.frequency = value


class LaplaceKernel(LineKernel):
    r"""The Matern-1/2 (Ornstein-Uhlenbeck) kernel of one-dimensional inputs, for GPyTorch.

    .. math::

        k(x, x') = e^{-|x - x'|/\ell} \cos(\omega (x - x'))

    With this kernel, GPyTorch's own classes train exact Gaussian processes, predict and sample in
    O(n) time and memory. The kernel may stand alone, in a ``ScaleKernel``, in sums with other
    kernels of `laplex.gram` and with low-rank kernels, and in products with low-rank kernels.

    Parameters
    ----------
    oscillates : bool
        Learn a frequency :math:`\omega`. If False, the frequency is 0.
    frequency_prior : gpytorch.priors.Prior, optional
        Prior of the frequency.
    frequency_constraint : gpytorch.constraints.Interval, optional
        Constraint of the frequency. By default, the frequency is positive.
    **kwargs
        Arguments of ``gpytorch.kernels.Kernel``: ``batch_shape``, ``active_dims``,
        ``lengthscale_prior`` and ``lengthscale_constraint``.

    Attributes
    ----------
    lengthscale : Tensor ``[*b, 1, 1]``
        The lengthscale :math:`\ell`, in units of the inputs.
    frequency : Tensor ``[*b, 1, 1]`` or None
        The frequency :math:`\omega`, in radians per unit of the inputs. None if
        ``oscillates=False``.
    """

    has_lengthscale = True

    def __init__(
        self,
        *,
        oscillates: bool = False,
        frequency_prior: Prior | None = None,
        frequency_constraint: Interval | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.oscillates = oscillates
        if not oscillates:
            return
        raw = torch.nn.Parameter(torch.zeros(*self.batch_shape, 1, 1))
        self.register_parameter("raw_frequency", raw)
        self.register_constraint("raw_frequency", frequency_constraint or Positive())
        if frequency_prior is not None:
            self.register_prior("frequency_prior", frequency_prior, _frequency_of, _set_frequency)

    @property
    def frequency(self) -> Tensor | None:
        """The frequency ``[*b, 1, 1]``, or None if the kernel does not oscillate."""
        if not self.oscillates:
            return None
        frequency: Tensor = self.raw_frequency_constraint.transform(self.raw_frequency)
        return frequency

    @frequency.setter
    def frequency(self, value: float | Tensor) -> None:
        if not self.oscillates:
            raise AttributeError("the kernel has no frequency: build it with oscillates=True")
        self._set("frequency", value, signed=True)

    def term(self) -> BaseTerm:
        """See `LineKernel.term`.

        :meta private:
        """
        lengthscale, frequency = self.lengthscale[..., 0, 0], self.frequency
        if frequency is None:
            return Term(lengthscale)
        return Term(lengthscale, frequency=frequency[..., 0, 0])

    def _cross(self, one: Tensor, two: Tensor, term: BaseTerm) -> LinearOperator:
        options: dict[str, Any] = {
            name: number for name, number in vars(term).items() if isinstance(number, Tensor)
        }
        return LaplaceLinearOperator.of(LaplaceOperator(one, two, real_part=True, **options))
