"""Rows of another kind around their own mean, and what is done with codes of images and texts."""

import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

from laplex.cedar import (
    CEDAR,
    CodeIndex,
    DriftWarning,
    Splice,
    axes_of,
    explain_match,
    name_axes,
    zero_shot,
)
from strategies import quick

DIM = 12


def cones(seed=0, n=400, gap=3.0):
    """Images and texts of the same causes, each in a cone of its own."""
    random = np.random.default_rng(seed)
    turn = np.linalg.qr(random.standard_normal((DIM, DIM)))[0]
    causes = random.standard_normal((n, DIM)) * (random.random((n, DIM)) < 0.2)
    causes[:DIM] = 2 * np.eye(DIM)
    apart = gap * random.standard_normal((2, DIM))
    return causes @ turn + apart[0], causes @ turn + apart[1], causes, turn


@pytest.fixture(scope="module")
def data():
    return cones()


@pytest.fixture(scope="module")
def both(data):
    images, texts, _, _ = data
    return CEDAR(k=4, random_state=0).fit(images).add_modality("text", texts)


# --- modalities -----------------------------------------------------------------------------------


def test_texts_are_coded_like_images(both, data):
    images, texts, _, _ = data
    with warnings.catch_warnings():
        warnings.simplefilter("error", DriftWarning)
        codes = both.transform(texts, modality="text")
    # Rows differ by a constant vector, of which either mean takes its own: a few roundings.
    np.testing.assert_allclose(codes, both.transform(images), rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        both.inverse_transform(codes, modality="text") - both.inverse_transform(codes),
        np.broadcast_to(texts.mean(0) - images.mean(0), texts.shape),
        rtol=0,
        atol=1e-12,
    )
    assert both.score(texts, modality="text") == pytest.approx(both.score(images), abs=1e-12)
    with pytest.warns(DriftWarning):
        assert not np.allclose(both.transform(texts), codes)


def test_a_fit_to_both_kinds(data):
    images, texts, _, _ = data
    kinds = {"image": images, "text": texts[::-1]}
    rows = np.vstack([one - one.mean(0) for one in kinds.values()])
    model = CEDAR(k=4, random_state=0).fit(rows)
    for name, one in kinds.items():
        model.add_modality(name, one)
        codes = model.transform(one, modality=name)
        np.testing.assert_allclose(codes, model.transform(one - one.mean(0)), rtol=0, atol=1e-12)
        back = model.inverse_transform(model.transform(one, DIM, modality=name), modality=name)
        np.testing.assert_allclose(back, one, rtol=0, atol=1e-12)


def test_texts_are_steered_around_their_own_mean(both, data):
    _, texts, _, _ = data
    moved = both.intervene(texts, {3: 2.0}, modality="text")
    coordinates = both.transform(texts, DIM, modality="text")
    coordinates[:, 3] = 2.0
    there = both.fitted_.around("text").mean.numpy() + coordinates @ both.atoms_
    np.testing.assert_allclose(moved, there, rtol=0, atol=1e-12)


def test_drift_is_from_the_mean_of_the_modality(both, data):
    images, texts, _, _ = data
    for rows in (images, texts + 5):
        with pytest.warns(DriftWarning):
            both.transform(rows, modality="text")


@pytest.mark.parametrize("center", ["mean", "learned", "none"])
def test_the_centre_moves_with_the_mean(center, data):
    images, texts, _, _ = data
    model = CEDAR(k=4, center=center, solver="adam", max_iter=30, random_state=0).fit(images)
    model.add_modality("text", texts)
    moved = texts - texts.mean(0) + images.mean(0)
    # Adam's rows are scaled, so a rounding is of some ten numbers of order 10.
    np.testing.assert_allclose(
        model.transform(texts, DIM, modality="text"), model.transform(moved, DIM), atol=1e-11
    )


def test_it_is_saved_pickled_and_replaced(both, data, tmp_path):
    _, texts, _, _ = data
    codes = both.transform(texts, modality="text")
    both.save(tmp_path)
    for other in (CEDAR.load(tmp_path), pickle.loads(pickle.dumps(both))):
        assert np.array_equal(other.transform(texts, modality="text"), codes)
        one, two = both.modalities_["text"], other.modalities_["text"]
        assert (one.scale, one.loss, one.count) == (two.scale, two.loss, two.count)
        other.add_modality("text", texts + 1).add_modality("a.b", texts)
        other.save(tmp_path)
        again = CEDAR.load(tmp_path)
        assert list(again.modalities_) == ["text", "a.b"]
        assert np.allclose(again.modalities_["text"].mean, texts.mean(0) + 1)
    assert list(both.modalities_) == ["text"]


