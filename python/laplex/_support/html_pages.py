"""Self-contained HTML pages, which need no network and no other file.

A page extends ``pages/base.html``, takes its tables and pictures from ``pages/elements.html``, and
has the style of ``pages/style.css``. Values are escaped. A Content-Security-Policy forbids the
browser to load anything, and to run or apply anything but what the page names by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
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
    environment.filters["content_hash"] = _content_hash
    environment.filters["with_sections"] = _with_sections
    page: str = environment.get_template(template).render(values)
    # Names of files may be no UTF-8, and HTML has no NUL.
    return page.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def png_of(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def picture_uri(picture: bytes, form: str) -> str:
    """Return a picture file as a data URI; ``form`` is ``"png"`` or ``"webp"``."""
    return f"data:image/{form};base64," + base64.b64encode(picture).decode("ascii")


def _content_hash(text: str) -> str:
    """Return the source of a Content-Security-Policy that allows this text alone."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"


def _with_sections(content: Any) -> tuple[Any, list[tuple[str, Any]]]:
    """Give each heading of a section an id, and list the ids with the headings."""
    markup = type(content)  # which marks text that is escaped already
    before, *parts = re.split("<h2>", content)
    names = [f"section-{number}" for number in range(1, len(parts) + 1)]
    html = "".join(f'<h2 id="{name}">{part}' for name, part in zip(names, parts, strict=True))
    headings = [markup(part.partition("</h2>")[0]) for part in parts]
    return markup(before + html), list(zip(names, headings, strict=True))
