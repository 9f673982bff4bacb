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
from .._support.core import OscillatorGradients, OscillatorProcess, Process, ProcessGradients
from ..torch import cuda as cuda_execution
from ..torch.autograd import differentiate
from . import oscillator
from .factor import plain
from .parameters import GramParameters
from .terms import BaseTerm, Term

#: Anchors and values ``[*b, n]``, the parameters of the term, each ``[*b]``, and noise
#: ``[*b, n]`` or ``[*b, 1]``. All but anchors and values may be floats or None.
Inputs: TypeAlias = "Sequence[Tensor | float | None]"


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
    names = oscillator.parameters_of(term)
    if (names is None and not isinstance(term, Term)) or term.has_parameters_per_anchor():
        return None
    numbers: Sequence[Any]
    if isinstance(term, Term):
        numbers = term.numbers(anchors)
    else:
        numbers = [term.number(name, anchors) for name in names or ()]
    given = (
        _expanded(anchors, shape),
        _expanded(values, shape),
        *[_expanded(each, batch) for each in numbers],
        None if noise is None else _expanded(noise, (*batch, noise.shape[-1])),
    )
    if not recorded:
        return _run(term, given, [False] * len(given))[0]
    try:
        result: Tensor = _LogDensity.apply(term, otherwise, *given)  # type: ignore[no-untyped-call]
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


def _run(
    term: BaseTerm, inputs: Inputs, needs: Sequence[bool]
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The density, or None, and its gradients by the inputs that need them."""
    if not isinstance(term, Term):
        return _run_oscillator(term, inputs, needs)
    gradients = _room(inputs, needs)
    result = _called(_core.log_density, Process, ProcessGradients, inputs, gradients)
    return result, gradients


def _run_oscillator(
    term: BaseTerm, inputs: Inputs, needs: Sequence[bool]
) -> tuple[Tensor | None, list[Tensor | None]]:
    anchors, values, *parameters, noise = inputs
    assert isinstance(anchors, Tensor)
    batch = anchors.shape[:-1]
    # Arithmetic with floats is ten times as fast as with tensors of one number.
    numbers: list[Any] = [
        each.item() if isinstance(each, Tensor) and not batch else each for each in parameters
    ]
    block = oscillator.block_of(term, numbers, anchors)
    outer = _room((anchors, values, noise), (*needs[:2], needs[-1]))
    inner = anchors.new_empty((4, *batch)) if any(needs[2:-1]) else None
    result = _called(
        _core.oscillator_log_density,
        OscillatorProcess,
        OscillatorGradients,
        (anchors, values, *block.lengthscales, *block.weights, noise),
        (*outer[:2], *(4 * [None] if inner is None else inner), outer[-1]),
    )
    by_parameters: list[Tensor | None] = [None for _ in parameters]
    if result is not None and inner is not None:
        by_block = list(inner) if batch else inner.tolist()
        found = oscillator.chain(term, numbers, block, by_block)
        by_parameters = [
            None
            if not needed
            else each
            if isinstance(each, Tensor)
            else torch.scalar_tensor(each, dtype=torch.float64)
            for each, needed in zip(found, needs[2:-1], strict=True)
        ]
    return result, [*outer[:2], *by_parameters, outer[-1]]


def _room(inputs: Inputs, needs: Sequence[bool]) -> list[Tensor | None]:
    return [
        torch.empty_like(each, memory_format=torch.contiguous_format) if needed else None  # type: ignore[arg-type]
        for each, needed in zip(inputs, needs, strict=True)
    ]


def _called(
    function: Callable[..., bool],
    kind: Callable[..., Any],
    kind_of_gradients: Callable[..., Any],
    inputs: Inputs,
    gradients: Sequence[Tensor | None],
) -> Tensor | None:
    """The density, or None; writes the gradients that are given."""
    # Contiguous copies stay alive here; what is no tensor is passed as it is.
    arrays: list[Any] = [
        0 if each is None else each if type(each) is float else plain(each)  # type: ignore[arg-type]
        for each in inputs
    ]
    *batch, n = arrays[0].shape
    out = arrays[0].new_empty(batch)
    done = function(
        kind(
            out.numel(),
            n,
            inputs[-1] is not None and arrays[-1].shape[-1] == 1,
            *[each if type(each) in (int, float) else each.data_ptr() for each in arrays],
        ),
        out.data_ptr(),
        kind_of_gradients(*[0 if each is None else each.data_ptr() for each in gradients]),
        torch.get_num_threads(),
    )
    return out if done else None


class _NeedsFactorError(Exception):
    pass


class _LogDensity(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        term: BaseTerm,
        otherwise: Callable[[GramParameters, Tensor], Tensor],
        *inputs: Any,
    ) -> Tensor:
        # All at once: the density costs half as much as the gradients, which would have to start
        # with it, since nothing else is kept.
        result, ctx.gradients = _run(term, inputs, ctx.needs_input_grad[2:])
        if result is None:
            raise _NeedsFactorError
        ctx.term, ctx.otherwise = term, otherwise
        ctx.numbers = [None if isinstance(each, Tensor) else each for each in inputs]
        ctx.save_for_backward(*[each if isinstance(each, Tensor) else None for each in inputs])
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        tensors = ctx.saved_tensors
        if torch.is_grad_enabled():  # for derivatives of these derivatives
            return (None, None, *_recorded_gradients(ctx, tensors, grad))
        gradients, ctx.gradients = ctx.gradients, None  # the caller's own from now on
        if gradients is None:  # again along a graph that was retained
            inputs = [a if b is None else b for a, b in zip(ctx.numbers, tensors, strict=True)]
            _, gradients = _run(ctx.term, inputs, ctx.needs_input_grad[2:])
        if grad.numel() != 1 or grad.item() != 1.0:
            for each in gradients:
                if each is not None:
                    each *= grad if each.dim() == grad.dim() else grad[..., None]
        return (None, None, *gradients)


def _recorded_gradients(
    ctx: Any, tensors: Sequence[Tensor | None], grad: Tensor
) -> list[Tensor | None]:
    """The gradients as functions of the inputs, which have derivatives themselves."""

    def density(*views: Any) -> list[Tensor]:
        inputs: list[Any] = [a if b is None else b for a, b in zip(ctx.numbers, views, strict=True)]
        anchors, values, *numbers, noise = inputs
        if isinstance(ctx.term, Term):
            lengthscale, variance, frequency = numbers
            term: BaseTerm = Term(lengthscale, variance, 0.0 if frequency is None else frequency)
        else:
            term = oscillator.with_numbers(ctx.term, numbers)
        return [ctx.otherwise(GramParameters.of(anchors, (term,), noise), values)]

    needs = [each is not None and each.requires_grad for each in tensors]
    return differentiate(density, tensors, needs, [grad])
