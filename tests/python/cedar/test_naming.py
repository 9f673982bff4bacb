"""Names of axes: planted ones are found, by brute force the same ones, and chance is told apart."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from laplex.cedar import CEDAR
from laplex.cedar import naming as naming_module
from laplex.cedar.axis_examples import ExampleSearch, top_examples
from laplex.cedar.naming import UnconfirmedNamesWarning, chance_scores, name_axes

D = 16


def planted(rows: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of 2 causes out of D each, about a mean, and the causes' directions."""
    rng = np.random.default_rng(seed)
    codes = rng.standard_normal((rows, D)) * (rng.random((rows, D)) < 2 / D)
    turn = ortho_group.rvs(D, random_state=seed)
    return codes @ turn + 3.0, turn


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    return planted()


@pytest.fixture(scope="module")
def model(data) -> CEDAR:
    return CEDAR(k=2, n_init=3, random_state=0).fit(data[0])


@pytest.fixture(scope="module")
def texts(data) -> tuple[np.ndarray, list[str]]:
    """Words for both ends of each true direction, far from the embeddings' own mean."""
    _, turn = data
    words = [f"{sign}{i}" for sign in ("up", "down") for i in range(D)]
    return np.concatenate([turn, -turn]) - 50.0, words


def stub(atoms: np.ndarray, confirmed: np.ndarray | None = None) -> SimpleNamespace:
    """What `name_axes` needs of a model."""
    found = None if confirmed is None else SimpleNamespace(confirmed=confirmed)
    return SimpleNamespace(atoms_=atoms, confirmation_=found)


def test_planted_directions_get_their_names_at_both_ends(data, model, texts):
    _, turn = data
    names = name_axes(model, *texts)
    assert len(names) == D
    assert names.tested
    cosine = model.atoms_ @ turn.T
    for axis in names:
        true = int(np.abs(cosine[axis.axis]).argmax())
        up, down = ("up", "down") if cosine[axis.axis, true] > 0 else ("down", "up")
        assert axis.confirmed is True
        assert (axis.positive.word, axis.negative.word) == (f"{up}{true}", f"{down}{true}")
        # An atom's cosine with its word is its cosine with the true direction: words have mean 0.
        assert axis.positive.score == pytest.approx(abs(cosine[axis.axis, true]), abs=1e-6)
        assert axis.positive.score > 0.99
        assert axis.positive.margin == pytest.approx(
            axis.positive.score - np.sort(np.abs(cosine[axis.axis]))[-2], abs=1e-6
        )


def test_less_another_mean_the_scores_are_those_of_the_gap(model, texts):
    vectors, words = texts
    # Less the mean of the *embeddings*, all words are nearly the gap between -50 and 3.
    names = name_axes(model, vectors, words, text_mean=model.mean_, threshold=-1.0)
    again = name_axes(model, vectors, words, threshold=-1.0)
    assert len({axis.positive.word for axis in again}) == D
    gap = model.atoms_ @ -np.ones(D) / np.sqrt(D)
    for axis, right in zip(names, again, strict=True):
        # Words are unit vectors, the gap is 53 * sqrt(16) = 212 long.
        assert axis.positive_score == pytest.approx(gap[axis.axis], abs=2 / 212)
        assert axis.negative_score == pytest.approx(-gap[axis.axis], abs=2 / 212)
        assert axis.positive.margin < 2 / 212
        assert right.positive.margin > 0.8
    given_mean = name_axes(model, vectors, words, text_mean=vectors.mean(0), threshold=-1.0)
    assert [axis.positive.word for axis in given_mean] == [axis.positive.word for axis in again]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    axes=st.integers(1, 6),
    words=st.integers(2, 40),
    distinct=st.integers(2, 8),
    block=st.integers(1, 100),
)
def test_blocks_agree_with_brute_force(seed, axes, words, distinct, block):
    rng = np.random.default_rng(seed)
    atoms, vectors = rng.standard_normal((axes, 5)), rng.standard_normal((words, 5))
    labels = [f"w{n}" for n in rng.integers(0, distinct, words)]
    labels[0], labels[-1] = "w0", "W1 "
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(naming_module, "_COSINES_AT_ONCE", block)
        names = name_axes(stub(atoms), vectors, labels, threshold=-1.0, confirmed=None)
    centred = vectors - vectors.mean(0)
    cosine = atoms @ centred.T
    cosine /= np.outer(np.linalg.norm(atoms, axis=1), np.linalg.norm(centred, axis=1))
    plain = np.array([label.strip().lower() for label in labels])
    for axis in names:
        for name, values in (
            (axis.positive, cosine[axis.axis]),
            (axis.negative, -cosine[axis.axis]),
        ):
            best = int(values.argmax())
            other = values[plain != plain[best]].max()
            # Random reals: equal cosines do not happen, and 1e-12 is far above rounding.
            assert name.word == labels[best]
            assert name.score == pytest.approx(values[best], abs=1e-12)
            assert name.margin == pytest.approx(values[best] - other, abs=1e-12)
            assert name.runner_up.strip().lower() != name.word.strip().lower()
            assert name.margin >= 0


