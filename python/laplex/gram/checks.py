"""What callers may pass to `laplex.gram`: messages name the argument and the remedy."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import _core

if TYPE_CHECKING:
    from .term import Term


def all_finite(tensor: Tensor) -> bool:
    """Whether there is no NaN or infinity: quicker than asking each number, where there is none."""
    detached = tensor.detach()
    return bool(detached.sum().isfinite()) or bool(detached.isfinite().all())


def broadcast(*shapes: Sequence[int]) -> torch.Size:
    """``torch.broadcast_shapes``, which has no types."""
    return torch.Size(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]


def supported(device: torch.device) -> None:
    """Refuse devices that there is no code for."""
    if device.type == "cuda" and not _core.has_cuda:
        raise NotImplementedError(
            f"anchors is on {device}: this build of Laplex is for the CPU alone; install it again "
            "where nvcc is on the PATH, or move the arguments with .cpu()"
        )
    if device.type not in ("cpu", "cuda"):
        raise NotImplementedError(
            f"anchors is on {device}: Laplex computes on CPU and CUDA tensors; move the arguments "
            "with .cpu()"
        )


def no_transforms() -> None:
    """Refuse ``torch.func``, which the compiled core cannot see through."""
    if torch._C._are_functorch_transforms_active():
        raise NotImplementedError(
            "the transforms of torch.func do not go through laplex.gram: use torch.autograd, and "
            "leading dimensions in place of vmap"
        )


def checked_terms(terms: object) -> tuple[Term, ...]:
    """A sequence of at least one term."""
    from .term import Term

    found = tuple(terms) if isinstance(terms, Iterable) else ()
    if not found or not all(isinstance(term, Term) for term in found):
        raise TypeError(
            "terms must be a sequence of at least one laplex.gram.Term: pass [Term(...)]"
        )
    return found


def sample_shape(shape: object) -> tuple[int, ...]:
    """The leading dimensions of samples; a number is one dimension."""
    numbers: Iterable[Any] = shape if isinstance(shape, Iterable) else (shape,)
    try:
        sizes = tuple(operator.index(size) for size in numbers)
    except TypeError:
        raise TypeError(f"shape must be a sequence of integers, got {shape!r}") from None
    if any(size < 0 for size in sizes):
        raise ValueError(f"shape must not be negative, got {sizes}")
    return sizes


def same_device(named: dict[str, object], device: torch.device) -> None:
    """Refuse tensors that are not where the anchors are."""
    for name, value in named.items():
        if isinstance(value, Tensor) and value.device != device:
            raise ValueError(
                f"{name} is on {value.device}, but anchors is on {device}: move it with "
                f"{name}.to({str(device)!r})"
            )


def checked_noise(noise: object, anchors: Tensor) -> Tensor | None:
    """A noise variance as a tensor ``[*b, n]`` or ``[*b, 1]``, of its own precision."""
    if noise is None:
        return None
    if not isinstance(noise, Tensor):
        if isinstance(noise, bool) or not isinstance(noise, Real):
            raise TypeError(f"noise must be a float, a tensor or None, got {type(noise).__name__}")
        try:
            noise = float(noise)
        except OverflowError:
            raise ValueError("noise must be finite, got an integer beyond any float") from None
        noise = torch.tensor([noise], dtype=torch.float64, device=anchors.device)
    if not noise.is_floating_point():
        raise TypeError(f"noise must be float32 or float64, got {noise.dtype}")
    if noise.dim() == 0:
        noise = noise[None]
    if noise.shape[-1] not in (1, anchors.shape[-1]):
        raise ValueError(
            f"noise has shape {list(noise.shape)} but its last dimension must be 1 or "
            f"{anchors.shape[-1]}, the number of anchors: one for each matrix of a batch is [*b, 1]"
        )
    if not (all_finite(noise) and bool((noise >= 0).all())):
        wrong = ~((noise >= 0) & noise.isfinite())
        raise ValueError(
            f"noise must be finite and not negative, got {noise[wrong][0].item():g}: it is a "
            "variance"
        )
    return noise


def split(observed: object, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Observed numbers, and the others in ascending order."""
    if not isinstance(observed, Tensor):
        try:
            observed = torch.as_tensor(observed)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                "observed_index must be int64 [k] or a bool mask [n], got "
                f"{type(observed).__name__}"
            ) from None
        if observed.numel() == 0:
            observed = observed.long()
    if observed.dtype is torch.bool:
        if observed.shape != (n,):
            raise ValueError(
                f"observed_index is a mask of shape {list(observed.shape)}, but must be [{n}]"
            )
        observed = observed.nonzero()[:, 0]
    if observed.dtype.is_floating_point or observed.is_complex() or observed.dim() != 1:
        raise TypeError("observed_index must be int64 [k] or a bool mask [n]")
    observed = observed.to(device, torch.int64)
    observed = torch.where(observed < 0, observed + n, observed)
    if bool(((observed < 0) | (observed >= n)).any()):
        raise IndexError(f"observed_index has entries outside 0..{n - 1}")
    mask = torch.ones(n, dtype=torch.bool, device=device)
    mask[observed] = False
    rest = mask.nonzero()[:, 0]
    if rest.numel() != n - observed.numel():
        raise ValueError("observed_index names an anchor twice")
    return observed, rest
