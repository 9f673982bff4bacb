r"""A test whether an axis can be turned towards another one without changing the rows.

Let u be the coordinate along an axis and e that along a second one, both of variance 1 and
uncorrelated. If the distribution of the rows is elliptically symmetric, whatever their covariance
and whatever the distribution of their norms, then (u, e) is circularly symmetric: its angle is
uniform, given its length and all else. The same holds if both axes lie in a Gaussian part of
otherwise structured rows, and if two causes always act together. In all these cases the first axis
is no more special than any other direction of the plane. So

.. math:: D = (u^2 + e^2) \cos 4\phi, \qquad \phi = \angle(u, e)

has a distribution that is symmetric about 0. For a direction in which rows are sparse, D is
positive on average: a row is either on this axis or off it. For sums of independent symmetric
numbers, whatever their distributions,

.. math:: P\Bigl(\sum D \ge z \sqrt{\sum D^2}\Bigr) \le 3.18\; P(N(0, 1) \ge z)

(Bentkus and Dzindzalieta, Bernoulli 21, 2015), for any number of rows.

The axis and the second axis come from other rows than those of the sums. The second axis is the one
for which the mean of D is smallest among the rows in which the axis was found: the most likely
partner of such a plane.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.stats
import torch
from torch import Tensor

from .basis import Basis
from .parts import hashes, part_numbers
from .rows import as_rows
from .sums import Sums

#: Number of passes that find the shape of the cloud of rows.
_SHAPE_PASSES = 5
#: Number of groups that rows fall into by their hash. Copies of a row are in the same group, so the
#: sums of groups are independent where rows are not.
_GROUPS = 256
#: Largest ratio of a Rademacher tail to a normal one: 1 / (4 P(N(0, 1) >= sqrt(2))).
_TAIL = float(1 / (4 * scipy.stats.norm.sf(2**0.5)))
#: An axis along which rows have less than this fraction of the mean variance is dead, and axes with
#: correlations above the second number coincide.
_DEAD, _SAME = 1e-10, 0.999
#: Smallest norm of a row, as a fraction of the root of the variance, that counts as it is.
_LEAST = 1e-6


#: Adds up ``make(rows)`` over all rows.
Add: TypeAlias = Callable[[Callable[[Any], Sums]], Sums]


@dataclass(frozen=True, eq=False)
class Cloud:
    """The shape of the cloud of rows, in which an elliptical distribution has no direction.

    Attributes
    ----------
    centre : Tensor [d]
        The centre of the cloud, in float64.
    scale : float
        Divides the rows, so that their squares stay in range.
    root : Tensor [d, d] or None
        W, where W W^T is the inverse of the scatter matrix; None for the identity.
    typical : float
        The typical norm: the geometric mean of the norms of all rows.
    like : Tensor
        A tensor of the precision and on the device of the computation.
    """

    centre: Tensor
    scale: float
    root: Tensor | None
    typical: float
    like: Tensor

    def batches(self, rows: Any) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield batches z [b, d], their scaled rows [b, d], and what these were divided by [b, 1].

        For x = (z - centre) / scale, the scaled row is x / sqrt(|x W|^2 + typical^2): large rows
        count by their direction alone, and rows at the centre, which have none, do not count.
        """
        like = self.like
        given = as_rows(
            rows, name="rows", device=like.device, dtype=like.dtype, once=True, empty=True
        )
        centre, root = self.centre.to(like), None if self.root is None else self.root.to(like)
        for batch in given.batches():
            x = (batch - centre) / self.scale
            norm = torch.linalg.vector_norm(x if root is None else x @ root, dim=1, keepdim=True)
            divisor = torch.hypot(norm, torch.full_like(norm, self.typical))
            yield batch, x / divisor, norm