def test_a_fit_forgets_modalities_and_partial_fit_keeps_them(both, data):
    images, _, _, _ = data
    other = pickle.loads(pickle.dumps(both))
    assert list(other.partial_fit(images[:50]).modalities_) == ["text"]
    assert other.fit(images).modalities_ == {}
    del other.modalities_  # as in pickles of earlier versions
    assert other.fitted_.modalities == {}


def test_batches_tensors_and_half_precision(data):
    images, texts, _, _ = data
    model = CEDAR(k=4, random_state=0).fit(images.astype(np.float32))
    model.add_modality("text", texts)
    whole = model.modalities_["text"]
    streamed = model.add_modality("text", (part for part in np.array_split(texts, 7)))
    assert torch.allclose(streamed.modalities_["text"].mean, whole.mean, rtol=1e-6)
    assert streamed.modalities_["text"].count == len(texts)
    model.add_modality("text", torch.from_numpy(texts).half())
    assert model.modalities_["text"].mean.dtype == torch.float32
    module = model.torch_module("text")
    assert torch.equal(module.mean, model.fitted_.around("text").mean)


def test_the_loss_is_that_of_the_codes(both, data):
    _, texts, _, _ = data
    expected = 1 - both.score(texts, modality="text")
    assert both.modalities_["text"].loss == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "call", ["transform", "inverse_transform", "score", "torch_module", "zero_shot", "axes_of"]
)
def test_a_modality_that_is_unknown(both, data, call):
    images = data[0]
    calls = {
        "torch_module": lambda: both.torch_module(modality="audio"),
        "zero_shot": lambda: zero_shot(both, images, images[:2], modality="audio"),
        "axes_of": lambda: axes_of(both, images[0], modality="audio"),
    }
    with pytest.raises(
        ValueError, match=r"must be 'text', got 'audio': call add_modality\('audio'"
    ):
        calls.get(call, lambda: getattr(both, call)(images, modality="audio"))()
    fresh = CEDAR(k=2, random_state=0).fit(images)
    with pytest.raises(ValueError, match="must be None, as none was added, got 'text'"):
        fresh.transform(images, modality="text")


def test_errors_leave_the_modalities_as_they_were(both, data):
    images = data[0]
    for name, rows in (("", images), (3, images), ("text", images[:, :5]), ("text", images[:1])):
        with pytest.raises((TypeError, ValueError)):
            both.add_modality(name, rows)
    assert list(both.modalities_) == ["text"]
    assert both.modalities_["text"].count == len(images)


# --- matches --------------------------------------------------------------------------------------


def model_of(basis, seed=0, dtype=np.float64):
    images, texts, _, _ = cones(seed)
    model = CEDAR(k=3, basis=basis, solver="auto", max_iter=20, random_state=0)
    return model.fit(images.astype(dtype)).add_modality("text", texts), images, texts


MODELS = {
    (basis, dtype): model_of(basis, dtype=dtype)
    for basis in ("orthogonal", "invertible")
    for dtype in (np.float32, np.float64)
}


@given(
    st.sampled_from(list(MODELS)),
    st.integers(1, DIM),
    st.sampled_from(["cosine", "inner"]),
    st.booleans(),
    st.integers(0, 399),
    st.integers(0, 399),
)
@quick
def test_the_terms_of_a_match_are_all_of_it(which, k, measure, centred, i, j):
    model, images, texts = MODELS[which]
    a, b = images[i], texts[j]
    found = explain_match(model, a, b, k=k, measure=measure, centred=centred, modality_b="text")
    if centred:
        a = a - model.fitted_.mean.double().numpy()
        b = b - model.fitted_.around("text").mean.double().numpy()
        assert found.mean == 0
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    unit = lengths if measure == "cosine" else 1.0
    # Each term is a sum of 12 products, none larger than some multiple of |z_a| |z_b|.
    bound = 1e-12 * max(1.0, lengths / unit)
    assert found.total == pytest.approx(a @ b / unit, abs=bound)
    assert found.mean + found.contributions.sum() + found.residual == pytest.approx(
        found.total, abs=bound
    )
    # What the codes of both omit, by itself; exact up to the roundings of the basis.
    error = float(np.finfo(which[1]).eps) * 1e3 * max(1.0, lengths / unit)
    near = [
        model.inverse_transform(model.transform(rows, k, modality=name), modality=name)[0]
        for rows, name in ((images[i : i + 1], None), (texts[j : j + 1], "text"))
    ]
    means = [model.fitted_.around(name).mean.double().numpy() for name in (None, "text")]
    wa, wb = images[i] - means[0], texts[j] - means[1]
    omitted = wa @ wb - (near[0] - means[0]) @ (near[1] - means[1])
    assert found.residual == pytest.approx(omitted / unit, abs=error)
    if k == DIM:
        assert abs(found.residual) <= error
    assert np.all(np.diff(np.abs(found.contributions)) <= 0)


