"""The operators ``laplex::matvec`` and ``laplex::matvec_vjp`` of PyTorch's registry.

``laplex::matvec`` is the primitive of the module `derivatives`; ``laplex::matvec_vjp`` its seven
first-order gradients (parity 0, moment 0) in one fused pass. When a graph is recorded through the
second it takes the form of the composite formula instead, which can be differentiated again.

The registry serves ``torch.compile``, fake and meta tensors, and dispatch modes. It has no
forward-mode derivative, and an operator's autograd kernel cannot run under ``torch.func``'s
transforms, so `primitive` goes there through `torch.autograd.Function`, with the same formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import cpu as execution
from . import derivatives
from .call import signature

_INPUTS = (
    "Tensor values, Tensor targets, Tensor? sources, Tensor lengthscale, Tensor? frequency, "
    "Tensor? target_phase, Tensor? source_phase, bool real_part"
)
# Inductor's CUDA graphs own all memory that is taken while they warm up, and orders outlive that.
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.cudagraph_unsafe)
_LIBRARY: Any = torch.library.Library("laplex", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define(
    f"matvec({_INPUTS}, int parity, int moment) -> Tensor",
    tags=_TAGS,
)
_LIBRARY.define(
    f"matvec_vjp(Tensor grad, {_INPUTS}, bool[7] needs) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=_TAGS,
)
_MATVEC = torch.ops.laplex.matvec.default
_MATVEC_VJP = torch.ops.laplex.matvec_vjp.default

_TENSORS = 7  # values, targets, sources, lengthscale, frequency, target_phase, source_phase
_TRAILING = (1, 1, 1, 0, 0, 1, 1)  # how many of their last dimensions are not batch dimensions
_unpack_dual: Any = forward_ad.unpack_dual
_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


# --- below autograd -----------------------------------------------------------------------------


def _matvec_vjp(*args: Any) -> tuple[Tensor, ...]:
    return _filled(execution.vjp(*args), args[2])


def _filled(gradients: Sequence[Tensor | None], targets: Tensor) -> tuple[Tensor, ...]:
    """Stand an empty tensor in for every gradient that was not wanted: the schema has no None."""
    return tuple(targets.new_empty(0) if each is None else each for each in gradients)


# For every backend, so that tensors of any other device meet the sentence of `signature`.
_LIBRARY.impl("matvec", execution.apply, "CompositeExplicitAutograd")
_LIBRARY.impl("matvec_vjp", _matvec_vjp, "CompositeExplicitAutograd")


def _matvec_fake(
    values: Tensor,
    targets: Tensor,
    sources: Tensor | None,
    lengthscale: Tensor,
    frequency: Tensor | None,
    target_phase: Tensor | None,
    source_phase: Tensor | None,
    real_part: bool,
    parity: int,
    moment: int,
) -> Tensor:
    sig = signature(
        values,
        targets,
        sources,
        lengthscale,
        frequency,
        target_phase,
        source_phase,
        real_part,
        parity,
        moment,
    )
    return targets.new_empty((*sig.batch, sig.targets), dtype=sig.result_dtype)


def _matvec_vjp_fake(
    grad: Tensor,
    values: Tensor,
    targets: Tensor,
    sources: Tensor | None,
    lengthscale: Tensor,
    frequency: Tensor | None,
    target_phase: Tensor | None,
    source_phase: Tensor | None,
    real_part: bool,
    needs: Sequence[bool],
) -> list[Tensor]:
    inputs = (values, targets, sources, lengthscale, frequency, target_phase, source_phase)
    sig = signature(*inputs, real_part)
    execution.check_gradient(grad, sig)
    return [
        targets.new_empty(tensor.shape, dtype=tensor.dtype)
        if needed and tensor is not None
        else targets.new_empty(0)
        for tensor, needed in zip(inputs, needs, strict=True)
    ]


torch.library.register_fake("laplex::matvec", _matvec_fake, lib=_LIBRARY)
torch.library.register_fake("laplex::matvec_vjp", _matvec_vjp_fake, lib=_LIBRARY)


def is_plain(tensors: Sequence[Any]) -> bool:
    """Whether nobody but us needs to see the call: real memory, no mode, transform or tracer."""
    for tensor in tensors:
        if tensor is not None and not (
            type(tensor) in _PLAIN_TYPES and (tensor.is_cpu or tensor.is_cuda)
        ):
            return False
    return (
        not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._get_tracing_state() is None
        # torch.autograd.grad(..., is_grads_batched=True) brings these, as gradients only.
        and not torch._C._functorch.is_legacy_batchedtensor(tensors[0])
    )


def _evaluate(*args: Any) -> Tensor:
    """Return the product without derivatives, past PyTorch's dispatcher where nobody watches it.

    A call through the dispatcher costs more than the product at n = 64.
    """
    if is_plain(args[:_TENSORS]):
        return execution.apply(*args)
    result: Tensor = _MATVEC(*args)
    return result


def _evaluate_vjp(*args: Any) -> Sequence[Tensor | None]:
    if is_plain(args[: 1 + _TENSORS]):
        return execution.vjp(*args)
    result: Sequence[Tensor] = _MATVEC_VJP(*args)
    return result


# --- autograd -----------------------------------------------------------------------------------


class Recorded(torch.autograd.Function):
    """The primitive with its reverse- and forward-mode derivatives, on ordinary tensors.

    The context comes with `forward`: in this form `apply` costs half of that with `setup_context`,
    which only ``torch.func`` needs (see `Transformed`).
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        """Return the product."""
        _save(ctx, args)
        return _evaluate(*args)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the inputs' gradients."""
        return _backward(ctx, grad)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor | None:
        """Return the product's derivative along the tangents."""
        return derivatives.jvp(primitive, ctx.saved_tensors, tangents[:_TENSORS], *ctx.form)


