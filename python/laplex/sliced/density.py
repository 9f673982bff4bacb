"""`laplex.sliced.kde`: the density of points, by a kernel of a given bandwidth."""

from __future__ import annotations

import math
from operator import index
from typing import Literal, overload

import torch
from torch import Tensor

from ..torch.autograd import is_concrete
from .arguments import (
    SCALE,
    check_kernel,
    check_lengthscale,
    check_points,
    check_weights,
    scaled,
    slices_of,
)
from .chunks import mean_product

Kernel = Literal["laplace", "matern32"]


@overload
def kde(
    points: Tensor,
    queries: Tensor | None = None,
    *,
    lengthscale: float | Tensor,
    weights: Tensor | None = None,
    kernel: str = "laplace",
    projections: int = 64,
    directions: str | Tensor = "auto",
    generator: torch.Generator | None = None,
    return_error: Literal[False] = False,
) -> Tensor: ...


@overload
def kde(
    points: Tensor,
    queries: Tensor | None = None,
    *,
    lengthscale: float | Tensor,
    weights: Tensor | None = None,
    kernel: str = "laplace",
    projections: int = 64,
    directions: str | Tensor = "auto",
    generator: torch.Generator | None = None,
    return_error: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def kde(
    points: Tensor,
    queries: Tensor | None = None,
    *,
    lengthscale: float | Tensor,
    weights: Tensor | None = None,
    kernel: str = "laplace",
    projections: int = 64,
    directions: str | Tensor = "auto",
    generator: torch.Generator | None = None,
    return_error: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Estimate the density of points in R^d at queries, by sums on lines.

    .. math::

        p(z) = \sum_j w_j\, k(|z - x_j| / \ell) \Big/ \Big(Z \sum_j w_j\Big), \qquad
        Z = \int_{R^d} k(|z| / \ell)\, dz

    Parameters
    ----------
    points : Tensor, shape ``[n, d]``
        The points :math:`x`, at least one: float32 or float64, finite.
    queries : Tensor, shape ``[q, d]``, optional
        Where to estimate the density. The default is at the points.
    lengthscale : float or Tensor, shape ``[]`` or ``[d]``
        The bandwidth :math:`\ell`, as in `laplex.sliced.matvec`.
    weights : Tensor, shape ``[n]``, optional
        The weights :math:`w` of the points, at least 0. The default is equal weights.
    kernel : {"laplace", "matern32"}
        The kernel, as in `laplex.sliced.matvec`.
    projections, directions, generator, return_error
        As for `laplex.sliced.matvec`.

    Returns
    -------
    Tensor, shape ``[q]``
        The density, in points per unit of volume. Its error is about the same everywhere, relative
        to the largest values of the kernel: where there are few points, it may be negative.
    error : Tensor, shape ``[q]``
        Its standard error, without derivatives; only with ``return_error``.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As for `laplex.sliced.matvec`; a ValueError also if there are no points, weights are
        negative or all 0, or the density of a single point exceeds the range of the dtype.

    Notes
    -----
    Second derivatives by points are those of the density only for "matern32", as
    `laplex.sliced.matvec` says.

    Examples
    --------
    >>> import torch, laplex
    >>> points = torch.zeros(1, 3, dtype=torch.float64)
    >>> laplex.sliced.kde(points, lengthscale=1.0)  # 1 / (8 pi), the top of the kernel
    tensor([0.0398], dtype=torch.float64)
    """
    check_points("points", points)
    if queries is points:
        queries = None
    if queries is not None:
        check_points("queries", queries, points, "points")
    if len(points) == 0:
        raise ValueError("points must have at least 1 point, got 0")
    weights = check_weights("weights", weights, points, "points")
    kernel = check_kernel(kernel, Kernel)
    lengthscale = check_lengthscale(lengthscale, points, "points")
    slices = slices_of(kernel, points, projections, directions, generator, return_error)
    given = (points, None) if queries is None else (queries, points)
    targets, sources = scaled(lengthscale, kernel, *given)
    mean, error = mean_product(slices, weights, targets, sources)
    height = _height(kernel, index(points.shape[1]), lengthscale, points.dtype)
    if not return_error:
        return mean * height
    return mean * height, error * (height.detach() if isinstance(height, Tensor) else height)


def _height(kernel: str, d: int, lengthscale: float | Tensor, dtype: torch.dtype) -> float | Tensor:
    """1 / Z: the integral over spheres of r^(d - 1) exp(-r), and of r^d exp(-r) for Matern-3/2."""
    sphere = math.log(2) + d / 2 * math.log(math.pi) - math.lgamma(d / 2)
    log = sphere + math.lgamma(d) + (math.log(1 + d) if kernel == "matern32" else 0.0)
    log -= d * math.log(SCALE[kernel])
    if isinstance(lengthscale, Tensor):
        log_height = -log - lengthscale.log().expand(d).sum()
        if is_concrete(log_height):
            _check_height(float(log_height.detach()), d, dtype)
        return torch.exp(log_height)
    _check_height(-log - d * math.log(lengthscale), d, dtype)
    return math.exp(-log - d * math.log(lengthscale))


def _check_height(log_height: float, d: int, dtype: torch.dtype) -> None:
    """Refuse densities that are 0 or infinite only because a number has a bounded exponent."""
    info = torch.finfo(dtype)
    if not math.log(info.tiny) < log_height < math.log(info.max):
        raise ValueError(
            f"the density of one point is exp({log_height:.4g}) at d = {d} with this lengthscale, "
            f"which exceeds the range of {dtype}: pass points of another unit"
            + (" or of float64" if dtype is torch.float32 else "")
            + ", or call matvec, which does not divide by the volume"
        )