def test_axes_of_a_rotation_contribute_products_of_codes(both, data):
    images, texts, _, _ = data
    found = explain_match(both, images[20], texts[20], measure="inner", modality_b="text")
    codes = both.transform(images[20:21])[0], both.transform(texts[20:21], modality="text")[0]
    products = codes[0] * codes[1]
    np.testing.assert_allclose(found.contributions, products[found.axes], atol=1e-12)
    assert set(found.axes) == set(np.flatnonzero(products))


def test_a_phrase_excites_the_axes_of_its_causes(both, data):
    _, texts, causes, turn = data
    for row in range(DIM):  # rows of one cause each
        found = axes_of(both, texts[row], modality="text")
        cause = int(np.argmax(np.abs(both.atoms_ @ turn[row])))
        assert found.axes[0] == cause
        assert found.total == pytest.approx(1, abs=1e-12)
        assert found.contributions.sum() + found.residual == pytest.approx(1, abs=1e-12)
        assert np.array_equal(found.codes_a, found.codes_b)
    assert causes.shape == texts.shape


def test_tables_and_pictures_have_names(both, data):
    _, texts, _, turn = data
    words = [f"word {i}" for i in range(DIM)]
    names = name_axes(both, turn, words, text_mean=np.zeros(DIM), threshold=0.5, confirmed=None)
    found = axes_of(both, texts[3], modality="text", names=names)
    assert "word 3" in found.names[0]
    table = found.table(2)
    assert "word 3" in table
    assert "total" in table
    figure = found.plot(2)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[0] == f"{found.axes[0]} {found.names[0]}"
    assert labels[-2:] == ["mean", "residual"]
    assert len(labels) == 2 + 2 + (len(found.axes) > 2)
    assert repr(found).startswith("1.000 = 0.000 of the mean + ")
    opposite = explain_match(both, texts[3], 2 * texts.mean(0) - texts[3], centred=True,
                             modality_a="text", modality_b="text", names=names)  # fmt: skip
    assert opposite.total == pytest.approx(-1, abs=1e-12)


def test_what_cannot_be_matched(both, data):
    images = data[0]
    with pytest.raises(ValueError, match=r"a must be one embedding \[12\], got shape \[3\]"):
        explain_match(both, images[0, :3], images[0])
    with pytest.raises(
        ValueError, match=r"b must be one embedding \[12\], got shape \[1, 12\].*b\[0\]"
    ):
        explain_match(both, images[0], images[:1])
    with pytest.raises(ValueError, match="length 0 has no cosine"):
        explain_match(both, np.zeros(DIM), images[0])
    with pytest.raises(ValueError, match="measure must be one of"):
        explain_match(both, images[0], images[1], measure="dot")
    with pytest.raises(ValueError, match="names has 1 axes, but the model 12"):
        axes_of(both, images[0], names=[None])


# --- zero-shot classification ---------------------------------------------------------------------


def test_zero_shot_by_the_definition(both, data):
    images, texts, causes, _ = data
    classes = texts[:DIM].reshape(4, 3, DIM)  # three prompts for each of four classes
    labels = np.argmax(np.abs(causes), axis=1) // 3
    found = zero_shot(both, images, classes, labels, ks=[2, DIM])
    directions = classes / np.linalg.norm(classes, axis=2, keepdims=True)
    directions = directions.mean(1)
    for row, k in enumerate((None, 2, DIM)):
        near = images if k is None else both.inverse_transform(both.transform(images, k))
        cosines = [
            [z @ t / np.linalg.norm(z) / np.linalg.norm(t) for t in directions] for z in near
        ]
        np.testing.assert_allclose(found.logits[row], cosines, rtol=0, atol=1e-12)
        chosen = np.argmax(cosines, axis=1)
        assert found.accuracy[row] == (chosen == labels).mean()
        assert np.array_equal(found.predictions[row], chosen)
    assert found.agreement[0] == 1
    assert found.agreement[2] == 1  # nothing is cut at k = d
    assert found.ks == (2, DIM)
    assert found.table().splitlines()[2].split()[:2] == ["not", "coded"]
    streamed = zero_shot(both, iter(np.array_split(images, 3)), list(classes), ks=2)
    assert streamed.accuracy is None
    np.testing.assert_allclose(streamed.logits, found.logits[:2], rtol=0, atol=1e-12)