class Transformed(torch.autograd.Function):
    """The primitive under the transforms of ``torch.func``: vmap, grad, jvp in any nesting."""

    @staticmethod
    def forward(*args: Any) -> Tensor:
        """Return the product."""
        return _evaluate(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the derivatives need."""
        _save(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the inputs' gradients."""
        return _backward(ctx, grad)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor | None:
        """Return the product's derivative along the tangents."""
        # PyTorch calls this with forward mode off, which would silently drop the derivatives of an
        # enclosing jvp. Switched on, the inputs must shed the tangents that are dealt with here.
        with forward_ad._set_fwd_grad_enabled(True):
            inputs = [
                None if tensor is None else _unpack_dual(tensor).primal
                for tensor in ctx.saved_tensors
            ]
            return derivatives.jvp(primitive, inputs, tangents[:_TENSORS], *ctx.form)

    @staticmethod
    def vmap(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Tensor, int]:
        """Return the product of batched inputs."""
        return primitive(*_pad_batch(in_dims, args)), 0


_record: Any = Recorded.apply
_transform: Any = Transformed.apply


def _save(ctx: Any, args: Sequence[Any]) -> None:
    ctx.save_for_backward(*args[:_TENSORS])
    ctx.save_for_forward(*args[:_TENSORS])
    ctx.form = args[_TENSORS:]  # real_part, parity, moment
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad[:_TENSORS]
    if grad is None:
        return (None,) * (_TENSORS + 3)
    real_part, parity, moment = ctx.form
    # The fused pass has no derivatives of its own.
    if parity or moment or torch.is_grad_enabled() or _forward_mode():
        found = derivatives.vjp(
            primitive, grad, ctx.saved_tensors, real_part, parity, moment, needs
        )
        return (*found, None, None, None)
    fused = _evaluate_vjp(grad, *ctx.saved_tensors, real_part, needs)
    return (*(g if need else None for g, need in zip(fused, needs, strict=True)), None, None, None)


def _recording(args: Sequence[Any]) -> bool:
    """Whether a derivative of this call may be asked for, in reverse or forward mode."""
    return (torch.is_grad_enabled() and torch._C._any_requires_grad(*args)) or _forward_mode()


def _forward_mode() -> bool:
    return forward_ad._current_level >= 0 and torch._C._is_fwd_grad_enabled()


def plain_product(
    values: Tensor, targets: Tensor, sources: Tensor | None, lengthscale: float
) -> Tensor | None:
    """Return the product where nothing is recorded or watched, None elsewhere."""
    if torch.compiler.is_compiling() or not is_plain((values, targets, sources)):
        return None
    if torch.is_grad_enabled() and (
        values.requires_grad
        or targets.requires_grad
        or (sources is not None and sources.requires_grad)
    ):
        return None
    if forward_ad._current_level >= 0:  # a tensor may carry a tangent
        return None
    return execution.plain_product(values, targets, sources, lengthscale)


def primitive(*args: Any) -> Tensor:
    """S(parity, moment) of (values, ..., source_phase, real_part, parity, moment), recorded."""
    if torch.compiler.is_compiling():
        compiled: Tensor = _MATVEC(*args)
        return compiled
    if torch._C._are_functorch_transforms_active():
        transformed: Tensor = _transform(*args)
        return transformed
    if _recording(args):
        recorded: Tensor = _record(*args)
        return recorded
    return _evaluate(*args)


def _matvec_autograd(keyset: Any, *args: Any) -> Any:
    if _recording(args):
        _refuse_transforms()
        return _record(*args)
    return _MATVEC.redispatch(keyset & torch._C._after_autograd_keyset, *args)


def _matvec_vjp_autograd(keyset: Any, *args: Any) -> Any:
    if _recording(args):
        _refuse_transforms()
        grad, real_part, needs = args[0], args[-2], args[-1]
        inputs = args[1 : 1 + _TENSORS]
        return _filled(derivatives.vjp(primitive, grad, inputs, real_part, 0, 0, needs), inputs[1])
    return _MATVEC_VJP.redispatch(keyset & torch._C._after_autograd_keyset, *args)


def _refuse_transforms() -> None:
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "torch.ops.laplex can't be differentiated inside a torch.func transform (no operator "
            "of torch.library can): call laplex.matvec there, outside torch.compile"
        )


