"""Posterior means: inpainting of missing pixels, and denoising."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .heads import Heads
from .likelihood import double, gram, iterations, linear_operator

if TYPE_CHECKING:
    from .model import LaplaceCovariance


def inpaint(model: LaplaceCovariance, rows: Tensor, missing: Tensor) -> Tensor:
    r"""Posterior mean :math:`C_{mo} (C_{oo} + N_o)^{-1} z_o` of standardised images [n, dim].

    Rows hold 0 where `missing` [n or 1, dim] is True, so a product with the whole of C gives the
    missing entries. Images with the same mask are solved together.
    """
    heads, noise = double(model.parts()), model.noise.double()
    filled = torch.empty_like(rows)
    masks, group = torch.unique(missing.expand_as(rows), dim=0, return_inverse=True)
    for number, mask in enumerate(masks):
        members = (group == number).nonzero().flatten()
        observed = (~mask).nonzero().flatten()
        values = rows[members].double()
        weights = torch.zeros_like(values)
        weights[:, observed] = _solve(heads.take(observed), noise[observed], values[:, observed])
        filled[members] = heads.products(weights).sum(-2).to(rows.dtype)
    return filled


def denoise(model: LaplaceCovariance, rows: Tensor, added: Tensor) -> Tensor:
    r"""Posterior mean :math:`z - V (C + N + V)^{-1} z` under further noise of variance V [dim]."""
    heads, noise = double(model.parts()), model.noise.double()
    values, added = rows.double(), added.double()
    return (values - added * _solve(heads, noise + added, values)).to(rows.dtype)


def _solve(heads: Heads, noise: Tensor, values: Tensor) -> Tensor:
    """Multiply (C + diag(noise))^{-1} by rows [k, n]."""
    if len(heads.anchors) == 1:
        return gram(heads, noise).solve(values)
    matrix = linear_operator(heads, noise)
    with iterations():
        solution: Tensor = matrix.solve(values.mT).mT
    return solution
