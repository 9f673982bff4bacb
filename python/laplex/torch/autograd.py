"""The operator with derivatives, for every way in which PyTorch may request them.

``matvec`` bypasses PyTorch's dispatcher if no mode, transform or tracer is active, and is recorded
by ``torch.autograd.Function``. The operators of the module ``registry`` serve modes, tracers and
``torch.compile`` with the same formulas. Both are needed: the registry has no forward-mode
derivative, and an operator's autograd kernel cannot run under the transforms of ``torch.func``.

When a graph is recorded through the gradients, they use the composite formula of the module
``derivatives``, which can be differentiated again, instead of the fused pass, which cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import derivatives, execution
from .batching import pad_batch
from .call import PLAIN_TYPES, TENSORS, Call, Signature, signature
from .registry import LIBRARY, MATVEC, MATVEC_VJP, filled

_unpack_dual: Any = forward_ad.unpack_dual
# Detects the batched gradients and tangents of torch.autograd.grad(..., is_grads_batched=True).
_is_batched = torch._C._functorch.is_legacy_batchedtensor
_NONE = (None,) * len(Call._fields[TENSORS:])


def is_watched() -> bool:
    """Whether a mode, a transform or a tracer must see calls."""
    return (
        torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() != 0
        or torch._C._get_tracing_state() is not None
    )


def is_concrete(tensor: Tensor) -> bool:
    """Whether the numbers of a tensor are in the host's memory, to be looked at now."""
    return (
        not torch.compiler.is_compiling()
        and type(tensor) in PLAIN_TYPES
        and tensor.is_cpu
        and not is_watched()
        and not _is_batched(tensor)
    )


def primitive(call: Call) -> Tensor:
    """Compute S(parity, polynomial) of a call, recorded if derivatives may be requested."""
    if torch.compiler.is_compiling():
        compiled: Tensor = MATVEC(*call)
        return compiled
    if torch._C._are_functorch_transforms_active():
        transformed: Tensor = _transform(*call)
        return transformed
    sig = signature(call)
    if _recording(call):
        recorded: Tensor = _record(*call[:TENSORS], (call, sig))
        return recorded
    return evaluate(call, sig)[0]


def evaluate(call: Call, sig: Signature) -> tuple[Tensor, execution.Plan | None]:
    """Compute the product without derivatives; return it with its plan, if that is known.

    PyTorch's dispatcher costs more than the product at n = 64, so it is bypassed if possible.
    """
    if (sig.direct or (sig.plain and not _is_batched(call.values))) and not is_watched():
        return execution.product(call, sig)
    return MATVEC(*call), None


def gradients(
    grad: Tensor,
    call: Call,
    sig: Signature,
    needs: Sequence[bool],
    plan: execution.Plan | None,
    overwrite: bool = False,
) -> Sequence[Tensor | None]:
    """Compute the first-order gradients that are needed; see `execution.gradients`."""
    if sig.plain and type(grad) is Tensor and not (is_watched() or _is_batched(grad)):
        return execution.gradients(grad, call, sig, needs, plan, overwrite)
    found: Sequence[Tensor] = MATVEC_VJP(grad, *call, needs)
    return [each if need else None for each, need in zip(found, needs, strict=True)]


