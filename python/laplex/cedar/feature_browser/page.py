"""The browser as one HTML page: ``page.html``, ``browser.css``, ``browser.js`` and the data."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from laplex._support.html_pages import render_page
from laplex._support.progress import progress_bar

from ..confirmation import MIN_STARTS
from ..estimator import CEDAR
from ..metrics.inputs import Array
from ..naming import AxisNames, Name
from ..page_inputs import RowExamples, known_axes
from .contents import BINS, SIMILAR, Contents

#: Rows of a block of the page, which is decoded at once. An axis that is opened needs the blocks of
#: all its examples, so they are small.
BLOCK = 256


def render(
    *,
    cedar: CEDAR,
    contents: Contents,
    names: AxisNames | None,
    rows: RowExamples,
    thumbnail_size: int,
    title: str,
    progress: bool,
) -> str:
    """Render the browser as HTML, as `laplex.cedar.browse` describes it."""
    count, k = contents.entries.shape
    known = known_axes(cedar, names)
    pictures, rough = _pictures(rows, contents, thumbnail_size, progress)
    meta = {
        "title": title,
        "axes": len(contents.share),
        "rows": count,
        "k": k,
        "block": BLOCK,
        "bins": BINS,
        "similar": SIMILAR,
        "examples": contents.examples.positive.shape[1],
        "texts": rows.items is not None,
        "pictures": rows.thumbnails is not None,
        "rough": rough,
        "names": None
        if names is None
        else [[_listed(one.positive), _listed(one.negative)] for one in names],
    }
    arrays = {name: _base64(values) for name, values in _arrays(cedar, contents, known).items()}
    return render_page(
        __package__,
        "page.html",
        extra="cedar",
        title=title,
        about=_about(cedar, contents),
        k=k,
        named=names is not None and any(axis.named for axis in names),
        threshold=None if names is None else names.threshold,
        tested=None not in known,
        stability=cedar.confirmation_ is not None,
        enough_starts=MIN_STARTS,
        texts=rows.items is not None,
        contents=[("meta", _json(meta)), *arrays.items()],
        blocks=_blocks(contents, rows, pictures),
    )


def _about(cedar: CEDAR, contents: Contents) -> str:
    return (
        f"The model has {cedar.fitted_.axes:,} axes, of which a code uses at most {cedar.k_}. "
        f"Its basis is {cedar.basis}; it was fitted to {cedar.n_samples_seen_:,} embeddings. This "
        f"page has the codes of {len(contents.entries):,} embeddings."
    )


# -------------------------------------------------------------------------------------------- data


def _arrays(cedar: CEDAR, contents: Contents, known: Sequence[bool | None]) -> dict[str, Any]:
    """Arrays of the axes, in the precision of the page."""
    examples = contents.examples
    confirmation = cedar.confirmation_
    found: dict[str, tuple[Any, str]] = {
        "confirmed": ([2 if one is None else int(one) for one in known], "u1"),
        "share": (contents.share, "<f4"),
        "order": (np.argsort(-contents.share, kind="stable"), "<u4"),
        "counts": (contents.counts, "<u4"),
        "limits": (contents.limits, "<f4"),
        "histograms": (contents.histograms, "<u4"),
        "similar": (contents.similar, "<i4"),
        "similar-cosines": (contents.cosines, "<f4"),
        "example-rows": (np.stack([examples.positive, examples.negative], axis=1), "<i4"),
        "example-values": (
            np.stack([examples.positive_codes, examples.negative_codes], axis=1),
            "<f4",
        ),
    }
    if confirmation is not None:
        found["stability"] = (np.sort(confirmation.cosine, axis=0)[-2], "<f4")
        found["q"] = (confirmation.q, "<f4")
    return {name: np.asarray(values).astype(form) for name, (values, form) in found.items()}


def _blocks(
    contents: Contents, rows: RowExamples, pictures: dict[int, str]
) -> Iterator[tuple[str, str]]:
    """Yield the blocks of rows: codes, texts and pictures, by name."""
    count = len(contents.entries)
    index = np.dtype("<u2" if len(contents.share) <= 65536 else "<u4")
    for number, start in enumerate(range(0, count, BLOCK)):
        block = range(start, min(start + BLOCK, count))
        axes = contents.entries[block.start : block.stop].astype(index)
        values = contents.values[block.start : block.stop]
        # A scale for each row, so that an outlier does not round the others to 0. The largest value
        # of a row becomes 1024, in the middle of the range of float16.
        largest = np.abs(values).max(axis=1, keepdims=True, initial=0.0)
        scales = np.maximum(largest / 1024, np.finfo(np.float64).tiny).astype("<f8")
        yield f"codes-{number}", _base64(scales, axes, (values / scales).astype("<f2"))
        if rows.items is not None:
            yield f"texts-{number}", _json([rows.text(row) for row in block])
        if rows.thumbnails is not None:
            lines = "\n".join(pictures.get(row, "") for row in block)
            yield f"pictures-{number}", Markup(lines)  # noqa: S704  (base64)


def _pictures(
    rows: RowExamples, contents: Contents, side: int, progress: bool
) -> tuple[dict[int, str], bool]:
    """The WebP files of the rows that are examples, in base64; and whether all are small."""
    if rows.thumbnails is None:
        return {}, False
    examples = contents.examples
    shown = np.unique(np.concatenate([examples.positive, examples.negative]))
    shown = shown[shown >= 0]
    found, small = {}, True
    with progress_bar(progress, extra="cedar") as report:
        for place, row in enumerate(shown.tolist()):
            picture = rows.picture(row, side)
            assert picture is not None
            found[row] = picture[0].partition(",")[2]
            small = small and picture[1]
            report("reading pictures", place + 1, len(shown), "")
    return found, small


def _listed(name: Name | None) -> list[str] | None:
    if name is None:
        return None
    return [name.word, f"{name.score:.3f}", f"{name.margin:.3f}", name.runner_up]


def _json(value: Any) -> Markup:
    """JSON for a script element, which no text can end: a tag needs the character `<`."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704


def _base64(*arrays: Array) -> Markup:
    content = base64.b64encode(b"".join(one.tobytes() for one in arrays))
    return Markup(content.decode("ascii"))  # noqa: S704
