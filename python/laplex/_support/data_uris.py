"""Pictures within a page: data URIs."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure_uri(figure: Figure) -> str:
    """The figure as a data URI of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return picture_uri(buffer.getvalue(), "png")


def picture_uri(picture: bytes, form: str) -> str:
    """A picture file as a data URI; `form` is ``"png"`` or ``"jpeg"``."""
    return f"data:image/{form};base64," + base64.b64encode(picture).decode("ascii")
