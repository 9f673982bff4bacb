"""The baselines of CEDAR by their identities, and `compare` by brute force."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from laplex.cedar import CEDAR
from laplex.cedar.baselines import (
    PCA,
    FastICA,
    LinearDictionary,
    Quartimax,
    RandomRotation,
    Varimax,
    all_baselines,
    compare,
    comparing,
    orthomax,
)
from laplex.cedar.baselines.equal_bits import bits_of, k_within
from laplex.cedar.metrics import code_bits, fve, mcc

EPS = np.finfo(np.float64).eps
ORTHOGONAL = [RandomRotation(random_state=0), PCA(), PCA("leading"), Quartimax(), Varimax()]
LINEAR = [*ORTHOGONAL, FastICA(random_state=0)]


class Random(LinearDictionary):
    """Four times as many random atoms as columns; k changes them, as it changes an autoencoder."""

    name = "random, 4x"
    fitted_for_k = True

    def __init__(self, *, k=3, max_rows=50_000, random_state=0):
        self.k = k
        self.max_rows = max_rows
        self.random_state = random_state

    def _learn(self, found):
        random = np.random.default_rng((self._seed(), self.k))
        atoms = random.standard_normal((4 * self.n_features_in_, self.n_features_in_))
        self.atoms_ = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
        self.readouts_ = self.atoms_


def named(models):
    return pytest.mark.parametrize("model", models, ids=lambda model: model.name)


def planted(n=2000, d=16, k=2, axes=None, *, positive=False, seed=0):
    """Rows of k of the atoms each, and the atoms: orthonormal, or `axes` random ones."""
    random = np.random.default_rng(seed)
    if axes is None:
        atoms = np.linalg.qr(random.standard_normal((d, d)))[0]
    else:
        atoms = random.standard_normal((axes, d))
        atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    codes = np.zeros((n, len(atoms)))
    where = random.random(codes.shape).argsort(1)[:, :k]
    values = random.uniform(0.5, 1.5, where.shape)
    if not positive:
        values *= random.choice([-1, 1], where.shape)
    np.put_along_axis(codes, where, values, 1)
    return codes @ atoms, atoms


def embeddings(n=300, d=12, seed=1):
    """Correlated rows around a large common mean."""
    random = np.random.default_rng(seed)
    return random.laplace(size=(n, d)) @ random.standard_normal((d, d)) + 10


# --- every baseline -------------------------------------------------------------------------------


@named(LINEAR)
def test_all_coordinates_give_the_embedding_back(model):
    X = embeddings()
    model = clone(model).fit(X)
    restored = model.inverse_transform(model.transform(X, 12))
    # Two products of 12 terms; FastICA's matrices have the condition of the covariance's root.
    condition = np.linalg.cond(model.atoms_)
    np.testing.assert_allclose(restored, X, rtol=0, atol=100 * EPS * condition * np.abs(X).max())


@named(LINEAR)
def test_readouts_invert_atoms(model):
    model = clone(model).fit(embeddings())
    product = model.readouts_ @ model.atoms_.T
    tolerance = 100 * EPS * np.linalg.cond(model.atoms_)
    np.testing.assert_allclose(product, np.eye(12), rtol=0, atol=tolerance)


@named(ORTHOGONAL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_orthogonal_to_rounding_even_of_few_float32_rows(model, dtype):
    for n in (5, 300):  # fewer rows than columns too: the basis is completed
        atoms = clone(model).fit(embeddings(n).astype(dtype)).atoms_
        assert atoms.dtype == np.float64
        np.testing.assert_allclose(atoms @ atoms.T, np.eye(12), rtol=0, atol=1e-10)


@named([*LINEAR, Random()])
@pytest.mark.parametrize("k", [1, 5])
def test_codes_have_at_most_k_entries_and_reconstruct_by_the_formula(model, k):
    X = embeddings()
    model = clone(model).fit(X)
    codes = model.transform(X, k)
    assert codes.shape == (300, len(model.atoms_))
    counts = (codes != 0).sum(1)
    assert counts.max() == k
    restored = model.inverse_transform(codes)
    np.testing.assert_allclose(restored, model.mean_ + codes @ model.atoms_, rtol=1e-12)


@named([RandomRotation(random_state=0), PCA(), Varimax(), FastICA(random_state=0)])
def test_kept_entries_are_the_largest_parts_of_the_reconstruction(model):
    X = embeddings()
    model = clone(model).fit(X)
    coordinates = (X - model.mean_) @ model.readouts_.T
    size = np.abs(coordinates) * np.linalg.norm(model.atoms_, axis=1)
    order = np.argsort(-size, axis=1)[:, :3]
    expected = np.zeros_like(coordinates)
    np.put_along_axis(expected, order, np.take_along_axis(coordinates, order, 1), 1)
    np.testing.assert_allclose(model.transform(X, 3), expected, rtol=1e-9, atol=1e-9)


def test_ica_norms_change_what_is_kept():
    """So that the test above would notice if they were ignored."""
    X = embeddings()
    model = FastICA(random_state=0).fit(X)
    coordinates = (X - model.mean_) @ model.readouts_.T
    weighted = np.abs(coordinates) * np.linalg.norm(model.atoms_, axis=1)
    assert (weighted.argmax(1) != np.abs(coordinates).argmax(1)).any()


@named([*LINEAR, Random()])
def test_any_input_gives_the_same_codes(model, tmp_path):
    X = embeddings().astype(np.float32)
    np.save(tmp_path / "x.npy", X)
    model = clone(model)
    expected = model.fit(X).transform(X, 3)
    assert expected.dtype == np.float32
    for other in (
        torch.from_numpy(X),
        np.load(tmp_path / "x.npy", mmap_mode="r"),
        [X[:80], X[80:]],
    ):
        again = clone(model).fit(other).transform(other, 3)
        # Sums in other batches round differently, in float64, before float32 products of 12.
        np.testing.assert_allclose(again, expected, rtol=0, atol=1e-4)


@named([*LINEAR, Random()])
def test_same_seed_same_model(model):
    X = embeddings()
    first, second = clone(model).fit(X), clone(model).fit(X)
    # LAPACK and BLAS may round by where their operands lie; what is drawn is of size 1.
    np.testing.assert_allclose(first.atoms_, second.atoms_, rtol=0, atol=1e-6)
    size = np.abs(X).max()
    np.testing.assert_allclose(
        first.inverse_transform(first.transform(X, 2)),
        second.inverse_transform(second.transform(X, 2)),
        rtol=0,
        atol=1e-6 * size,
    )


def test_a_bounded_sample_still_centres_with_all_rows():
    X = embeddings()
    everything = PCA(max_rows=300).fit(X)
    model = PCA(max_rows=50, random_state=0).fit(X)
    assert np.abs(model.atoms_ - everything.atoms_).max() > 1e-3
    np.testing.assert_allclose(model.mean_, X.mean(0), rtol=1e-13)


@named([PCA(k=1), PCA("leading", k=1), RandomRotation(k=1), FastICA(k=1)])
def test_check_estimator(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)
        check_estimator(model)


def test_k_of_the_constructor_stands_in_a_pipeline():
    X, labels = embeddings(), np.arange(300) % 2
    pipeline = make_pipeline(PCA(k=4), LogisticRegression(max_iter=2000)).fit(X, labels)
    codes = pipeline[0].transform(X)
    np.testing.assert_array_equal(codes, pipeline[0].transform(X, 4))
    assert (codes != 0).sum(1).max() == 4
    assert list(pipeline[:-1].get_feature_names_out()) == [f"pca{i}" for i in range(12)]
    with pytest.raises(ValueError, match="k must be at most 12, the number of axes, got 32"):
        PCA().fit_transform(X)


@named([*LINEAR, Random()])
def test_bad_inputs(model):
    X = embeddings()
    model = clone(model)
    with pytest.raises(NotFittedError):
        model.transform(X, 2)
    model.fit(X)
    axes = len(model.atoms_)
    with pytest.raises(ValueError, match="k must be at most"):
        model.transform(X, axes + 1)
    with pytest.raises(ValueError, match="k =="):
        model.transform(X, 0)
    with pytest.raises(TypeError, match="k must be"):
        model.transform(X, 2.0)
    with pytest.raises(ValueError, match="expecting 12 features"):
        model.transform(X[:, 1:], 2)
    with pytest.raises(ValueError, match="codes must be"):
        model.inverse_transform(np.zeros((3, axes + 1)))
    for wrong, message in ((X[:1], "sample"), (np.ones((5, 12)), "the same"), (X * np.nan, "NaN")):
        with pytest.raises(ValueError, match=message):
            clone(model).fit(wrong)
    with pytest.raises(ValueError, match="max_rows"):
        clone(model).set_params(max_rows=1).fit(X)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (PCA("first"), "select"),
        (FastICA(max_iter=0), "max_iter"),
        (Varimax(tol=-1.0), "tol"),
        (RandomRotation(k=0), "k =="),
    ],
)
def test_bad_parameters(model, message):
    with pytest.raises(ValueError, match=message):
        model.fit(embeddings())


# --- each by itself -------------------------------------------------------------------------------


def test_the_two_readings_of_pca():
    X = embeddings()
    leading, per_row = PCA("leading").fit(X), PCA().fit(X)
    codes = leading.transform(X, 3)
    assert (codes[:, 3:] == 0).all()
    # What the leading components explain is the sum of their variances.
    explained = leading.explained_variance_[:3].sum() / leading.explained_variance_.sum()
    assert fve(X, leading.inverse_transform(codes)) == pytest.approx(explained, rel=1e-10)
    # Per row, the three largest have at least the energy of the first three.
    assert (np.square(per_row.transform(X, 3)).sum(1) >= np.square(codes).sum(1) - 1e-9).all()


def test_random_rotation_depends_on_the_seed_alone():
    first = RandomRotation(random_state=0).fit(embeddings(seed=1)).atoms_
    np.testing.assert_array_equal(
        first, RandomRotation(random_state=0).fit(embeddings(seed=2)).atoms_
    )
    assert np.abs(first - RandomRotation(random_state=1).fit(embeddings()).atoms_).max() > 0.1


@pytest.mark.parametrize("model", [FastICA(random_state=0), Quartimax(), Varimax()])
def test_recovers_a_planted_basis(model):
    """The ideal model of CEDAR is also that of ICA and of quartimax: they tie there."""
    X, atoms = planted()
    assert mcc(model.fit(X).atoms_, atoms) > 0.99
    assert model.converged_
    assert mcc(PCA().fit(X).atoms_, atoms) < 0.8


def test_ica_records_that_it_did_not_converge_and_drops_directions_without_variance():
    X, _ = planted(300)
    X = np.hstack([X, X[:, :3] + X[:, 3:6]])  # three columns that say nothing new
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = FastICA(max_iter=1, random_state=0).fit(X)
    assert not model.converged_
    assert model.n_iter_ == 1
    assert model.atoms_.shape == (16, 19)
    restored = model.inverse_transform(model.transform(X, 16))
    np.testing.assert_allclose(restored, X, rtol=0, atol=1e-10)


def criterion(scores, gamma):
    square = scores**2
    return (square**2).sum() - gamma / len(scores) * (square.sum(0) ** 2).sum()


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    gamma=st.floats(0, 1),
    n=st.integers(1, 40),
    axes=st.integers(1, 7),
    size=st.floats(1e-6, 1e6),
)
def test_orthomax_rotates_and_never_falls(seed, gamma, n, axes, size):
    scores = size * np.random.default_rng(seed).laplace(size=(n, axes))
    found = orthomax(scores, gamma)
    np.testing.assert_allclose(found.rotation.T @ found.rotation, np.eye(axes), atol=1e-10)
    assert (np.diff(found.criterion) >= 0).all()
    # Sums of n x axes positive terms, less another such sum where gamma is 1.
    tolerance = 1e4 * EPS * (scores**4).sum() * n
    assert found.criterion[0] == pytest.approx(criterion(scores, gamma), abs=tolerance)
    assert found.criterion[-1] == pytest.approx(
        criterion(scores @ found.rotation, gamma), abs=tolerance
    )


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_orthomax_in_the_plane_is_the_best_angle(gamma):
    scores = np.random.default_rng(3).laplace(size=(50, 2)) @ np.array([[1.0, 0.7], [0.2, 1.0]])
    found = orthomax(scores, gamma, tol=1e-12, max_iter=1000)
    angles = np.linspace(0, np.pi / 2, 2001)  # the criterion's period
    turns = [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in angles]
    best = max(criterion(scores @ turn, gamma) for turn in turns)
    # A grid of step h misses the top of a sum of cosines of 4a by at most (4h)^2 / 8 of its size.
    assert found.criterion[-1] >= best * (1 - 1e-9)
    assert found.criterion[-1] <= best + (4 * angles[1]) ** 2 / 8 * (scores**4).sum() * 4
    assert found.criterion[-1] > found.criterion[0]


def test_orthomax_refuses_other_gammas():
    with pytest.raises(ValueError, match=r"^gamma must be between 0 and 1, got 1\.5$"):
        orthomax(np.eye(3), 1.5)
    with pytest.raises(ValueError, match=r"^gamma must be between 0 and 1, got nan$"):
        orthomax(np.eye(3), np.nan)
    with pytest.raises(TypeError, match=r"^gamma must be a number, got 'varimax'$"):
        orthomax(np.eye(3), "varimax")


def test_orthomax_damps_steps_that_would_make_the_criterion_fall():
    """Of varimax on few rows: one case in some hundred, so that they are searched for here."""
    fell = 0
    for seed in range(400):
        scores = np.random.default_rng(seed).laplace(size=(2, 4))
        rotation = np.eye(4)
        values = [criterion(scores, 1.0)]
        for _ in range(30):
            rotated = scores @ rotation
            slope = rotated**3 - rotated * (rotated**2).sum(0) / 2
            left, _, right = np.linalg.svd(scores.T @ slope)
            rotation = left @ right
            values.append(criterion(scores @ rotation, 1.0))
        if np.diff(values).min() < -1e-6 * values[0]:
            fell += 1
            damped = orthomax(scores, 1.0, tol=1e-12, max_iter=500)
            assert (np.diff(damped.criterion) >= 0).all()
            # The damped ascent goes on past where the plain one first stepped back.
            first = int(np.argmax(np.diff(values) < 0))
            assert damped.criterion[-1] >= values[first] * (1 - 1e-9)
    assert fell > 0


# --- compare --------------------------------------------------------------------------------------


def quick():
    found = all_baselines()
    found[-1].set_params(max_iter=20)
    return [*found, Random()]


@pytest.fixture(scope="module")
def comparison():
    X, _ = planted(1500, d=16, k=2)
    return compare(X.astype(np.float32) + 3, k=(1, 2, 4), baselines=quick(), seeds=2)


@settings(deadline=None)
@given(
    dim=st.integers(1, 3000),
    axes=st.integers(1, 20_000),
    part=st.floats(0, 1),
    indexed=st.booleans(),
)
def test_entries_for_the_same_bits(dim, axes, part, indexed):
    budget = code_bits(dim, max(1, int(part * dim)))
    k = k_within(budget, axes, indexed)
    assert bits_of(axes, k, indexed) <= budget or k == 0
    assert k == axes or bits_of(axes, k + 1, indexed) > budget


def test_compare_at_equal_bits(comparison):
    rows = [row for row in comparison.rows if row.block == "equal bits"]
    indexed = {"PCA, leading k": False}
    kept = {}
    for row in rows:
        budget = code_bits(16, row.column)
        assert row.bits == bits_of(row.axes, row.k, indexed.get(row.method, True)) <= budget
        more = bits_of(row.axes, row.k + 1, indexed.get(row.method, True))
        assert more > budget
        kept[row.method, row.column] = row.k
    assert kept["CEDAR", 4] == kept["PCA, per-row top k", 4] == 4
    assert kept["random, 4x", 4] == 3
    # 4 values and log2 binom(16, 4) = 10.8 bits are no more than 4 values.
    assert kept["PCA, leading k", 4] == 4
    assert ("random, 4x", 1) not in kept  # one entry of 64 costs more than one of 16


def test_compare_measures_what_a_fit_by_hand_does():
    X, _ = planted(400)
    train, test = X[:300], X[300:]
    found = compare(
        train, k=(2, 3), test=test, baselines=[PCA()], nulls=False, random_state=5, fit_k=2
    )
    assert [row.method for row in found.rows if row.block == "equal k"] == [
        "PCA, per-row top k", "PCA, per-row top k", "CEDAR", "CEDAR",
    ]  # fmt: skip
    by_hand = {
        "PCA, per-row top k": PCA(random_state=5).fit(train),
        "CEDAR": CEDAR(k=2, random_state=5).fit(train),
    }
    for row in found.rows:
        model = by_hand[row.method]
        codes = model.transform(test, row.k)
        assert row.fve == pytest.approx(fve(test, model.inverse_transform(codes)), rel=1e-12)
        assert row.l0 == (codes != 0).sum(1).mean()
        assert row.dead == (codes == 0).all(0).sum()
        assert row.fit_k == (2 if row.method == "CEDAR" else None)
    assert (found.train_rows, found.test_rows, found.dim) == (300, 100, 16)


def test_planted_basis_is_found_and_nulls_show_no_gain(comparison):
    best = {
        row.method: row.fve
        for row in comparison.rows
        if row.block == "equal k" and row.column == 2 and row.fit_k in (None, 2)
    }
    assert best["CEDAR"] > 0.95
    assert best["PCA, per-row top k"] < 0.7
    assert best["random rotation"] < 0.6
    for k in comparison.k:
        for block in ("isotropic null", "covariance null"):
            gains = comparison.null_gains(block, k)
            assert len(gains) == 2
            # 300 test rows have an FVE to about its spread over rows, 0.15, over sqrt(300), 0.01;
            # the difference of two to 0.014, here within three of that. A gain would be 0.4.
            assert max(gains) < 0.04
            assert any(row.fve > 0 for row in comparison.rows if row.block == block)


def test_table_json_and_plot(comparison):
    table = comparison.table()
    assert str(comparison) == table
    methods = {row.method for row in comparison.rows}
    assert methods == {model.name for model in quick()} | {"CEDAR"}
    for text in (*methods, "Equal bits", "isotropic", "covariance", "±", "fitted at each k"):
        assert text in table
    for block in table.split("\n\n")[1:]:
        lines = block.splitlines()
        assert len({len(line) for line in lines}) == 1  # aligned
    data = json.loads(comparison.to_json())
    assert len(data["rows"]) == len(comparison.rows)
    assert data["rows"][0]["fve"] == comparison.rows[0].fve
    left, right = comparison.plot().axes
    assert left.get_xlabel().startswith("k")
    # Both lines of the two that are fitted for k.
    assert len(left.containers) == len(right.containers) == len(methods) + 2
    assert "8 methods" in repr(comparison)


def test_seeds_split_anew(comparison):
    ours = [
        row.fve
        for row in comparison.rows
        if row.method == "PCA, per-row top k" and row.block == "equal k" and row.column == 2
    ]
    assert len(ours) == len(set(ours)) == 2


def test_more_models_fitted_and_not():
    X, _ = planted(300)
    fitted = CEDAR(k=2, random_state=0).fit(X)
    before = fitted.atoms_.copy()
    models = {"fitted": fitted, "nested": CEDAR(k=[1, 2]), "sparse": CEDAR(k=2, sparse_output=True)}
    found = compare(X, k=2, baselines=[], models=models, nulls=False)
    seconds = {row.method: row.fit_seconds for row in found.rows}
    assert list(seconds) == ["CEDAR", "fitted", "nested", "sparse"]
    assert np.isnan(seconds["fitted"])
    assert seconds["nested"] > 0
    np.testing.assert_array_equal(fitted.atoms_, before)
    assert [
        row["method"] for row in json.loads(found.to_json())["rows"] if row["fit_seconds"] is None
    ] == ["fitted"] * 2
    assert "fitted" in found.table()


def test_a_file_is_streamed(tmp_path):
    X, _ = planted(400)
    np.save(tmp_path / "x.npy", X)
    options = {"k": 2, "baselines": [PCA()], "nulls": False}
    found = compare(np.load(tmp_path / "x.npy", mmap_mode="r"), **options)
    expected = compare(X, **options)
    assert [row.fve for row in found.rows] == pytest.approx(
        [row.fve for row in expected.rows], abs=1e-3
    )  # the same rows, but CEDAR goes through batches of them in another order
    assert found.test_rows == 80
    batches = compare([X[:200], X[200:300]], test=[X[300:]], **options)
    assert (batches.train_rows, batches.test_rows) == (300, 100)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 17}, ValueError, "k=17"),
        ({"k": ()}, ValueError, "k is empty"),
        ({"fit_k": 99}, ValueError, "k=99"),
        ({"seeds": 0}, ValueError, "seeds"),
        ({"random_state": None}, TypeError, "random_state"),
        ({"test_size": 1.5}, ValueError, "test_size"),
        ({"test_size": 1}, ValueError, "at least 2"),
        ({"test": np.ones((5, 3))}, ValueError, "test has 3 features"),
        ({"baselines": [PCA(), PCA()]}, ValueError, "several methods are called PCA"),
        ({"baselines": [CEDAR()]}, TypeError, "models="),
        ({"baselines": [PCA().fit(np.eye(16))]}, ValueError, "fitted already"),
        ({"models": {"x": object()}}, TypeError, "has no fit"),
        ({"models": {"CEDAR": CEDAR()}}, ValueError, "several methods are called CEDAR"),
    ],
)
def test_compare_refuses(options, error, message):
    with pytest.raises(error, match=message):
        compare(planted(50)[0], **{"k": 2, **options})


def test_compare_needs_rows_it_can_split():
    X, _ = planted(50)
    with pytest.raises(ValueError, match="pass test"):
        compare([X[:20], X[20:]], k=2)
    with pytest.raises(ValueError, match="at least 4"):
        compare(X[:3], k=2)


def test_all_baselines_are_what_compare_uses_by_default(monkeypatch):
    monkeypatch.setattr(comparing, "all_baselines", lambda: [RandomRotation()])
    found = compare(planted(50)[0], k=1, nulls=False)
    assert {row.method for row in found.rows} == {"random rotation", "CEDAR"}
