"""The sum of scaled kernels in a covariance model: products, norms and entries."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from laplex.torch.functional import matvec


class Heads(NamedTuple):
    r"""The matrix :math:`C = \sum_h D_h\,\mathrm{Re}(K_h)\,D_h` of H kernels on n pixels.

    .. math::
        \mathrm{Re}(K_h)_{ij} = e^{-|x_{hi} - x_{hj}|} \cos(\theta_{hi} - \theta_{hj})

    Attributes
    ----------
    anchors : Tensor [heads, n]
        :math:`x_h`, in lengthscales.
    scales : Tensor [heads, n]
        The diagonals of :math:`D_h`, of either sign.
    phases : Tensor [heads, n] or None
        :math:`\theta_h`.
    """

    anchors: Tensor
    scales: Tensor
    phases: Tensor | None = None

    def products(self, values: Tensor, lengthscale: float = 1.0) -> Tensor:
        """Multiply values [rows, n] by every head: Tensor [rows, heads, n], O(n) per product."""
        scaled = values.unsqueeze(-2) * self.scales
        return self.scales * matvec(
            scaled,
            self.anchors,
            lengthscale=lengthscale,
            target_phase=self.phases,
            source_phase=self.phases,
            real_part=self.phases is not None,
        )

    def amplitudes(self) -> Tensor:
        r"""Return :math:`s_h (\cos\theta_h, \sin\theta_h)`, Tensor [heads, 2 or 1, n]."""
        if self.phases is None:
            return self.scales[:, None]
        return torch.stack([self.scales * self.phases.cos(), self.scales * self.phases.sin()], 1)

    def diagonal(self) -> Tensor:
        """Return the diagonal of C, Tensor [n]: the sum of squared scales."""
        return self.scales.square().sum(0)

    def squared_norm(self) -> Tensor:
        r"""Return :math:`\sum_h |D_h \mathrm{Re}(K_h) D_h|_F^2`, exactly, in O(n) after the sort.

        The squared entries form a kernel of the same class, with half the lengthscale, by
        :math:`\cos^2 \alpha = (1 + \cos 2\alpha) / 2`.
        """
        energy = Heads(self.anchors, self.scales.square())
        ones = torch.ones_like(self.anchors[:1])
        total = energy.products(ones, 0.5).sum()
        if self.phases is None:
            return total
        doubled = energy._replace(phases=2 * self.phases)
        return (total + doubled.products(ones, 0.5).sum()) / 2

    def entries(self, row: Tensor, column: Tensor) -> Tensor:
        """Compute entries of C at indices that broadcast against each other."""
        total = self.anchors.new_zeros(())
        for head, (anchors, scales) in enumerate(zip(self.anchors, self.scales, strict=True)):
            entries = torch.exp(-(anchors[row] - anchors[column]).abs())
            if self.phases is not None:
                entries = entries * torch.cos(self.phases[head][row] - self.phases[head][column])
            total = total + entries * (scales[row] * scales[column])
        return total

    def rows(self, index: Tensor) -> Tensor:
        """Return the rows of C at `index` [k], Tensor [k, n]."""
        every = torch.arange(self.anchors.shape[-1], device=index.device)
        return self.entries(index[:, None], every)

    def take(self, index: Tensor) -> Heads:
        """Return the heads restricted to the pixels at `index` [k]."""
        phases = None if self.phases is None else self.phases[:, index]
        return Heads(self.anchors[:, index], self.scales[:, index], phases)
