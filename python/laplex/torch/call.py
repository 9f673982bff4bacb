"""The signature of one operator call on torch tensors: its shapes, dtypes and device.

Every torch argument is checked here and nowhere else, from metadata alone, so that the same
sentence comes in eager mode, under ``torch.compile`` and on meta tensors, and before any work.
What needs the numbers themselves (NaN anchors, a lengthscale of 0) is checked by the core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _core

MAX_MOMENT = 4
"""Highest power of |x - y| in the core: each derivative by lengthscale or frequency takes one."""

COMPLEX_OF = {torch.float32: torch.complex64, torch.float64: torch.complex128}


class Signature(NamedTuple):
    """What the arguments of one call say together."""

    batch: tuple[int, ...]
    """Leading dimensions of the result: all arguments' broadcast."""
    anchor_batch: tuple[int, ...]
    """Leading dimensions of everything but the values: one plan holds their product as heads."""
    targets: int
    sources: int
    dtype: torch.dtype
    """Of the anchors, real; the precision of the call."""
    result_dtype: torch.dtype


def signature(
    values: Tensor,
    targets: Tensor,
    sources: Tensor | None,
    lengthscale: Tensor,
    frequency: Tensor | None,
    target_phase: Tensor | None,
    source_phase: Tensor | None,
    real_part: bool,
    parity: int = 0,
    moment: int = 0,
) -> Signature:
    """Check the arguments of an operator call and derive the result's shape and dtype.

    Raises
    ------
    TypeError
        Anchors, phases or values whose dtype does not fit, naming the argument and the remedy.
    ValueError
        Shapes that do not broadcast, missing last dimensions, tensors on two devices.
    NotImplementedError
        More than four derivatives by lengthscale and frequency together.
    """
    dtype = targets.dtype
    if dtype is not torch.float32 and dtype is not torch.float64:
        raise TypeError(_anchor_dtype_message("targets", dtype))
    if targets.dim() == 0:
        raise ValueError(_no_dimension_message("targets", "n"))
    n = m = targets.size(-1)
    if sources is not None:
        if sources.dtype is not dtype:
            raise TypeError(_other_dtype_message("sources", sources.dtype, dtype))
        if sources.dim() == 0:
            raise ValueError(_no_dimension_message("sources", "m"))
        m = sources.size(-1)

    if values.dim() == 0:
        raise ValueError(_no_dimension_message("values", "m"))
    if values.size(-1) != m:
        what = "targets (the sources are the targets here)" if sources is None else "sources"
        raise ValueError(
            f"values has {values.size(-1)} entries in its last dimension, but {what} has {m}: "
            "give one value per source"
        )
    complex_dtype = COMPLEX_OF[dtype]
    if values.dtype is not dtype and values.dtype is not complex_dtype:
        raise TypeError(
            f"values has dtype {values.dtype}, but the anchors are {dtype}: convert one side, "
            f"for instance values.to({dtype if not values.is_complex() else complex_dtype})"
        )

    if target_phase is not None:
        _check_phase("target_phase", target_phase, n, dtype)
    if source_phase is not None:
        _check_phase("source_phase", source_phase, m, dtype)
    for name, scalar in (("lengthscale", lengthscale), ("frequency", frequency)):
        if scalar is not None and scalar.dtype not in COMPLEX_OF:
            raise TypeError(
                f"{name} has dtype {scalar.dtype}: give a Python float, or a float32 or float64 "
                f"tensor ({name}.double())"
            )
    if moment > MAX_MOMENT:
        raise NotImplementedError(
            f"lengthscale and frequency can be differentiated {MAX_MOMENT} times together, "
            "and this is one time more"
        )
    if moment < 0 or not 0 <= parity <= 2:
        raise ValueError(
            f"parity is 0, 1 or 2 and moment 0 to {MAX_MOMENT}, got {parity} and {moment}"
        )

    complex_kernel = frequency is not None or target_phase is not None or source_phase is not None
    if real_part and values.is_complex():
        raise TypeError(
            "values is complex, and the operator with real_part=True takes real values: call "
            "laplex.matvec, which applies it to real and imaginary parts"
        )
    result_complex = values.is_complex() or (complex_kernel and not real_part)
    _check_device(values, targets, sources, lengthscale, frequency, target_phase, source_phase)
    batch, anchor_batch = _broadcast(
        values, targets, sources, lengthscale, frequency, target_phase, source_phase
    )
    return Signature(batch, anchor_batch, n, m, dtype, complex_dtype if result_complex else dtype)


