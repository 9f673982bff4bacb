"""HTML pages that need nothing else: no network, no script, no other file.

A page extends ``pages/base.html``, takes its tables and pictures from ``pages/elements.html``, and
has the style of ``pages/style.css``. What is put into it is escaped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from .data_uris import figure_uri, picture_uri
from .optional import require


class Table(NamedTuple):
    """A table of texts; `best` are (row, column) of the cells to stand out."""

    columns: Sequence[str]
    rows: Iterable[Sequence[str]]
    best: Collection[tuple[int, int]] = ()


def render_page(package: str, template: str, *, extra: str, **values: Any) -> str:
    """The page of a template, as HTML.

    Parameters
    ----------
    package : str
        Where the template is, and those that it includes.
    template : str
        Its file's name.
    extra : str
        Of Laplex, which brings Jinja to the caller.
    **values
        What the template names.

    Raises
    ------
    ImportError
        Jinja is missing; the message names the extra.
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
    environment.filters["data_uri"] = lambda content: (
        picture_uri(content, "png") if isinstance(content, bytes) else figure_uri(content)
    )
    page: str = environment.get_template(template).render(values)
    return page
