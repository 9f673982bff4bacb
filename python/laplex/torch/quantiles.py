"""Quantiles of a sum of Laplace CDFs: the points at which the sum reaches given levels.

With F(b) = sum_j L((b - s_j) / tau), where L is the CDF of the standard Laplace distribution, the
quantile b of a level solves F(b) = level. Implicit differentiation gives, with the Laplace kernel K
of lengthscale tau and Z = sum_j K(b, s_j),

    db/ds_j = K(b, s_j) / Z,   db/dlevel = 2 tau / Z,
    db/dtau = sum_j sign(b - s_j) (|b - s_j| / tau) K(b, s_j) / Z

These formulas are made of `primitive` and of the quantiles themselves, so they can be
differentiated again. For one level, and for short lines, the weights K / Z are formed as what they
are, a softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import derivatives, execution
from .autograd import evaluate, in_forward_mode, is_concrete, is_watched, primitive
from .autograd import gradients as product_gradients
from .batching import pad_batch
from .call import TENSORS, Call, broadcast_shapes, in_memory, signature
from .registry import LIBRARY, TAGS

_TRAILING = (1, 1, 0)
_unpack_dual: Any = forward_ad.unpack_dual

_FAR = 400.0
"""Lengthscales of a gap between scores beyond which both of its sides count as infinitely far."""

_SMALL = 256
"""Entries of a line's matrix of quantiles and scores up to which it is formed."""

LIBRARY.define(
    "sorted_quantiles(Tensor sorted_scores, Tensor levels, Tensor lengthscale) -> Tensor", tags=TAGS
)
_QUANTILES = torch.ops.laplex.sorted_quantiles.default


def sorted_quantiles(sorted_scores: Tensor, levels: Tensor, lengthscale: Tensor) -> Tensor:
    r"""Solve :math:`\sum_j L((b - s_j) / \tau) = \text{level}` for every level.

    The result has derivatives by all three tensors, to any order.

    Parameters
    ----------
    sorted_scores : Tensor, shape ``[*b, n]``
        The scores :math:`s`: float64, finite and ascending, and `narrowed`.
    levels : Tensor, shape ``[*b, q]``
        The levels, float64, each strictly between 0 and n.
    lengthscale : Tensor, shape ``[*b]``
        The lengthscale :math:`\tau`, float64 and positive.

    Returns
    -------
    Tensor, shape ``[*b, q]``
        The quantiles :math:`b`.
    """
    if torch.compiler.is_compiling():
        compiled: Tensor = _QUANTILES(sorted_scores, levels, lengthscale)
        return compiled
    kind: Any = _Quantiles if torch._C._are_functorch_transforms_active() else _Recorded
    recorded: Tensor = kind.apply(sorted_scores, levels, lengthscale)
    return recorded


class Narrowed(NamedTuple):
    """A line of scores of which no gap is wider than `_FAR` lengthscales."""

    scores: Tensor
    """``[*b, n]``, ascending, with the derivatives of the scores that were narrowed."""
    moved: Tensor | None = None
    """``[*b, n]``: by how much each score was moved towards 0; None if none was."""

    def widened(self, quantiles: Tensor, lengthscale: Tensor) -> Tensor:
        """Put quantiles ``[*b, q]`` of the narrowed line where they are between the scores."""
        if self.moved is None:
            return quantiles
        shape = (*quantiles.shape[:-1], self.scores.shape[-1])
        s, moved = self.scores.detach().expand(shape).contiguous(), self.moved.expand(shape)
        b = quantiles.detach().contiguous()
        above = torch.searchsorted(s, b, right=True)
        left, right = (above - 1).clamp_min(0), above.clamp_max(shape[-1] - 1)
        behind, ahead = b - s.gather(-1, left), s.gather(-1, right) - b
        near = 0.49 * _FAR * lengthscale.detach().unsqueeze(-1)
        of_left, of_right = moved.gather(-1, left), moved.gather(-1, right)
        in_middle = (behind > near) & (ahead > near)
        shift = torch.where(behind < ahead, of_left, of_right)
        return quantiles + torch.where(in_middle, of_left / 2 + of_right / 2, shift)


