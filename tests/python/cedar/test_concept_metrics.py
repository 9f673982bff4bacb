"""Metrics of axes against known concepts, and of neighbours, beside scikit-learn's own."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from laplex.cedar import CEDAR
from laplex.cedar.metrics import Reconstruction, concept_auroc, neighbour_recall, sparse_probing
from strategies import quick

SEEDS = st.integers(0, 2**32 - 1)


def codes(seed, n=60, axes=7):
    """Sparse codes with many ties at 0, and three concepts that move the first three axes."""
    random = np.random.default_rng(seed)
    labels = np.array(["a", "b", "c"])[np.arange(n) % 3]
    values = random.standard_normal((n, axes)) * (random.random((n, axes)) < 0.5)
    for i, concept in enumerate("abc"):
        values[labels == concept, i] += 2 * (-1) ** i
    return values, labels


@quick
@given(SEEDS)
def test_auroc_is_that_of_scikit_learn_and_its_axis_the_best_in_training(seed):
    train, labels = codes(seed)
    test, test_labels = codes(seed + 1)
    found = concept_auroc(train, labels, test, test_labels)
    for i, concept in enumerate(found.concepts):
        axis, sign = found.axes[i, 0], found.signs[i, 0]
        expected = roc_auc_score(test_labels == concept, sign * test[:, axis])
        assert found.scores[i] == pytest.approx(expected, abs=1e-12)
        both = [roc_auc_score(labels == concept, s * column) for column in train.T for s in (1, -1)]
        best = roc_auc_score(labels == concept, sign * train[:, axis])
        assert best == pytest.approx(max(both), abs=1e-12)
    assert found.mean == pytest.approx(found.scores.mean())


@quick
@given(SEEDS, st.integers(1, 3))
def test_probing_is_a_logistic_regression_on_the_axes_that_differ_most(seed, count):
    train, labels = codes(seed)
    test, test_labels = codes(seed + 1)
    found = sparse_probing(train, labels, test, test_labels, axes=count)
    for i, concept in enumerate("abc"):
        mine = labels == concept
        difference = train[mine].mean(0) - train[~mine].mean(0)
        chosen = found.axes[i]
        assert np.abs(difference[chosen]).min() >= np.delete(np.abs(difference), chosen).max()
        np.testing.assert_array_equal(found.signs[i], np.sign(difference[chosen]))
        probe = make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced")
        ).fit(train[:, chosen], mine)
        expected = balanced_accuracy_score(test_labels == concept, probe.predict(test[:, chosen]))
        assert found.scores[i] == pytest.approx(expected)


def test_perfect_and_useless_axes():
    labels = np.repeat([0, 1], 40)
    perfect = np.stack([np.where(labels == 1, -1.0, 0.0), np.zeros(80)], axis=1)
    for measure in (concept_auroc, sparse_probing):
        assert measure(perfect, labels, perfect, labels).mean == 1
        # Constant axes say nothing: 0.5 by ties, and one of the two classes by the probe.
        assert measure(0 * perfect, labels, 0 * perfect, labels).mean == 0.5
    tensor = torch.from_numpy(perfect)
    assert concept_auroc(tensor, torch.from_numpy(labels), tensor, labels).signs.tolist() == [
        [1],
        [-1],
    ]


@pytest.mark.parametrize("measure", [concept_auroc, sparse_probing])
def test_sparse_codes_and_ends_as_columns(measure):
    values, labels = codes(0)
    sparse = scipy.sparse.csr_array(values)
    expected = measure(values, labels, values, labels).scores
    np.testing.assert_array_equal(measure(sparse, labels, sparse, labels).scores, expected)
    # Without negative entries, the columns of the negative ends are silent and change nothing.
    size = np.abs(values)
    ends = np.hstack([np.maximum(size, 0), np.maximum(-size, 0)])
    np.testing.assert_array_equal(
        measure(ends, labels, ends, labels).scores, measure(size, labels, size, labels).scores
    )


@pytest.mark.parametrize("measure", [concept_auroc, sparse_probing])
def test_concept_errors(measure):
    values, labels = codes(0)
    with pytest.raises(ValueError, match="two concepts or more"):
        measure(values, np.zeros(60), values, labels)
    with pytest.raises(ValueError, match="same concepts"):
        measure(values, labels, values[:1], labels[:1])
    with pytest.raises(ValueError, match="last dimension"):
        measure(values, labels, values[:, 1:], labels)
    with pytest.raises(ValueError, match="labels must have shape"):
        measure(values, labels[1:], values, labels)


def test_probing_needs_as_many_axes():
    values, labels = codes(0)
    with pytest.raises(ValueError, match="axes must be at most 7, the width of codes, got 8"):
        sparse_probing(values, labels, values, labels, axes=8)


@quick
@given(SEEDS, st.integers(1, 9))
def test_neighbour_recall_is_that_of_two_searches_by_scikit_learn(seed, n):
    random = np.random.default_rng(seed)
    z = random.standard_normal((40, 5)) + 1
    z_hat = z + 0.5 * random.standard_normal(z.shape)

    def shared(queries, skip):
        found = []
        for rows in (z, z_hat):
            search = NearestNeighbors(n_neighbors=40, metric="cosine", algorithm="brute").fit(rows)
            index = search.kneighbors(queries, return_distance=False)
            found.append(
                [[j for j in row if not (skip and j == i)][:n] for i, row in enumerate(index)]
            )
        return np.mean([len(set(a) & set(b)) / n for a, b in zip(*found, strict=True)])

    assert neighbour_recall(z, z_hat, n) == pytest.approx(shared(z, True))
    queries = random.standard_normal((7, 5))
    assert neighbour_recall(z, z_hat, n, queries=queries) == pytest.approx(shared(queries, False))
    # Lengths and the precision of the input change nothing.
    assert neighbour_recall(3 * z, torch.from_numpy(z_hat), n) == neighbour_recall(z, z_hat, n)


def test_all_entries_keep_all_neighbours():
    z = np.random.default_rng(0).standard_normal((200, 6)) + 2
    model = CEDAR(k=2, random_state=0).fit(z)
    recalls = [
        neighbour_recall(z, model.inverse_transform(model.transform(z, k))) for k in (1, 3, 6)
    ]
    assert recalls[0] < recalls[1] < recalls[2]
    assert recalls[2] > 0.99  # up to ties within rounding


def test_neighbour_recall_errors():
    z = np.eye(5)
    with pytest.raises(ValueError, match="n must be at most 4"):
        neighbour_recall(z, z, 5)
    with pytest.raises(ValueError, match="same shape"):
        neighbour_recall(z, z[1:], 1)
    with pytest.raises(ValueError, match="last dimension"):
        neighbour_recall(z, z, 1, queries=np.eye(4))


def test_density_is_the_share_of_rows_in_which_an_axis_fires():
    values, _ = codes(0)
    measured = Reconstruction()
    measured.update(values, values, values)
    np.testing.assert_allclose(measured.compute().density, (values != 0).mean(0))
    plain = Reconstruction()
    plain.update(values, values)
    assert plain.compute().density is None
