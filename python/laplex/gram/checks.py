"""Checks of the arguments of `laplex.gram`; messages name the argument and the remedy."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from math import inf, isfinite
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import _core
from ..numpy import checks as validation
from ..torch.call import conversion_of

#: Up to about this many numbers, an operator of torch takes longer than what it does.
_FEW = 4096

#: What `as_tensor` converts to a tensor.
ArrayLike: TypeAlias = "Tensor | npt.NDArray[Any] | Sequence[Any]"
ScalarLike: TypeAlias = "float | ArrayLike"


def all_finite(tensor: Tensor, factor: float = 1.0) -> bool:
    """Whether a tensor times a factor has no NaN and no infinity, in float64."""
    count, is_double = tensor.numel(), tensor.dtype is torch.float64
    known = is_double or tensor.dtype is torch.float32
    if known and tensor.is_cpu and count < _FEW and tensor.is_contiguous():
        return _core.all_finite(tensor.data_ptr(), count, is_double, factor)
    tensor = tensor.detach()
    if factor != 1.0:
        tensor = factor * tensor.double()
    return isfinite(tensor.sum().item()) or bool(tensor.isfinite().all())  # mostly the sum decides


def all_of(numbers: float | Tensor, condition: Callable[[Any], Any]) -> bool:
    """Whether a condition holds for a number, or for all numbers in a tensor."""
    if type(numbers) is not float and isinstance(numbers, Tensor):
        if numbers.numel() != 1:
            return bool(condition(numbers).all())
        numbers = numbers.item()
    return bool(condition(numbers))


def positive(numbers: float | Tensor) -> bool:
    """Whether a number, or all numbers in a tensor, are positive and finite."""
    if type(numbers) is float:
        return 0 < numbers < inf
    return all_of(numbers, lambda each: (each > 0) & (each < inf))


def broadcast(*shapes: Sequence[int]) -> torch.Size:
    """Broadcast shapes; ``torch.broadcast_shapes`` is slow and is called only if needed."""
    if not any(shapes):
        return torch.Size()
    return torch.Size(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]


def as_tensor(
    name: str, value: object, *, integers: torch.dtype = torch.float64, exact: bool = True
) -> Tensor:
    """Return a tensor as it is, or copy a NumPy array or numbers in a list to the CPU.

    Integers and booleans in an array are converted to the dtype `integers`. With `exact`, integers
    that this dtype would round raise an error.
    """
    if isinstance(value, Tensor):
        return value
    on_gpu = validation.is_on_gpu(value)
    if isinstance(value, (list, tuple)):
        if _has_tensor(value):  # whose derivatives NumPy would lose
            raise TypeError(f"{name} is a {type(value).__name__} of tensors: use torch.stack")
    elif on_gpu or not hasattr(value, "__array__"):
        raise TypeError(
            f"{name} must be a torch tensor or a NumPy array, got {type(value).__name__}: use "
            + (conversion_of(value) if on_gpu else "torch.as_tensor or numpy.asarray")
        )
    array = validation.as_array(name, value)
    if array.dtype.kind in "iub":
        dtype = np.dtype(str(integers).removeprefix("torch."))
        array = validation.without_loss(name, array, dtype) if exact else array.astype(dtype)
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        raise TypeError(f"{name} must be float32 or float64, got {array.dtype}")
    return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))


def is_array_like(value: object) -> bool:
    """Whether `as_tensor` is to convert an argument that may also be a number or a tensor."""
    return isinstance(value, (np.ndarray, list, tuple))


def _has_tensor(value: Iterable[object]) -> bool:
    """Whether there is a tensor in nested lists."""
    return any(
        isinstance(each, Tensor) or (isinstance(each, (list, tuple)) and _has_tensor(each))
        for each in value
    )


def copied(given: Sequence[object]) -> list[object]:
    """Copies of tensors and numbers for a later comparison by `same_contents`."""
    return [each.detach().clone() if isinstance(each, Tensor) else each for each in given]


def same_contents(one: Sequence[object], two: Sequence[object]) -> bool:
    """Whether two lists of tensors and numbers are equal; synchronises with a GPU once."""
    if len(one) != len(two):
        return False
    differs = []
    for a, b in zip(one, two, strict=True):
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            if a is not b and (isinstance(a, Tensor) or isinstance(b, Tensor) or a != b):
                return False
        elif a.shape != b.shape or a.dtype is not b.dtype or a.device != b.device:
            return False
        elif a.is_cpu:
            if not torch.equal(a, b):
                return False
        else:
            differs.append((a != b).any())
    if (
        not differs or torch.cuda.is_current_stream_capturing()
    ):  # nothing can be compared during a capture
        return True
    return not bool(torch.stack(differs).any())


def expanded(part: float | Tensor, shape: Sequence[int], like: Tensor) -> Tensor:
    """Expand a number or a tensor to a shape."""
    return part.expand(shape) if isinstance(part, Tensor) else like.new_full(shape, part)


def supported(device: torch.device) -> None:
    """Raise an error for devices that Laplex does not support."""
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
    """Raise an error under a transform of ``torch.func``, which the compiled core cannot follow."""
    if torch._C._are_functorch_transforms_active():
        raise NotImplementedError(
            "laplex.gram does not support the transforms of torch.func: use torch.autograd, and "
            "leading dimensions in place of vmap"
        )


def no_forward_mode(tensors: Iterable[Tensor]) -> None:
    """Raise an error for tensors with tangents, which the compiled core cannot follow."""
    if forward_ad._current_level >= 0 and any(
        _unpack_dual(each).tangent is not None for each in tensors
    ):
        raise NotImplementedError(
            "LaplaceGram supports forward-mode derivatives only for matvec of Term and Matern "
            "terms: use torch.autograd.grad"
        )


_unpack_dual: Any = forward_ad.unpack_dual


def sample_shape(shape: object) -> tuple[int, ...]:
    """The leading dimensions of samples as a tuple; a single integer is one dimension."""
    numbers: Iterable[Any] = shape if isinstance(shape, Iterable) else (shape,)
    try:
        sizes = tuple(operator.index(size) for size in numbers)
    except TypeError:
        raise TypeError(f"shape must be a sequence of integers, got {shape!r}") from None
    if any(size < 0 for size in sizes):
        raise ValueError(f"shape must not be negative, got {sizes}")
    return sizes


def same_device(named: dict[str, object], device: torch.device) -> None:
    """Raise an error for tensors on another device than the anchors."""
    for name, value in named.items():
        if type(value) is not float and isinstance(value, Tensor) and value.device != device:
            raise ValueError(
                f"{name} is on {value.device}, but anchors is on {device}: move it with "
                f"{name}.to({str(device)!r})"
            )


def checked_anchors(anchors: object) -> Tensor:
    """Check anchors ``[*b, n]`` and return them as a tensor."""
    anchors = as_tensor("anchors", anchors)
    if anchors.dtype is not torch.float64 and anchors.dtype is not torch.float32:
        raise TypeError(f"anchors must be float32 or float64, got {anchors.dtype}")
    if anchors.dim() == 0:
        raise ValueError("anchors must have shape [..., n], got a scalar: pass it as [x]")
    supported(anchors.device)
    if not all_finite(anchors):
        raise ValueError("anchors must be finite, but have a NaN or an infinity")
    return anchors


def checked_noise(noise: object, anchors: Tensor) -> Tensor | None:
    """Check a noise variance and return it as a tensor ``[*b, n]`` or ``[*b, 1]``."""
    if noise is None:
        return None
    if type(noise) is float and 0 <= noise < inf:
        return _one(noise, anchors)
    known = isinstance(noise, (Real, list, tuple)) or hasattr(noise, "__array__")
    if isinstance(noise, bool) or not known:
        raise TypeError(
            f"noise must be a float, a tensor, an array or None, got {type(noise).__name__}"
        )
    if isinstance(noise, Real):
        try:
            noise = float(noise)
        except OverflowError:
            raise ValueError("noise must be finite, got an integer beyond any float") from None
        noise = _one(noise, anchors)
    noise = as_tensor("noise", noise)
    if not noise.is_floating_point():
        raise TypeError(f"noise must be float32 or float64, got {noise.dtype}")
    if noise.dim() == 0:
        noise = noise[None]
    if noise.shape[-1] not in (1, anchors.shape[-1]):
        raise ValueError(
            f"noise has shape {list(noise.shape)} but its last dimension must be 1 or "
            f"{anchors.shape[-1]}, the number of anchors: pass shape [*b, 1] for one variance per "
            "matrix of a batch"
        )
    if not all_of(noise, lambda variance: (variance >= 0) & (variance < inf)):
        wrong = ~((noise >= 0) & noise.isfinite())
        raise ValueError(
            f"noise must be finite and not negative, got {noise[wrong][0].item():g}: it is a "
            "variance"
        )
    return noise


def _one(number: float, like: Tensor) -> Tensor:
    """A float64 tensor ``[1]``, in a third of the time of ``torch.full``."""
    tensor = torch.from_numpy(np.array((number,)))
    return tensor if like.is_cpu else tensor.to(like.device)


def split(observed: object, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The observed indices, and the remaining ones in ascending order."""
    if not isinstance(observed, Tensor):
        try:
            observed = torch.from_numpy(np.array(observed))
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
        raise ValueError("observed_index contains an anchor twice: give each index once")
    return observed, rest
