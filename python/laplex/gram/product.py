"""The product of one term of a covariance with values, without a factor of the covariance."""

from __future__ import annotations

from math import frexp

import torch
from torch import Tensor

from ..torch.functional import matvec
from . import factor as factors
from .checks import broadcast, no_forward_mode
from .factor import Factor, Gram
from .parameters import GramParameters
from .terms import BaseTerm, Term

#: The noise of `_by_factor` over the variance of the term; a power of 2, so that it rounds nothing.
_NOISE = 2.0**80


def product(
    term: BaseTerm,
    values: Tensor,
    anchors: Tensor,
    sources: Tensor | None = None,
    targets: Tensor | None = None,
) -> Tensor:
    """Multiply values by the matrix of a term between two sets of anchors.

    The error of an entry is about 1e-14 times the sum of the absolute terms, with the envelope in
    place of an oscillating covariance. All derivatives are those of `laplex.matvec`, or first and
    second ones.

    Parameters
    ----------
    term
        A checked term.
    values : Tensor ``[..., m]``
        Float64, one for each source. Their leading dimensions include the batch.
    anchors : Tensor ``[*b, n]``
        Float64. Parameters per anchor belong to these.
    sources, targets : Tensor, int64 ``[m]`` and ``[k]``, optional
        Indices of anchors. By default, all.

    Returns
    -------
    Tensor ``[..., k]``
        The products.
    """
    source_anchors, target_anchors = _taken(anchors, sources), _taken(anchors, targets)
    ends = target_anchors, None if sources is None and targets is None else source_anchors
    if isinstance(term, Term):
        lengthscale, some = term.columns(anchors)
        columns = torch.stack(some)
        missing = (1,) * (values.dim() + 1 - columns.dim())
        columns = columns.reshape(columns.shape[:1] + missing + columns.shape[1:])
        products = matvec(_taken(columns, sources) * values, *ends, lengthscale=lengthscale)
        return (_taken(columns, targets) * products).sum(0)
    total = values.new_zeros(())
    for part, column in term.parts(anchors):
        seen = values if column is None else _taken(column, sources) * values
        known = part.matvec_kernel(anchors)
        if known is None:
            result = _by_factor(part, seen, source_anchors, target_anchors)
        else:
            kernel, lengthscale, variance = known
            if isinstance(variance, Tensor):
                variance = variance[..., None]
            result = variance * matvec(seen, *ends, lengthscale=lengthscale, kernel=kernel)
        total = total + (result if column is None else _taken(column, targets) * result)
    return total


def _taken(tensor: Tensor, index: Tensor | None) -> Tensor:
    return tensor if index is None else tensor[..., index]


def _by_factor(part: BaseTerm, values: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
    """Multiply by a stationary term, by means of the factor of another matrix.

    With the noise c, the factor L of K + c I has the entries K_ij / c below its diagonal, up to a
    relative error of k(0) / c, which is far below the rounding. So if the targets are further
    anchors, at which the values are 0, the sum of L and its transpose is K / c between targets and
    sources. Its entries come from the recurrence of the filter, with small relative errors.
    """
    m, k = values.shape[-1], targets.shape[-1]
    batch = broadcast(sources.shape[:-1], targets.shape[:-1])
    anchors = torch.cat((sources.expand(*batch, m), targets.expand(*batch, k)), -1)
    sizes = [abs(each) for block in part.blocks(anchors) for each in block.weights]
    largest = max(float(torch.as_tensor(size).detach().amax()) for size in sizes)
    noise = anchors.new_full((1,), _NOISE * 2.0 ** _exponent(largest))
    parameters = GramParameters.of(anchors, (part,), noise)
    none = values.new_zeros(*values.shape[:-1], k)
    no_forward_mode([values, *parameters.tensors()])
    rows, restore = parameters.flattened(torch.cat((values, none), -1))
    covariance = parameters.covariance()

    def of(ties_backwards: bool) -> Tensor:
        gram = Gram(covariance, ties_backwards=ties_backwards)
        both = factors.product(gram, Factor.LOWER, rows, covariance)
        both = both + factors.product(gram, Factor.UPPER, rows, covariance)
        ties.append(gram.has_ties)
        return restore(both)[..., m:] * noise

    ties: list[bool] = []
    result = of(False)
    if ties[0] and torch.is_grad_enabled() and anchors.requires_grad:
        result = 0.5 * (result + of(True))  # sign(0) = 0, see Gaussian._symmetric
    return result


def _exponent(number: float) -> int:
    return max(frexp(number)[1], -400)
