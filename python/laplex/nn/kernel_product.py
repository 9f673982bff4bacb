"""The computations of a layer, as functions of its tensors."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from laplex.nn import recorded_product
from laplex.nn.kernel_shape import KernelShape
from laplex.nn.sparse_rows import check_sparse, sparse_rows
from laplex.torch.call import check_tensor
from laplex.torch.functional import matvec
from laplex.torch.sharded import is_distributed

_HALF = (torch.float16, torch.bfloat16)
_DOUBLE = (torch.float64, torch.complex128)


def _check(input: Tensor, targets: Tensor, sources: Tensor) -> None:  # noqa: A002
    """Refuse what the layer cannot multiply."""
    check_tensor("input", input)
    if targets.dtype in _HALF:
        raise TypeError(
            f"the anchors are {targets.dtype}, in which too many of them round to one place and "
            "are tied for good: keep them in float32. Under a mixed precision policy of FSDP, call "
            "fully_shard(layer, mp_policy=laplex.nn.mp_policy) for the layer itself, before "
            "fully_shard(model, mp_policy=...)"
        )
    if input.dtype in _DOUBLE and targets.dtype not in _DOUBLE:
        raise TypeError(
            f"input has dtype {input.dtype} but the layer is {targets.dtype}: convert one of them "
            "with input.float() or layer.double()"
        )
    if not (input.is_floating_point() or input.is_complex()):
        raise TypeError(f"input has dtype {input.dtype}: convert it with input.to({targets.dtype})")
    if input.dim() == 0 or input.shape[-1] != sources.shape[-1]:
        raise ValueError(
            f"input must have {sources.shape[-1]} features in its last dimension, "
            f"got shape {tuple(input.shape)}"
        )
    if input.layout is not torch.strided:
        check_sparse(input, targets)


def kernel_product(
    input: Tensor,  # noqa: A002  (nn.Linear's name for it)
    targets: Tensor,
    sources: Tensor,
    lengthscale: Tensor,
    gain: Tensor,
    target_phase: Tensor | None,
    source_phase: Tensor | None,
    bias: Tensor | None,
    share_out: bool,
    shape: KernelShape,
) -> Tensor:
    r"""Compute :math:`\sum_h \mathrm{Re}(K_h)\,(s_h \odot v) + b` with all heads in one product.

    Parameters
    ----------
    input : Tensor ``[..., m]``
        The features, dense, or as rows ``[rows, m]`` in COO or CSR layout.
    targets, sources : Tensor ``[heads, n]``, Tensor ``[heads, m]``
        The anchors.
    lengthscale : Tensor ``[heads]``
        The lengthscales.
    gain : Tensor ``[heads, m]``
        The gains of the sources.
    target_phase, source_phase : Tensor ``[heads, n]``, Tensor ``[heads, m]``, or both None
        The phases.
    bias : Tensor ``[n]`` or None
        The bias.
    share_out : bool
        Whether :math:`s_h` is the gain divided by its column's sum (see `shared_out`) or the gain
        itself.
    shape : KernelShape
        The kernel, and the sources that count for each target.

    Returns
    -------
    Tensor ``[..., n]``

    Raises
    ------
    TypeError
        If ``input`` is not a tensor, holds integers, or is float64 while the anchors are float32,
        or if the anchors are of half precision.
    ValueError
        If the last dimension of ``input`` has the wrong size, or a sparse input is no matrix.
    """
    if is_distributed(targets):
        # Imports torch.distributed.
        from laplex.nn import line_product

        if line_product.applies(targets):
            if shape.side != "both":
                raise NotImplementedError(
                    f"a layer with side={shape.side!r} cannot have its features spread over "
                    "processes: spread its heads, or the batch"
                )
            return line_product.line_product(
                partial(_check, input, targets, sources),
                input,
                targets,
                sources,
                lengthscale,
                gain,
                target_phase,
                source_phase,
                bias,
                shape.kernel,
            )
    _check(input, targets, sources)
    rows = None if input.layout is torch.strided else sparse_rows(input)
    if rows is not None:  # every piece of a row has sources of its own
        input, sources, gain = rows.values, rows.of(sources), rows.of(gain)  # noqa: A001
        source_phase = None if source_phase is None else rows.of(source_phase)
    factor = shared_out(gain, column_sums(targets, sources, lengthscale)) if share_out else gain
    tensors = (input, targets, sources, lengthscale, factor, target_phase, source_phase, bias)
    composed = partial(_composed, shape)
    if rows is None and recorded_product.applies(*tensors):
        recorded: Tensor = recorded_product.record(composed, shape, *tensors)
        return recorded
    output = composed(*tensors[:-1])
    output = output if rows is None else rows.sums(output)
    dtype = torch.promote_types(input.dtype, gain.dtype)
    if dtype in _HALF:  # distributed gains are float32, to avoid overflow, and promote this
        output = output.to(dtype)
    if bias is not None:
        return output + bias.to(output.dtype)
    # At an operation in place, a view would lose FSDP's hook for the backward pass.
    return output.clone() if len(targets) == 1 and torch.is_grad_enabled() else output


def _composed(
    shape: KernelShape,
    input: Tensor,  # noqa: A002
    targets: Tensor,
    sources: Tensor,
    lengthscale: Tensor,
    factor: Tensor,
    target_phase: Tensor | None,
    source_phase: Tensor | None,
    bias: Tensor | None = None,
) -> Tensor:
    """Compute the product from torch's operations."""
    heads: Tensor = matvec(
        input.unsqueeze(-2) * factor,
        targets,
        sources,
        lengthscale=lengthscale,
        target_phase=target_phase,
        source_phase=source_phase,
        real_part=target_phase is not None,
        kernel=shape.kernel,
        side=shape.side,
    )
    output = heads.squeeze(-2) if targets.shape[0] == 1 else heads.sum(-2)
    return output if bias is None else output + bias


def column_sums(targets: Tensor, sources: Tensor, lengthscale: Tensor) -> Tensor:
    r"""Return the sum :math:`\sum_c e^{-|x_c - y_f|/\ell}` of each column, as [heads, m]."""
    sums: Tensor = matvec(torch.ones_like(targets), sources, targets, lengthscale=lengthscale)
    return sums


def shared_out(gain: Tensor, sums: Tensor) -> Tensor:
    """Divide gains by their columns' sums, which distributes each over the targets.

    The result is 0 for sums so small that the derivative, gain / sums^2, would overflow.
    """
    reached = sums > torch.finfo(sums.dtype).tiny ** 0.4
    return torch.where(reached, gain / torch.where(reached, sums, 1.0), 0.0)


def cosines(target_phase: Tensor, source_phase: Tensor) -> Tensor:
    """Return the matrix cos(theta_i - phi_j), computed by the addition theorem.

    It needs n + m cosines instead of n m, which makes computing the weight of a 1,024 x 1,024 layer
    with two heads five times as fast.
    """
    real = target_phase.cos()[:, None] * source_phase.cos()
    return torch.addcmul(real, target_phase.sin()[:, None], source_phase.sin())
