"""Checks of images and masks; messages name the argument and the remedy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from laplex._support.arguments import integer
from laplex._support.arguments import positive as positive
from laplex.torch.call import check_tensor

count = integer


def flat_images(name: str, images: Tensor, dim: int) -> Tensor:
    """Return images [*b, ...] of `dim` numbers each as rows [count, dim].

    An image may be flat or have its own shape. The shortest trailing shape with `dim` numbers is
    that of an image, and the dimensions before it are leading dimensions.
    """
    check_tensor(name, images)
    if images.is_complex() or images.dtype is torch.bool:
        raise TypeError(f"{name} must hold real numbers, got {images.dtype}: use {name}.float()")
    sizes = [math.prod(images.shape[start:]) for start in range(images.dim())]
    if dim not in sizes:
        raise ValueError(
            f"{name} must have {dim} numbers in each image, of shape [..., {dim}] or "
            f"[..., height, width], got shape {tuple(images.shape)}"
        )
    return images.reshape(-1, dim)


def lead_dims(images: Tensor, dim: int) -> int:
    """The number of leading dimensions, those before the shortest trailing shape of `dim`."""
    return max(start for start in range(images.dim()) if math.prod(images.shape[start:]) == dim)


def finite(name: str, rows: Tensor) -> None:
    """Raise an error for NaN and infinity."""
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(
            f"{name} must be finite, but has NaN or infinity: replace these values, or mark them "
            "as missing in the mask of inpaint"
        )


def sample(name: str, images: Tensor, dim: int) -> Tensor:
    """Return images from which a covariance can be learned, as rows [count, dim]."""
    rows = flat_images(name, images, dim)
    if len(rows) < 2:
        raise ValueError(f"{name} must contain at least 2 images for a covariance, got {len(rows)}")
    finite(name, rows)
    return rows


def image_shape(name: str, shape: Sequence[int], dim: int | None = None) -> torch.Size:
    """Return (height, width) or (height, width, channels), of `dim` numbers if that is given."""
    if not isinstance(shape, Sequence) or any(count(name, size) < 1 for size in shape):
        raise TypeError(
            f"{name} must be (height, width) or (height, width, channels), got {shape!r}"
        )
    if len(shape) not in (2, 3) or (dim is not None and math.prod(shape) != dim):
        numbers = "" if dim is None else f" of {dim} numbers"
        raise ValueError(
            f"{name} must be (height, width) or (height, width, channels){numbers}, "
            f"got {tuple(shape)}"
        )
    return torch.Size(shape)


def missing_pixels(mask: Tensor, images: Tensor, dim: int) -> Tensor:
    """Return a mask of missing pixels as bool [count, dim], or [1, dim] for all images.

    The mask may have the shape of all images or of one image, flat or not.
    """
    check_tensor("mask", mask)
    if mask.dtype is not torch.bool:
        raise TypeError(f"mask must be bool, True where a pixel is missing, got {mask.dtype}")
    lead = images.shape[: lead_dims(images, dim)]
    one = images.shape[len(lead) :]
    allowed = {tuple(images.shape), tuple(one), (dim,), (*lead, dim)}
    if tuple(mask.shape) not in allowed:
        raise ValueError(
            f"mask must have the shape of the images {tuple(images.shape)}, or of one of them "
            f"{tuple(one)}, got {tuple(mask.shape)}"
        )
    missing = mask.reshape(-1, dim)
    if bool(missing.all(-1).any()):
        raise ValueError("mask has no observed pixel: leave some False, or use sample()")
    return missing
