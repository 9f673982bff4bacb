"""Losses of ranks."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from .._support.arguments import one_of
from ..torch.call import Scalar
from .arguments import line_of
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
    if not isinstance(targets, Tensor) or targets.shape != predictions.shape:
        shape = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        raise ValueError(
            f"targets has shape {shape}, but predictions has {tuple(predictions.shape)}: pass one "
            "target per prediction"
        )
    goals = targets.detach() if targets.is_floating_point() else targets.double()
    wanted = average_ranks(line_of(goals, 1.0, dim, descending=False, name="targets"))
    n = line.size
    ranks = soft_rank(line.scores, line.tau)
    squares = (ranks - wanted.to(ranks.dtype)).square().sum(-1)
    losses = (squares * (6 / max(n * (n * n - 1), 1))).to(line.dtype)
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()