def test_what_cannot_be_classified(both, data):
    images = data[0]
    for classes, labels, message in [
        (images[:1], None, "two classes or more"),
        (images[:2, :3], None, r"class_texts\[0\] has 3 columns"),
        (np.zeros((2, DIM)), None, r"class_texts\[0\] is zero"),
        (images[:2], [0], "labels must have shape"),
        (images[:2], np.full(400, 2), r"labels must be integers in \[0, 2\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            zero_shot(both, images, classes, labels)


# --- retrieval ------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", list(MODELS))
@pytest.mark.parametrize("centred", [False, True])
def test_an_index_finds_what_reconstructions_find(which, centred):
    model, images, texts = MODELS[which]
    index = CodeIndex(model, images, k=3, centred=centred)
    queries = texts[:20]
    found = index.search(queries, 5, modality="text")
    near = model.inverse_transform(model.transform(images, 3)).astype(np.float64)
    if centred:
        near = near - model.fitted_.mean.double().numpy()
        queries = queries - model.fitted_.around("text").mean.double().numpy()
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, near)]
    cosines = unit[0] @ unit[1].T
    # float32 codes and sums of a dozen terms: some tens of roundings of 6e-8.
    at = np.take_along_axis(cosines, found.rows, axis=1)
    np.testing.assert_allclose(found.cosines, at, rtol=0, atol=1e-5)
    best = -np.sort(-cosines, axis=1)[:, :5]
    np.testing.assert_allclose(at, best, rtol=0, atol=1e-5)
    assert index.bytes_per_item == pytest.approx(8 * 3 + 8, abs=0.1)
    assert "400 items of 32 bytes, in place of 48" in repr(index)


def test_equal_items_come_in_their_order(both, data):
    images = np.repeat(data[0][:3], 4, axis=0)
    index = CodeIndex(both, images)
    found = index.search(data[0][:3], 5)
    for query in range(3):
        assert found.rows[query, :4].tolist() == list(range(4 * query, 4 * query + 4))
    assert index.search(data[0][:1], 99).rows.shape == (1, 12)
    assert scipy.sparse.issparse(index.codes)


def test_an_index_ranks_in_a_narrow_cone():
    # All cosines are 1 up to 1e-6 or less, which float32 has no digits for.
    X = np.random.default_rng(0).standard_normal((400, 12)) + 1000.0
    with pytest.warns(UserWarning, match="nothing to learn"):
        model = CEDAR(12, max_iter=2, tol=0, random_state=0).fit(X)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    centred = unit - unit.mean(0)  # |a - b|^2 = 2 - 2 cos, without cancellation
    apart = ((centred[:50, None] - centred[None]) ** 2).sum(2)
    found = CodeIndex(model, X).search(X[:50], 5).rows
    assert (found == np.argsort(apart, axis=1, kind="stable")[:, :5]).mean() > 0.98


def test_what_an_index_refuses(both, data):
    with pytest.raises(ValueError, match="embeddings have 3 columns"):
        CodeIndex(both, data[0][:, :3])
    index = CodeIndex(both, data[0])
    with pytest.raises(ValueError, match="n must be at least 1"):
        index.search(data[0], 0)
    with pytest.raises(ValueError, match="embeddings have 3 columns"):
        index.search(data[0][:, :3])


# --- SpLiCE ---------------------------------------------------------------------------------------


def test_splice_finds_a_sum_of_concepts():
    random = np.random.default_rng(0)
    concepts = random.standard_normal((60, 40)) + 2
    centred = concepts - concepts.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    weights = np.zeros((30, 60))
    for row in weights:
        row[random.choice(60, 3, replace=False)] = random.uniform(1, 2, 3)
    X = weights @ centred + 5
    X = np.vstack([X, 10 - X])  # of mean 5
    model = Splice(concepts, k=3).fit(X)
    found = model.transform(X[:30])
    assert found.max(axis=1).toarray().min() > 0
    assert (found.toarray() >= 0).all()
    assert (np.diff(found.indptr) <= 3).all()
    right = [set(row.nonzero()[0]) for row in weights]
    got = [set(found[[i]].indices) for i in range(30)]
    hits = [i for i in range(30) if right[i] == got[i]]
    assert len(hits) >= 20  # the lasso may take another concept where concepts are alike
    np.testing.assert_allclose(model.inverse_transform(found)[hits], X[hits], atol=1e-9)
    assert (np.diff(model.transform(X, k=1).indptr) <= 1).all()


def test_splice_says_what_does_not_fit():
    with pytest.raises(ValueError, match="X has 4 columns, but concepts has 3"):
        Splice(np.eye(3)).fit(np.eye(4))
    with pytest.raises(ValueError, match="k must be at least 1"):
        Splice(np.eye(3), k=0).fit(np.eye(3))
    with pytest.raises(ValueError, match="X has 4 columns, but the fit had 3"):
        Splice(np.eye(3), k=1).fit(np.eye(3)).transform(np.eye(4))