def shape(add: Add, cloud: Cloud) -> Cloud:
    """Find the centre and the scatter matrix of the rows, in a few passes from those of a cloud.

    Large rows count by their direction alone, so that heavy tails do no harm: this is an
    M-estimator of location and scatter (Maronna, Annals of Statistics 4, 1976) with the weights
    1 / (norm^2 + typical^2). The scatter matrix is mixed with the identity, with weight
    d / (d + n), so that fewer rows than columns do no harm either.
    """
    for _ in range(_SHAPE_PASSES):
        found = add(partial(_shape_sums, cloud=cloud))
        scatter, offset, weight, logarithms = found.tensors
        dim = len(scatter)
        mixed = dim / (dim + found.count)
        size = scatter.trace().clamp_min(torch.finfo(torch.float64).tiny)
        scatter = (1 - mixed) * dim / size * scatter + mixed * torch.eye(dim, dtype=scatter.dtype)
        root = torch.linalg.inv(torch.linalg.cholesky(scatter)).T
        centre = cloud.centre.cpu().double() + cloud.scale * offset / weight
        typical = math.exp(float(logarithms) / found.count)
        cloud = replace(cloud, centre=centre, root=root, typical=typical)
    return cloud


class Tested(NamedTuple):
    """The axes of each of P parts of the rows, judged on the rows outside that part."""

    p: npt.NDArray[np.float64]  # [P, axes]: of the hypothesis that an axis can be turned
    support: npt.NDArray[np.int64]  # [P, axes]: rows of the part with an axis of the model in code
    counts: npt.NDArray[np.int64]  # [P]: rows of the parts


def judge(
    add: Add, cloud: Cloud, bases: Sequence[Basis], model: Basis, centre: Tensor, k: int, seed: int
) -> Tested:
    """Test the axes of parts of the rows on the rows outside of them.

    Parameters
    ----------
    add : callable
        Adds up ``make(rows)`` over all rows.
    cloud : Cloud
        The shape of the cloud of rows, as `shape` finds it.
    bases : sequence of Basis
        The basis that was fitted to each part.
    model : Basis
        The basis whose codes are counted, of which the centre b is ``centre`` [d].
    k : int
        Number of entries of a code.
    seed : int
        Seed of the parts.
    """
    found = add(partial(_moment_sums, cloud=cloud, bases=bases, seed=seed))
    planes = []
    for number in range(len(bases)):
        own, cubes, squares, others = found.tensors[4 * number : 4 * number + 4]
        planes.append(_plane(own, cubes, squares, others))
    found = add(
        partial(
            _plane_sums,
            cloud=cloud,
            bases=bases,
            planes=planes,
            model=model,
            centre=centre,
            k=k,
            seed=seed,
        )
    )
    counts, support, *grouped = (one.numpy() for one in found.tensors)
    p = []
    for plane, groups in zip(planes, grouped, strict=True):
        size = np.sqrt(np.square(groups).sum(axis=0))
        z = groups.sum(axis=0) / np.where(size > 0, size, 1.0)
        bound = np.minimum(1.0, _TAIL * scipy.stats.norm.sf(z))
        p.append(np.where(plane.alike.numpy(), 1.0, bound))
    return Tested(np.stack(p), support.astype(np.int64), counts.astype(np.int64))


# --- inside ---------------------------------------------------------------------------------------


class _Plane(NamedTuple):
    """For each axis the second axis of its plane, and the coordinates there."""

    second: Tensor  # [axes], int64
    size: Tensor  # [axes]: root of the sum of squares of a coordinate
    correlation: Tensor  # [axes]: with the second axis
    alike: Tensor  # [axes] of bool: there is no plane, as one of the axes is dead or both coincide


def _shape_sums(rows: Any, *, cloud: Cloud) -> Sums:
    dim = len(cloud.centre)
    scatter = torch.zeros(dim, dim, dtype=torch.float64)
    offset, weight, logarithms = (torch.zeros(size, dtype=torch.float64) for size in (dim, 1, 1))
    count = 0
    for _, unit, norm in cloud.batches(rows):
        weights = 1 / (norm.square() + cloud.typical**2)
        scatter += (unit.T @ unit).cpu()
        offset += (unit * weights.sqrt()).sum(0, dtype=torch.float64).cpu()
        weight += weights.sum(dtype=torch.float64).cpu()
        logarithms += norm.clamp_min(_LEAST).log().sum(dtype=torch.float64).cpu()
        count += len(unit)
    return Sums(count, (scatter, offset, weight, logarithms))


