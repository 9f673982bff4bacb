"""The CDF of the standard Laplace distribution, entry by entry."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_unpack_dual: Any = forward_ad.unpack_dual


def laplace_cdf(t: Tensor) -> Tensor:
    """Compute exp(t) / 2 for t < 0, and 1 - exp(-t) / 2 otherwise.

    The derivative is exp(-abs(t)) / 2, also at 0, where the second derivative is taken to be 0.
    """
    if torch.compiler.is_compiling():
        tail = _density(t)
        result = torch.where(t < 0, tail, 1 - tail)
        return result + torch.where(t == 0, t / 2, 0.0)  # where abs() has the derivative 0
    kind: Any = _LaplaceCDF if torch._C._are_functorch_transforms_active() else _Recorded
    recorded: Tensor = kind.apply(t)
    return recorded


def _density(t: Tensor) -> Tensor:
    return torch.exp(-t.abs()) / 2


class _LaplaceCDF(torch.autograd.Function):
    """The CDF with its derivatives in a third of the passes of the composition."""

    generate_vmap_rule = True

    @staticmethod
    def forward(t: Tensor) -> Tensor:
        """Return the CDF."""
        tail = t.abs().neg_().exp_().div_(2)
        return torch.where(t < 0, tail, 1 - tail)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep the argument."""
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradient by the argument."""
        return grad * _density(ctx.saved_tensors[0])

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        """Return the derivative along a tangent."""
        # As in `autograd.Transformed`: forward mode on for enclosing transforms, own tangents off.
        with forward_ad._set_fwd_grad_enabled(True):
            return tangent * _density(_unpack_dual(ctx.saved_tensors[0]).primal)


class _Recorded(torch.autograd.Function):
    """The CDF outside of transforms; see `autograd.Recorded`."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        """Return the CDF."""
        output = _LaplaceCDF.forward(t)
        _LaplaceCDF.setup_context(ctx, (t,), output)
        return output

    backward = _LaplaceCDF.backward
    jvp = _LaplaceCDF.jvp