class Recorded(torch.autograd.Function):
    """The primitive with its reverse- and forward-mode derivatives, on ordinary tensors.

    ``forward`` takes the context. In this form ``apply`` costs half as much as with
    ``setup_context``, which only ``torch.func`` needs (see ``Transformed``).
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        """Return the product of a call; its tensors are also passed one by one to be recorded."""
        call, ctx.signature = args[TENSORS]
        _save(ctx, call)
        result, ctx.plan = evaluate(call, ctx.signature)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the tensors' gradients."""
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        call, needs = _saved(ctx), ctx.needs_input_grad[:TENSORS]
        if _needs_composite():
            if not in_forward_mode() and not is_watched() and not _is_batched(grad):
                sig = signature(call)
                if execution.has_second_gradients(call, sig, grad):
                    plan = ctx.plan if sig == ctx.signature else None
                    execution.check_gradient(grad, sig)
                    recorded: tuple[Tensor | None, ...] = _record_gradients(
                        grad, *call[:TENSORS], (call, sig, needs, plan)
                    )
                    return (*recorded, None)
            return (*derivatives.vjp(primitive, grad, call, needs), None)
        # The saved tensors may have changed: hooks can replace them, and so do writes to `.data`.
        sig = signature(call)
        if sig != ctx.signature:
            execution.check_gradient(grad, sig)
            ctx.plan = None
        plan, ctx.plan = ctx.plan, None  # it would outlive the saved tensors
        return (*gradients(grad, call, sig, needs, plan), None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor | None:
        """Return the product's derivative along the tangents."""
        return derivatives.jvp(primitive, _saved(ctx), tangents[:TENSORS])


class RecordedGradients(torch.autograd.Function):
    """The gradients of a real product on the CPU, with their own gradients in one call of the core.

    Where a graph is recorded through those too, they are the ones of the composite formula.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor | None, ...]:
        """Return the seven gradients of a call; None for those not needed."""
        grad, (call, sig, needs, plan) = args[0], args[1 + TENSORS]
        ctx.save_for_backward(grad, *call[:TENSORS])
        ctx.form, ctx.signature, ctx.needs = call[TENSORS:], sig, needs
        ctx.set_materialize_grads(False)
        return tuple(execution.gradients(grad, call, sig, needs, plan))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of the cotangent and of the seven tensors."""
        needs = ctx.needs_input_grad[: 1 + TENSORS]
        if all(each is None for each in cotangents):
            return (None,) * len(ctx.needs_input_grad)
        saved = ctx.saved_tensors
        grad, call = saved[0], Call(*saved[1:], *ctx.form)
        batched = any(each is not None and _is_batched(each) for each in cotangents)
        if torch.is_grad_enabled() or batched or is_watched() or signature(call) != ctx.signature:

            def formula(grad: Tensor, *tensors: Any) -> list[Tensor | None]:
                return derivatives.vjp(primitive, grad, Call(*tensors, *ctx.form), ctx.needs)

            return (*differentiate(formula, saved, needs, cotangents), None)
        found = execution.second_gradients(grad, call, ctx.signature, cotangents[:4], needs[:5])
        return (*found, None, None, None, None)


def differentiate(
    function: Callable[..., Sequence[Tensor | None]],
    tensors: Sequence[Tensor | None],
    needs: Sequence[bool],
    cotangents: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Differentiate a composition of torch's operations inside a backward pass.

    Parameters
    ----------
    function
        Returns the outputs, of which some may be None.
    tensors
        The arguments of the function.
    needs
        Which of the tensors' gradients to compute.
    cotangents
        The cotangents of the outputs; None stands for zeros.

    Returns
    -------
    list
        The gradients, None for those not needed. They are recorded if gradients are enabled.
    """
    records = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views stand for the tensors, because one of these may depend on another.
        views = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]
        outputs = function(*views)
    pairs = [
        (output, cotangent)
        for output, cotangent in zip(outputs, cotangents, strict=True)
        if output is not None and cotangent is not None and output.requires_grad
    ]
    wanted = [view for view, need in zip(views, needs, strict=True) if view is not None and need]
    if not (pairs and wanted):
        return [None] * len(views)
    found = iter(
        torch.autograd.grad(
            [output for output, _ in pairs],
            wanted,
            [cotangent for _, cotangent in pairs],
            create_graph=records,
            allow_unused=True,
        )
    )
    return [
        next(found) if view is not None and need else None
        for view, need in zip(views, needs, strict=True)
    ]


class Transformed(torch.autograd.Function):
    """The primitive under the transforms of ``torch.func``: vmap, grad and jvp in any nesting."""

    @staticmethod
    def forward(*args: Any) -> Tensor:
        """Return the product of a call that is passed as separate arguments."""
        call = Call(*args)
        return evaluate(call, signature(call))[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the derivatives need."""
        _save(ctx, Call(*inputs))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the tensors' gradients."""
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        call, needs = _saved(ctx), ctx.needs_input_grad[:TENSORS]
        if _needs_composite():
            return (*derivatives.vjp(primitive, grad, call, needs), *_NONE)
        return (*gradients(grad, call, signature(call), needs, None), *_NONE)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor | None:
        """Return the product's derivative along the tangents."""
        # PyTorch calls this with forward mode off, which would silently drop the derivatives of an
        # enclosing jvp. With it on, remove the tangents that this function handles from the inputs.
        with forward_ad._set_fwd_grad_enabled(True):
            call = _saved(ctx)
            own = (None if each is None else _unpack_dual(each).primal for each in call[:TENSORS])
            return derivatives.jvp(primitive, Call._make((*own, *ctx.form)), tangents[:TENSORS])

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Tensor, int]:
        """Return the product of batched inputs."""
        return primitive(Call(*pad_batch(in_dims, args))), 0


_record: Any = Recorded.apply
_record_gradients: Any = RecordedGradients.apply
_transform: Any = Transformed.apply


def _save(ctx: Any, call: Call) -> None:
    ctx.save_for_backward(*call[:TENSORS])
    if forward_ad._current_level >= 0:
        ctx.save_for_forward(*call[:TENSORS])
    ctx.form = call[TENSORS:]
    ctx.set_materialize_grads(False)


def _saved(ctx: Any) -> Call:
    return Call(*ctx.saved_tensors, *ctx.form)


def _needs_composite() -> bool:
    """Whether gradients may be differentiated again, which the fused pass does not support."""
    return torch.is_grad_enabled() or in_forward_mode()


def _recording(args: Sequence[Any]) -> bool:
    """Whether a derivative of this call may be requested, in reverse or forward mode."""
    if in_forward_mode():
        return True
    return torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args)


def in_forward_mode() -> bool:
    """Whether a forward-mode derivative may be requested."""
    return forward_ad._current_level >= 0 and torch._C._is_fwd_grad_enabled()


# --- the registry's operators -------------------------------------------------------------------


def _matvec_autograd(keyset: Any, *args: Any) -> Any:
    if _recording(args):
        _refuse_transforms()
        call = Call(*args)
        return _record(*call[:TENSORS], (call, signature(call)))
    return MATVEC.redispatch(keyset & torch._C._after_autograd_keyset, *args)


def _matvec_vjp_autograd(keyset: Any, *args: Any) -> Any:
    if _recording(args):
        _refuse_transforms()
        grad, call, needs = args[0], Call(*args[1:-1]), args[-1]
        return filled(derivatives.vjp(primitive, grad, call, needs), call.targets)
    return MATVEC_VJP.redispatch(keyset & torch._C._after_autograd_keyset, *args)


def _refuse_transforms() -> None:
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "torch.ops.laplex cannot be differentiated inside a torch.func transform (no operator "
            "of torch.library can): call laplex.matvec there, outside torch.compile"
        )


LIBRARY.impl("matvec", _matvec_autograd, "Autograd", with_keyset=True)
LIBRARY.impl("matvec_vjp", _matvec_vjp_autograd, "Autograd", with_keyset=True)
