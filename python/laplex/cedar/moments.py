"""The sums that a pass over the rows leaves, which can be added over any parts of the rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .basis import nearest_rotation
from .rows import as_rows
from .settings import checked_ks, positive
from .topk import top_k

Array = npt.NDArray[np.floating[Any]]

#: Weight of the old rotation in the Procrustes problem; it decides where the data do not. In each
#: precision it is above the rounding errors of a singular value decomposition.
_PROXIMITY = {torch.float64: 1e-7, torch.float32: 1e-6}
#: Up to this width, a decomposition in float64 takes no time to speak of.
_WIDEST_EXACT = 512


@dataclass(frozen=True, eq=False)
class Moments:
    r"""The sums over rows z that determine the next rotation: make, merge, solve.

    A pass of the alternating solver needs of the rows only sums,

    .. math::
        \sum s x^T, \qquad \sum |Ux - s|^2, \qquad x = (z - b) / \sigma, \qquad s = T_k(U x)

    so each process makes those of its own rows with ``Moments.of``, ``+`` or ``sum`` merges them,
    in any order, and ``solve`` returns the rotation that fits the codes best. Moments can be
    pickled. `CEDAR.fit` with ``group`` and `CEDAR.fit_map_reduce` are made of these three steps.

    Attributes
    ----------
    count : int
        Number of rows.
    lost : Tensor []
        Sum of :math:`|Ux - s|^2`; all sums are in float64, and over all k.
    correlation : Tensor [d, d]
        Sum of :math:`s x^T`.
    total, total_code : Tensor [d]
        Sums of x and s, for a learned centre; zeros unless made with ``means=True``.
    centre : Tensor [d]
        The centre b.
    scale : float
        The scale :math:`\sigma`.
    ks : tuple of int
        Numbers k of entries of a code.

    Examples
    --------
    >>> import torch
    >>> from laplex.cedar import Moments
    >>> rows, rotation, centre = torch.randn(100, 4), torch.eye(4), torch.zeros(4)
    >>> parts = [Moments.of(part, rotation, centre, k=2) for part in rows.split(30)]
    >>> whole = Moments.of(rows, rotation, centre, k=2)
    >>> moments = sum(parts)
    >>> moments.count, bool((moments.solve(rotation) - whole.solve(rotation)).abs().max() < 1e-5)
    (100, True)
    """

    count: int
    lost: Tensor
    correlation: Tensor
    total: Tensor
    total_code: Tensor
    centre: Tensor
    scale: float
    ks: tuple[int, ...]

    @classmethod
    def of(
        cls,
        rows: Any,
        rotation: Tensor | Array,
        centre: Tensor | Array,
        *,
        k: int | Sequence[int],
        scale: float = 1.0,
        means: bool = False,
    ) -> Moments:
        r"""Make the moments of some rows; of no rows, they are zero.

        Parameters
        ----------
        rows : array-like, Tensor or memory map [n, d]; or batches of them
            Embeddings, as in `CEDAR.fit`; a generator of batches is accepted too.
        rotation : Tensor or ndarray [d, d]
            The rotation U. The rows are computed in its precision and on its device.
        centre : Tensor or ndarray [d]
            The centre b.
        k : int or sequence of int
            Number of nonzero entries of a code, or several of them.
        scale : float
            The scale :math:`\sigma`, by default 1: the root of the variance, which makes `loss` a
            fraction of the variance and keeps squares within the range of float32.
        means : bool
            Whether to sum x and s too, which costs as much as a selection.

        Returns
        -------
        Moments

        Raises
        ------
        TypeError, ValueError
            If the rows are not finite or have other columns than the rotation, or k or scale is
            not valid.
        """
        rotation, centre = torch.as_tensor(rotation), torch.as_tensor(centre)
        given = as_rows(
            rows, name="rows", device=rotation.device, dtype=rotation.dtype, once=True, empty=True
        )
        dim = len(centre)
        if rotation.shape != (dim, dim) or given.dim not in (0, dim):
            raise ValueError(
                f"rows, rotation and centre must be [n, d], [d, d] and [d], got [n, {given.dim}], "
                f"{list(rotation.shape)} and [{dim}]"
            )
        ks = checked_ks(k, dim)
        return sweep(given.batches(), rotation, centre, ks, positive("scale", scale), means=means)

    def __add__(self, other: Moments) -> Moments:
        if not isinstance(other, Moments):
            return NotImplemented
        if (self.ks, self.scale) != (other.ks, other.scale) or not torch.equal(
            self.centre, other.centre
        ):
            raise ValueError(
                "moments of different passes cannot be added: make all of a sum with the same "
                "rotation, centre, k and scale"
            )
        both = zip(self.tensors, other.tensors, strict=True)
        return self.holding(self.count + other.count, [a + b for a, b in both])

    def __radd__(self, other: object) -> Moments:
        """Let the built-in ``sum`` begin with 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The sums over the rows.

        :meta private:
        """
        return self.lost, self.correlation, self.total, self.total_code

    def holding(self, count: int, tensors: Sequence[Tensor]) -> Moments:
        """Return moments of the same pass with other sums.

        :meta private:
        """
        lost, correlation, total, total_code = tensors
        return replace(
            self,
            count=count,
            lost=lost,
            correlation=correlation,
            total=total,
            total_code=total_code,
        )

    def solve(self, rotation: Tensor | Array) -> Tensor:
        r"""Return the rotation that fits the codes best, a Procrustes problem.

        .. math:: \arg\min_{Q^T Q = I} \sum |x - Q^T s|^2

        Parameters
        ----------
        rotation : Tensor or ndarray [d, d]
            The rotation of these moments; it decides where the rows do not.

        Returns
        -------
        Tensor [d, d]
            The next rotation, in float64. For a float32 rotation of more than 512 columns it is in
            float32, which takes half of the time.
        """
        return solved(self.correlation, torch.as_tensor(rotation))

    @property
    def loss(self) -> float:
        r"""The mean of :math:`|Ux - s|^2`: the squared error of a row as a fraction of scale^2."""
        return float(self.lost) / (self.count * len(self.ks))

    @property
    def mean(self) -> Tensor:
        """Mean of the embeddings [d]; needs ``means=True``."""
        return self.total * (self.scale / self.count) + self.centre

    @property
    def mean_code(self) -> Tensor:
        """Mean of the codes [d], in the unit of the embeddings; needs ``means=True``."""
        return self.total_code * (self.scale / (self.count * len(self.ks)))


def solved(correlation: Tensor, rotation: Tensor) -> Tensor:
    """Return the rotation nearest to a sum of s x^T [d, d], or to an old one where that is 0.

    A singular value decomposition in float32 is backward stable: its polar factor is orthogonal up
    to rounding, and exact for a matrix that differs by rounding. Iterations by products alone
    (Newton-Schulz) take longer on a processor, because the smallest singular values of the sum are
    far below the largest.
    """
    size = correlation.norm()
    narrow = len(rotation) <= _WIDEST_EXACT or rotation.dtype == torch.float64
    dtype = torch.float64 if narrow else torch.float32
    matrix = (correlation / size).to(dtype) if size > 0 else correlation.to(dtype)
    return nearest_rotation(matrix + _PROXIMITY[dtype] * rotation.to(dtype))


def sweep(
    batches: Iterable[Tensor],
    rotation: Tensor,
    centre: Tensor,
    ks: tuple[int, ...],
    scale: float,
    *,
    means: bool = False,
) -> Moments:
    """Compute the codes of all rows and sum them up: `Moments.of` for checked batches [b, d]."""
    correlation = torch.zeros_like(rotation, dtype=torch.float64)
    total = torch.zeros_like(correlation[0])
    total_code = torch.zeros_like(total)
    lost = torch.zeros_like(total[0])
    near = centre.to(rotation.device, rotation.dtype)
    count = 0
    for batch in batches:
        z = (batch - near).div_(scale)  # squares of tiny or huge numbers would not fit a float32
        coordinates = z @ rotation.T
        for k in ks:
            codes = top_k(coordinates, k)
            correlation += codes.T @ z
            # Summed over the omitted coordinates, not as a difference: exact where little is lost.
            left_out = torch.linalg.vector_norm(coordinates - codes, dim=1)
            lost += left_out.double().square().sum()
            if means:
                total_code += codes.sum(0, dtype=torch.float64)
        if means:
            total += z.sum(0, dtype=torch.float64)
        count += len(batch)
    return Moments(count, lost, correlation, total, total_code, near, scale, ks)
