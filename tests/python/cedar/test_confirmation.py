"""Axes are confirmed by other rows: none without structure, all that are planted."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm, ortho_group

from laplex.cedar import (
    CEDAR,
    Confirmation,
    TooFewRowsWarning,
    estimator,
    fitting,
    plane_test,
    stability,
)
from laplex.cedar.basis import DenseBasis
from laplex.cedar.parts import Part, hashes
from laplex.cedar.rows import as_rows
from rank_cases import run_ranks
from strategies import quick

pytestmark = pytest.mark.usefixtures("one_thread")

D, K = 24, 3
few = pytest.mark.filterwarnings(
    "ignore::laplex.cedar.TooFewRowsWarning", "ignore::laplex.cedar.DominantRowWarning"
)


def elliptical(rng: np.random.Generator, rows: int, columns: int, norms: str, decay: float) -> Any:
    """Rows without structure: an elliptical distribution with any norms and variances i^-decay."""
    z = rng.standard_normal((rows, columns))
    sphere = z / np.linalg.norm(z, axis=1, keepdims=True)
    z = {
        "Gaussian": z,
        "sphere": sphere,
        "log-normal": sphere * np.exp(rng.standard_normal((rows, 1))),
        "Student t2": z / np.sqrt(rng.chisquare(2, (rows, 1)) / 2),
        "Cauchy": z / np.abs(rng.standard_normal((rows, 1))),
    }[norms]
    return z * np.arange(1, columns + 1) ** (-decay / 2)


def planted(rng: np.random.Generator, rows: int, gaussian: int = 0, pair: bool = False) -> Any:
    """Rows of K sparse causes of D, a number of Gaussian ones, and the causes' directions."""
    sparse = D - gaussian
    codes = rng.standard_normal((rows, D)) * np.sqrt(K / D)
    codes[:, :sparse] = rng.standard_normal((rows, sparse))
    codes[:, :sparse] *= rng.random((rows, sparse)).argsort(axis=1) < K
    if pair:  # the second cause acts whenever the first one does
        codes[:, 1] = rng.standard_normal(rows) * (codes[:, 0] != 0)
    turn = ortho_group.rvs(D, random_state=rng)
    return codes @ turn + 0.02 * rng.standard_normal((rows, D)) + 1.0, turn


def confirmation(rows: Any, k: int = K, **parameters: Any) -> Confirmation:
    found = CEDAR(k=k, n_init=3, random_state=0, **parameters).fit(rows).confirmation_
    assert found is not None
    return found


# --- nothing is there -----------------------------------------------------------------------------


@few
@pytest.mark.parametrize("seed", range(3))
def test_the_case_that_was_reported(seed: int) -> None:
    r = np.random.default_rng(seed)
    rows = r.standard_normal((1000, 100))
    rows *= np.exp(r.standard_normal((1000, 1))) / np.linalg.norm(rows, axis=1, keepdims=True)
    model = CEDAR(k=4, n_init=3, random_state=0).fit(rows)
    assert stability(model.restarts_).recurring(3).sum() == 0
    assert not model.confirmed_.any()


@few
@pytest.mark.parametrize("norms", ["Gaussian", "sphere", "log-normal", "Student t2", "Cauchy"])
@pytest.mark.parametrize("decay", [0.0, 1.5])
def test_rows_without_structure_confirm_nothing(norms: str, decay: float) -> None:
    rows = elliptical(np.random.default_rng(1), 800, 40, norms, decay)
    assert not confirmation(rows).confirmed.any()


@few
def test_copies_of_rows_are_one_row() -> None:
    rng = np.random.default_rng(2)
    rows = elliptical(rng, 200, 12, "log-normal", 1.0)
    assert not confirmation(rng.permutation(np.repeat(rows, 6, axis=0))).confirmed.any()
    halves = [Part(number, 2, 7).rows(as_rows(np.repeat(rows, 2, axis=0))) for number in (0, 1)]
    first, second = (
        {tuple(row) for part in half.batches() for row in part.tolist()} for half in halves
    )
    assert not first & second
    assert len(first) + len(second) == 200


