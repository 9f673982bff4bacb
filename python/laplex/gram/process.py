"""The log density of one stationary term on the CPU, by one call of the compiled core.

The density and its first derivatives come from the same call, which keeps no factor. `log_density`
returns None for anything else, which `laplex.gram.factor` computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .. import _core
from .._support.core import Process, ProcessGradients
from ..torch import cuda as cuda_execution
from ..torch.autograd import differentiate
from .factor import plain
from .parameters import GramParameters
from .terms import Term

#: Anchors and values ``[*b, n]``, lengthscale, variance and frequency ``[*b]``, and noise
#: ``[*b, n]`` or ``[*b, 1]``. Parameters may be floats or None.
Inputs: TypeAlias = "Sequence[Tensor | float | None]"

_NONE = (None,) * 6


def log_density(
    parameters: GramParameters,
    values: Tensor,
    recorded: bool,
    otherwise: Callable[[GramParameters, Tensor], Tensor],
) -> Tensor | None:
    """Log density ``[*b]`` in float64, or None where the factor is needed.

    Parameters
    ----------
    parameters
    values : Tensor ``[..., n]``
        Checked, and expanded to the batch.
    recorded
        Whether autograd records the call.
    otherwise
        The same density by the factor, for second derivatives.
    """
    anchors, terms, noise, batch, *_ = parameters
    shape = (*batch, parameters.n)
    term = terms[0]
    if len(terms) > 1 or cuda_execution.takes(anchors) or values.shape != shape:
        return None
    if not isinstance(term, Term) or term.has_parameters_per_anchor():
        return None
    lengthscale, variance, frequency = term.numbers(anchors)
    given = (
        _expanded(anchors, shape),
        _expanded(values, shape),
        _expanded(lengthscale, batch),
        _expanded(variance, batch),
        _expanded(frequency, batch),
        None if noise is None else _expanded(noise, (*batch, noise.shape[-1])),
    )
    if not recorded:
        return _run(given, _NONE)
    try:
        result: Tensor = _LogDensity.apply(otherwise, *given)  # type: ignore[no-untyped-call]
    except _NeedsFactorError:
        return None
    return result


def _expanded(value: Any, shape: Sequence[int]) -> Any:
    """A tensor in float64 and of a shape; anything else as it is."""
    if value is None or type(value) is float:
        return value
    if value.shape != shape:
        value = value.expand(shape)
    return value if value.dtype is torch.float64 else value.double()


def _run(inputs: Inputs, gradients: Sequence[Tensor | None]) -> Tensor | None:
    """The density, or None; writes the gradients that are given."""
    # Contiguous copies stay alive here; what is no tensor is passed as it is.
    arrays: list[Any] = [
        0 if each is None else each if type(each) is float else plain(each)  # type: ignore[arg-type]
        for each in inputs
    ]
    *batch, n = arrays[0].shape
    out = arrays[0].new_empty(batch)
    done = _core.log_density(
        Process(
            out.numel(),
            n,
            inputs[-1] is not None and arrays[-1].shape[-1] == 1,
            *[each if type(each) in (int, float) else each.data_ptr() for each in arrays],
        ),
        out.data_ptr(),
        ProcessGradients(*[0 if each is None else each.data_ptr() for each in gradients]),
        torch.get_num_threads(),
    )
    return out if done else None


class _NeedsFactorError(Exception):
    pass


class _LogDensity(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, otherwise: Callable[[GramParameters, Tensor], Tensor], *inputs: Any
    ) -> Tensor:
        # All at once: the density costs half as much as the gradients, which would have to start
        # with it, since nothing else is kept.
        result, ctx.gradients = _with_gradients(inputs, ctx.needs_input_grad[1:])
        ctx.otherwise = otherwise
        ctx.numbers = [None if isinstance(each, Tensor) else each for each in inputs]
        ctx.save_for_backward(*[each if isinstance(each, Tensor) else None for each in inputs])
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        tensors = ctx.saved_tensors
        if torch.is_grad_enabled():  # for derivatives of these derivatives
            return (None, *_recorded_gradients(ctx.otherwise, tensors, ctx.numbers, grad))
        gradients, ctx.gradients = ctx.gradients, None  # the caller's own from now on
        if gradients is None:  # again along a graph that was retained
            inputs = [a if b is None else b for a, b in zip(ctx.numbers, tensors, strict=True)]
            _, gradients = _with_gradients(inputs, ctx.needs_input_grad[1:])
        if grad.numel() != 1 or grad.item() != 1.0:
            for each in gradients:
                if each is not None:
                    each *= grad if each.dim() == grad.dim() else grad[..., None]
        return (None, *gradients)


def _with_gradients(inputs: Inputs, needs: Sequence[bool]) -> tuple[Tensor, list[Tensor | None]]:
    """The density, and its gradients by the inputs that need them."""
    gradients = [
        torch.empty_like(each, memory_format=torch.contiguous_format) if needed else None  # type: ignore[arg-type]
        for each, needed in zip(inputs, needs, strict=True)
    ]
    result = _run(inputs, gradients)
    if result is None:
        raise _NeedsFactorError
    return result, gradients


def _recorded_gradients(
    otherwise: Callable[[GramParameters, Tensor], Tensor],
    tensors: Sequence[Tensor | None],
    numbers: Sequence[float | None],
    grad: Tensor,
) -> list[Tensor | None]:
    """The gradients as functions of the inputs, which have derivatives themselves."""

    def density(*views: Any) -> list[Tensor]:
        inputs: list[Any] = [a if b is None else b for a, b in zip(numbers, views, strict=True)]
        anchors, values, lengthscale, variance, frequency, noise = inputs
        term = Term(lengthscale, variance, 0.0 if frequency is None else frequency)
        return [otherwise(GramParameters.of(anchors, (term,), noise), values)]

    needs = [each is not None and each.requires_grad for each in tensors]
    return differentiate(density, tensors, needs, [grad])
