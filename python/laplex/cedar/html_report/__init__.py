"""A report on a fitted model, as one HTML file that needs no network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from laplex._support.complete_files import replacing
from laplex._support.optional import require

from ..coding import rows_for
from ..estimator import CEDAR
from ..naming import AxisNames
from ..page_inputs import RowExamples, check_names, found_names
from ..settings import checked_ks, whole

if TYPE_CHECKING:
    from ..baselines import Comparison

__all__ = ["report"]

#: Numbers of entries at which CEDAR and its baselines are compared, as far as they are below d.
_COMPARED_KS = (4, 16, 32, 64)
#: Number of rows shown for each end of an axis.
_EXAMPLES = 9
#: Number of characters after which the text of a row is cut off.
_LONGEST_TEXT = 160


def report(
    cedar: CEDAR,
    embeddings: Any,
    *,
    out: str | os.PathLike[str] = "cedar-report.html",
    names: AxisNames | None = None,
    words: Sequence[str] | None = None,
    text_embeddings: Any = None,
    items: Sequence[str | None] | None = None,
    thumbnails: Sequence[Any] | None = None,
    comparison: Comparison | None = None,
    compare: bool = True,
    max_axes: int = 24,
    title: str = "CEDAR report",
    progress: bool = False,
) -> Path:
    """Write a report on a model and its axes as one HTML file.

    The report shows the variance explained against the size of a code, with baselines and null
    controls; the axes with names and examples for both ends; which axes other rows confirm; and how
    often they fire.

    Parameters
    ----------
    cedar : CEDAR
        A fitted model, ideally with ``n_init=3`` or more. With fewer starts, the report warns that
        the axes may be accidents of the rows or of the seed.
    embeddings : array, Tensor or memory map ``[n, d]``; or batches of them
        Embeddings to measure on; rows that the fit has not seen say more. With ``comparison`` or
        ``compare=False``, an iterable of batches that can be iterated only once is accepted.
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
        Texts of the rows, to show as examples; None for a row without one.
    thumbnails : sequence ``[n]``, optional
        Pictures of the rows, to show as examples: paths, PIL images, or arrays ``[h, w]``,
        ``[h, w, 3]`` or ``[h, w, 4]`` of uint8 or of floats from 0 to 1. Only the pictures shown
        are read.
    comparison : Comparison, optional
        Result of `compare`, for the section on baselines.
    compare : bool
        Whether to run `compare` if no ``comparison`` is given. This fits a model with the same
        settings and every baseline to four fifths of the embeddings, and takes one or more minutes.
    max_axes : int
        Number of axes to show: first those that are confirmed, then by their share of the energy of
        the codes.
    title : str
        Title of the page.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ImportError
        If matplotlib, Jinja or (for thumbnails) Pillow is missing; the message names the extra.
    TypeError, ValueError
        If sizes disagree, or arguments exclude each other.

    Warns
    -----
    UnconfirmedNamesWarning
        If axes are named and the model has no confirmation.
    """
    for package in ("matplotlib", "jinja2"):
        require(package, extra="cedar", feature="laplex.cedar.report")
    from . import page
    from .measuring import measure

    check_is_fitted(cedar)
    whole("max_axes", max_axes)
    rows = rows_for(cedar.fitted_, embeddings, device=cedar.device)
    check_names(names, words, text_embeddings, cedar.fitted_.axes)
    if compare and comparison is None and rows.count is None:
        raise ValueError(
            "compare=True cannot split embeddings that come in batches: pass an array, or "
            "comparison=compare(..., test=...), or compare=False"
        )
    described = RowExamples(items, thumbnails, _LONGEST_TEXT, rows.count)
    path = Path(out)
    with replacing(path) as part:  # made at once, to fail before the comparison
        names = found_names(cedar, names, words, text_embeddings)
        measured = measure(cedar, rows, checked_ks(cedar.k), _EXAMPLES, progress)
        described.check_count(measured.count)
        if comparison is None and compare:
            comparison = _compared(cedar, embeddings, rows.dim, progress)
        html = page.render(
            cedar=cedar,
            measured=measured,
            names=names,
            described=described,
            comparison=comparison,
            max_axes=max_axes,
            title=title,
        )
        part.write_text(html, encoding="utf-8")
    return path


def _compared(cedar: CEDAR, embeddings: Any, dim: int, progress: bool) -> Comparison:
    from ..baselines import compare

    ks = checked_ks(cedar.k)
    columns = sorted({k for k in (*_COMPARED_KS, *ks) if k < dim} or {dim})
    fresh = clone(cedar).set_params(n_init=1)
    # One fit, for the middle k of the model: a fit for each k of the table would take minutes.
    return compare(embeddings, columns, cedar=fresh, fit_k=ks[len(ks) // 2], progress=progress)
