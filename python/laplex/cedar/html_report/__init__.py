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
from ..naming import AxisNames, name_axes
from ..settings import checked_ks, whole

if TYPE_CHECKING:
    from ..baselines import Comparison

__all__ = ["report"]

#: Numbers of entries at which CEDAR and its baselines are compared, as far as they are below d.
_COMPARED_KS = (4, 16, 32, 64)
#: Number of rows shown for each end of an axis.
_EXAMPLES = 9


def report(
    cedar: CEDAR,
    embeddings: Any,
    *,
    out: str | os.PathLike[str] = "cedar-report.html",
    names: AxisNames | None = None,
    words: Sequence[str] | None = None,
    text_embeddings: Any = None,
    items: Sequence[str] | None = None,
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
        Texts of the rows, to show as examples.
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
    from .thumbnails import thumbnail

    check_is_fitted(cedar)
    whole("max_axes", max_axes)
    rows = rows_for(cedar.fitted_, embeddings, device=cedar.device)
    _check_names(names, words, text_embeddings, cedar.fitted_.axes)
    if compare and comparison is None and rows.count is None:
        raise ValueError(
            "compare=True cannot split embeddings that come in batches: pass an array, or "
            "comparison=compare(..., test=...), or compare=False"
        )
    if rows.count is not None:
        _check_counts(items, thumbnails, rows.count)
    path = Path(out)
    if thumbnails is not None and len(thumbnails):
        thumbnail(thumbnails[0], 0)  # fails before the comparison, not after it
    with replacing(path) as part:  # made at once, for the same reason
        if names is None and words is not None:
            names = name_axes(cedar, text_embeddings, words)
        measured = measure(cedar, rows, checked_ks(cedar.k), _EXAMPLES, progress)
        _check_counts(items, thumbnails, measured.count)
        if comparison is None and compare:
            comparison = _compared(cedar, embeddings, rows.dim, progress)
        html = page.render(
            cedar=cedar,
            measured=measured,
            names=names,
            items=items,
            thumbnails=thumbnails,
            comparison=comparison,
            max_axes=max_axes,
            title=title,
        )
        part.write_text(html, encoding="utf-8")
    return path


def _check_names(
    names: AxisNames | None, words: Sequence[str] | None, text_embeddings: Any, dim: int
) -> None:
    if names is not None and (words is not None or text_embeddings is not None):
        raise ValueError("pass names, or words and text_embeddings to find them, not both")
    if (words is None) != (text_embeddings is None):
        raise ValueError("words and text_embeddings go together: pass both or neither")
    if names is not None and len(names) != dim:
        raise ValueError(f"names describe {len(names)} axes, but the model has {dim}")


def _check_counts(
    items: Sequence[str] | None, thumbnails: Sequence[Any] | None, count: int
) -> None:
    for what, examples in (("items", items), ("thumbnails", thumbnails)):
        if examples is not None and len(examples) != count:
            raise ValueError(
                f"{what} and embeddings must have the same length, got {len(examples)} and {count} "
                "rows"
            )


def _compared(cedar: CEDAR, embeddings: Any, dim: int, progress: bool) -> Comparison:
    from ..baselines import compare

    ks = checked_ks(cedar.k)
    columns = sorted({k for k in (*_COMPARED_KS, *ks) if k < dim} or {dim})
    fresh = clone(cedar).set_params(n_init=1)
    # One fit, for the middle k of the model: a fit for each k of the table would take minutes.
    return compare(embeddings, columns, cedar=fresh, fit_k=ks[len(ks) // 2], progress=progress)
