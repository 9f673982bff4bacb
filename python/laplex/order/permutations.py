"""Values in the order of their scores, as a smooth function of both."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ..torch.call import Scalar, broadcast_shapes, check_flag
from ..torch.cumulative import cumulative_sum
from ..torch.functional import matvec
from ..torch.quantiles import narrowed, sorted_quantiles
from .arguments import Line, last_dim, line_of, straight_through


def softsort(
    values: Tensor,
    scores: Tensor,
    tau: Scalar = 1.0,
    *,
    dim: int = -1,
    descending: bool = False,
    hard: bool = False,
) -> Tensor:
    r"""Bring values into the order of their scores, smoothly: SoftSort's matrix times values.

    .. math::

        y_q = \sum_j P_{qj} v_j, \qquad
        P_{qj} = \frac{e^{-|s_{(q)} - s_j| / \tau}}{\sum_k e^{-|s_{(q)} - s_k| / \tau}}

    where :math:`s_{(q)}` are the sorted scores. The matrix is never formed. Every row of it sums to
    1 and is largest at the score of that rank; columns need not sum to 1, see `soft_permute`.

    Parameters
    ----------
    values : Tensor, shape ``[*c, *b, n]``
        The values :math:`v`, one per score, with any further leading dimensions, such as channels.
    scores : Tensor, shape ``[*b, n]``
        The scores :math:`s`, as `soft_rank` takes them.
    tau : float or Tensor, shape ``[*b]``
        The temperature, positive, in the unit of the scores.
    dim : int
        The dimension of the scores, in scores and values. A negative number is best if values have
        more dimensions, because it counts from the end in both.
    descending : bool
        Put the values of the largest scores first.
    hard : bool
        Return the values in the order of the scores, with the derivatives of the soft result.
        Values of equal scores keep their order.

    Returns
    -------
    Tensor, shape of ``values``
        The values in order, of their dtype. Leading dimensions of ``tau``, scores and values are
        broadcast.

    Raises
    ------
    TypeError, ValueError
        As `soft_rank` does, and if the values do not have the shape or the device of the scores.

    Notes
    -----
    The error is at most 1e-14 (float64) or 1e-6 (float32) times :math:`\sum_j P_{qj} |v_j|`. The
    result can be differentiated any number of times.

    Source: SoftSort, arXiv 2006.16038.

    Examples
    --------
    >>> import torch, laplex
    >>> scores, values = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([10.0, 20.0, 30.0])
    >>> laplex.order.softsort(values, scores, 0.1)
    tensor([20.0005, 29.9986, 10.0009])
    """
    check_flag("hard", hard)
    line, values, dtype = _arguments(values, scores, tau, dim, descending)
    order = line.order()
    anchors, own = order.sort(line.scores), order.sort(values)
    # One product of all rows: the values of every channel, and ones for the divisors.
    lines = broadcast_shapes(anchors.shape, (*line.tau.shape, 1))
    shape = broadcast_shapes(own.shape, lines)
    leading = len(shape) - len(lines)
    channels = own.expand(shape).reshape(prod(shape[:leading]), *shape[leading:])
    together = torch.cat((channels, channels.new_ones((1, *channels.shape[1:]))))
    sums, rows = matvec(together, anchors, lengthscale=line.tau).split_with_sizes(
        (len(channels), 1)
    )
    # A factor has a cheaper derivative than a divisor, which is at least 1.
    result = (sums * rows.reciprocal()).reshape(shape)
    return _restored(straight_through(own, result) if hard else result, line, dtype)


def soft_permute(
    values: Tensor,
    scores: Tensor,
    tau: Scalar = 1.0,
    *,
    dim: int = -1,
    descending: bool = False,
    hard: bool = False,
) -> Tensor:
    r"""Bring values into the order of their scores by a doubly stochastic matrix.

    .. math::

        y_q = \sum_j P_{qj} v_j, \qquad
        P_{qj} = L\big((b_{q+1} - s_j) / \tau\big) - L\big((b_q - s_j) / \tau\big)

    where :math:`L` is the CDF of the Laplace distribution and :math:`b_q` the `soft_quantile` at
    level :math:`q`, with :math:`b_0 = -\infty` and :math:`b_n = \infty`. Rows and columns of the
    matrix, which is never formed, sum to 1. With :math:`\tau \to 0` it is the permutation that
    sorts the scores, and with :math:`\tau \to \infty` all entries are :math:`1 / n`.

    Parameters
    ----------
    values : Tensor, shape ``[*c, *b, n]``
        The values :math:`v`, one per score, with any further leading dimensions, such as channels.
    scores : Tensor, shape ``[*b, n]``
        The scores :math:`s`, as `soft_rank` takes them.
    tau : float or Tensor, shape ``[*b]``
        The temperature, positive, in the unit of the scores.
    dim : int
        The dimension of the scores, in scores and values. A negative number is best if values have
        more dimensions, because it counts from the end in both.
    descending : bool
        Put the values of the largest scores first.
    hard : bool
        Return the values in the order of the scores, with the derivatives of the soft result.
        Values of equal scores keep their order.

    Returns
    -------
    Tensor, shape of ``values``
        The values in order, of their dtype. Leading dimensions of ``tau``, scores and values are
        broadcast.

    Raises
    ------
    TypeError, ValueError
        As `softsort` does.

    Notes
    -----
    Computed in float64, as differences of sums over all values, from which their mean is subtracted
    first. So rows and columns sum to 1 up to rounding, and the error is at most 2e-14 times the sum
    of the distances of all values from their mean. The rounding of the edges :math:`b_q` adds
    :math:`10^{-16} |b_q - m| / \tau` to an entry, times the number of scores within :math:`\tau`,
    where :math:`m` is the score in the middle, and gaps between scores that are wider than 400
    :math:`\tau` count as 400 :math:`\tau`.

    Source: LapSum, arXiv 2503.06242.

    Examples
    --------
    >>> import torch, laplex
    >>> scores, values = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([10.0, 20.0, 30.0])
    >>> laplex.order.soft_permute(values, scores, 0.1)
    tensor([20.0337, 29.8989, 10.0674])
    """
    check_flag("hard", hard)
    line, values, dtype = _arguments(values, scores, tau, dim, descending)
    order = line.order()
    own = order.sort(values)
    in_order, _ = line.about(order.sort(line.scores), line.size // 2)
    in_order = narrowed(in_order, line.tau).scores
    levels = torch.arange(1, line.size, dtype=torch.float64, device=scores.device)
    edges = sorted_quantiles(in_order, levels, line.tau)
    centred = own.double()
    mean = centred.detach().mean(-1, keepdim=True)
    centred = centred - mean
    sums = cumulative_sum(centred, edges, in_order, lengthscale=line.tau)
    total = centred.sum(-1, keepdim=True).expand(*sums.shape[:-1], 1)
    result = torch.cat((sums, total), -1).diff(prepend=torch.zeros_like(total)) + mean
    return _restored(straight_through(own.double(), result) if hard else result, line, dtype)


def _arguments(
    values: Tensor, scores: Tensor, tau: Scalar, dim: int, descending: bool
) -> tuple[Line, Tensor, torch.dtype]:
    """Return the line, its values in the dtype of its scores, and the dtype of the result."""
    line = line_of(scores, tau, dim, descending)
    dtype = values.dtype if isinstance(values, Tensor) else line.dtype
    values = last_dim("values", values, line)
    if values.device != line.scores.device:
        raise ValueError(
            f"values is on {values.device}, but scores is on {line.scores.device}: move it with "
            f"values.to({str(line.scores.device)!r})"
        )
    try:
        broadcast_shapes(values.shape, line.scores.shape)
    except RuntimeError:
        raise ValueError(
            f"leading dimensions do not broadcast: values {tuple(values.shape)}, scores "
            f"{tuple(line.scores.shape)}"
        ) from None
    precision = torch.promote_types(values.dtype, line.scores.dtype)
    scores = line.scores.to(precision)
    return line._replace(scores=scores), values.to(precision), dtype


def _restored(result: Tensor, line: Line, dtype: torch.dtype) -> Tensor:
    return line._replace(dtype=dtype).restored(result)
