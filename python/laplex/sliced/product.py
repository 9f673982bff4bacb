"""`laplex.sliced.matvec`: products with matrices of kernels between points of any dimension."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from .arguments import (
    check_kernel,
    check_lengthscale,
    check_points,
    check_values,
    scaled,
    slices_of,
)
from .chunks import mean_product


@overload
def matvec(
    values: Tensor,
    targets: Tensor,
    sources: Tensor | None = None,
    *,
    lengthscale: float | Tensor = 1.0,
    kernel: str = "laplace",
    projections: int = 64,
    directions: str | Tensor = "auto",
    generator: torch.Generator | None = None,
    return_error: Literal[False] = False,
) -> Tensor: ...


@overload
def matvec(
    values: Tensor,
    targets: Tensor,
    sources: Tensor | None = None,
    *,
    lengthscale: float | Tensor = 1.0,
    kernel: str = "laplace",
    projections: int = 64,
    directions: str | Tensor = "auto",
    generator: torch.Generator | None = None,
    return_error: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def matvec(
    values: Tensor,
    targets: Tensor,
    sources: Tensor | None = None,
    *,
    lengthscale: float | Tensor = 1.0,
    kernel: str = "laplace",
    projections: int = 64,
    directions: str | Tensor = "auto",
    generator: torch.Generator | None = None,
    return_error: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Multiply values by the matrix of a kernel between points in R^d, by sums on lines.

    .. math::

        u_i = \sum_j k(|x_i - y_j| / \ell)\, v_j \approx
            \frac1P \sum_{p=1}^P \sum_j f(|\langle \xi_p, x_i - y_j\rangle| / \ell)\, v_j

    Here :math:`\xi_p` are P directions, and f is the function whose mean over all directions is
    exactly the kernel k. The sum of each direction takes O((n + m) log(n + m)).

    Parameters
    ----------
    values : Tensor, shape ``[*b, m]``
        The vectors to multiply, real or complex, finite, of the points' precision.
    targets : Tensor, shape ``[n, d]``
        The points :math:`x`: float32 or float64, finite.
    sources : Tensor, shape ``[m, d]``, optional
        The points :math:`y`. If they are not given, the targets are also the sources.
    lengthscale : float or Tensor, shape ``[]`` or ``[d]``
        The lengthscale :math:`\ell`, positive, in the unit of the points; or one for each
        coordinate, by which that coordinate is divided. A tensor of one number may have more
        dimensions.
    kernel : {"laplace", "matern32", "energy"}
        At distance r in lengthscales: :math:`e^{-r}`, :math:`(1 + \sqrt3 r)\,e^{-\sqrt3 r}`, or
        :math:`-r`.
    projections : int
        The number P of directions. Points on a line (d = 1) need one, whatever the number.
    directions : {"auto", "orthogonal", "sobol", "random"} or Tensor, shape ``[P, d]``
        How directions are chosen: "orthogonal" are blocks of d orthonormal vectors, "sobol" is a
        scrambled Sobol sequence of normal vectors, "random" are independent. "auto" is equal angles
        in the plane, a product of Gauss's rule and equal angles in R^3, which has
        :math:`\lfloor\sqrt P\rfloor` heights, weights, and perhaps a few directions less than P,
        and "orthogonal" otherwise. All are rotated at random. A tensor gives P unit vectors of
        equal weight. For "laplace" and "matern32", even dimensions from 4 are embedded in the next
        odd one by a coordinate 0 (8 and 9 of "matern32" in 11), and the directions have its number
        of coordinates.
    generator : torch.Generator, optional
        The source of the random rotation. If it is not given, the same arguments always give the
        same directions: all products are with one matrix, which is symmetric if targets are also
        the sources.
    return_error : bool
        Return a standard error as well. Directions are then drawn as 8 independent rules of P / 8,
        and the error is computed from the spread of their means. Where f is a fit, its bound of
        5e-6 times :math:`\sum_j |v_j|` is added. So the product is another one than without, and
        for few directions a less accurate one. A tensor's consecutive eighths are taken for
        independent rules.

    Returns
    -------
    Tensor, shape ``[*b, n]``
        The product.
    error : Tensor, shape ``[*b, n]``
        The standard error of each entry, real, without derivatives; only with ``return_error``.

    Raises
    ------
    TypeError
        If an argument is not a tensor, or dtypes do not match.
    ValueError
        If shapes do not match, a name is unknown, the lengthscale is not positive, or points are
        NaN or infinite.
    NotImplementedError
        If there are more than 512 coordinates (not for "energy").

    Notes
    -----
    **Accuracy.** The only error of size is that of the choice of directions. It falls as
    :math:`P^{-1/2}`, and faster in R^2 and R^3, in units of :math:`\sum_j |v_j|`, not of the entry
    itself: where kernels are small because points are many lengthscales apart, the error may exceed
    the result. f is exact for "energy". For "laplace" it is a sum of damped cosines with an
    error of at most 5e-6 at d = 2 and above 9, for "matern32" at d = 2 and above 7, and exact
    otherwise.

    **Derivatives**, of any order and by every tensor argument except directions, are those of the
    mean over the P directions. First derivatives approach those of the kernel as P grows. Second
    derivatives by points, or by lengthscales of each coordinate, do so only for "matern32": for
    "laplace" (d > 1) and "energy", f has a kink at t = 0, and finitely many directions miss the
    part of the second derivative that lies in the kink. Curvatures across the line between two
    points then have the wrong sign, or are 0. So use "matern32" for Hessians by points and Newton's
    method. Backward passes compute the products of each chunk of directions again, so memory does
    not grow with P.

    f for the Laplace and other kernels: Hertrich, arXiv 2401.08260.

    Examples
    --------
    >>> import torch, laplex
    >>> points = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    >>> ones = torch.ones(2, dtype=torch.float64)
    >>> u = laplex.sliced.matvec(ones, points, projections=1000)
    >>> bool((u - 1.3679).abs().max() < 1e-3)  # 1 + exp(-1)
    True
    """
    check_points("targets", targets)
    if sources is targets:
        sources = None
    if sources is not None:
        check_points("sources", sources, targets, "targets")
    owner, name = (targets, "targets") if sources is None else (sources, "sources")
    check_values(values, len(owner), owner, name)
    kernel = check_kernel(kernel)
    lengthscale = check_lengthscale(lengthscale, targets, "targets")
    slices = slices_of(kernel, targets, projections, directions, generator, return_error)
    mean, error = mean_product(slices, values, *scaled(lengthscale, kernel, targets, sources))
    return (mean, error) if return_error else mean
