"""A browser for the axes of a model and their rows, as one HTML file that needs no network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sklearn.utils.validation import check_is_fitted

from laplex._support.complete_files import replacing
from laplex._support.optional import require

from ..coding import rows_for
from ..estimator import CEDAR
from ..naming import AxisNames
from ..page_inputs import RowExamples, check_names, found_names
from ..settings import whole

__all__ = ["browse"]

#: Number of characters after which the text of a row is cut off.
_LONGEST_TEXT = 500


def browse(
    cedar: CEDAR,
    embeddings: Any,
    *,
    out: str | os.PathLike[str] = "cedar-browser.html",
    names: AxisNames | None = None,
    words: Sequence[str] | None = None,
    text_embeddings: Any = None,
    items: Sequence[str | None] | None = None,
    thumbnails: Sequence[Any] | None = None,
    examples: int = 9,
    thumbnail_size: int = 64,
    title: str = "CEDAR axes",
    progress: bool = False,
) -> Path:
    r"""Write all axes of a model and the codes of rows as one HTML file to browse.

    The page lists the axes, to be searched by name and sorted by energy, stability, frequency or
    name, and the rows, to be searched by number and text. It shows of an axis the names and the
    example rows of both ends, a histogram of its coefficients, how stable it is, and the axes that
    are large in the same rows; and of a row its code. Addresses such as ``page.html#axis-12`` and
    ``page.html#row-345`` lead to an axis or a row. Everything works with the keyboard alone.

    Parameters
    ----------
    cedar : CEDAR
        A fitted model, ideally with ``n_init=3`` or more. With fewer starts, the page warns that
        the axes may be accidents of the rows or of the seed.
    embeddings : array, Tensor or memory map ``[n, d]``; or batches of them
        Embeddings of the rows. They are read once, so a generator of batches is accepted.
    out : path
        File to write; it replaces an older file when it is complete.
    names : AxisNames, optional
        Names from `name_axes`. By default they come from ``words`` and ``text_embeddings``; without
        those, the axes have no names.
    words : sequence of str ``[m]``, optional
        Words, as in `name_axes`.
    text_embeddings : array, Tensor or memory map ``[m, d]``, optional
        Embeddings of the words, as in `name_axes`.
    items : sequence of str ``[n]``, optional
        Texts of the rows; None for a row without one. They are cut off after 500 characters. Where
        the thumbnails are paths, the default is the names of the files.
    thumbnails : sequence ``[n]``, optional
        Pictures of the rows: paths, PIL images, or arrays ``[h, w]``, ``[h, w, 3]`` or
        ``[h, w, 4]`` of uint8 or of floats from 0 to 1. Only those of the examples are read.
    examples : int
        Number of example rows for each end of each axis.
    thumbnail_size : int
        Longest side of a thumbnail in pixels; smaller pictures keep their pixels.
    title : str
        Title of the page.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ImportError
        If Jinja or (for thumbnails) Pillow is missing; the message names the extra.
    TypeError, ValueError
        If sizes disagree, arguments exclude each other, or a picture cannot be read.

    Warns
    -----
    UnconfirmedNamesWarning
        If axes are named and the model has no confirmation.

    Notes
    -----
    Names and texts are shown as they are and never run as markup or script; a
    Content-Security-Policy of the page forbids everything but its own script and style.

    The file takes :math:`(16 k + 32) / 3` bytes for the code of a row, plus its text, some 600
    bytes for each axis, and about a kilobyte for each different row among the examples if there are
    thumbnails of 64 pixels. Coefficients of rows are stored in half precision with a scale for each
    row, which shows three digits. For millions of rows, pass a sample of them. Memory is
    O(n k + axes d).

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from laplex.cedar import CEDAR, browse
    >>> random = np.random.default_rng(0)
    >>> rows = random.standard_normal((2000, 3)) * (random.random((2000, 3)) < 0.3)
    >>> model = CEDAR(k=1, random_state=0).fit(rows)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = browse(model, rows, out=f"{folder}/axes.html")
    ...     page.name
    'axes.html'
    """
    require("jinja2", extra="cedar", feature="laplex.cedar.browse")
    from .contents import gather
    from .page import render

    check_is_fitted(cedar)
    whole("examples", examples)
    whole("thumbnail_size", thumbnail_size)
    rows = rows_for(cedar.fitted_, embeddings, device=cedar.device)
    check_names(names, words, text_embeddings, cedar.fitted_.axes)
    described = RowExamples(_items(items, thumbnails), thumbnails, _LONGEST_TEXT, rows.count)
    path = Path(out)
    with replacing(path) as part:  # made at once, to fail before the work
        names = found_names(cedar, names, words, text_embeddings)
        contents = gather(cedar, rows, examples, progress)
        described.check_count(len(contents.entries))
        html = render(
            cedar=cedar,
            contents=contents,
            names=names,
            rows=described,
            thumbnail_size=thumbnail_size,
            title=title,
            progress=progress,
        )
        part.write_text(html, encoding="utf-8")
    return path


def _items(
    items: Sequence[str | None] | None, thumbnails: Sequence[Any] | None
) -> Sequence[str | None] | None:
    if items is not None or thumbnails is None:
        return items
    if all(isinstance(one, (str, os.PathLike)) for one in thumbnails):
        return [Path(one).name for one in thumbnails]
    return None
