"""The selection of the largest scores, as a smooth function."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from .._support.arguments import whole
from ..torch.call import Scalar, check_flag
from ..torch.laplace_cdf import laplace_cdf
from ..torch.quantiles import narrowed, sorted_quantiles
from .arguments import Line, line_of, straight_through, within_line


def soft_topk(
    scores: Tensor,
    k: float,
    tau: Scalar = 1.0,
    *,
    dim: int = -1,
    largest: bool = True,
    hard: bool = False,
) -> Tensor:
    r"""Return by how much every score is among the k largest: numbers from 0 to 1 of sum k.

    .. math::

        p_j = L\big((s_j - b) / \tau\big), \qquad b \text{ such that } \sum_j p_j = k

    where :math:`L` is the CDF of the Laplace distribution. With :math:`\tau \to 0` the k largest
    have 1 and the others 0, and scores that are equal at the threshold share what is left for them.
    With :math:`\tau \to \infty` all have :math:`k / n`.

    Parameters
    ----------
    scores : Tensor, shape ``[*b, n]``
        The scores :math:`s`, as `soft_rank` takes them.
    k : float
        The sum of the result, any number strictly between 0 and n.
    tau : float or Tensor, shape ``[*b]``
        The temperature, positive, in the unit of the scores.
    dim : int
        The dimension of the scores.
    largest : bool
        Select the largest scores; otherwise the smallest.
    hard : bool
        Return the result of the limit :math:`\tau \to 0`, with the derivatives of the soft one.

    Returns
    -------
    Tensor, shape of ``scores``
        The shares, of the dtype of the scores.

    Raises
    ------
    TypeError, ValueError
        As `soft_rank` does, and if ``k`` is not strictly between 0 and n.

    Notes
    -----
    The threshold is computed in float64. The result can be differentiated any number of
    times by the scores.

    Source: LapSum, arXiv 2503.06242.

    Examples
    --------
    >>> import torch, laplex
    >>> scores = torch.tensor([3.0, 1.0, 2.0, 5.0])
    >>> laplex.order.soft_topk(scores, 2, 0.001)
    tensor([1., 0., 0., 1.])
    >>> laplex.order.soft_topk(scores, 2, 1.0).sum()
    tensor(2.)
    """
    check_flag("hard", hard)
    line = _line(scores, tau, dim, largest)
    k = within_line("k", k, line.size, "pass int(k) or float(k)")
    shares = _shares(line, k)
    if hard:
        shares = straight_through(_limit(line, k), shares)
    return line.restored(shares)


def topk_mask(
    scores: Tensor, k: int, tau: Scalar = 1.0, *, dim: int = -1, largest: bool = True
) -> Tensor:
    """Return exactly k ones at the largest scores, and zeros, with the derivatives of `soft_topk`.

    Parameters
    ----------
    scores : Tensor, shape ``[*b, n]``
        The scores, as `soft_rank` takes them.
    k : int
        The number of ones, from 1 to n - 1.
    tau : float or Tensor, shape ``[*b]``
        The temperature of the derivatives, positive, in the unit of the scores.
    dim : int
        The dimension of the scores.
    largest : bool
        Select the largest scores; otherwise the smallest.

    Returns
    -------
    Tensor, shape of ``scores``
        The mask, of the dtype of the scores. Of equal scores at the threshold, ``torch.topk``
        chooses.

    Raises
    ------
    TypeError, ValueError
        As `soft_rank` does, and if ``k`` is no whole number from 1 to n - 1.

    Examples
    --------
    >>> import torch, laplex
    >>> laplex.order.topk_mask(torch.tensor([3.0, 1.0, 2.0, 5.0]), 2)
    tensor([1., 0., 0., 1.])
    """
    line = _line(scores, tau, dim, largest)
    if isinstance(k, bool):
        raise TypeError(f"k must be a whole number, got {k}")
    k = whole("k", k, 1)
    within_line("k", k, line.size, "pass int(k) or float(k)")
    smallest = line.scores.detach().topk(k, dim=-1, largest=False).indices
    mask = torch.zeros_like(line.scores).scatter(-1, smallest, 1.0)
    return line.restored(straight_through(mask, _shares(line, k)))


def _line(scores: Tensor, tau: Scalar, dim: int, largest: bool) -> Line:
    """Return the line whose smallest scores are to be selected."""
    check_flag("largest", largest)
    return line_of(scores, tau, dim, descending=largest)


def _shares(line: Line, k: float) -> Tensor:
    # About the score that is the threshold for tau -> 0, so that shares are exact there.
    in_order, centre = line.about(line.order().sort(line.scores), ceil(k) - 1)
    level = torch.full((1,), k, dtype=torch.float64, device=in_order.device)
    narrow = narrowed(in_order, line.tau)
    threshold = sorted_quantiles(narrow.scores, level, line.tau)
    threshold = narrow.widened(threshold, line.tau)
    distances = (threshold - (line.scores - centre)) / line.tau.unsqueeze(-1)
    return laplace_cdf(distances.to(line.scores.dtype))


def _limit(line: Line, k: float) -> Tensor:
    """Return the shares of the limit tau -> 0."""
    scores = line.scores.detach()
    last = scores.kthvalue(-int(-k // 1), dim=-1, keepdim=True).values
    below, tied = scores < last, scores == last
    below_count, tied_count = (each.sum(-1, keepdim=True).double() for each in (below, tied))
    share = (k - below_count) / tied_count
    return torch.where(below, 1.0, torch.where(tied, share, 0.0)).to(scores.dtype)