def p_values(rows: Any, axes: Any, seed: int) -> Any:
    """p-values of orthonormal axes that have nothing to do with the rows."""
    rows, basis = torch.as_tensor(rows), DenseBasis(torch.as_tensor(axes))
    like = torch.empty(0, dtype=rows.dtype)
    frame = plane_test.Cloud(torch.zeros(rows.shape[1]).double(), 1.0, None, 1.0, like)

    def add(make: Any) -> plane_test.Sums:
        return make(rows)

    frame = plane_test.shape(add, frame)
    return plane_test.judge(add, frame, [basis, basis], basis, frame.centre, 1, seed).p[0]


def test_p_values_hold_for_any_covariance_and_any_norms() -> None:
    """At most a share alpha of p-values is below alpha, and not far fewer."""
    rng = np.random.default_rng(3)
    found = []
    for draw in range(500):
        columns = int(rng.integers(2, 7))
        norms = ["Gaussian", "sphere", "log-normal", "Student t2", "Cauchy"][draw % 5]
        rows = elliptical(rng, int(rng.integers(60, 400)), columns, norms, rng.uniform(0, 3))
        mixing = rng.standard_normal((columns, columns))
        axes = ortho_group.rvs(columns, random_state=rng)
        found.append(p_values(rows @ mixing, axes, seed=draw)[0])
    for alpha in (0.01, 0.05, 0.2):
        least, most = binom.ppf([1e-4, 1 - 1e-4], len(found), [alpha / 3.2, alpha])
        # The bound on the tail is 3.18 times that of a normal number, which these sums nearly are.
        assert least <= np.sum(np.array(found) <= alpha) <= most


@quick
@given(seed=st.integers(0, 2**31 - 1), n=st.integers(1, 12), level=st.floats(0.5, 3.4))
def test_the_bound_on_the_tail_holds_for_any_weights(seed: int, n: int, level: float) -> None:
    weights = np.random.default_rng(seed).exponential(size=n) ** 3
    signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
    tail = np.mean(signs @ weights >= level * np.linalg.norm(weights))
    assert tail <= plane_test._TAIL * norm.sf(level)


# --- something is there ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [{}, {"solver": "adam", "max_iter": 200}, {"basis": "invertible", "max_iter": 200}],
)
def test_all_planted_axes_are_confirmed(parameters: dict[str, Any]) -> None:
    rows, turn = planted(np.random.default_rng(0), 3000)
    model = CEDAR(k=K, n_init=3, random_state=0, **parameters).fit(rows.astype(np.float32))
    assert np.abs(model.atoms_ @ turn.T).max(axis=1).min() > 0.95
    assert model.confirmed_.all()
    report = model.confirmation_
    assert report.cosine.shape == (2, D)
    assert report.cosine.min() > 0.9
    assert (report.q >= report.p).all()
    assert report.q.max() <= report.alpha == 0.01
    assert report.support.min() >= report.min_support == 12  # log2(24 / .01) = 11.2
    assert report.rows.sum() == 3000
    assert f"{D} of {D} axes are confirmed" in repr(report)
    assert len(report.table(5).splitlines()) == 2 + 5
    assert len(report.table(None).splitlines()) == 2 + D


@pytest.mark.parametrize(("gaussian", "pair"), [(3, False), (8, False), (0, True)])
def test_what_can_be_turned_is_not_confirmed(gaussian: int, pair: bool) -> None:
    """Gaussian directions amid sparse ones, and two causes that always act together."""
    rows, turn = planted(np.random.default_rng(4), 3000, gaussian, pair)
    model = CEDAR(k=K, n_init=3, random_state=0).fit(rows)
    true = turn[2:] if pair else turn[: D - gaussian]
    found = np.abs(model.atoms_ @ true.T).max(axis=1) > 0.95
    assert found.sum() == len(true)
    np.testing.assert_array_equal(model.confirmed_, found)


