"""The product of a layer as one node of autograd.

Composed of torch's operations, a layer of 64 inputs and outputs spends more time between them than
in the core: scaling by the gains, the product, the sum over heads and the bias are a node each, and
each node keeps a tensor and starts several operations of its own in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from laplex.nn.kernel_shape import KernelShape
from laplex.torch import autograd
from laplex.torch.call import Call, signature


def applies(*tensors: Tensor | None) -> bool:
    """Whether a product with these tensors is to be recorded, and one node can record it.

    All of them must be of one real dtype, on the CPU, and watched by nothing but reverse mode.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    dtype = given[0].dtype
    return (
        torch.is_grad_enabled()
        and dtype in (torch.float32, torch.float64)
        and all(
            type(tensor) in (Tensor, torch.nn.Parameter) and tensor.dtype is dtype and tensor.is_cpu
            for tensor in given
        )
        and any(tensor.requires_grad for tensor in given)
        and not torch.compiler.is_compiling()
        and not autograd.is_watched()
        and not autograd.in_forward_mode()
    )


class RecordedProduct(torch.autograd.Function):
    r"""The node of :math:`\sum_h \mathrm{Re}(K_h)\,(g_h \odot v) + b` with its backward pass.

    A backward pass that is itself recorded differentiates `composed`, the same product of torch's
    operations.
    """

    @staticmethod
    def forward(
        ctx: Any,
        composed: Any,
        shape: KernelShape,
        input: Tensor,  # noqa: A002  (nn.Linear's name for it)
        targets: Tensor,
        sources: Tensor,
        lengthscale: Tensor,
        gain: Tensor,
        target_phase: Tensor | None,
        source_phase: Tensor | None,
        bias: Tensor | None,
    ) -> Tensor:
        """Return the product ``[..., n]`` of an input ``[..., m]``; see `kernel_product`."""
        call = _call(shape, input, targets, sources, lengthscale, gain, target_phase, source_phase)
        ctx.signature = signature(call)
        output, ctx.plan = autograd.evaluate(call, ctx.signature)
        # In place: at an operation in place, a view would lose FSDP's hook for the backward pass.
        output = output.squeeze_(-2) if gain.shape[0] == 1 else output.sum(-2)
        if bias is not None:
            output += bias
        ctx.composed, ctx.shape = composed, shape
        # The backward pass scales the input again: the heads' values take more memory than time.
        ctx.save_for_backward(
            input, targets, sources, lengthscale, gain, target_phase, source_phase, bias
        )
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the tensors' gradients."""
        given = ctx.saved_tensors
        needs = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():
            # The composed product, so that it can be done again.
            found = autograd.differentiate(lambda *v: [ctx.composed(*v)], given, needs, [grad])
            return (None, None, *found)
        input, targets, sources, lengthscale, gain, target_phase, source_phase, _ = given  # noqa: A001
        own = (targets, sources, lengthscale, gain, target_phase, source_phase)
        call = _call(ctx.shape, input, *own)
        needs_input, *needs_kernel = needs
        needs_gain, needs_bias = needs_kernel.pop(3), needs_kernel.pop()
        heads, rows = gain.shape[0], tuple(range(grad.dim() - 1))
        of_heads = grad.unsqueeze(-2)
        if heads > 1:
            of_heads = of_heads.expand(*grad.shape[:-1], heads, grad.shape[-1])
        needs_kernel.insert(3, False)  # a call has a frequency, which a layer has not
        now = signature(call)  # hooks and writes to `.data` may have changed the saved tensors
        plan = ctx.plan if now == ctx.signature else None
        ctx.plan = None  # it would outlive the saved tensors
        needed = (needs_input or needs_gain, *needs_kernel)
        d_values, *d_kernel = autograd.gradients(of_heads, call, now, needed, plan, overwrite=True)
        d_input = d_gain = d_bias = None
        if d_values is not None and needs_input:
            d_input = d_values * gain
            d_input = d_input.squeeze(-2) if heads == 1 else d_input.sum(-2)
        if d_values is not None and needs_gain:
            d_gain = d_values.mul_(input.unsqueeze(-2))
            d_gain = d_gain.sum(rows) if rows else d_gain
        if needs_bias:
            d_bias = grad.sum(rows) if rows else grad
        d_targets, d_sources, d_lengthscale, _, *d_phases = d_kernel
        if d_lengthscale is not None and call.lengthscale is not lengthscale:
            d_lengthscale = (d_lengthscale / ctx.shape.profile.root).to(lengthscale.dtype)
        return (
            None,
            None,
            d_input,
            d_targets,
            d_sources,
            d_lengthscale,
            d_gain,
            *d_phases,
            d_bias,
        )


def _call(
    shape: KernelShape,
    input: Tensor,  # noqa: A002
    targets: Tensor,
    sources: Tensor,
    lengthscale: Tensor,
    gain: Tensor,
    target_phase: Tensor | None,
    source_phase: Tensor | None,
) -> Call:
    """Return the product of all heads with the scaled input; a layer has no frequency."""
    values = input.unsqueeze(-2) * gain
    tensors = (values, targets, sources, lengthscale, None, target_phase, source_phase)
    call = Call(*tensors, real_part=target_phase is not None, side=shape.number)
    return call if shape.kernel == "matern12" else call.with_profile(shape.profile)


record: Any = RecordedProduct.apply
