"""`laplex.sliced.mmd`: how far two sets of points are from each other."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from ..torch.autograd import is_concrete
from ..torch.call import check_flag
from .arguments import (
    check_kernel,
    check_lengthscale,
    check_points,
    check_weights,
    projections_of,
    scaled,
    slices_of,
)
from .chunks import mean_and_error, means_of


@overload
def mmd(
    x: Tensor,
    y: Tensor,
    *,
    unbiased: bool = True,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    lengthscale: float | Tensor = 1.0,
    kernel: str = "laplace",
    projections: int = 64,
    directions: str | Tensor = "auto",
    generator: torch.Generator | None = None,
    return_error: Literal[False] = False,
) -> Tensor: ...


@overload
def mmd(
    x: Tensor,
    y: Tensor,
    *,
    unbiased: bool = True,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    lengthscale: float | Tensor = 1.0,
    kernel: str = "laplace",
    projections: int = 64,
    directions: str | Tensor = "auto",
    generator: torch.Generator | None = None,
    return_error: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def mmd(
    x: Tensor,
    y: Tensor,
    *,
    unbiased: bool = True,
    x_weights: Tensor | None = None,
    y_weights: Tensor | None = None,
    lengthscale: float | Tensor = 1.0,
    kernel: str = "laplace",
    projections: int = 64,
    directions: str | Tensor = "auto",
    generator: torch.Generator | None = None,
    return_error: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Estimate the squared maximum mean discrepancy of two sets of points, by sums on lines.

    .. math::

        \mathrm{MMD}^2 = E\,k(x, x') + E\,k(y, y') - 2\,E\,k(x, y)

    x and x' are independent points of one distribution, y and y' of the other. The expectations are
    means over all pairs of the given points. With ``kernel="energy"`` this is the energy distance
    :math:`2\,E|x - y| - E|x - x'| - E|y - y'|`.

    Parameters
    ----------
    x, y : Tensor, shapes ``[n, d]`` and ``[m, d]``
        The points: float32 or float64, finite.
    unbiased : bool
        Leave out the pairs of a point with itself, so that the mean over random points is the
        discrepancy of their distributions (Gretton et al., JMLR 13, 2012, lemma 6). The estimate
        may be negative. With False all pairs count, as for points that are the whole distribution.
    x_weights, y_weights : Tensor, shapes ``[n]`` and ``[m]``, optional
        The weights of the points, at least 0, which are divided by their sums.
    lengthscale, kernel, projections, directions, generator
        As for `laplex.sliced.matvec`.
    return_error : bool
        Return a standard error of the choice of directions as well, as `laplex.sliced.matvec` does.
        It does not contain the error of a sample of points.

    Returns
    -------
    Tensor, shape ``[]``
        The squared discrepancy, with derivatives by points, weights and lengthscale.
    error : Tensor, shape ``[]``
        Its standard error, without derivatives; only with ``return_error``.

    Raises
    ------
    TypeError, ValueError, NotImplementedError
        As for `laplex.sliced.matvec`; a ValueError also if a set has no points, weights are
        negative or all 0, or ``unbiased`` is True and one point has all the weight of its set.

    Notes
    -----
    One product on the union of the sets serves each direction. In units of k(0) = 1, rounding
    errors are about 1e-7 in float32. Discrepancies of large samples may be less: use float64 there.
    Second derivatives by points are those of the discrepancy only for "matern32", as
    `laplex.sliced.matvec` says.

    Examples
    --------
    >>> import torch, laplex
    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    >>> distance = laplex.sliced.mmd(x, x + 1, kernel="energy", unbiased=False)
    >>> round(float(distance), 2)  # 2 (2 sqrt(2) + 1 + sqrt(5)) / 4 - 1/2 - 1/2
    2.03
    """
    check_points("x", x)
    check_points("y", y, x, "x")
    check_flag("unbiased", unbiased)
    least = 2 if unbiased else 1
    for name, points in (("x", x), ("y", y)):
        if len(points) < least:
            raise ValueError(
                f"{name} must have at least {least} points, got {len(points)}"
                + (": pass unbiased=False for single points" if len(points) == 1 else "")
            )
    a = check_weights("x_weights", x_weights, x, "x")
    b = check_weights("y_weights", y_weights, y, "y")
    kernel = check_kernel(kernel)
    lengthscale = check_lengthscale(lengthscale, x, "x")
    slices = slices_of(kernel, x, projections, directions, generator, return_error)
    points, _ = scaled(lengthscale, kernel, torch.cat((x, y)))

    def forms(directions: Tensor, weights: Tensor, rows: Tensor, points: Tensor) -> Tensor:
        products = slices.kernel.product(rows, projections_of(points, directions), None)
        return torch.einsum("h,bhn,an->ab", weights, products, rows)

    if not unbiased:
        rows = torch.cat((a, -b))[None]
        means = means_of(slices, forms, len(points), rows, points)
        values = [mean[0, 0] for mean in means]
    else:
        rows = torch.stack(
            (torch.cat((a, torch.zeros_like(b))), torch.cat((torch.zeros_like(a), b)))
        )
        means = means_of(slices, forms, 2 * len(points), rows, points)
        itself = slices.kernel.at_zero
        of_x, of_y = a.square().sum(), b.square().sum()
        for name, of_itself in (("x_weights", of_x), ("y_weights", of_y)):
            if is_concrete(of_itself) and bool(1 - of_itself < 8 * torch.finfo(x.dtype).eps):
                raise ValueError(
                    f"{name} must have two entries of some size, but one has all the weight: pass "
                    "unbiased=False for single points"
                )
        values = [
            (mean[0, 0] - itself * of_x) / (1 - of_x)
            + (mean[1, 1] - itself * of_y) / (1 - of_y)
            - 2 * mean[0, 1]
            for mean in means
        ]
    # Absolute weights are 1 within x, 1 within y, and 2 between them.
    value, error = mean_and_error(slices, values, 4.0)
    return (value, error) if return_error else value
