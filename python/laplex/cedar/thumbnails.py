"""Thumbnails of rows as data URIs."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np

from laplex._support.html_pages import picture_uri
from laplex._support.optional import require

#: Pictures up to this side in pixels are kept without loss, and their pixels stay sharp.
_ROUGH = 48


def thumbnail(picture: Any, row: int, side: int = 112) -> tuple[str, bool]:
    """Return a picture as the data URI of a WebP file, and whether its pixels should stay sharp.

    Parameters
    ----------
    picture : path, PIL image, or array ``[h, w]``, ``[h, w, 3]``, ``[h, w, 4]``
        Arrays of uint8 or bool, or floats from 0 to 1.
    row : int
        Number of the row, for messages.
    side : int
        Longest side of a thumbnail in pixels; smaller pictures keep their pixels.

    Raises
    ------
    ImportError
        If Pillow is missing.
    ValueError
        If the input cannot be read as a picture.
    """
    pil = require("PIL.Image", extra="cedar", feature="thumbnails")
    name = f"thumbnails[{row}]"
    if isinstance(picture, (str, os.PathLike)):
        try:
            with pil.open(picture) as opened:
                return _encoded(opened, side)
        except (OSError, pil.DecompressionBombError) as error:
            raise ValueError(f"{name} cannot be read: {error}") from error
    if isinstance(picture, pil.Image):
        return _encoded(picture, side)
    array = np.asarray(picture)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    flat = array.ndim == 2
    if not array.size or not (flat or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ValueError(
            f"{name} must be a picture [h, w], [h, w, 3] or [h, w, 4], got shape "
            f"{list(array.shape)}"
        )
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ValueError(f"{name} must hold floats from 0 to 1, or uint8: scale it")
        array = np.rint(255 * array).astype(np.uint8)
    elif array.dtype.kind == "b":
        array = 255 * array.astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(f"{name} must hold uint8, or floats from 0 to 1, got {array.dtype}")
    return _encoded(pil.fromarray(np.ascontiguousarray(array)), side)


def _encoded(image: Any, side: int) -> tuple[str, bool]:
    clear = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    small = image.convert("RGBA" if clear else "RGB")
    rough = max(small.size) <= _ROUGH
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", lossless=rough, quality=70, method=2)
    return picture_uri(buffer.getvalue(), "webp"), rough