_LIBRARY.impl("matvec", _matvec_autograd, "Autograd", with_keyset=True)
_LIBRARY.impl("matvec_vjp", _matvec_vjp_autograd, "Autograd", with_keyset=True)


# --- vmap ---------------------------------------------------------------------------------------


def _pad_batch(in_dims: Sequence[int | None], args: Sequence[Any]) -> list[Any]:
    """Put the vmapped dimension in front of every tensor that has it, so that all still broadcast.

    A tensor with fewer leading dimensions than the widest gets dimensions of size 1 between the
    vmapped one and its own; tensors that are not vmapped, such as shared anchors, stay shared.
    """
    tensors = args[:_TENSORS]
    widest = max(
        tensor.dim() - last - (dim is not None)
        for tensor, dim, last in zip(tensors, in_dims, _TRAILING, strict=False)
        if tensor is not None
    )
    padded = []
    for tensor, dim, last in zip(tensors, in_dims, _TRAILING, strict=False):
        if tensor is not None and dim is not None:
            tensor = tensor.movedim(dim, 0)
            missing = widest - (tensor.dim() - 1 - last)
            tensor = tensor.reshape(tensor.shape[:1] + (1,) * missing + tensor.shape[1:])
        padded.append(tensor)
    return [*padded, *args[_TENSORS:]]


def _matvec_vmap(info: Any, in_dims: Sequence[Any], *args: Any) -> tuple[Tensor, int]:
    return _MATVEC(*_pad_batch(in_dims, args)), 0


def _matvec_vjp_vmap(
    info: Any, in_dims: Sequence[Any], *args: Any
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Batching rule of the gradients, by the composite formula.

    The fused pass sums over what shares an anchor, and vmap asks for each summand.
    """
    grad, real_part, needs = args[0], args[-2], args[-1]
    in_dim, own_dims = in_dims[0], in_dims[1 : 1 + _TENSORS]
    own = [
        None if t is None else t.shape if dim is None else t.movedim(dim, 0).shape[1:]
        for t, dim in zip(args[1 : 1 + _TENSORS], own_dims, strict=True)
    ]
    inputs = _pad_batch(own_dims, args[1 : 1 + _TENSORS])
    grad = grad.expand(info.batch_size, *grad.shape) if in_dim is None else grad.movedim(in_dim, 0)
    widest = grad.dim() - 2  # the gradient has every leading dimension of the result
    shapes = [
        () if shape is None else (info.batch_size,) + (1,) * (widest + last - len(shape)) + shape
        for shape, last in zip(own, _TRAILING, strict=True)
    ]
    found = derivatives.vjp(_MATVEC, grad, inputs, real_part, 0, 0, needs, shapes)
    result = tuple(
        grad.new_empty((info.batch_size, 0))
        if each is None or shape is None
        else each.reshape(info.batch_size, *shape)
        for each, shape in zip(found, own, strict=True)
    )
    return result, (0,) * _TENSORS


torch.library.register_vmap("laplex::matvec", _matvec_vmap, lib=_LIBRARY)
torch.library.register_vmap("laplex::matvec_vjp", _matvec_vjp_vmap, lib=_LIBRARY)
