"""The report: every part is there, nothing is loaded from elsewhere, and nothing in it runs."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from html_cases import Page
from laplex.cedar import CEDAR, report
from laplex.cedar.baselines import PCA, RandomRotation, compare
from laplex.cedar.html_report.measuring import EDGES, measure
from laplex.cedar.metrics import Reconstruction
from laplex.cedar.naming import UnconfirmedNamesWarning, name_axes
from laplex.cedar.rows import as_rows
from laplex.cedar.thumbnails import thumbnail

D = 12


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((600, D)) * (rng.random((600, D)) < 0.2)
    return codes @ np.linalg.qr(rng.standard_normal((D, D)))[0] + 1.0


@pytest.fixture(scope="module")
def model(embeddings) -> CEDAR:
    return CEDAR(k=[2, 3], n_init=3, random_state=0).fit(embeddings)


@pytest.fixture(scope="module")
def comparison(embeddings):
    return compare(embeddings, k=(2, 4), baselines=[RandomRotation(), PCA()], fit_k=2)


def check_alone(html: str) -> Page:
    """Nothing from outside, nothing that runs."""
    page = Page(html)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    for source in page.sources():
        head, _, content = source.partition(";base64,")
        assert head in ("data:image/png", "data:image/webp")
        Image.open(io.BytesIO(base64.b64decode(content, validate=True))).verify()
    assert "url(" not in html
    return page


def test_it_holds_every_part(model, embeddings, comparison, tmp_path):
    words = [f"{sign}{i}" for sign in ("up", "down") for i in range(D)]
    texts = np.concatenate([np.eye(D), -np.eye(D)]) @ model.atoms_
    items = [f"text number {row}" for row in range(600)]
    out = tmp_path / "page.html"
    written = report(
        model,
        embeddings,
        out=out,
        words=words,
        text_embeddings=texts,
        items=items,
        comparison=comparison,
        max_axes=5,
        title="A title",
    )
    assert written == out
    page = check_alone(out.read_text("utf-8"))
    assert list(tmp_path.iterdir()) == [out]
    text = page.text
    assert "A title" in text
    assert "embedding is a list of 12 numbers" in text  # the explanation
    assert len(page.sources()) == 4  # comparison, recurrence, firing, sizes
    for heading in ("How much a code keeps", "Sparsity", "by other rows", "The axes", "How often"):
        assert heading in text
    assert f"{100 * model.score(embeddings):.1f} %" in text
    for k in (2, 3):
        assert f"k = {k}" in text
    for line in ("PCA, per-row top k", "CEDAR, fitted at k=2", "Null control: isotropic Gaussian"):
        assert line in text
    assert "axes confirmed" in text
    assert "One start only" not in text
    assert "Unconfirmed" not in text
    axes = [about for tag, about in page.tags if about.get("class") == "axis"]
    assert len(axes) == 5
    # Each of the five has both names: words are the atoms themselves.
    shown = [int(axis) for axis in re.findall(r"Axis (\d+)", text)]
    for axis in shown:
        assert f"up{axis}" in text
        assert f"down{axis}" in text
    codes = model.transform(embeddings)
    for axis in shown:
        assert f"text number {codes[:, axis].argmax()}" in text
        assert f"text number {codes[:, axis].argmin()}" in text
    assert "score 1.000, margin 1.000" in text


def test_one_start_is_marked(embeddings, tmp_path):
    model = CEDAR(k=2, random_state=0).fit(embeddings)
    words = [str(i) for i in range(D)]
    with pytest.warns(UnconfirmedNamesWarning):
        path = report(
            model,
            embeddings,
            out=tmp_path / "one.html",
            words=words,
            text_embeddings=np.eye(D),
            compare=False,
        )
    text = check_alone(path.read_text("utf-8")).text
    for notice in ("One start only", "Unconfirmed names", "unconfirmed", "Not compared"):
        assert notice in text


def test_two_starts_are_too_few(embeddings, tmp_path):
    model = CEDAR(k=2, n_init=2, random_state=0).fit(embeddings)
    path = report(model, embeddings, out=tmp_path / "two.html", compare=False)
    text = check_alone(path.read_text("utf-8")).text
    assert "No confirmation" in text
    assert "rows (codes):" in text  # no texts, no pictures: numbers


def test_nothing_in_words_or_texts_is_markup(model, embeddings, tmp_path):
    evil = "<script>alert(1)</script>"
    quoted = '" onerror="alert(2)" x="$title ${k} </style>'
    words = [f"{evil}{i}" for i in range(D)] + [f"{quoted}{i}" for i in range(D)]
    texts = np.concatenate([np.eye(D), -np.eye(D)]) @ model.atoms_
    pictures = np.zeros((600, 4, 4), np.uint8)
    path = report(
        model,
        embeddings,
        out=tmp_path / "evil.html",
        names=name_axes(model, texts, words),
        items=[evil + quoted] * 600,
        thumbnails=pictures,
        compare=False,
        title=evil + quoted,
    )
    html = path.read_text("utf-8")
    assert "<script" not in html
    page = check_alone(html)
    assert evil in page.text
    assert quoted in page.text
    path = report(
        model, embeddings, out=tmp_path / "evil.html", items=[None, evil] * 300, compare=False
    )
    html = path.read_text("utf-8")
    assert "<script" not in html
    assert ">None<" not in html


def test_compares_by_itself(embeddings, tmp_path, monkeypatch):
    asked = {}

    def stand_in(data, k, **arguments):
        asked.update(arguments, k=k)
        return compare(data, k, **{**arguments, "baselines": [RandomRotation()], "nulls": False})

    monkeypatch.setattr("laplex.cedar.baselines.compare", stand_in)
    model = CEDAR(k=3, n_init=3, random_state=0).fit(embeddings)
    path = report(model, embeddings, out=tmp_path / "c.html")
    assert "CEDAR, fitted at k=3" in check_alone(path.read_text("utf-8")).text
    assert list(asked["k"]) == [3, 4]
    assert asked["fit_k"] == 3
    assert model.get_params()["n_init"] == 3


def test_measures_are_those_of_the_library(model, embeddings):
    found = measure(model, as_rows(embeddings), (2, 3), 4, False)
    codes = model.transform(embeddings)
    whole = Reconstruction(model.mean_)
    whole.update(embeddings, model.inverse_transform(codes), codes)
    assert found.count == 600
    assert found.report.fve == pytest.approx(whole.compute().fve, abs=1e-12)
    assert found.report.dead == whole.compute().dead
    np.testing.assert_allclose(found.share, (codes**2).sum(0) / (codes**2).sum(), rtol=1e-10)
    assert found.sizes.sum() == (codes != 0).sum()
    np.testing.assert_array_equal(found.sizes.sum(1), [(codes > 0).sum(), (codes < 0).sum()])
    np.testing.assert_array_equal(
        found.sizes[0], np.histogram(codes[codes > 0] / model.scale_, EDGES)[0]
    )


def test_energy_counts_the_length_of_atoms(embeddings):
    model = CEDAR(k=2, basis="invertible", max_iter=20, random_state=0).fit(embeddings)
    found = measure(model, as_rows(embeddings), (2,), 1, False)
    codes = model.transform(embeddings) * np.linalg.norm(model.atoms_, axis=1)
    np.testing.assert_allclose(found.share, (codes**2).sum(0) / (codes**2).sum(), rtol=1e-6)


def test_digits_as_thumbnails(tmp_path):
    digits = load_digits()
    rows = digits.data[:, digits.data.std(0) > 0]
    model = CEDAR(k=4, max_iter=5, random_state=0).fit(rows)
    path = report(
        model,
        rows,
        out=tmp_path / "d.html",
        thumbnails=digits.images / 16,
        compare=False,
        max_axes=3,
    )
    page = check_alone(path.read_text("utf-8"))
    pictures = [about for tag, about in page.tags if tag == "img" and about.get("class") == "rough"]
    assert len(pictures) == 3 * 2 * 9
    first = int(re.search(r"row (\d+), code", str(pictures[0]["alt"])).group(1))
    shown = Image.open(io.BytesIO(base64.b64decode(str(pictures[0]["src"]).split(",")[1])))
    np.testing.assert_array_equal(
        np.asarray(shown.convert("L")), np.rint(digits.images[first] / 16 * 255).astype(np.uint8)
    )


def test_thumbnails_of_any_kind(tmp_path):
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (200, 300, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    for picture in (
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
        Image.fromarray(photo),
        photo,
    ):
        source, rough = thumbnail(picture, 0)
        assert source.startswith("data:image/webp;base64,")
        assert not rough
        shown = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1])))
        assert max(shown.size) <= 112
        assert shown.size[0] / shown.size[1] == pytest.approx(1.5, abs=0.02)
    for small in (photo[:8, :8], photo[:8, :8, 0], photo[:8, :8, :1], photo[:8, :8, 0] > 99):
        assert thumbnail(small, 0)[1]
    clear = np.concatenate([photo, photo[:, :, :1]], axis=2)
    kept = Image.open(io.BytesIO(base64.b64decode(thumbnail(clear, 0)[0].split(",")[1])))
    assert kept.mode == "RGBA"
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for wrong, message in (
        (tmp_path / "broken.png", r"thumbnails\[7\] cannot be read"),
        (tmp_path / "absent.png", "cannot be read"),
        (photo.astype(np.int64), "uint8, or floats"),
        (photo / 1.0, "floats from 0 to 1"),
        (photo[0, 0], "shape"),
        (photo[None], "shape"),
    ):
        with pytest.raises(ValueError, match=message):
            thumbnail(wrong, 7)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"items": ["a"]},
            ValueError,
            "items and embeddings must have the same length, got 1",
        ),
        ({"thumbnails": [1, 2]}, ValueError, "thumbnails and embeddings must have the same length"),
        ({"thumbnails": np.full((600, 2, 2), 2.0)}, ValueError, "floats from 0 to 1"),
        ({"words": ["a", "b"]}, ValueError, "go together"),
        ({"max_axes": 0}, ValueError, "max_axes must be at least 1"),
        ({"out": "absent/page.html"}, FileNotFoundError, "there is no folder"),
        ({"out": "."}, IsADirectoryError, "is a folder"),
    ],
)
def test_errors_leave_nothing_behind(
    model, embeddings, change, error, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        report(model, embeddings, **{"out": "page.html", "compare": False, **change})
    assert list(tmp_path.iterdir()) == []


def test_an_older_page_outlives_a_failure(model, embeddings, tmp_path):
    out = tmp_path / "page.html"
    out.write_text("older")
    holes = embeddings.copy()
    holes[3, 3] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in row 3"):
        report(model, holes, out=out, compare=False)
    assert out.read_text() == "older"
    assert list(tmp_path.iterdir()) == [out]


def test_batches(model, embeddings, tmp_path):
    parts = np.array_split(embeddings, 4)
    with pytest.raises(ValueError, match="compare=False"):
        report(model, parts, out=tmp_path / "b.html")
    one = report(model, iter(parts), out=tmp_path / "b.html", compare=False).read_text("utf-8")
    two = report(model, embeddings, out=tmp_path / "b.html", compare=False).read_text("utf-8")
    assert Page(one).text == Page(two).text
    with pytest.raises(ValueError, match="same length, got 5 and 600"):
        report(model, parts, out=tmp_path / "b.html", compare=False, items=["a"] * 5)


def test_names_must_be_of_the_model(model, embeddings):
    other = name_axes(
        CEDAR(k=1, n_init=3, random_state=0).fit(embeddings[:, :4]), np.eye(4), list("abcd")
    )
    with pytest.raises(ValueError, match="names describe 4 axes, but the model has 12"):
        report(model, embeddings, names=other, compare=False)
    with pytest.raises(ValueError, match="not both"):
        report(model, embeddings, names=other, words=["a"], compare=False)
