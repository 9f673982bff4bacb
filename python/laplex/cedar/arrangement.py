"""The order and signs of the axes, which a loss leaves free and a reader should not find random."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .basis import Basis
from .rows import as_rows
from .sums import Sums

#: Skewnesses below this count as 0, and so do differences of energy as a fraction of the largest:
#: rounding must not choose.
_LEAST_SKEWNESS, _DIGITS = 1e-6, 9
#: Number of atoms that are formed together.
_TOGETHER = 1024


def arranged(
    basis: Basis,
    centre: Tensor,
    k: int,
    scale: float,
    total: Callable[[Callable[[Any], Sums]], Sums],
) -> Basis:
    r"""Return the basis with its axes in order of energy, each with the longer tail on its + side.

    The energy of an axis is :math:`\langle s_i^2 \rangle`; the largest comes first, and of equal
    ones that of the lower index. The sign makes :math:`\langle s_i^3 \rangle` positive. Where that
    is 0, as on an axis that is in no code, the largest entry of the atom is positive.

    Parameters
    ----------
    basis : Basis
        The basis, of ``axes`` axes.
    centre : Tensor [d]
        The centre b, in the precision of the rows.
    k : int
        Number of nonzero entries of a code.
    scale : float
        The root of the variance.
    total : callable
        ``total(make)`` returns the sum of ``make(rows)`` over all parts of the rows.
    """
    sums = total(partial(_powers, basis=basis, centre=centre, k=k, scale=scale))
    energy, skew = (one / sums.count for one in sums.tensors)
    relative = (energy / energy.max().clamp_min(torch.finfo(energy.dtype).tiny)).round(
        decimals=_DIGITS
    )
    order = torch.argsort(relative, descending=True, stable=True)
    signs = skew.sign()
    even = (skew.abs() <= _LEAST_SKEWNESS * energy.pow(1.5)).nonzero()[:, 0]
    for axes in torch.split(even, _TOGETHER):
        signs[axes] = _largest_signs(basis, axes, centre, len(energy))
    return basis.arranged(order, signs[order])


def _powers(rows: Any, *, basis: Basis, centre: Tensor, k: int, scale: float) -> Sums:
    """Sum up the squares and cubes [axes] of the codes of rows [n, d], divided by the scale."""
    given = as_rows(
        rows, name="rows", device=centre.device, dtype=centre.dtype, once=True, empty=True
    )
    count, squares = 0, centre.new_zeros(basis.axes, dtype=torch.float64)
    cubes = torch.zeros_like(squares)
    for batch in given.batches():
        codes = basis.encode((batch - centre).div_(scale), k).double()
        squares += codes.square().sum(0)
        cubes += codes.pow(3).sum(0)
        count += len(batch)
    return Sums(count, (squares, cubes))


def _largest_signs(basis: Basis, axes: Tensor, like: Tensor, count: int) -> Tensor:
    """Return the sign of the largest entry of some atoms; of equal ones, that of the first."""
    units = like.new_zeros(len(axes), count)
    units[torch.arange(len(axes)), axes] = 1
    atoms = basis.synthesise(units)
    size = atoms.abs()
    near = size >= size.amax(1, keepdim=True) * (1 - _LEAST_SKEWNESS)
    first = near.int().argmax(1, keepdim=True)
    signs: Tensor = atoms.gather(1, first)[:, 0].sign().double()
    return signs