@pytest.mark.parametrize("at_once", [1, 3, 2**22])
def test_of_equal_words_the_first_wins_with_margin_0(at_once, monkeypatch):
    monkeypatch.setattr(naming_module, "_COSINES_AT_ONCE", at_once)
    vectors = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]])
    words = ["north", "east", "orient", "south", "west"]
    (axis,) = name_axes(
        stub(np.array([[2.0, 0.0]])),
        vectors,
        words,
        text_mean=np.zeros(2),
        threshold=0.5,
        confirmed=None,
    )
    assert (axis.positive.word, axis.positive.runner_up) == ("east", "orient")
    assert (axis.positive.score, axis.positive.margin) == (1.0, 0.0)
    assert axis.negative.word == "west"


def test_under_the_threshold_there_is_no_name_but_a_score(model, texts):
    names = name_axes(model, *texts, threshold=1.1)
    assert not any(axis.named for axis in names)
    assert all(axis.positive_score > 0.99 for axis in names)
    # One end alone: no word lies towards -.
    vectors = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    (axis,) = name_axes(
        stub(np.array([[1.0, 0.0, 0.0]])),
        vectors,
        ["a", "b", "c"],
        text_mean=np.zeros(3),
        threshold=0.3,
        confirmed=None,
    )
    assert axis.positive.word == "a"
    assert axis.negative is None
    assert axis.negative_score == 0
    assert axis.named


def test_chance_is_what_random_directions_reach():
    rng = np.random.default_rng(1)
    dim, words = 128, 1000
    vectors = rng.standard_normal((words, dim))
    scores = chance_scores(vectors, axes=400)
    assert scores.shape == (400, 2)
    # Of m words in all directions the best has a cosine near sqrt(2 ln m / d); the next term of
    # its expansion, -ln(4 pi ln m) / (2 ln m) relative, is -0.32 here, halved by the square root.
    expected = np.sqrt(2 * np.log(words) / dim) * (
        1 - np.log(4 * np.pi * np.log(words)) / (4 * np.log(words))
    )
    assert scores.mean() == pytest.approx(expected, rel=0.05)
    np.testing.assert_array_equal(scores, chance_scores(vectors, axes=400))
    assert not np.array_equal(scores, chance_scores(vectors, axes=400, random_state=1))
    # Axes that are themselves random get names as often as the threshold lets pass.
    atoms = ortho_group.rvs(dim, random_state=2)
    names = name_axes(stub(atoms), vectors, [str(n) for n in range(words)], confirmed=None)
    ends = sum((axis.positive is not None) + (axis.negative is not None) for axis in names)
    # 256 ends at 1 %: Poisson with mean 2.6, and the quantile is itself an estimate.
    assert ends <= 12


def test_fewer_dimensions_than_random_axes():
    assert chance_scores(np.eye(3), axes=10).shape == (10, 2)


def test_only_confirmed_axes_are_named(texts):
    vectors, words = texts
    known = np.arange(D) < 4
    fitted = stub(ortho_group.rvs(D, random_state=5), known)
    names = name_axes(fitted, vectors, words, threshold=-1.0)
    np.testing.assert_array_equal([axis.confirmed for axis in names], known)
    np.testing.assert_array_equal([axis.named for axis in names], known)
    every = name_axes(fitted, vectors, words, threshold=-1.0, confirmed=None)
    assert all(axis.named for axis in every)
    assert [axis.confirmed for axis in every] == [axis.confirmed for axis in names]
    assert every.tested
    mask = np.arange(D) % 2 == 0
    by_mask = name_axes(fitted, vectors, words, threshold=-1.0, confirmed=mask)
    np.testing.assert_array_equal([axis.named for axis in by_mask], mask)
    with pytest.warns(DeprecationWarning, match="now called confirmed"):
        former = name_axes(fitted, vectors, words, threshold=-1.0, recurring=mask)
    assert former.axes == by_mask.axes


def test_without_a_confirmation_names_are_unconfirmed_and_it_says_so(texts):
    fitted = stub(ortho_group.rvs(D, random_state=5))
    with pytest.warns(UnconfirmedNamesWarning, match="n_init=3"):
        names = name_axes(fitted, *texts, threshold=-1.0)
    assert all(axis.confirmed is None and axis.named for axis in names)
    assert not names.tested
    assert "UNCONFIRMED" in repr(names)
    assert "UNCONFIRMED" in names.table()
    assert json.loads(names.to_json())["tested"] is False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not name_axes(fitted, *texts, confirmed=None).tested