def narrowed(scores: Tensor, lengthscale: Tensor) -> Narrowed:
    """Narrow each gap between scores that is wider than `_FAR` lengthscales to that.

    What lies beyond such a gap is not felt: K(b, s) / Z and L((b - s) / tau) stay as they are, also
    where K underflows. A quantile this far from both neighbours is in the middle of the gap, with
    equal weights on both sides. The scores around 0 keep their places, and thus all of their
    digits; the others lose those of their distance from 0, which is small now. All shifts are
    constants of the derivatives.

    Parameters
    ----------
    scores : Tensor, shape ``[*b, n]``
        The scores, float64, finite and ascending.
    lengthscale : Tensor, shape ``[*b]``
        The lengthscale, float64 and positive.
    """
    if is_concrete(scores) and not _has_far_gap(scores, lengthscale):
        return Narrowed(scores)
    shape = _shape(scores, scores, lengthscale)
    s = scores.detach().expand(shape).contiguous()
    far = _FAR * lengthscale.detach().unsqueeze(-1)
    is_far = s.diff() > far
    false = torch.zeros_like(s[..., :1], dtype=torch.bool)
    index = torch.arange(shape[-1], device=s.device).expand(shape)
    first = torch.where(torch.cat((false, is_far), -1), index, 0).cummax(-1).values
    inside = s - s.gather(-1, first)  # the distance from the first score after the last far gap
    steps = torch.where(is_far, inside[..., :-1] + far, 0.0)
    start = torch.cat((torch.zeros_like(s[..., :1]), steps.cumsum(-1)), -1)
    zero = (torch.searchsorted(s, torch.zeros_like(s[..., :1]), right=True) - 1).clamp_min(0)
    at_zero = first.gather(-1, zero)
    origin = start.gather(-1, at_zero) - s.gather(-1, at_zero)
    narrow = torch.where(first == at_zero, s, inside + (start - origin))
    return Narrowed(narrow + (scores - scores.detach()), s - narrow)


def _has_far_gap(scores: Tensor, lengthscale: Tensor) -> bool:
    if scores.shape[-1] < 2 or not scores.numel() or not lengthscale.numel():
        return False
    gaps = scores.detach().diff().amax(-1)
    return bool((gaps > _FAR * lengthscale.detach()).any())


def _shape(sorted_scores: Tensor, levels: Tensor, lengthscale: Tensor) -> tuple[int, ...]:
    leading = (sorted_scores.shape[:-1], levels.shape[:-1], lengthscale.shape)
    return (*broadcast_shapes(*leading), levels.shape[-1])


def _solve(sorted_scores: Tensor, levels: Tensor, lengthscale: Tensor) -> Tensor:
    shape = _shape(sorted_scores, levels, lengthscale)
    levels = in_memory(levels.expand(shape).contiguous())
    out = torch.empty_like(levels)
    if out.numel():
        scores = sorted_scores.expand(*shape[:-1], sorted_scores.shape[-1])
        call = Call(scores, scores, None, lengthscale.expand(shape[:-1]), None, None, None)
        plan = execution.plan_of(call, signature(call))
        plan.quantiles(levels.data_ptr(), shape[-1], out.data_ptr(), torch.get_num_threads())
    return out


class _Quantiles(torch.autograd.Function):
    """The quantiles with their derivatives, also under the transforms of ``torch.func``."""

    @staticmethod
    def forward(*tensors: Tensor) -> Tensor:
        """Return the quantiles of sorted scores, levels and a lengthscale."""
        if is_watched() or tensors[0].is_meta:
            watched: Tensor = _QUANTILES(*tensors)
            return watched
        return _solve(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep what the derivatives need."""
        ctx.save_for_backward(*inputs, output)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by the three tensors."""
        scores, levels, lengthscale, quantiles = ctx.saved_tensors
        return _vjp(grad, scores, levels, lengthscale, quantiles, ctx.needs_input_grad)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        """Return the derivative along the tangents."""
        # As in `autograd.Transformed`: forward mode on for enclosing transforms, own tangents off.
        with forward_ad._set_fwd_grad_enabled(True):
            s, q, ell = (_unpack_dual(each).primal for each in ctx.saved_tensors[:3])
            return _jvp(s, q, ell, tangents)

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], *tensors: Tensor) -> tuple[Tensor, int]:
        """Return the quantiles of batched inputs."""
        return sorted_quantiles(*pad_batch(in_dims, tensors, _TRAILING)), 0


class _Recorded(torch.autograd.Function):
    """The quantiles outside of transforms, in the form that torch applies in a third of the time.

    See `autograd.Recorded`.
    """

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        """Return the quantiles of sorted scores, levels and a lengthscale."""
        output = _Quantiles.forward(*tensors)
        _Quantiles.setup_context(ctx, tensors, output)
        return output

    backward = _Quantiles.backward
    jvp = _Quantiles.jvp


