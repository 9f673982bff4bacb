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
from .factor import plain
from .parameters import GramParameters
from .term import Term

#: Anchors and values ``[*b, n]``, lengthscale, variance and frequency ``[*b]``, and noise
#: ``[*b, n]`` or ``[*b, 1]``. Parameters may be floats or None.
Inputs: TypeAlias = "Sequence[Tensor | float | None]"

_INPUTS = 6


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
    anchors, terms, noise, batch = parameters
    shape = (*batch, parameters.n)
    if not anchors.is_cpu or len(terms) > 1 or values.shape != shape:
        return None
    (term,) = terms
    if term.has_parameters_per_anchor():
        return None
    given = [
        _expanded(anchors, shape),
        _expanded(values, shape),
        *(_expanded(number, batch) for number in term.numbers(anchors)),
        None if noise is None else _expanded(noise, (*batch, noise.shape[-1])),
    ]
    if not recorded:
        return _run(given, [None] * _INPUTS)
    try:
        result: Tensor = _LogDensity.apply(otherwise, *given)  # type: ignore[no-untyped-call]
    except _NeedsFactorError:
        return None
    return result


def _expanded(value: Any, shape: Sequence[int]) -> Any:
    """A tensor in float64 and of a shape; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    if value.shape != shape:
        value = value.expand(shape)
    return value.double()


def _run(inputs: Inputs, gradients: Sequence[Tensor | None]) -> Tensor | None:
    anchors, values, *_, noise = inputs
    assert isinstance(anchors, Tensor)
    assert isinstance(values, Tensor)
    # Also keeps contiguous copies alive.
    arrays = [plain(each) if isinstance(each, Tensor) else each for each in inputs]
    n = anchors.shape[-1]
    one_noise = isinstance(noise, Tensor) and noise.shape[-1] == 1
    out = torch.empty(anchors.shape[:-1], dtype=torch.float64)
    process = Process(
        out.numel(),
        n,
        one_noise,
        *(
            0 if each is None else each.data_ptr() if isinstance(each, Tensor) else each
            for each in arrays
        ),
    )
    wanted = ProcessGradients(*(0 if each is None else each.data_ptr() for each in gradients))
    if _core.log_density(process, out.data_ptr(), wanted, torch.get_num_threads()):
        return out
    return None


class _NeedsFactorError(Exception):
    pass


class _LogDensity(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, otherwise: Callable[[GramParameters, Tensor], Tensor], *inputs: Any
    ) -> Tensor:
        # Gradients cost twice as much as the density alone, and half of that again if they are
        # left for later: nothing is kept from which they could start.
        needs = ctx.needs_input_grad[1:]
        gradients = [
            torch.empty(each.shape, dtype=torch.float64) if needed else None
            for each, needed in zip(inputs, needs, strict=True)
        ]
        result = _run(inputs, gradients)
        if result is None:
            raise _NeedsFactorError
        ctx.otherwise = otherwise
        ctx.numbers = [None if isinstance(each, Tensor) else each for each in inputs]
        tensors = [each if isinstance(each, Tensor) else None for each in inputs]
        ctx.save_for_backward(*tensors, *gradients)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # for derivatives of these derivatives
            return (None, *_recorded_gradients(ctx.otherwise, saved[:_INPUTS], ctx.numbers, grad))
        if grad.numel() == 1 and grad.item() == 1.0:
            return (None, *saved[_INPUTS:])
        return (
            None,
            *(
                None
                if each is None
                else each * (grad if each.dim() == grad.dim() else grad[..., None])
                for each in saved[_INPUTS:]
            ),
        )


def _recorded_gradients(
    otherwise: Callable[[GramParameters, Tensor], Tensor],
    tensors: Sequence[Tensor | None],
    numbers: Sequence[float | None],
    grad: Tensor,
) -> list[Tensor | None]:
    # Views, since one of them may be a function of another one.
    views = [None if each is None else each.view_as(each) for each in tensors]
    inputs: list[Any] = [
        number if view is None else view for view, number in zip(views, numbers, strict=True)
    ]
    anchors, values, lengthscale, variance, frequency, noise = inputs
    term = Term(lengthscale, variance, 0.0 if frequency is None else frequency)
    density = otherwise(GramParameters.of(anchors, (term,), noise), values)
    needed = [each for each in views if each is not None and each.requires_grad]
    found = iter(torch.autograd.grad(density, needed, grad, create_graph=True))
    return [next(found) if each is not None and each.requires_grad else None for each in views]
