"""Ranks that can be differentiated."""

from __future__ import annotations

import torch
from torch import Tensor

from ..torch.call import Scalar, check_flag
from ..torch.cumulative import cumulative_sum
from .arguments import line_of, straight_through


def soft_rank(
    scores: Tensor,
    tau: Scalar = 1.0,
    *,
    dim: int = -1,
    descending: bool = False,
    hard: bool = False,
) -> Tensor:
    r"""Return the rank of every score, 1 for the smallest, as a smooth function of the scores.

    .. math::

        r_i = \tfrac12 + \sum_j L\big((s_i - s_j) / \tau\big), \qquad
        L(t) = \begin{cases} e^t / 2 & t < 0 \\ 1 - e^{-t} / 2 & t \ge 0 \end{cases}

    :math:`L` is the CDF of the Laplace distribution. With :math:`\tau \to 0` these are the ranks,
    and equal scores have the mean of theirs; with :math:`\tau \to \infty` all are
    :math:`(n + 1) / 2`. The sum of the ranks is always :math:`n (n + 1) / 2`.

    Parameters
    ----------
    scores : Tensor, shape ``[*b, n]``
        The scores :math:`s`, floating-point, along any dimension. They may be infinite, as masks
        are, but not NaN. Float64 numbers beyond 4e307 count as infinite. Half precision is computed
        in float32.
    tau : float or Tensor, shape ``[*b]``
        The temperature, at least 1e-18 (1e-100 in float64), in the unit of the scores. A tensor has
        one per line: its dimensions are broadcast with the *leading* ones of the scores.
    dim : int
        The dimension of the scores.
    descending : bool
        Give rank 1 to the largest score.
    hard : bool
        Return the ranks of the limit :math:`\tau \to 0`, with the derivatives of the soft ranks.

    Returns
    -------
    Tensor, shape of ``scores``
        The ranks, of the dtype of the scores: bfloat16 holds whole numbers up to 256, float16 up
        to 2048. With leading dimensions of ``tau`` that the scores do not have, it has these too.

    Raises
    ------
    TypeError
        If the scores are no tensor of floating-point numbers.
    ValueError
        If some scores are NaN, there are none along the dimension, or ``tau`` is not positive; if
        the scores are float16 and more than it can count, 65504.

    Notes
    -----
    The result can be differentiated any number of times by the scores, and up to four times by
    ``tau``, in reverse and forward mode, and under ``torch.func`` and ``torch.compile``. Its first
    derivatives have no jump where two scores are equal. Its error is at most 1e-14 (float64) or
    1e-6 (float32) times the rank.

    Source: LapSum, arXiv 2503.06242.

    Examples
    --------
    >>> import torch, laplex
    >>> scores = torch.tensor([3.0, 1.0, 2.0, 2.0])
    >>> laplex.order.soft_rank(scores, 0.01)
    tensor([4.0000, 1.0000, 2.5000, 2.5000])
    >>> laplex.order.soft_rank(scores, 1.0, descending=True, hard=True)
    tensor([1.0000, 4.0000, 2.5000, 2.5000])
    """
    check_flag("hard", hard)
    line = line_of(scores, tau, dim, descending)
    if line.dtype is torch.float16 and line.size > torch.finfo(torch.float16).max:
        raise ValueError(
            f"scores has dtype {line.dtype}, which does not reach the rank {line.size}: pass "
            "scores.float()"
        )
    ones = torch.ones_like(line.scores)
    ranks = cumulative_sum(ones, line.scores, lengthscale=line.tau) + 0.5
    if hard:
        given = line.scores.detach()
        ranks = straight_through(average_ranks(given, line.order().sort(given), ranks.dtype), ranks)
    return line.restored(ranks)


def average_ranks(numbers: Tensor, in_order: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the ranks of numbers ``[*b, n]`` among their sorted ones, with means where equal."""
    numbers = numbers.contiguous()
    below = torch.searchsorted(in_order, numbers)
    up_to = torch.searchsorted(in_order, numbers, right=True)
    return (below + up_to + 1).to(dtype) / 2