def _vjp(
    grad: Tensor,
    scores: Tensor,
    levels: Tensor,
    lengthscale: Tensor,
    quantiles: Tensor,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    if _is_small(scores, quantiles):
        return _small_vjp(grad, scores, levels, lengthscale, quantiles, needs)
    product = _product(scores, quantiles, lengthscale)
    of_scores = (needs[0], *[False] * (TENSORS - 1))
    if torch.is_grad_enabled() or in_forward_mode():
        weights = grad / primitive(product)
        d_scores = derivatives.vjp(primitive, weights, product, of_scores)[0]
    else:  # the product and its transpose share a plan
        sig = signature(product)
        total, plan = evaluate(product, sig)
        weights = grad / total
        d_scores = None
        if needs[0]:
            d_scores = product_gradients(weights, product, sig, of_scores, plan)[0]
    d_levels = d_lengthscale = None
    if needs[1]:
        d_levels = (2 * lengthscale.unsqueeze(-1) * weights).sum_to_size(levels.shape)
    if needs[2]:
        d_lengthscale = (weights * primitive(_stretched(product))).sum(-1)
        d_lengthscale = d_lengthscale.sum_to_size(lengthscale.shape)
    return d_scores, d_levels, d_lengthscale


def _jvp(
    scores: Tensor, levels: Tensor, lengthscale: Tensor, tangents: Sequence[Tensor | None]
) -> Tensor:
    quantiles = sorted_quantiles(scores, levels, lengthscale)
    d_scores, d_levels, d_lengthscale = tangents
    if _is_small(scores, quantiles):
        distances, weights = _distances_and_weights(scores, lengthscale, quantiles)
        total = torch.zeros_like(quantiles)
        if d_scores is not None:
            total = total + (weights * d_scores.unsqueeze(-2)).sum(-1)
        if d_levels is not None:
            total = total + d_levels * _steps(distances, lengthscale)
        if d_lengthscale is not None:
            total = total + d_lengthscale.unsqueeze(-1) * (weights * distances).sum(-1)
        return total
    product = _product(scores, quantiles, lengthscale)
    total = torch.zeros_like(quantiles)
    if d_scores is not None:
        total = total + primitive(product._replace(values=d_scores))
    if d_levels is not None:
        total = total + 2 * lengthscale.unsqueeze(-1) * d_levels
    if d_lengthscale is not None:
        total = total + d_lengthscale.unsqueeze(-1) * primitive(_stretched(product))
    return total / primitive(product)


def _is_small(scores: Tensor, quantiles: Tensor) -> bool:
    """Whether the matrix K(b, s) costs less than the plan of a product with it."""
    count = quantiles.shape[-1]
    return count == 1 or count * scores.shape[-1] <= _SMALL


def _small_vjp(
    grad: Tensor,
    scores: Tensor,
    levels: Tensor,
    lengthscale: Tensor,
    quantiles: Tensor,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    distances, weights = _distances_and_weights(scores, lengthscale, quantiles)
    d_scores = d_levels = d_lengthscale = None
    if needs[0]:
        d_scores = (grad.unsqueeze(-1) * weights).sum(-2).sum_to_size(scores.shape)
    if needs[1]:
        d_levels = (grad * _steps(distances, lengthscale)).sum_to_size(levels.shape)
    if needs[2]:
        d_lengthscale = (grad * (weights * distances).sum(-1)).sum(-1)
        d_lengthscale = d_lengthscale.sum_to_size(lengthscale.shape)
    return d_scores, d_levels, d_lengthscale


def _distances_and_weights(
    scores: Tensor, lengthscale: Tensor, quantiles: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (b - s) / tau and K(b, s) / Z, both ``[*b, q, n]``."""
    distances = quantiles.unsqueeze(-1) - scores.unsqueeze(-2)
    distances = distances / lengthscale[..., None, None]
    return distances, torch.softmax(-distances.abs(), -1)


def _steps(distances: Tensor, lengthscale: Tensor) -> Tensor:
    """Return db/dlevel = 2 tau / Z."""
    return 2 * lengthscale.unsqueeze(-1) * torch.exp(-torch.logsumexp(-distances.abs(), -1))


def _product(scores: Tensor, quantiles: Tensor, lengthscale: Tensor) -> Call:
    """Return the call that is Z, and with other values the sums of K(b, s)."""
    return Call(torch.ones_like(scores), quantiles, scores, lengthscale, None, None, None)


def _stretched(product: Call) -> Call:
    """Return the sum of sign(b - s) (|b - s| / tau) K(b, s), which has no kink."""
    return product.member(product.values, 3, (0.0, 1.0))


# --- the registry's operator --------------------------------------------------------------------


def _fake(sorted_scores: Tensor, levels: Tensor, lengthscale: Tensor) -> Tensor:
    return levels.new_empty(_shape(sorted_scores, levels, lengthscale))


def _batched(info: Any, in_dims: Sequence[int | None], *tensors: Tensor) -> tuple[Tensor, int]:
    return _QUANTILES(*pad_batch(in_dims, tensors, _TRAILING)), 0


LIBRARY.impl("sorted_quantiles", _solve, "CompositeExplicitAutograd")
torch.library.register_fake("laplex::sorted_quantiles", _fake, lib=LIBRARY)
torch.library.register_vmap("laplex::sorted_quantiles", _batched, lib=LIBRARY)
torch.library.register_autograd(
    "laplex::sorted_quantiles",
    _Quantiles.backward,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs, output),
    lib=LIBRARY,
)
