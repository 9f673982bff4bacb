"""Sorted scores and quantiles that can be differentiated."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from ..torch.autograd import is_concrete
from ..torch.call import Scalar, broadcast_shapes, check_flag
from ..torch.quantiles import narrowed, sorted_quantiles
from .arguments import Line, line_of, straight_through, within_line


def soft_sort(
    scores: Tensor,
    tau: Scalar = 1.0,
    *,
    dim: int = -1,
    descending: bool = False,
    hard: bool = False,
) -> Tensor:
    r"""Sort scores smoothly: the quantiles at the levels 1/2, 3/2, ..., n - 1/2.

    With :math:`\tau \to 0` these are the sorted scores. See `soft_quantile` for the formula. The
    result ascends strictly, unless scores are infinite, and extends beyond the scores by a few
    :math:`\tau`.

    Parameters
    ----------
    scores : Tensor, shape ``[*b, n]``
        The scores, as `soft_rank` takes them.
    tau : float or Tensor, shape ``[*b]``
        The temperature, positive, in the unit of the scores.
    dim : int
        The dimension of the scores.
    descending : bool
        Put the largest first.
    hard : bool
        Return the sorted scores, with the derivatives of the soft ones.

    Returns
    -------
    Tensor, shape of ``scores``
        The sorted scores, of their dtype. Solved in float64.

    Raises
    ------
    TypeError, ValueError
        As `soft_rank` does.

    Examples
    --------
    >>> import torch, laplex
    >>> laplex.order.soft_sort(torch.tensor([3.0, 1.0, 2.0]), 0.1)
    tensor([1.0000, 2.0000, 3.0000])
    """
    check_flag("hard", hard)
    line = line_of(scores, tau, dim, descending)
    levels = torch.arange(line.size, dtype=torch.float64, device=scores.device) + 0.5
    return line.restored(_quantiles(line, levels, hard, line.size // 2))


def soft_quantile(
    scores: Tensor,
    levels: Tensor | float,
    tau: Scalar = 1.0,
    *,
    dim: int = -1,
    descending: bool = False,
    hard: bool = False,
) -> Tensor:
    r"""Return the points below which given numbers of scores lie, as a smooth function.

    The result :math:`b` of a level solves

    .. math::

        F(b) = \sum_j L\big((b - s_j) / \tau\big) = \text{level}

    where :math:`L` is the CDF of the Laplace distribution, so that :math:`F` counts the scores
    below :math:`b` smoothly. A level is a number of scores: the median of :math:`n` scores is at
    :math:`n / 2`, and the quantile of a share :math:`p` at :math:`p n`. With :math:`\tau \to 0`, it
    is the score of the rank :math:`\lceil \text{level} \rceil`, and half-way between two scores if
    the level is a whole number. (Half-way between -inf and inf, it is a finite number that means
    nothing.)

    Parameters
    ----------
    scores : Tensor, shape ``[*b, n]``
        The scores :math:`s`, as `soft_rank` takes them.
    levels : float or Tensor, shape ``[*b, q]``
        The levels, each strictly between 0 and n. Those of a tensor are in its last dimension.
    tau : float or Tensor, shape ``[*b]``
        The temperature, positive, in the unit of the scores.
    dim : int
        The dimension of the scores.
    descending : bool
        Count the scores from the largest: those above :math:`b`.
    hard : bool
        Return the result of the limit :math:`\tau \to 0`, with the derivatives of the soft one.

    Returns
    -------
    Tensor, shape ``[*b, q]``, or ``[*b]`` for a number
        The quantiles, of the dtype of the scores. Those of a tensor are along ``dim``.

    Raises
    ------
    TypeError, ValueError
        As `soft_rank` does, and if a level is not strictly between 0 and n.

    Notes
    -----
    Between two scores :math:`F` is a quadratic in :math:`e^{b/\tau}`, so the solution is a closed
    form. It is computed in float64. The derivatives, by scores, levels and ``tau``, follow from
    :math:`dF = 0`: those by the scores are the weights :math:`e^{-|b - s_j| / \tau}`, divided by
    their sum. They exist to any order by the scores.

    The quantile of a number keeps its digits beside ``tau``, however small that is. Of many levels,
    those far from the middle score have an error of :math:`10^{-16}` times the distance from it. In
    the error of their derivatives, gaps wider than 400 ``tau`` count as 400 ``tau``.

    Source: LapSum, arXiv 2503.06242.

    Examples
    --------
    >>> import torch, laplex
    >>> scores = torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0])
    >>> laplex.order.soft_quantile(scores, 2.5, 0.1)  # the median
    tensor(3.)
    """
    check_flag("hard", hard)
    line = line_of(scores, tau, dim, descending)
    if not isinstance(levels, Tensor):
        level = within_line("levels", levels, line.size, "pass several as a tensor")
        one = torch.full((1,), level, dtype=torch.float64, device=scores.device)
        return _quantiles(line, one, hard, ceil(level) - 1).squeeze(-1).to(line.dtype)
    return line.restored(_quantiles(line, _checked(levels, line), hard, line.size // 2))


def _checked(levels: Tensor, line: Line) -> Tensor:
    if levels.is_complex() or levels.dtype is torch.bool:
        raise TypeError(f"levels has dtype {levels.dtype}, but must hold real numbers")
    if levels.device != line.scores.device:
        raise ValueError(
            f"levels is on {levels.device}, but scores is on {line.scores.device}: move it with "
            f"levels.to({str(line.scores.device)!r})"
        )
    if levels.dim() == 0:
        raise ValueError("levels is a 0-d tensor, but must have shape [..., q]: pass levels[None]")
    try:
        broadcast_shapes(levels.shape[:-1], line.scores.shape[:-1])
    except RuntimeError:
        raise ValueError(
            f"levels has shape {tuple(levels.shape)}, whose leading dimensions do not broadcast "
            f"with those of the scores, {tuple(line.scores.shape[:-1])}"
        ) from None
    if is_concrete(levels) and not bool(((levels > 0) & (levels < line.size)).all()):
        raise ValueError(
            "levels must lie strictly between 0 and n = "
            f"{line.size}, the number of scores, but some do not"
        )
    return levels.double()


def _quantiles(line: Line, levels: Tensor, hard: bool, rank: int) -> Tensor:
    """Return the quantiles, which are best resolved near the score of a rank."""
    given = line.order().sort(line.scores)
    in_order, centre = line.about(given, rank)
    narrow = narrowed(in_order, line.tau)
    quantiles = narrow.widened(sorted_quantiles(narrow.scores, levels, line.tau), line.tau)
    quantiles = line.as_scores(quantiles + centre)
    if hard:
        limit = _limit(given.detach().double(), levels)
        quantiles = straight_through(line.as_scores(limit), quantiles)
    return quantiles


def _limit(in_order: Tensor, levels: Tensor) -> Tensor:
    """Return the quantiles of the limit tau -> 0."""
    levels = levels.detach()
    batch = broadcast_shapes(in_order.shape[:-1], levels.shape[:-1])
    in_order = in_order.expand(*batch, in_order.shape[-1])
    above = levels.floor().expand(*batch, levels.shape[-1]).long()
    at = levels.ceil().expand(*batch, levels.shape[-1]).long() - 1
    return in_order.gather(-1, at).lerp(in_order.gather(-1, above), 0.5)