def test_an_axis_of_a_few_rows_is_not_confirmed() -> None:
    rows, turn = planted(np.random.default_rng(5), 2000, gaussian=2)
    rows[:12] += 30 * turn[-1] * np.random.default_rng(6).choice([-1, 1], (12, 1))
    model = CEDAR(k=K, n_init=3, random_state=0).fit(rows)
    rare = np.abs(model.atoms_ @ turn[-1]).argmax()
    assert np.abs(model.atoms_ @ turn[-1])[rare] > 0.95
    assert model.confirmation_.cosine[:, rare].min() > 0.9  # either half has found its rows
    assert "the test does not confirm 1, and 0 are in fewer than 12 codes" in repr(
        model.confirmation_
    )
    assert not model.confirmed_[rare]
    assert model.confirmed_.sum() >= D - 2


@few
def test_degenerate_rows() -> None:
    rows, _ = planted(np.random.default_rng(7), 3000)
    wide = np.hstack([rows, rows[:, :4], np.zeros((len(rows), 2))])  # of rank D in D + 6 columns
    with pytest.warns(UserWarning, match="2 constant columns"):
        found = confirmation(wide)
    assert D // 2 < found.confirmed.sum() <= D
    for count in (2, 3, 5, 9, 20):  # fewer rows than columns, and parts with hardly any
        assert not confirmation(rows[:count], k=1).confirmed.any()
    equal = np.repeat(rows[:2], 50, axis=0)
    assert not confirmation(equal, k=1).confirmed.any()


# --- the same, however the rows come --------------------------------------------------------------


def test_parts_depend_on_the_numbers_in_a_row_alone() -> None:
    rng = np.random.default_rng(8)
    rows = torch.from_numpy(rng.integers(-3, 4, (4000, 5)).astype(np.float16))
    numbers = hashes(rows, 1)
    assert torch.equal(numbers, hashes(rows.float(), 1))
    assert torch.equal(numbers, hashes(rows.double(), 1))
    assert torch.equal(numbers, hashes(torch.where(rows == 0, -0.0, rows), 1))
    assert torch.equal(numbers[100:200], hashes(rows[100:200], 1))
    distinct = len({tuple(row) for row in rows.tolist()})
    assert len(numbers.unique()) == distinct
    for parts in (2, 3):  # balanced, and independent of another seed
        shares = torch.bincount(numbers.unique() % parts) / distinct
        assert (shares - 1 / parts).abs().max() < 5 / distinct**0.5
    assert torch.bincount(2 * (numbers % 2) + hashes(rows, 2) % 2).min() > 800


def test_any_order_any_batches_and_map_reduce_give_the_same() -> None:
    rows, _ = planted(np.random.default_rng(9), 1500)
    expected = CEDAR(k=K, n_init=3, random_state=0).fit(rows)
    others = [
        CEDAR(k=K, n_init=3, random_state=0).fit(rows[::-1].copy()),
        CEDAR(k=K, n_init=3, random_state=0).fit(np.array_split(rows, 7)),
        CEDAR(k=K, n_init=3, random_state=0).fit_map_reduce(
            lambda make: sum(map(pickle.loads(pickle.dumps(make)), np.array_split(rows, 4)))
        ),
    ]
    for model in others:
        np.testing.assert_allclose(model.restarts_, expected.restarts_, atol=1e-8)
        agrees(model.confirmation_, expected.confirmation_)


def agrees(found: Confirmation, expected: Confirmation) -> None:
    """Sums were rounded in another order; p-values are exponentially small in them."""
    np.testing.assert_allclose(np.log(found.p), np.log(expected.p), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(found.support, expected.support)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.confirmed, expected.confirmed)


