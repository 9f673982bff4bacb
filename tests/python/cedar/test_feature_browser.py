"""The browser of axes: its numbers are those of the codes. What it does is tested in Chromium."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from html_cases import Page
from laplex.cedar import CEDAR, browse
from laplex.cedar.feature_browser.contents import BINS, gather
from laplex.cedar.feature_browser.page import BLOCK
from laplex.cedar.naming import UnconfirmedNamesWarning
from laplex.cedar.rows import as_rows
from strategies import quick

D = 6


@pytest.fixture(scope="module")
def model() -> CEDAR:
    return CEDAR(k=3, basis="invertible", max_iter=5, random_state=0).fit(rows_of(200))


def rows_of(count: int) -> np.ndarray:
    rng = np.random.default_rng(count)
    return rng.standard_normal((count, D)) * (rng.random((count, D)) < 0.5) + 1.0


def data_of(path: Path) -> dict[str, str]:
    """The data in a page, by name; no tag is hidden in them."""
    html = path.read_text("utf-8")
    Page(re.sub(r"<script>.*?</script>", "", html, flags=re.S))
    return dict(re.findall('<script type="text/plain" id="([^"]+)">([^<]*)</script>', html))


@quick
@given(
    rows=arrays.arrays(
        np.float64, st.tuples(st.integers(1, 12), st.just(D)), elements=st.floats(-4, 4)
    ),
    examples=st.integers(1, 4),
)
def test_statistics_are_those_of_the_dense_codes(model, rows, examples):
    found = gather(model, as_rows(rows), examples, False)
    codes = model.transform(rows)
    dense = np.zeros_like(codes)
    np.put_along_axis(dense, found.entries.astype(np.int64), found.values, axis=1)
    np.testing.assert_array_equal(dense, codes)
    parts = np.square(codes * np.linalg.norm(model.atoms_, axis=1)).sum(axis=0)
    # Sums of a dozen squares, in another order.
    np.testing.assert_allclose(found.share * parts.sum(), parts, rtol=1e-6, atol=1e-300)
    np.testing.assert_array_equal(found.counts, [(codes > 0).sum(axis=0), (codes < 0).sum(axis=0)])
    np.testing.assert_array_equal(found.limits, np.abs(codes).max(axis=0))
    below, above = np.split(found.histograms, 2, axis=1)
    np.testing.assert_array_equal(below.sum(axis=1), (codes < 0).sum(axis=0))
    np.testing.assert_array_equal(above.sum(axis=1), (codes > 0).sum(axis=0))
    for axis in np.flatnonzero(found.limits):
        assert found.histograms[axis, [0, BINS - 1]].sum() >= 1  # the bin of the limit itself
    sizes = np.abs(codes)
    gram, norms = sizes.T @ sizes, np.linalg.norm(sizes, axis=0)
    for axis in range(D):
        there = found.similar[axis] >= 0
        others = found.similar[axis, there]
        assert axis not in others
        assert len(set(others)) == len(others) == (np.delete(gram[axis], axis) > 0).sum()
        expected = gram[axis, others] / (norms[axis] * norms[others])
        np.testing.assert_allclose(found.cosines[axis, there], expected, rtol=1e-12)
        assert (np.diff(found.cosines[axis]) <= 0).all()


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
def test_blocks_hold_the_codes_of_all_rows(model, count, tmp_path):
    rows = rows_of(count)
    rows[-1] *= 1e30  # which must not round the others to 0
    items = [None, *(f"row {row} < {row + 1} & more" for row in range(1, count))]
    data = data_of(browse(model, rows, out=tmp_path / "b.html", items=items))
    meta = json.loads(data["meta"])
    assert (meta["rows"], meta["axes"], meta["k"], meta["block"]) == (count, D, 3, BLOCK)
    codes = model.transform(rows)
    for number, start in enumerate(range(0, count, BLOCK)):
        raw = base64.b64decode(data[f"codes-{number}"])
        size = min(BLOCK, count - start)
        scales = np.frombuffer(raw, "<f8", size)[:, None]
        axes = np.frombuffer(raw, "<u2", size * 3, 8 * size).reshape(size, 3)
        values = np.frombuffer(raw, "<f2", offset=14 * size).reshape(size, 3).astype(np.float64)
        dense = np.zeros((size, D))
        np.put_along_axis(dense, axes.astype(np.int64), values * scales, axis=1)
        # The largest code of a row is stored as 1024, where the spacing of float16 is 1; below
        # 2**-14 it is 2**-24.
        error = np.abs(dense - codes[start : start + BLOCK])
        assert (error <= 2**-11 * np.abs(codes[start : start + BLOCK]) + 2**-25 * scales).all()
        assert json.loads(data[f"texts-{number}"]) == items[start : start + BLOCK]
    assert f"codes-{number + 1}" not in data


def test_pictures_of_examples_alone_are_in_the_page(model, tmp_path):
    rows = rows_of(300)
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = [folder / f"{row}.png" for row in range(300)]
    for row, path in enumerate(paths):
        Image.new("L", (60, 90), row % 256).save(path)
    page = browse(
        model, rows, out=tmp_path / "b.html", thumbnails=paths, examples=2, thumbnail_size=30
    )
    data = data_of(page)
    found = gather(model, as_rows(rows), 2, False).examples
    shown = set(np.concatenate([found.positive, found.negative]).ravel().tolist()) - {-1}
    files = "\n".join([data["pictures-0"], data["pictures-1"]]).split("\n")
    assert {row for row, file in enumerate(files) if file} == shown
    for row in shown:
        assert Image.open(io.BytesIO(base64.b64decode(files[row]))).size == (20, 30)
    assert json.loads(data["texts-0"])[7] == "7.png"  # names of files describe the rows


def test_batches_give_the_same_page(model, tmp_path):
    rows = rows_of(100)
    one = browse(model, rows, out=tmp_path / "one.html").read_bytes()
    two = browse(model, iter(np.array_split(rows, 3)), out=tmp_path / "two.html").read_bytes()
    assert one == two


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"items": ["a"]}, ValueError, "items and embeddings must have the same length, got 1"),
        ({"thumbnails": ["absent.png"] * 20}, ValueError, r"thumbnails\[0\] cannot be read"),
        ({"words": ["a", "b"]}, ValueError, "go together"),
        ({"examples": 0}, ValueError, "examples must be at least 1"),
        ({"thumbnail_size": 0}, ValueError, "thumbnail_size must be at least 1"),
        ({"out": "absent/page.html"}, FileNotFoundError, "there is no folder"),
    ],
)
def test_errors_leave_nothing_behind(model, change, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments: dict[str, Any] = {"out": "page.html", **change}
    with pytest.raises(error, match=message):
        browse(model, rows_of(20), **arguments)
    assert list(tmp_path.iterdir()) == []


def test_names_without_a_confirmation_are_told(model, tmp_path):
    words = [str(axis) for axis in range(D)]
    with pytest.warns(UnconfirmedNamesWarning):
        browse(
            model,
            rows_of(20),
            out=tmp_path / "b.html",
            words=words,
            text_embeddings=model.atoms_,
        )
