"""Variances of the points of a line that were not observed, given those that were."""

from __future__ import annotations

import torch
from torch import Tensor

from .factor import Covariance, Gram, unobserved_variances

#: How many times the variance given all points may lie below that given those on one side of it,
#: of which it is a difference: with this, two of sixteen digits are lost.
_LOSS = 100.0


def variances(covariance: Covariance, hidden: Tensor) -> Tensor:
    """Variances ``[B, m]`` of the process at the points of infinite noise, given all others.

    The filter passes the line from left to right. The variance of a point is what the filter
    predicts there from the points on its left, minus what those on its right add. So that as little
    as possible cancels, the filter also passes the mirrored line where that is needed, and each
    point is left with the side that predicts it better. What is lost then is about the smaller of
    the two predicted variances over the result, which is large only where neither side tells much
    without the other.

    Parameters
    ----------
    covariance
        With infinite noise at `hidden`, and loadings of the first column of each block alone.
    hidden : Tensor, int64 ``[m]``
        The points that were not observed.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the matrix of the observed points is singular.
    """
    forwards, gram = _one_way(covariance, hidden)
    with torch.no_grad():
        if bool((forwards >= _prior(covariance)[:, hidden] / _LOSS).all()):
            return forwards
        predicted = _predicted(gram, covariance, hidden)
        if bool((forwards >= predicted / _LOSS).all()):
            return forwards
    # The covariance is even in time, and so are its columns: those observed are no derivatives.
    mirrored = covariance._replace(anchors=-covariance.anchors)
    backwards, gram = _one_way(mirrored, hidden)
    with torch.no_grad():
        from_left = predicted <= _predicted(gram, mirrored, hidden)
    return torch.where(from_left, forwards, backwards)


def _one_way(covariance: Covariance, hidden: Tensor) -> tuple[Tensor, Gram]:
    """The variances by one pass, and its factor."""
    gram = Gram(covariance)
    result = unobserved_variances(gram, covariance)
    if gram.has_ties and torch.is_grad_enabled() and covariance.anchors.requires_grad:
        # sign(0) = 0, see Gaussian._symmetric
        again = Gram(covariance, ties_backwards=True)
        result = 0.5 * (result + unobserved_variances(again, covariance))
    return result[:, hidden], gram


def _predicted(gram: Gram, covariance: Covariance, hidden: Tensor) -> Tensor:
    """Variances given the points before each hidden one alone: nothing after it counts."""
    counts = torch.zeros_like(covariance.noise)
    counts[:, hidden] = 1.0
    return unobserved_variances(gram, covariance, counts)[:, hidden]


def _prior(covariance: Covariance) -> Tensor:
    """Variances ``[B, n]`` of the process, given nothing."""
    squares, weights = covariance.loadings.square(), covariance.weights
    if weights is None:
        return squares.sum(-1)
    own, column = weights.clone(), 0
    for size in covariance.blocks:
        if size == 2:
            own[:, column] = 0.5 * (weights[:, column] + weights[:, column + 1])
        column += size
    return (squares * own[:, None]).sum(-1)
