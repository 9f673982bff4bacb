"""What a fit leaves free or decides: polar factors, order and signs of axes, convergence, k."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cedar_cases import planted, rotation_error
from laplex.cedar import (
    CEDAR,
    ConstantColumnWarning,
    DominantRowWarning,
    choose_k,
    fitting,
    gain_score,
)
from laplex.cedar.basis import nearest_rotation, random_rotation
from laplex.cedar.moments import solved
from laplex.cedar.settings import settings_of
from strategies import quick

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS: dict[str, dict[str, Any]] = {
    "procrustes": {},
    "several starts": {"n_init": 3},
    "learned centre": {"center": "learned"},
    "adam": {"solver": "adam", "max_iter": 60},
    "cayley": {"solver": "adam", "max_iter": 20, "parametrization": "cayley"},
    "invertible": {"basis": "invertible", "max_iter": 30},
    "laplex": {"basis": "laplex", "heads": 2, "max_iter": 10},
}


def skewed(seed: int = 0, rows: int = 800, dim: int = 12) -> np.ndarray:
    """Causes of one sign, each of another strength, mixed by a rotation."""
    case = planted(rows, dim, 3, seed=seed, positive=True)
    return case.causes * np.linspace(1, 3, dim) @ case.mixing


# --- the polar factor -----------------------------------------------------------------------------


@quick
@given(dim=st.integers(1, 12), rank=st.integers(0, 12), seed=st.integers(0, 99))
def test_the_polar_factor_is_orthogonal_at_any_rank(dim: int, rank: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    wide = torch.randn(dim, min(rank, dim), generator=random, dtype=torch.float64)
    sums = wide @ torch.randn(min(rank, dim), dim, generator=random, dtype=torch.float64)
    old = random_rotation(dim, random)
    found = solved(sums, old)
    assert rotation_error(found[None].numpy()) < 1e-13
    # It fits at least as well as the old rotation, and leaves it where there is nothing to fit.
    assert float((found * sums).sum() - (old * sums).sum()) >= -1e-6 * float(sums.norm())
    if rank == 0:
        torch.testing.assert_close(found, old, rtol=0, atol=1e-13)


def test_wide_float32_sums_are_solved_in_float32() -> None:
    dim, random = 520, torch.Generator().manual_seed(0)
    left, right = random_rotation(dim, random), random_rotation(dim, random)
    sizes = torch.logspace(0, -5, dim, dtype=torch.float64)
    sizes[-20:] = 0  # dead axes
    sums = (left * sizes) @ right
    found = solved(sums, random_rotation(dim, random).float())
    assert found.dtype == torch.float32
    assert rotation_error(found[None].numpy()) < 1e-5
    # The trace of the polar factor is the sum of the singular values. A backward stable
    # decomposition finds it for sums that differ by eps times their norm in each direction.
    best = float(sizes.sum())
    assert best - float((found.double() * sums).sum()) < 1e-5 * best
    exact = nearest_rotation(sums + 1e-7 * left @ right)
    assert abs(float((exact * sums).sum()) - best) < 1e-9 * best


def test_losses_never_grow_on_wide_float32() -> None:
    data = planted(1200, 520, 4, seed=1).data.astype(np.float32)
    model = CEDAR(k=4, random_state=0, max_iter=12).fit(data)
    assert (np.diff(model.loss_curve_) < 1e-6).all()  # but for rounding of 520 float32 numbers
    assert rotation_error(model.restarts_) < 1e-6


def test_procrustes_is_the_default_up_to_4096_columns() -> None:
    for dim, solver in ((1025, "procrustes"), (4096, "procrustes"), (4097, "adam")):
        assert settings_of(CEDAR(k=1).get_params(), dim).solver == solver
    assert settings_of(CEDAR(k=1, basis="invertible").get_params(), 8).solver == "adam"


# --- order and signs ------------------------------------------------------------------------------


def check_arrangement(codes: np.ndarray) -> None:
    energy, skew = (codes**2).mean(0), (codes**3).mean(0)
    assert (np.diff(energy) <= 1e-6 * energy.max()).all()  # rounding of float32 codes
    assert (skew >= -1e-6 * energy**1.5).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_axes_are_in_order_of_energy_with_the_long_tail_positive(kind: str, dtype: Any) -> None:
    data = (skewed() + 2).astype(dtype)
    model = CEDAR(k=3, random_state=0, **KINDS[kind]).fit(data)
    check_arrangement(model.transform(data).astype(np.float64))
    for basis in model.bases_:
        codes = basis.encode(torch.as_tensor(data - model.mean_), 3)
        if len(model.bases_) == 1:  # others are in order on the rows that they have seen
            check_arrangement(codes.numpy().astype(np.float64))
        assert np.allclose(basis.readouts @ basis.atoms.T, np.eye(12), atol=1e-5)


def test_parts_files_and_samples_have_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    data = skewed(rows=2000)
    model = CEDAR(k=3, random_state=0).fit(data)
    parts = CEDAR(k=3, random_state=0).fit_map_reduce(
        lambda make: sum(map(make, np.array_split(data, 3)))
    )
    np.testing.assert_allclose(parts.components_, model.components_, atol=1e-6)
    monkeypatch.setattr(fitting, "_SAMPLE_ROWS", 400)
    monkeypatch.setattr(fitting, "_LEAST_ROWS", 400)
    sampled = CEDAR(k=3, random_state=0).fit(list(np.array_split(data, 7)))
    codes = sampled.transform(data)
    assert ((codes**3).mean(0) > 0).all()  # skewnesses of 1 are known from 400 rows
    energy = (codes**2).mean(0)
    assert (np.diff(energy) < 0.3 * energy.max()).all()


def test_axes_that_are_in_no_code_have_a_sign_too() -> None:
    data = skewed()
    data[:, 3] = 7
    with pytest.warns(ConstantColumnWarning):
        model = CEDAR(k=3, random_state=0).fit(data)
    assert not model.transform(data)[:, -1].any()
    assert model.atoms_[-1][np.abs(model.atoms_[-1]).argmax()] > 0.99


def test_mirrored_rows_have_signs_that_do_not_depend_on_rounding() -> None:
    half = planted(400, 8, 2, seed=3).data
    data = np.concatenate([half, -half])
    model = CEDAR(k=2, random_state=0).fit(data)
    largest = np.abs(model.atoms_).argmax(1)
    assert (model.atoms_[np.arange(8), largest] > 0).all()


@pytest.mark.parametrize("kind", ["procrustes", "adam", "invertible", "laplex"])
def test_axes_keep_their_places_in_a_stream(kind: str) -> None:
    data = skewed(seed=2, rows=3000)
    parameters = {**KINDS[kind], "batch_size": 500, "learning_rate": 0.001}
    fitted = CEDAR(k=3, random_state=0, **parameters).fit(data)
    stream = CEDAR(k=3, random_state=0, **parameters)
    for batch in np.split(data, 15):
        stream.partial_fit(batch)
    for model in (fitted, stream):
        before = model.atoms_.copy()
        # Rows of one axis alone would come first, if energies of the batch chose its place.
        model.partial_fit(np.outer(np.linspace(-1, 4, 50), model.atoms_[9]) + model.mean_)
        cosine = (before * model.atoms_).sum(1)
        assert (cosine > 0.7).all()


# --- rows that decide alone -----------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 500])
def test_a_row_with_most_of_the_variance_is_told(place: int) -> None:
    data = planted(800, 16, 3, seed=4).data
    CEDAR(k=3, max_iter=3, random_state=0).fit(data)  # no warning
    data[place] = 1e4
    for rows in (data, list(np.array_split(data, 7))):
        with pytest.warns(DominantRowWarning, match="of the 800 rows of X holds 100% of") as seen:
            CEDAR(k=3, max_iter=3, random_state=0).fit(rows)
        assert {one.filename for one in seen} == {__file__}
    with pytest.warns(DominantRowWarning):
        CEDAR(k=3, max_iter=3, random_state=0).fit_map_reduce(
            lambda make: sum(map(make, np.array_split(data, 3)))
        )


# --- convergence ----------------------------------------------------------------------------------


def test_a_fit_that_stops_short_says_so() -> None:
    data = planted(800, 16, 3, seed=4).data
    with pytest.warns(ConvergenceWarning, match=r"max_iter=7 passes ended before tol=1e-05") as one:
        CEDAR(k=3, random_state=0, max_iter=7).fit(data)
    assert one[0].filename == __file__
    with pytest.warns(ConvergenceWarning, match="max_iter=20 steps of adam: .* still fell by"):
        CEDAR(k=3, random_state=0, solver="adam", max_iter=20).fit(data)
    for parameters, match in (
        ({"max_iter": 3}, "fewer than 5 steps"),
        ({"max_iter": 6, "basis": "invertible"}, "turn the axes by 0.03 at most.* Raise max_iter"),
        ({"max_iter": 60, "learning_rate": 1e-9}, "Raise max_iter or learning_rate=1e-09"),
        ({"max_iter": 60, "learning_rate": 50}, "Lower learning_rate=50"),
    ):
        with pytest.warns(ConvergenceWarning, match=match):
            CEDAR(k=3, random_state=0, solver="adam").set_params(**parameters).fit(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CEDAR(k=3, random_state=0).fit(data)
        CEDAR(k=3, random_state=0, max_iter=7, tol=0).fit(data)  # 7 passes are what is asked for
        CEDAR(k=3, random_state=0, solver="adam", max_iter=300).fit(data)
        CEDAR(k=3, random_state=0).fit(np.random.default_rng(0).standard_normal((600, 16)))


class Renamed(CEDAR):
    """A subclass with a method of the name that the argument `basis` had."""

    def transform(self, X: Any, k: int | None = None) -> Any:
        """Return absolute codes."""
        return np.abs(super().transform(X, k))


def test_a_subclass_may_override_transform() -> None:
    data = planted(300, 8, 2, seed=5).data
    model = Renamed(k=2, random_state=0).fit(data)
    assert (model.transform(data) >= 0).all()
    assert model.fit_transform(data).min() == 0
    for other in (clone(model).fit(data), pickle.loads(pickle.dumps(model))):
        assert np.array_equal(other.transform(data, k=1), model.transform(data, k=1))


# --- k --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("true", [2, 4])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_planted_k_is_chosen(true: int, noise: float) -> None:
    case = planted(2000, 24, true, seed=6)
    data = case.data + noise * np.random.default_rng(0).standard_normal(case.data.shape)
    found = choose_k(list(np.split(data, 4)), [1, 2, 3, 4, 6, 8, 12])
    assert found.best == true
    assert f"k = {true}: held-out FVE" in repr(found)
    assert found.table().count("*") == 1
    assert (np.diff(found.fve) > -0.01).all()
    assert found.stability[found.ks.index(true)] > 0.9


@pytest.mark.filterwarnings("ignore::laplex.cedar.DominantRowWarning")
@pytest.mark.parametrize("seed", [7, 8])
@pytest.mark.parametrize("family", ["normal", "covariance", "norms", "Cauchy", "copies", "few"])
def test_noise_supports_no_k(family: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    data = random.standard_normal((1200, 24))
    if family == "covariance":
        data *= np.arange(1, 25) ** -1.0
    if family == "norms":
        data *= np.exp(random.standard_normal((1200, 1))) / np.linalg.norm(data, axis=1)[:, None]
    if family == "Cauchy":
        data /= np.abs(random.standard_normal((1200, 1)))
    if family == "copies":
        data = random.permutation(np.repeat(data[:60], 20, axis=0))
    if family == "few":
        data = np.repeat(data[:30], 10, axis=0)
    found = choose_k(data, [1, 2, 4, 8])
    assert found.best is None
    assert found.stability.max() < 0.6
    model = CEDAR(k=2, random_state=0).fit(data[::2])
    assert family in ("copies", "few") or gain_score(model, data[1::2]) < 0
    assert "no k is supported" in repr(found)
    assert "*" not in found.table()


def test_ks_without_a_plateau_are_told() -> None:
    data = planted(1500, 24, 4, seed=8).data
    with pytest.warns(UserWarning, match="the largest k tried, 2, is the best; try larger ones"):
        assert choose_k(data, [1, 2]).best == 2
    with pytest.warns(UserWarning, match="the smallest k tried, 6, is the best; try smaller ones"):
        choose_k(data, [6, 8, 12])


def test_a_search_by_gain_finds_the_planted_k_and_by_score_the_largest() -> None:
    data = planted(1500, 24, 4, seed=9).data
    data += 0.05 * np.random.default_rng(0).standard_normal(data.shape)
    grid = {"k": [2, 4, 8, 12]}
    assert GridSearchCV(CEDAR(random_state=0), grid, cv=2).fit(data).best_params_["k"] > 4
    search = GridSearchCV(CEDAR(random_state=0), grid, scoring=gain_score, cv=2).fit(data)
    assert search.best_params_ == {"k": 4}


def test_a_search_by_gain_takes_a_pipeline() -> None:
    data = planted(1500, 24, 4, seed=9).data
    for steps in ([CEDAR(random_state=0)], [StandardScaler(), CEDAR(random_state=0)]):
        search = GridSearchCV(
            make_pipeline(*steps), {"cedar__k": [2, 4, 8]}, scoring=gain_score, cv=2
        )
        assert search.fit(data).best_params_ == {"cedar__k": 4}
    with pytest.raises(TypeError, match="a pipeline that ends with one, got StandardScaler"):
        gain_score(make_pipeline(StandardScaler()).fit(data), data)


@pytest.mark.parametrize("random_state", [None, np.random.RandomState(0), np.int64(3)])
def test_any_random_state_chooses_a_k(random_state: Any) -> None:
    data = planted(600, 12, 2, seed=12).data
    for model in (None, CEDAR(random_state=random_state)):
        assert choose_k(data, [1, 2, 4], model=model, random_state=random_state).best == 2


class Fixed(CEDAR):
    """A subclass whose constructor has few parameters, and one of its own."""

    def __init__(self, k: int = 2, gain: float = 1.0) -> None:
        super().__init__(k=k, solver="adam", max_iter=300, random_state=0)
        self.gain = gain


def test_a_subclass_with_fewer_parameters(tmp_path: Path) -> None:
    data = planted(600, 12, 2, seed=12).data
    assert choose_k(data, [1, 2, 4], model=Fixed()).best == 2
    model = Fixed(2, gain=3.0).fit(data)
    assert clone(model).fit(data).n_iter_ == 300
    model.confirm(data)
    model.partial_fit(data)
    model.save(tmp_path / "model")
    again = Fixed.load(tmp_path / "model")
    assert (again.gain, again.max_iter, again.solver) == (3.0, 300, "adam")
    assert np.array_equal(again.transform(data), model.transform(data))
    with pytest.raises(ValueError, match="or one of another class, whose `load` reads it"):
        CEDAR.load(tmp_path / "model")


def test_bad_arguments_of_choose_k() -> None:
    data = planted(100, 6, 2, seed=10).data
    with pytest.raises(ValueError, match="k=7 is more than the 6 features"):
        choose_k(data, [2, 7])
    with pytest.raises(ValueError, match="X has 5 different rows, but choose_k needs at least 8"):
        choose_k(data[:5])
    with pytest.raises(TypeError, match="model must be a CEDAR, got int"):
        choose_k(data, model=3)  # type: ignore[arg-type]


def test_the_curves_are_drawn() -> None:
    pytest.importorskip("matplotlib").use("agg")
    found = choose_k(planted(300, 8, 2, seed=11).data, [1, 2, 4])
    axes = found.plot()
    assert len(axes.lines) == 5
    assert axes.get_xlabel().startswith("entries")