def test_table_and_json(model, texts):
    names = name_axes(model, *texts)
    table = names.table(3).splitlines()
    assert len(table) == 2 + 3
    assert table[0] == repr(names)
    assert names.ranked()[0].positive is not None
    assert str(names.ranked()[0].axis) in table[2]
    content = json.loads(names.to_json())
    assert content["tested"] is True
    assert all(axis["confirmed"] for axis in content["axes"])
    assert content["axes"][5]["positive"]["word"] == names[5].positive.word
    assert len(names.table(None).splitlines()) == 2 + D
    with pytest.raises(ValueError, match="n must be at least 1"):
        names.table(0)


def test_any_form_of_text_embeddings(model, texts, tmp_path):
    vectors, words = texts
    expected = name_axes(model, vectors, words).to_json()
    np.save(tmp_path / "t.npy", vectors)
    for form in (
        torch.from_numpy(vectors),
        np.load(tmp_path / "t.npy", mmap_mode="r"),
        [vectors[:7], vectors[7:]],
    ):
        found = json.loads(name_axes(model, form, words).to_json())
        again = json.loads(expected)
        assert [axis["positive"]["word"] for axis in found["axes"]] == [
            axis["positive"]["word"] for axis in again["axes"]
        ]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"words": ["a"] * (2 * D)}, ValueError, "1 different word"),
        ({"words": ["a", "b"]}, ValueError, f"2 words and {2 * D} rows"),
        ({"words": "word"}, TypeError, "sequence of words"),
        ({"words": [*map(str, range(2 * D - 1)), 3]}, TypeError, "got 3 at 31"),
        ({"text_embeddings": np.ones((2 * D, 3))}, ValueError, "3 columns, but atoms have 16"),
        ({"text_embeddings": [np.ones((3, D))]}, ValueError, "32 words and 3 rows"),
        ({"text_mean": np.ones(3)}, ValueError, "text_mean has 3 numbers"),
        ({"threshold": "high"}, ValueError, "'chance'"),
        ({"threshold": float("nan")}, ValueError, "finite"),
        ({"confirmed": "yes"}, ValueError, "'auto', None or a mask"),
        ({"confirmed": [True]}, ValueError, r"mask of bool \[16\]"),
        ({"confirmed": np.ones(D)}, ValueError, "float64"),
    ],
)
def test_errors(model, texts, change, error, message):
    arguments = {"text_embeddings": texts[0], "words": texts[1], **change}
    with pytest.raises(error, match=message):
        name_axes(model, **arguments)


# --- examples -------------------------------------------------------------------------------------


def brute_force(codes: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.full((codes.shape[1], n), -1)
    values = np.zeros((codes.shape[1], n))
    for axis, column in enumerate(codes.T):
        order = np.argsort(-column, kind="stable")
        chosen = [row for row in order if column[row] > 0][:n]
        rows[axis, : len(chosen)] = chosen
        values[axis, : len(chosen)] = column[chosen]
    return rows, values


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    n=st.integers(1, 6),
    batch=st.integers(1, 40),
    levels=st.integers(1, 50),
)
def test_examples_agree_with_brute_force(seed, n, batch, levels):
    rng = np.random.default_rng(seed)
    codes = rng.integers(-levels, levels + 1, (35, 4)) * (rng.random((35, 4)) < 0.5) / 8  # ties
    search = ExampleSearch(4, n)
    for start in range(0, 35, batch):
        search.update(codes[start : start + batch])
    found = search.compute()
    for rows, values, expected in (
        (found.positive, found.positive_codes, brute_force(codes, n)),
        (found.negative, -found.negative_codes, brute_force(-codes, n)),
    ):
        np.testing.assert_array_equal(rows, expected[0])
        np.testing.assert_array_equal(values, expected[1])


def test_top_examples_of_a_model(data, model):
    embeddings, _ = data
    codes = model.transform(embeddings)
    found = top_examples(model, embeddings, n=4)
    np.testing.assert_array_equal(found.positive, brute_force(codes, 4)[0])
    np.testing.assert_array_equal(found.negative, brute_force(-codes, 4)[0])
    stream = top_examples(model, (part for part in np.array_split(embeddings, 3)), n=4)
    np.testing.assert_array_equal(stream.positive, found.positive)
    one = top_examples(model, embeddings, n=4, k=1)
    np.testing.assert_array_equal(one.positive, brute_force(model.transform(embeddings, k=1), 4)[0])
    with pytest.raises(ValueError, match="5 columns"):
        top_examples(model, embeddings[:, :5])
    with pytest.raises(ValueError, match="k=17"):
        top_examples(model, embeddings, k=17)
