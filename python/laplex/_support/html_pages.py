"""Self-contained HTML pages, which need no network, no script and no other file.

A page extends ``pages/base.html``, takes its tables and pictures from ``pages/elements.html``, and
has the style of ``pages/style.css``. Values are escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .optional import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Table(NamedTuple):
    """A table of strings; ``best`` lists (row, column) of the cells to highlight."""

    columns: Sequence[str]
    rows: Iterable[Sequence[str]]
    best: Collection[tuple[int, int]] = ()


def render_page(package: str, template: str, *, extra: str, **values: Any) -> str:
    """Render a template as HTML.

    Parameters
    ----------
    package : str
        The package that contains the template and those that it includes.
    template : str
        The file name of the template.
    extra : str
        The extra of Laplex that installs Jinja.
    **values
        The variables of the template.

    Raises
    ------
    ImportError
        If Jinja is not installed; the message names the extra.
    """
    jinja2 = require("jinja2", extra=extra, feature=package)
    loaders = [jinja2.PackageLoader(package, ""), jinja2.PackageLoader(__package__, "pages")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = lambda content: picture_uri(
        content if isinstance(content, bytes) else png_of(content), "png"
    )
    page: str = environment.get_template(template).render(values)
    return page


def png_of(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def picture_uri(picture: bytes, form: str) -> str:
    """Return a picture file as a data URI; ``form`` is ``"png"`` or ``"jpeg"``."""
    return f"data:image/{form};base64," + base64.b64encode(picture).decode("ascii")