def _moment_sums(rows: Any, *, cloud: Cloud, bases: Sequence[Basis], seed: int) -> Sums:
    """Sum for each part the second and fourth moments of its rows, and the second of others."""
    axes = len(bases[0].analyse(cloud.like.new_zeros(1, len(cloud.centre)))[0])
    sums = [torch.zeros(axes, axes, dtype=torch.float64) for _ in range(4 * len(bases))]
    count = 0
    for batch, unit, _ in cloud.batches(rows):
        numbers = part_numbers(hashes(batch, seed), len(bases))
        for number, basis in enumerate(bases):
            own = basis.analyse(unit[numbers == number])
            others = basis.analyse(unit[numbers != number])
            here = 4 * number
            square = own.square()
            sums[here] += (own.T @ own).cpu()
            sums[here + 1] += ((square * own).T @ own).cpu()
            sums[here + 2] += (square.T @ square).cpu()
            sums[here + 3] += (others.T @ others).cpu()
        count += len(batch)
    return Sums(count, tuple(sums))


def _plane(own: Tensor, cubes: Tensor, squares: Tensor, others: Tensor) -> _Plane:
    """Find the second axis for each axis, from sums of own rows; scale it by sums of others."""
    axes = len(own)
    size, r, dead = _scaled(own)
    d = (1 - r.square()).clamp_min(1 - _SAME**2)
    m22 = squares / torch.outer(size.square(), size.square())
    m31 = cubes / torch.outer(size**3, size)
    m13, m40 = m31.T, m22.diagonal()[:, None]
    # Moments of u and e = (v - r u) / sqrt(1 - r^2), where v is the coordinate on a second axis.
    u2e2 = (m22 - 2 * r * m31 + r.square() * m40) / d
    e4 = m40.T - 4 * r * m13 + 6 * r.square() * m22 - 4 * r**3 * m31 + r**4 * m40
    e4 = e4 / d.square()
    contrast = (m40 + e4 - 6 * u2e2) / (m40 + e4 + 2 * u2e2)
    contrast[r.abs() > _SAME] = -torch.inf
    contrast[:, dead] = torch.inf
    contrast.fill_diagonal_(torch.inf)
    second = contrast.argmin(1)
    size, r, lost = _scaled(others)
    every = torch.arange(axes)
    correlation = r[every, second]
    alike = dead | lost | lost[second] | (correlation.abs() > _SAME) | (second == every)
    alike |= contrast[every, second].isinf()
    return _Plane(second, size, correlation, alike)


def _scaled(moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sizes [axes], the correlations [axes, axes] and which axes are dead [axes]."""
    square = moments.diagonal()
    dead = square <= _DEAD * square.mean()
    size = torch.where(dead, 1.0, square.clamp_min(0).sqrt())
    r = (moments / torch.outer(size, size)).clamp(-1, 1)
    return size, r.fill_diagonal_(0), dead


def _plane_sums(
    rows: Any,
    *,
    cloud: Cloud,
    bases: Sequence[Basis],
    planes: Sequence[_Plane],
    model: Basis,
    centre: Tensor,
    k: int,
    seed: int,
) -> Sums:
    """Count rows and codes of each part; sum D of each axis over groups of the rows of others."""
    parts, axes = len(bases), len(planes[0].second)
    counts = torch.zeros(parts, dtype=torch.float64)
    support = torch.zeros(parts, axes, dtype=torch.float64)
    grouped = [torch.zeros(_GROUPS, axes, dtype=torch.float64) for _ in bases]
    near = centre.to(cloud.like)
    count = 0
    for batch, unit, _ in cloud.batches(rows):
        hashed = hashes(batch, seed)
        numbers, groups = part_numbers(hashed, parts), hashed // parts % _GROUPS
        fires = model.encode(batch - near, k) != 0
        for number, (basis, plane) in enumerate(zip(bases, planes, strict=True)):
            inside = numbers == number
            counts[number] += int(inside.sum())
            support[number] += fires[inside].sum(0).cpu()
            size, r = plane.size.to(cloud.like), plane.correlation.to(cloud.like)
            u = basis.analyse(unit[~inside]) / size
            second = plane.second.to(u.device)
            e = (u[:, second] - r * u) / (1 - r.square()).clamp_min(1 - _SAME**2).sqrt()
            u2, e2 = u.square(), e.square()
            length = (u2 + e2).clamp_min(torch.finfo(u.dtype).tiny)
            difference = length - 8 * u2 * (e2 / length)  # length * cos(4 angle)
            grouped[number].index_add_(0, groups[~inside].cpu(), difference.double().cpu())
        count += len(batch)
    return Sums(count, (counts, support, *grouped))
