"""Checks of images, masks and counts; every message names the argument and the remedy."""

from __future__ import annotations

import math
import operator

import torch
from torch import Tensor

from laplex.torch.call import check_tensor


def count(name: str, value: int, least: int = 1) -> int:
    """Return `value` as an int of at least `least`."""
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return value


def positive(name: str, value: float) -> float:
    """Return `value` as a positive, finite float."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return value


def flat_images(name: str, images: Tensor, dim: int) -> Tensor:
    """Return images [*b, ...] of `dim` numbers each as rows [count, dim].

    An image may be flat or have its own shape: leading dimensions are those before the shortest
    tail with `dim` numbers.
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
    """How many leading dimensions number the images: those before the shortest tail of `dim`."""
    return max(start for start in range(images.dim()) if math.prod(images.shape[start:]) == dim)


def finite(name: str, rows: Tensor) -> None:
    """Refuse NaN and infinity."""
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(
            f"{name} must be finite, but has NaN or infinity: clean it, or give missing pixels any "
            "value and name them in the mask of inpaint"
        )


def missing_pixels(mask: Tensor, images: Tensor, dim: int) -> Tensor:
    """Return a mask of missing pixels, for one image or for all, as bool [count or 1, dim].

    Its shape is that of the images, of one of them, or flat.
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
