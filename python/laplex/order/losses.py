"""Losses of ranks."""

from __future__ import annotations

from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from .._support.arguments import one_of
from ..torch.call import Scalar, check_tensor
from .arguments import Line, line_of
from .ranks import average_ranks, soft_rank

Reduction = Literal["mean", "sum", "none"]


def spearman_loss(
    predictions: Tensor,
    targets: Tensor,
    tau: Scalar = 1.0,
    *,
    dim: int = -1,
    reduction: str = "mean",
) -> Tensor:
    r"""Compare the order of predictions with that of targets: 1 - Spearman's correlation.

    .. math::

        \frac{6}{n (n^2 - 1)} \sum_i \big(r_i - \operatorname{rank}(t_i)\big)^2

    where :math:`r` is the `soft_rank` of the predictions. With :math:`\tau \to 0` and without ties,
    this is 1 minus Spearman's rank correlation: 0 for the same order, 2 for the opposite one. With
    :math:`\tau \to \infty`, and for equal predictions, it is 1/2.

    Parameters
    ----------
    predictions : Tensor, shape ``[*b, n]``
        The predictions, scores as `soft_rank` takes them.
    targets : Tensor, shape ``[*b, n]``
        The targets :math:`t`, of the same shape, real numbers of any dtype, not NaN. Only their
        order counts; equal targets have the mean of their ranks. They have no derivatives.
    tau : float or Tensor, shape ``[*b]``
        The temperature, positive, in the unit of the predictions.
    dim : int
        The dimension along which to rank.
    reduction : {"mean", "sum", "none"}
        What to return of the losses of all lines.

    Returns
    -------
    Tensor, a number, or shape ``[*b]`` with ``reduction="none"``
        The loss, of the dtype of the predictions.

    Raises
    ------
    TypeError, ValueError
        As `soft_rank` does, and if the shapes differ or the reduction is unknown.

    Notes
    -----
    The sum of squares is used, and not the correlation of the soft ranks, because its derivatives
    stay bounded where all predictions are equal, as they may be when training begins.

    Examples
    --------
    >>> import torch, laplex
    >>> predictions, targets = torch.tensor([0.1, 0.9, 0.3]), torch.tensor([1, 3, 2])
    >>> laplex.order.spearman_loss(predictions, targets, 0.01)
    tensor(0.)
    """
    one_of("reduction", reduction, Reduction)
    line = line_of(predictions, tau, dim, descending=False, name="predictions")
    check_tensor("targets", targets)
    if targets.shape != predictions.shape:
        raise ValueError(
            f"targets has shape {tuple(targets.shape)}, but predictions has "
            f"{tuple(predictions.shape)}: pass one target per prediction"
        )
    wanted = _ranks_of(targets, line)
    n = line.size
    # A factor of all entries, because PyTorch's tangent of a scaled 0-d tensor is float64.
    scaled = (soft_rank(line.scores, line.tau) - wanted) * sqrt(6 / max(n * (n * n - 1), 1))
    losses: Tensor = scaled.square().sum(-1).to(line.dtype)
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def _ranks_of(targets: Tensor, line: Line) -> Tensor:
    """Return the ranks of targets ``[*b, n]`` in the dtype of the line, whose dimension they have.

    Integers are compared as such: in float64, those above 2^53 would be rounded.
    """
    if targets.is_complex():
        raise TypeError(f"targets has dtype {targets.dtype}, but must hold real numbers")
    if targets.is_floating_point():
        goals = line_of(targets.detach(), 1.0, line.dim, descending=False, name="targets")
        numbers, in_order = goals.scores, goals.order().sort(goals.scores)
    else:
        numbers = targets.movedim(line.dim, -1)
        if numbers.dtype is torch.uint64:  # torch sorts it, but does not search in it
            numbers = numbers.view(torch.int64) ^ torch.iinfo(torch.int64).min
        numbers = numbers.long()
        in_order = numbers.sort(dim=-1).values
    return average_ranks(numbers, in_order, line.scores.dtype)
