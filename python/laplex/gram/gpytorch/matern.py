"""`MaternKernel`: GPyTorch's Matern kernel, with exact algebra in one dimension."""

from __future__ import annotations

from typing import Any

from gpytorch.kernels import MaternKernel as _MaternKernel
from linear_operator import LinearOperator
from torch import Tensor

from ...torch.approximation import warn_of_size
from ...torch.linear_operator import LaplaceLinearOperator
from ...torch.operator import LaplaceOperator
from ..terms import BaseTerm, Matern32, Matern52, Term
from .line_kernel import LineKernel

_TERMS: dict[float, type[BaseTerm]] = {0.5: Term, 1.5: Matern32, 2.5: Matern52}
_KERNELS = {0.5: "matern12", 1.5: "matern32", 2.5: "matern52"}


class MaternKernel(LineKernel, _MaternKernel):  # type: ignore[misc]
    r"""The Matern kernel of GPyTorch, exact in O(n) for one-dimensional inputs.

    With :math:`r = \sqrt{2\nu}\, |x - x'| / \ell`, it is :math:`e^{-r}` for :math:`\nu = 1/2`,
    :math:`(1 + r)\, e^{-r}` for 3/2, and :math:`(1 + r + r^2/3)\, e^{-r}` for 5/2.

    Parameters, priors and constraints are those of ``gpytorch.kernels.MaternKernel``, so that this
    class can take its place. Inputs of several columns are left to that class, and become a dense
    matrix.

    Parameters
    ----------
    nu : {0.5, 1.5, 2.5}
        The smoothness :math:`\nu`.
    **kwargs
        Arguments of ``gpytorch.kernels.Kernel``: ``batch_shape``, ``active_dims``,
        ``ard_num_dims``, ``lengthscale_prior`` and ``lengthscale_constraint``.

    Attributes
    ----------
    lengthscale : Tensor ``[*b, 1, 1]``
        The lengthscale :math:`\ell`, in units of the inputs.

    Warns
    -----
    laplex.gram.ApproximationWarning
        If inputs have several columns, and so many rows that GPyTorch approximates by default.
    """

    def __init__(self, nu: float = 2.5, **kwargs: Any) -> None:
        _MaternKernel.__init__(self, nu=nu, **kwargs)

    def term(self) -> BaseTerm:
        """See `LineKernel.term`.

        :meta private:
        """
        return _TERMS[self.nu](lengthscale=self.lengthscale[..., 0, 0])

    def forward(
        self,
        x1: Tensor,
        x2: Tensor,
        diag: bool = False,
        last_dim_is_batch: bool = False,
        **params: Any,
    ) -> Tensor | LinearOperator:
        """Return the covariance of inputs ``[*b, n, d]`` and ``[*b, m, d]``.

        See ``gpytorch.kernels.Kernel`` for the arguments.
        """
        options = {"diag": diag, "last_dim_is_batch": last_dim_is_batch, **params}
        several = x1.shape[-1] > 1 and not last_dim_is_batch
        if not several and self.lengthscale.shape[-1] == 1:
            return super().forward(x1, x2, **options)
        if not diag:
            warn_of_size(x1.shape[-2], "a MaternKernel of several columns is a dense matrix")
        return _MaternKernel.forward(self, x1, x2, **options)

    def _cross(self, one: Tensor, two: Tensor, term: BaseTerm) -> LinearOperator:
        lengthscale = vars(term)["lengthscale"]
        operator = LaplaceOperator(one, two, lengthscale=lengthscale, kernel=_KERNELS[self.nu])
        return LaplaceLinearOperator.of(operator)
