"""Baselines and `compare`: identities, criteria, budgets, controls."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cedar_cases import planted, rotation_error
from laplex.cedar import CEDAR, compare
from laplex.cedar.baselines import (
    PCA,
    FastICA,
    Quartimax,
    RandomRotation,
    TopKSAE,
    Varimax,
)
from laplex.cedar.baselines.equal_bits import bits_of, k_within
from laplex.cedar.baselines.orthomax import orthomax
from laplex.cedar.metrics import fve, mcc

ROTATIONS = [RandomRotation(random_state=0), PCA(), PCA("leading"), Varimax(), Quartimax()]
ALL = [*ROTATIONS, FastICA(random_state=0), TopKSAE(3, steps=20, random_state=0)]


def name_of(model: Any) -> str:
    return str(model.name)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("model", ROTATIONS, ids=name_of)
def test_rotations_lose_nothing_with_every_entry(model: Any) -> None:
    data = planted(300, 10, 3, seed=0).data + 100
    model.fit(data)
    assert rotation_error(model.atoms_[None]) < 1e-10
    assert np.abs(model.inverse_transform(model.transform(data, 10)) - data).max() < 1e-10


@pytest.mark.parametrize("model", ALL, ids=name_of)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_codes_are_sparse_and_their_reconstruction_is_the_formula(model: Any, dtype: Any) -> None:
    data = planted(400, 10, 3, seed=1).data.astype(dtype)
    model.fit(data)
    for k in (1, 3):
        codes = model.transform(data, k)
        assert codes.dtype == dtype
        assert codes.shape == (400, len(model.atoms_))
        assert ((codes != 0).sum(1) <= k).all()
        back = codes @ model.atoms_.astype(dtype) + model.mean_.astype(dtype)
        assert np.allclose(model.inverse_transform(codes), back, atol=1e-5)


def test_readings_of_principal_components() -> None:
    data = planted(500, 8, 2, seed=2).data @ np.diag(np.arange(1.0, 9))
    leading, chosen = PCA("leading").fit(data), PCA().fit(data)
    codes = leading.transform(data, 3)
    assert (codes[:, 3:] == 0).all()
    assert (codes[:, :3] != 0).all()
    assert not leading.indexed
    # Choosing per row keeps the most energy of a rotation's coordinates.
    kept = chosen.inverse_transform(chosen.transform(data, 3))
    assert fve(data, kept) > fve(data, leading.inverse_transform(codes))
    variance = (leading.transform(data, 8) ** 2).mean(0)
    assert (np.diff(variance) <= 1e-9 * variance[0]).all()


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_orthomax_never_lowers_its_criterion_and_ends_where_no_plane_raises_it(
    gamma: float,
) -> None:
    coordinates = planted(800, 6, 2, seed=3).data

    def criterion(rotated: np.ndarray) -> float:
        energy = (rotated**2).sum(0)
        return float((rotated**4).sum() - gamma / len(rotated) * (energy**2).sum())

    found = orthomax(coordinates, gamma, tol=1e-12, max_iter=500)
    assert rotation_error(found.rotation[None]) < 1e-10
    assert (np.diff(found.criterion) >= 0).all()
    best = criterion(coordinates @ found.rotation)
    assert found.criterion[-1] == pytest.approx(best, rel=1e-9)
    for i in range(6):
        for j in range(i):
            turn = np.eye(6)
            turn[[i, i, j, j], [i, j, i, j]] = [math.cos(0.05), -math.sin(0.05),
                                                math.sin(0.05), math.cos(0.05)]  # fmt: skip
            assert criterion(coordinates @ found.rotation @ turn) < best


@pytest.mark.parametrize("model", [FastICA(random_state=0), Quartimax(), Varimax()], ids=name_of)
def test_rotations_to_simple_structure_find_planted_axes(model: Any) -> None:
    case = planted(6000, 12, 2, seed=4)
    assert mcc(model.fit(case.data).atoms_, case.atoms) > 0.98


def test_sparse_autoencoder_learns_an_overcomplete_dictionary() -> None:
    random = np.random.default_rng(5)
    atoms = random.standard_normal((24, 12))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    causes = np.abs(random.standard_normal((6000, 24))) * (random.random((6000, 24)) < 0.06)
    data = causes @ atoms
    model = TopKSAE(2, expansion=4, steps=1500, random_state=0)
    start = TopKSAE(2, expansion=4, steps=0, random_state=0).fit(data)
    model.fit(data)

    def explained(fitted: TopKSAE) -> float:
        return fve(data, fitted.inverse_transform(fitted.transform(data, 2)))

    assert explained(model) > 0.85 > explained(start) + 0.2
    assert np.allclose(np.linalg.norm(model.atoms_, axis=1), 1)
    assert mcc(model.atoms_, atoms, signed=True) > mcc(start.atoms_, atoms, signed=True) + 0.1
    again = TopKSAE(2, expansion=4, steps=1500, random_state=0).fit(data)
    assert np.array_equal(again.atoms_, model.atoms_)


@given(axes=st.integers(1, 3000), bits=st.floats(0, 3000), indexed=st.booleans())
def test_equal_bits_takes_the_largest_k_within_the_budget(
    axes: int, bits: float, indexed: bool
) -> None:
    k = k_within(bits, axes, indexed)
    assert k == 0 or bits_of(axes, k, indexed) <= bits
    assert k == axes or bits_of(axes, k + 1, indexed) > bits


def test_compare_finds_planted_axes_and_nothing_in_noise() -> None:
    case = planted(3000, 16, 3, seed=6)
    found = compare(case.data, k=(2, 3, 5), fit_k=3, seeds=2)

    def mean(block: str, method: str, k: int) -> float:
        values = [
            row.fve
            for row in found.rows
            if (row.block, row.method, row.column) == (block, method, k)
        ]
        assert len(values) == 2
        return float(np.mean(values))

    assert mean("equal k", "CEDAR", 3) > 0.99
    assert mean("equal k", "CEDAR", 3) > mean("equal k", "random rotation", 3) + 0.1
    for block, reference in (
        ("isotropic null", "random rotation"),
        ("covariance null", "PCA, per-row top k"),
    ):
        # 2400 rows of 16 numbers can be fitted a little: held-out rows show no gain from it.
        assert abs(mean(block, "CEDAR", 3) - mean(block, reference, 3)) < 0.02
    budget = bits_of(16, 3)
    for row in found.rows:
        if row.block == "equal bits" and row.column == 3:
            assert row.bits <= budget
            indexed = row.method != "PCA, leading k"
            assert row.k == k_within(budget, row.axes, indexed)
    table = found.table()
    for words in ("Equal k", "Equal bits", "isotropic Gaussian", "data's covariance", "CEDAR"):
        assert words.lower() in table.lower()
    assert len(json.loads(found.to_json())["rows"]) == len(found.rows)
    assert found.plot().axes
    assert "3000" not in repr(found)
    assert "print it" in repr(found)


def test_compare_takes_fitted_models_files_and_chosen_baselines(tmp_path: Any) -> None:
    case = planted(600, 8, 2, seed=7)
    np.save(tmp_path / "rows.npy", case.data)
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    mine = CEDAR(k=2, random_state=5).fit(case.data)
    found = compare(rows, k=2, test_size=100, baselines=[PCA()], models={"mine": mine}, nulls=False)
    assert {row.method for row in found.rows} == {"PCA, per-row top k", "CEDAR", "mine"}
    assert (found.train_rows, found.test_rows) == (500, 100)
    with pytest.raises(ValueError, match="several methods are called"):
        compare(case.data, k=2, baselines=[PCA(), PCA()])
    with pytest.raises(TypeError, match=r"baselines must be of laplex\.cedar\.baselines"):
        compare(case.data, k=2, baselines=["pca"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="fitted already"):
        compare(case.data, k=2, cedar=mine)
    with pytest.raises(ValueError, match="k=9"):
        compare(case.data, k=9)
    with pytest.raises(ValueError, match="test has 3 features"):
        compare(case.data, k=2, test=case.data[:, :3])


def test_bad_input_is_refused() -> None:
    data = planted(50, 6, 2, seed=8).data
    holes = data.copy()
    holes[4, 4] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model in ALL:
            with pytest.raises(ValueError, match="in row 4"):
                model.fit(holes)
    fitted = PCA().fit(data)
    with pytest.raises(ValueError, match="k must be at most 6"):
        fitted.transform(data, 7)
    with pytest.raises(ValueError, match="expecting 6 features"):
        fitted.transform(data[:, :4], 2)
    with pytest.raises(ValueError, match=r"codes must be \[n, 6\]"):
        fitted.inverse_transform(data[:, :4])
