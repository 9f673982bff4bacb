"""Conversion of images of several kinds to RGB pictures of Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from laplex._support.optional import require

if TYPE_CHECKING:
    from PIL.Image import Image

#: One image: the path of a file, a picture of Pillow, or uint8 [h, w], [h, w, 1] or [h, w, 3].
ImageLike: TypeAlias = "str | Path | Image | npt.NDArray[np.uint8]"
#: Several: a list of them, or an array [n, h, w], [n, h, w, 1] or [n, h, w, 3].
Images: TypeAlias = "Sequence[ImageLike] | npt.NDArray[np.uint8]"


def check_images(images: Any) -> Sequence[ImageLike]:
    """Check that images are a sequence of accepted kinds, and return them.

    Files are not opened yet.

    Raises
    ------
    TypeError, ValueError
        If images are of another kind, or there are none.
    """
    pillow = require("PIL.Image", extra="encoders", feature="encode_images")
    if isinstance(images, (str, Path, pillow.Image)):
        raise TypeError("images must be a list of images, got a single one: pass [image]")
    if isinstance(images, np.ndarray):
        if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
            raise ValueError(
                "images must have shape [n, height, width], [n, height, width, 1] or "
                f"[n, height, width, 3], got {images.shape}"
            )
    elif not isinstance(images, Sequence):
        raise TypeError(
            "images must be a list of paths, Pillow images or uint8 arrays, or one uint8 array "
            f"[n, height, width, 3], got {type(images).__name__}"
        )
    items: Sequence[ImageLike] = images  # of an array, each item is an image too
    if len(items) == 0:
        raise ValueError("images must not be empty")
    for number, image in enumerate(items):
        if isinstance(image, np.ndarray):
            _check_array(f"images[{number}]", image)
        elif not isinstance(image, (str, Path, pillow.Image)):
            raise TypeError(
                f"images[{number}] must be a path, a Pillow image or a uint8 array, got "
                f"{type(image).__name__}"
            )
    return items


def as_rgb(name: str, image: ImageLike) -> Image:
    """Return an image as a picture of mode RGB; grey is repeated, and transparency is dropped.

    Parameters
    ----------
    name : str
        Name of the image in messages.
    image : path, PIL image or ndarray
        The image.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a file is not an image or is damaged, or an image has more than 8 bits per channel.
    """
    pillow = require("PIL.Image", extra="encoders", feature="encode_images")
    if isinstance(image, (str, Path)):
        try:
            with pillow.open(image) as opened:
                return _converted(name, opened)
        except FileNotFoundError:
            raise
        except OSError as error:  # Pillow's own says which file only if it is no image at all
            raise ValueError(f"{name} cannot be read from {image}: {error}") from error
    if isinstance(image, np.ndarray):
        height, width = image.shape[:2]
        channels = np.broadcast_to(image.reshape(height, width, -1), (height, width, 3))
        picture: Image = pillow.fromarray(np.ascontiguousarray(channels))
        return picture
    return _converted(name, image)


def _converted(name: str, picture: Image) -> Image:
    # Pillow converts these by clipping at 255, which gives white pictures without a warning.
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        raise ValueError(
            f"{name} has the mode {picture.mode}, more than 8 bits per channel: scale it to uint8"
        )
    return picture.convert("RGB")


def _check_array(name: str, image: npt.NDArray[Any]) -> None:
    if image.dtype != np.uint8:
        raise TypeError(f"{name} must be uint8, 0 to 255, got {image.dtype}: scale and convert it")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise ValueError(
            f"{name} must have shape [height, width], [height, width, 1] or [height, width, 3], "
            f"got {image.shape}"
        )
    if image.size == 0:
        raise ValueError(f"{name} has no pixels: its shape is {image.shape}")