def on_ranks(rank: int, size: int) -> tuple[Any, Confirmation]:
    rows, _ = planted(np.random.default_rng(9), 1500)
    mine = [rows[:400], rows[400:]][rank]
    model = CEDAR(k=K, n_init=3, random_state=0).fit(mine, group=dist.group.WORLD)
    alone = CEDAR(k=K, random_state=0).fit(mine, group=dist.group.WORLD)
    agrees(alone.confirm(mine, group=dist.group.WORLD), model.confirmation_)
    return model.restarts_, model.confirmation_


def test_ranks_find_what_one_process_finds() -> None:
    rows, _ = planted(np.random.default_rng(9), 1500)
    expected = CEDAR(k=K, n_init=3, random_state=0).fit(rows)
    for restarts, found in run_ranks(on_ranks, 2):
        np.testing.assert_allclose(restarts, expected.restarts_, atol=1e-6)
        agrees(found, expected.confirmation_)


# --- the estimator --------------------------------------------------------------------------------


def test_confirm_is_what_the_fit_would_have_found(tmp_path: Path) -> None:
    rows, _ = planted(np.random.default_rng(10), 1200)
    model = CEDAR(k=K, random_state=0).fit(rows)
    assert model.confirmation_ is None
    assert model.confirmed_ is None
    at_once = CEDAR(k=K, n_init=3, random_state=0).fit(rows)
    found = model.confirm(rows)
    assert found.to_json() == at_once.confirmation_.to_json()
    assert np.array_equal(model.restarts_, at_once.restarts_)
    model.save(tmp_path / "model")
    for again in (CEDAR.load(tmp_path / "model"), pickle.loads(pickle.dumps(model))):
        assert again.confirmation_.to_json() == found.to_json()
        assert np.array_equal(again.confirmed_, model.confirmed_)
    model.partial_fit(rows[:100])
    assert model.confirmation_ is None


def test_starts_see_disjoint_parts_and_resume(tmp_path: Path, monkeypatch: Any) -> None:
    rows, _ = planted(np.random.default_rng(11), 1200)
    seen: dict[int, int] = {}
    solve = fitting._Run.solve

    def counted(run: Any, start: int, state: Any) -> Any:
        seen[start] = run.statistics.count
        return solve(run, start, state)

    monkeypatch.setattr(fitting._Run, "solve", counted)
    for starts, parts in ((1, 1), (2, 2), (3, 2), (5, 4)):
        seen.clear()
        make = partial(CEDAR, k=K, n_init=starts, random_state=0)
        expected = make().fit(rows)
        assert seen[0] == 1200
        assert len(seen) == starts
        assert all(abs(seen[start] - 1200 / parts) < 100 for start in range(1, starts))
        if starts > 2:
            assert sum(seen.values()) == 2 * 1200
    make(max_iter=4).fit(rows, checkpoint=tmp_path / "c")
    state = torch.load(tmp_path / "c", weights_only=True)
    del state["states"][3], state["states"][4]  # as if it was interrupted after the third start
    state["fingerprint"]["max_iter"] = 100
    torch.save(state, tmp_path / "c")
    resumed = make(max_iter=100).fit(rows, checkpoint=tmp_path / "c", resume=True)
    expected = make(max_iter=100).fit(rows)
    assert np.array_equal(resumed.restarts_, expected.restarts_)


def test_errors_and_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = planted(np.random.default_rng(12), 400)
    model = CEDAR(k=K, max_iter=30, random_state=0).fit(rows)
    for confirms in (model.confirm, model.set_params(n_init=3).fit):
        with pytest.warns(
            TooFewRowsWarning, match=r"400 rows are few for 24 col.*480 rows"
        ) as seen:
            confirms(rows)
        assert [Path(one.filename).name for one in seen] == [Path(__file__).name]
    with pytest.raises(ValueError, match="23 features"):
        model.confirm(rows[:, 1:])
    with pytest.raises(ValueError, match="not a confirmation"):
        Confirmation.from_json('{"p": [1]}')
    monkeypatch.setattr(estimator, "MOST_AXES", D - 1)
    with pytest.raises(ValueError, match="at most 23 axes to confirm them, got 24"):
        model.confirm(rows)