NAMES = (
    "values",
    "targets",
    "sources",
    "lengthscale",
    "frequency",
    "target_phase",
    "source_phase",
)


def _check_phase(name: str, phase: Tensor, size: int, dtype: torch.dtype) -> None:
    if phase.dtype is not dtype:
        raise TypeError(_other_dtype_message(name, phase.dtype, dtype))
    if phase.dim() == 0 or phase.size(-1) != size:
        raise ValueError(
            f"{name} has shape {tuple(phase.shape)}: its last dimension must be {size}, one phase "
            "per anchor"
        )


def _check_device(*tensors: Tensor | None) -> None:
    for tensor in tensors:
        if tensor is not None and (not tensor.is_cpu or tensor.layout is not torch.strided):
            break
    else:  # the common case, without making device objects
        return
    device = tensors[1].device  # type: ignore[union-attr]  # targets are always given
    if device.type == "cuda" and not _core.has_cuda:
        raise NotImplementedError(
            f"targets is on {device}: this build of Laplex is for the CPU alone; install it again "
            "where nvcc is on the PATH, or move the arguments with .cpu()"
        )
    if device.type not in ("cpu", "cuda", "meta"):
        raise NotImplementedError(
            f"targets is on {device}: Laplex computes on CPU and CUDA tensors; move the arguments "
            "with .cpu()"
        )
    for name, tensor in zip(NAMES, tensors, strict=True):
        if tensor is not None and tensor.layout is not torch.strided:
            raise TypeError(f"{name} is a tensor of layout {tensor.layout}: pass {name}.to_dense()")
        if tensor is not None and tensor.device != device:
            raise ValueError(
                f"{name} is on {tensor.device}, but targets is on {device}: move it with "
                f"{name}.to({str(device)!r})"
            )


def _broadcast(values: Tensor, *others: Tensor | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Leading dimensions of the result, and of the anchors with all that belongs to them."""
    targets, sources, lengthscale, frequency, target_phase, source_phase = others
    shapes: list[Sequence[int]] = []
    for tensor in (targets, sources, target_phase, source_phase):
        if tensor is not None and tensor.dim() > 1:
            shapes.append(tensor.shape[:-1])
    for tensor in (lengthscale, frequency):
        if tensor is not None and tensor.dim() > 0:
            shapes.append(tensor.shape)
    batch: tuple[int, ...] = () if values.dim() == 1 else tuple(values.shape[:-1])
    if not shapes:  # the common case; torch.broadcast_shapes costs as much as a small product
        return batch, ()
    broadcast: Any = torch.broadcast_shapes  # PyTorch has no types for it
    try:
        anchor_batch = tuple(broadcast(*shapes))
        return tuple(broadcast(batch, anchor_batch)), anchor_batch
    except RuntimeError:
        given = ", ".join(
            f"{name} {tuple(tensor.shape)}"
            for name, tensor in zip(NAMES, (values, *others), strict=True)
            if tensor is not None
        )
        raise ValueError(
            f"leading dimensions do not broadcast: {given} (lengthscale and frequency have leading "
            "dimensions only; put a dimension of size 1 where an argument is to be repeated)"
        ) from None


def _anchor_dtype_message(name: str, dtype: torch.dtype) -> str:
    return (
        f"{name} has dtype {dtype}: anchors must be float32 or float64, whatever the values' "
        f"precision; pass {name}.float() or {name}.double()"
    )


def _other_dtype_message(name: str, dtype: torch.dtype, expected: torch.dtype) -> str:
    return f"{name} has dtype {dtype}, but targets has {expected}: pass {name}.to({expected})"


def _no_dimension_message(name: str, size: str) -> str:
    return f"{name} is a 0-d tensor: give at least one dimension, {name}[..., {size}]"
