"""Metrics of CEDAR against their definitions, written out, and the invariances they promise."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.linalg import hadamard
from scipy.stats import ortho_group
from sklearn.datasets import load_digits
from sklearn.metrics import r2_score

from laplex.cedar import metrics
from laplex.cedar.metrics import inputs
from strategies import quick

EPS = np.finfo(np.float64).eps

# Integers up to 2**10, divided by 2**5: their sums and squares below are exact in float64.
exact_numbers = st.integers(-(2**10), 2**10).map(lambda number: number / 2**5)


def matrices(rows: Any, columns: Any) -> st.SearchStrategy[np.ndarray]:
    return st.tuples(rows, columns).flatmap(
        lambda shape: hnp.arrays(np.float64, shape, elements=exact_numbers)
    )


def pairs_of_rows(seed: int = 0, n: int = 200, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, d)) * np.arange(1, d + 1) + 3
    return z, z + 0.3 * rng.normal(size=(n, d))


def measured(*batches: tuple[Any, ...], mean: Any = None) -> metrics.ReconstructionReport:
    accumulator = metrics.Reconstruction(mean)
    for batch in batches:
        accumulator.update(*batch)
    return accumulator.compute()


def assert_equal_reports(
    a: metrics.ReconstructionReport, b: metrics.ReconstructionReport, tolerance: float
) -> None:
    for name in ("fve", "cosine", "cosine_mean_only"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), abs=tolerance, nan_ok=True), name
    assert (a.l0, a.dead, a.count) == (b.l0, b.dead, b.count)
    np.testing.assert_array_equal(a.positive, b.positive)
    np.testing.assert_array_equal(a.negative, b.negative)


# --- reconstruction -------------------------------------------------------------------------------


def test_reconstruction_equals_its_definitions() -> None:
    z, z_hat = pairs_of_rows()
    codes = np.where(np.abs(z - 3) > 2, z - 3, 0)
    codes[:, 1] = 0
    b = z[:50].mean(0)
    report = measured((z, z_hat, codes), mean=b)

    def cosine(x: np.ndarray, y: np.ndarray) -> float:
        return float(x @ y / math.sqrt((x @ x) * (y @ y)))

    variance = np.mean([r @ r for r in z]) - z.mean(0) @ z.mean(0)
    residual = np.mean([(r - s) @ (r - s) for r, s in zip(z, z_hat, strict=True)])
    # Sums of a thousand terms of one sign, about the size of their mean: errors are below 1e3 eps.
    assert report.fve == pytest.approx(1 - residual / variance, abs=1e3 * EPS)
    assert report.cosine == pytest.approx(
        np.mean([cosine(r - b, s - b) for r, s in zip(z, z_hat, strict=True)]), abs=1e3 * EPS
    )
    assert report.cosine_mean_only == pytest.approx(
        np.mean([cosine(r, b) for r in z]), abs=1e3 * EPS
    )
    assert report.l0 == np.count_nonzero(codes) / len(codes)
    assert report.dead == 1
    assert report.count == len(z)
    np.testing.assert_array_equal(report.positive, (codes > 0).sum(0))
    np.testing.assert_array_equal(report.negative, (codes < 0).sum(0))
    assert (codes < 0).any()  # L0 of "> 0" would differ


def test_fve_is_variance_weighted_r2_and_the_three_others_are_not() -> None:
    z, z_hat = pairs_of_rows()
    z, z_hat = z + 5, z_hat + 7
    ours = metrics.fve(z, z_hat)
    assert ours == pytest.approx(r2_score(z, z_hat, multioutput="variance_weighted"), abs=1e3 * EPS)
    residual = np.square(z - z_hat).sum()
    uncentred = 1 - residual / np.square(z).sum()
    by_coordinate = r2_score(z, z_hat, multioutput="uniform_average")
    forgiving = 1 - (z - z_hat).var(0).sum() / z.var(0).sum()
    assert min(abs(other - ours) for other in (uncentred, by_coordinate, forgiving)) > 0.05


def test_fve_of_the_mean_is_zero_of_the_truth_one_and_rotations_change_nothing() -> None:
    z, z_hat = pairs_of_rows()
    assert metrics.fve(z, z) == 1
    assert metrics.fve(z, np.broadcast_to(z.mean(0), z.shape)) == pytest.approx(0, abs=1e3 * EPS)
    turn = ortho_group.rvs(z.shape[1], random_state=0)
    assert metrics.fve(z @ turn, z_hat @ turn) == pytest.approx(
        metrics.fve(z, z_hat), abs=1e3 * EPS
    )


def test_a_common_mean_of_a_million_in_float32_changes_nothing() -> None:
    z, z_hat = (np.round(16 * rows) / 16 for rows in pairs_of_rows())  # exact at 1e6 in float32
    moved, moved_hat = (np.float32(rows + 1e6) for rows in (z, z_hat))
    np.testing.assert_array_equal(moved - np.float64(1e6), z)
    np.testing.assert_array_equal(moved_hat - np.float64(1e6), z_hat)
    # Differences of rows are the same numbers, so that only their sums' rounding is left; none of
    # it is a multiple of the mean, whose square has units in the last place of 1e-4.
    assert metrics.fve(moved, moved_hat) == metrics.fve(z, z_hat)
    batches = [(moved[i : i + 7], moved_hat[i : i + 7]) for i in range(0, len(z), 7)]
    assert measured(*batches).fve == pytest.approx(metrics.fve(z, z_hat), abs=1e3 * EPS)


@quick
@given(data=st.data())
def test_cuts_orders_and_merges_equal_one_pass(data: st.DataObject) -> None:
    z = data.draw(matrices(st.integers(1, 12), st.integers(1, 4)))
    z_hat = data.draw(hnp.arrays(np.float64, z.shape, elements=exact_numbers))
    codes = data.draw(hnp.arrays(np.float64, (len(z), 3), elements=exact_numbers))
    mean = data.draw(hnp.arrays(np.float64, z.shape[1], elements=exact_numbers))
    cuts = sorted(data.draw(st.lists(st.integers(1, len(z)), max_size=4)))
    edges = sorted({0, *cuts, len(z)})
    batches = [(z[a:b], z_hat[a:b], codes[a:b]) for a, b in itertools.pairwise(edges)]
    whole = measured((z, z_hat, codes), mean=mean)
    shuffled = data.draw(st.permutations(batches))
    # FVE: |residual / scatter| <= 12 * 4 * 2**12 / 2**-11 at these values, times some rounding.
    scale = 1 if math.isnan(whole.fve) else 1 + abs(1 - whole.fve)
    tolerance = 100 * EPS * scale
    assert_equal_reports(measured(*shuffled, mean=mean), whole, tolerance)
    merged = metrics.Reconstruction(mean)
    for batch in shuffled:
        part = metrics.Reconstruction(mean)
        part.update(*batch)
        assert merged.merge(part) is merged
    assert_equal_reports(merged.merge(metrics.Reconstruction(mean)).compute(), whole, tolerance)


def test_merging_leaves_the_other_as_it_was() -> None:
    z, z_hat = pairs_of_rows()
    a, b = metrics.Reconstruction(), metrics.Reconstruction()
    b.update(z, z_hat, z)
    before = b.compute()
    a.merge(b).update(z_hat, z, z)
    assert_equal_reports(b.compute(), before, 0)


@pytest.mark.parametrize("value", [0.1, 1e6 + 0.1])
def test_no_variance_is_nan_also_over_batches(value: float) -> None:
    z = np.full((7, 3), value)
    assert math.isnan(metrics.fve(z, z))
    assert math.isnan(measured((z[:2], z[:2]), (z[2:], z[2:] + 1)).fve)


def test_rows_without_direction() -> None:
    z = np.array([[1.0, 2.0], [3.0, 2.0], [1.0, 4.0]])
    z_hat = np.array([[9.0, 9.0], [1.0, 2.0], [1.0, 5.0]])
    # The first row is the mean and left out; the second has an empty code: 0; the third is right.
    report = measured((z, z_hat), mean=[1.0, 2.0])
    assert report.cosine == pytest.approx(0.5, abs=4 * EPS)
    assert math.isnan(measured((z[:1], z_hat[:1]), mean=z[0]).cosine)
    assert measured((z, z_hat), mean=[0.0, 0.0]).cosine_mean_only == 0
    assert math.isnan(measured((np.zeros((2, 2)), z[:2])).cosine_mean_only)


def test_the_cosine_of_the_mean_alone_shows_what_centring_takes_away() -> None:
    z, _ = pairs_of_rows()
    z = z + 100
    noise = z.mean(0) + np.random.default_rng(1).normal(size=z.shape)
    report = measured((z, noise), mean=z.mean(0))
    assert report.cosine_mean_only > 0.99
    assert abs(report.cosine) < 0.2  # 200 cosines of random directions in 6 dimensions: sd 0.03
    without = measured((z, noise))
    assert math.isnan(without.cosine)
    assert without.cosine_mean_only == pytest.approx(report.cosine_mean_only, abs=1e3 * EPS)
    assert math.isnan(without.l0)
    assert without.dead is without.positive is without.negative is None


def test_tensors_of_any_precision_and_read_only_arrays() -> None:
    z, z_hat = (np.round(8 * rows) / 8 for rows in pairs_of_rows())  # exact in bfloat16, below 32
    z, z_hat = np.clip(z, -15, 15), np.clip(z_hat, -15, 15)
    expected = metrics.fve(z, z_hat)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        tensors = [torch.from_numpy(rows).to(dtype).requires_grad_() for rows in (z, z_hat)]
        assert metrics.fve(*tensors) == expected
    z.flags.writeable = False
    assert metrics.fve(z.tolist(), z_hat) == metrics.fve(z, z_hat) == expected


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    z, z_hat = pairs_of_rows()
    codes, truth = z - 3, z_hat - 3
    whole = (
        metrics.fve(z, z_hat),
        metrics.mcc_of_codes(codes, truth),
        metrics.monosemanticity(codes, z).positive,
        metrics.zero_shot_agreement(z, z_hat, np.eye(6)),
    )
    monkeypatch.setattr(inputs, "_NUMBERS_AT_ONCE", 100)
    assert len(list(inputs.row_blocks(z, z_hat))) == 25
    assert metrics.fve(z, z_hat) == pytest.approx(whole[0], abs=1e3 * EPS)
    assert metrics.mcc_of_codes(codes, truth) == pytest.approx(whole[1], abs=1e3 * EPS)
    np.testing.assert_allclose(metrics.monosemanticity(codes, z).positive, whole[2], atol=1e3 * EPS)
    assert metrics.zero_shot_agreement(z, z_hat, np.eye(6)) == whole[3]


def test_errors_of_reconstruction() -> None:
    z, z_hat = pairs_of_rows()
    holed = z.copy()
    holed[3, 2] = np.nan
    accumulator = metrics.Reconstruction()
    with pytest.raises(ValueError, match="call update first"):
        accumulator.compute()
    with pytest.raises(ValueError, match="z and z_hat must have the same shape"):
        accumulator.update(z, z_hat[:, 1:])
    with pytest.raises(ValueError, match="z_hat has values that are not finite"):
        accumulator.update(z, holed)
    with pytest.raises(ValueError, match="z is empty"):
        accumulator.update(z[:0], z_hat[:0])
    with pytest.raises(ValueError, match="z must have 2 dimensions"):
        accumulator.update(z[0], z_hat[0])
    with pytest.raises(TypeError, match="z must hold real numbers, got complex128"):
        accumulator.update(z + 0j, z_hat)
    with pytest.raises(TypeError, match="z must hold real numbers"):
        accumulator.update(torch.from_numpy(z + 0j), z_hat)
    with pytest.raises(ValueError, match="z and codes must have the same number of rows"):
        accumulator.update(z, z_hat, z[1:])
    accumulator.update(z, z_hat)
    before = accumulator.compute()
    with pytest.raises(ValueError, match="codes must come with every batch or with none"):
        accumulator.update(z, z_hat, z)
    with pytest.raises(ValueError, match="z and z of earlier batches"):
        accumulator.update(z[:, 1:], z_hat[:, 1:])
    assert_equal_reports(accumulator.compute(), before, 0)
    with pytest.raises(ValueError, match="other was made with another mean"):
        accumulator.merge(metrics.Reconstruction(z[0]))
    with pytest.raises(ValueError, match="z and mean must agree"):
        metrics.Reconstruction(z[0, 1:]).update(z, z_hat)


# --- atoms ----------------------------------------------------------------------------------------


def cosines_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([[x @ y / (np.linalg.norm(x) * np.linalg.norm(y)) for y in b] for x in a])


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("p", "q"), [(4, 4), (3, 5), (5, 3)])
def test_matching_is_the_best_of_all(p: int, q: int, signed: bool) -> None:
    rng = np.random.default_rng(p + 10 * q)
    a, b = rng.normal(size=(p, 4)), rng.normal(size=(q, 4))
    cosines = cosines_of(a, b)
    value = cosines if signed else np.abs(cosines)
    if p <= q:
        best = max(
            sum(value[i, j] for i, j in enumerate(chosen))
            for chosen in itertools.permutations(range(q), p)
        )
    else:
        best = max(
            sum(value[i, j] for j, i in enumerate(chosen))
            for chosen in itertools.permutations(range(p), q)
        )
    index, cosine = metrics.match(a, b, signed=signed)
    used = index >= 0
    assert used.sum() == min(p, q) == len(set(index[used]))
    np.testing.assert_allclose(cosine[used], cosines[used, index[used]], atol=20 * EPS)
    assert (cosine[~used] == 0).all()
    score = cosine if signed else np.abs(cosine)
    assert score.sum() == pytest.approx(best, abs=50 * EPS)
    # The truth's atoms are what is averaged over, found or not.
    assert metrics.mcc(b, a, signed=signed) == pytest.approx(best / p, abs=50 * EPS)


@quick
@given(seed=st.integers(0, 2**16), d=st.integers(1, 8))
def test_mcc_ignores_order_sign_and_length(seed: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(d, 8)), rng.normal(size=(d, 8))
    order, lengths = rng.permutation(d), rng.choice([-1, 1], (d, 1)) * rng.uniform(0.1, 9, (d, 1))
    other = (lengths * a)[order]
    # A cosine of 8 products is right to 10 eps.
    assert metrics.mcc(other, b) == pytest.approx(metrics.mcc(a, b), abs=20 * EPS)
    assert metrics.mcc(other, a) == pytest.approx(1, abs=20 * EPS)
    index, cosine = metrics.match(a, other)
    np.testing.assert_array_equal(order[index], np.arange(d))
    np.testing.assert_array_equal(np.sign(cosine), np.sign(lengths[:, 0]))


def test_signed_mcc_tells_an_atom_from_its_negative() -> None:
    atoms = np.eye(4)
    assert metrics.mcc(-atoms, atoms) == 1
    assert metrics.mcc(-atoms, atoms, signed=True) == 0  # orthogonal ones are better than -1
    assert metrics.mcc(-np.eye(1), np.eye(1), signed=True) == -1


def test_mcc_of_random_bases_is_what_the_docstring_says() -> None:
    values = [metrics.mcc(*ortho_group.rvs(64, size=2, random_state=seed)) for seed in range(10)]
    # Measured: 0.32, standard deviation 0.003 between pairs.
    assert np.mean(values) == pytest.approx(0.32, abs=0.01)


def test_atoms_of_zeros_match_nothing_and_sizes_do_not_matter() -> None:
    atoms = np.eye(3)
    dead = atoms.copy()
    dead[1] = 0
    assert metrics.mcc(dead, atoms) == pytest.approx(2 / 3, abs=EPS)
    for scale in (1e-300, 1e300):  # squares leave the range of float64
        assert metrics.mcc(scale * (atoms + 1), atoms + 1) == pytest.approx(1, abs=10 * EPS)


def test_mcc_of_codes_is_the_definition() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(50, 3)) + 1e3
    codes = truth @ rng.normal(size=(3, 4)) + rng.normal(size=(50, 4))
    rho = np.abs(np.corrcoef(truth.T, codes.T)[:3, 3:])
    best = max(
        sum(rho[i, j] for i, j in enumerate(chosen))
        for chosen in itertools.permutations(range(4), 3)
    )
    # Both centre numbers of size 1e3 with a spread of 1: errors of 1e3 eps, taken 100 times.
    assert metrics.mcc_of_codes(codes, truth) == pytest.approx(best / 3, abs=1e5 * EPS)
    assert metrics.mcc_of_codes(-2 * truth[:, ::-1] + 5, truth) == pytest.approx(1, abs=1e5 * EPS)
    assert metrics.mcc_of_codes(-truth[:, :1], truth[:, :1], signed=True) == pytest.approx(-1)


def test_mcc_of_codes_gives_axes_that_never_vary_nothing() -> None:
    truth = np.random.default_rng(0).normal(size=(30, 2))
    codes = truth.copy()
    codes[:, 1] = 0.1  # whose mean, summed naively, is not 0.1
    assert metrics.mcc_of_codes(codes, truth) == pytest.approx(0.5, abs=30 * EPS)
    with pytest.raises(ValueError, match="codes and truth must have the same number of rows"):
        metrics.mcc_of_codes(codes[1:], truth)


def test_both_mccs_agree_for_orthonormal_atoms_and_white_codes() -> None:
    d = 5
    rng = np.random.default_rng(0)
    white = rng.normal(size=(400, d))
    white -= white.mean(0)
    left, _, right = np.linalg.svd(white, full_matrices=False)
    white = left @ right * math.sqrt(400)
    truth, found = ortho_group.rvs(d, size=2, random_state=1)
    z = white @ truth
    # Sums of 400 terms, relative error below 400 eps, some of them in a row.
    assert metrics.mcc_of_codes(z @ found.T, white) == pytest.approx(
        metrics.mcc(found, truth), abs=2000 * EPS
    )


def amari_by_loops(p: np.ndarray) -> float:
    d = len(p)
    total = 0.0
    for i in range(d):
        total += sum(abs(p[i, j]) for j in range(d)) / max(abs(p[i, j]) for j in range(d)) - 1
        total += sum(abs(p[j, i]) for j in range(d)) / max(abs(p[j, i]) for j in range(d)) - 1
    return total / (2 * d * (d - 1))


@quick
@given(seed=st.integers(0, 2**16), d=st.integers(2, 8))
def test_amari_distance(seed: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    mixing, readouts = rng.normal(size=(2, d, d))
    value = metrics.amari_distance(readouts, mixing)
    assert value == pytest.approx(amari_by_loops(readouts @ mixing), abs=50 * EPS)
    assert 0 < value <= 1
    # Order, signs and a common scale change nothing.
    order, signs = rng.permutation(d), rng.choice([-3.0, 3.0], (d, 1))
    assert metrics.amari_distance((signs * readouts)[order], mixing) == pytest.approx(
        value, abs=50 * EPS
    )
    # Scaled permutations of the inverse: 0, up to the inverse's error, which its condition bounds.
    unmixed = rng.uniform(0.5, 2, (d, 1)) * np.linalg.inv(mixing)
    bound = 100 * d * EPS * np.linalg.cond(mixing)
    assert metrics.amari_distance(unmixed[order], mixing) <= bound


def test_amari_distance_at_its_ends() -> None:
    assert metrics.amari_distance(2.0 * np.eye(4)[[2, 0, 3, 1]], np.eye(4)) == 0
    assert metrics.amari_distance(hadamard(8), np.eye(8)) == 1
    assert metrics.amari_distance([[3.0]], [[2.0]]) == 0
    with pytest.raises(ValueError, match="one of them is singular"):
        metrics.amari_distance(np.diag([1.0, 0.0]), np.eye(2))
    with pytest.raises(ValueError, match="must be square"):
        metrics.amari_distance(np.ones((2, 3)), np.ones((2, 3)))
    with pytest.raises(ValueError, match="readouts and mixing must have the same shape"):
        metrics.amari_distance(np.eye(2), np.eye(3))


# --- monosemanticity ------------------------------------------------------------------------------


def score_by_pairs(active: np.ndarray, embeddings: np.ndarray) -> float:
    """The published definition for one half of one axis."""
    if np.ptp(active) == 0:
        return math.nan
    weights = (active - active.min()) / np.ptp(active)
    above = below = 0.0
    for i, j in itertools.combinations(range(len(active)), 2):
        cosine = embeddings[i] @ embeddings[j]
        cosine /= np.linalg.norm(embeddings[i]) * np.linalg.norm(embeddings[j])
        above += weights[i] * weights[j] * cosine
        below += weights[i] * weights[j]
    return above / below if below > 0 else math.nan


@quick
@given(data=st.data())
def test_monosemanticity_is_the_sum_over_pairs(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 10))
    # Shifted axes are active in every example, so that the minimum is not 0.
    levels = st.integers(-4, 4).map(float)
    codes = data.draw(hnp.arrays(np.float64, (n, 3), elements=levels))
    codes += data.draw(st.sampled_from([-5.0, 0.0, 5.0])) * np.array([0, 1, 2])
    embeddings = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(n, 4))
    edges = sorted({0, n, *data.draw(st.lists(st.integers(1, n), max_size=3))})
    accumulator = metrics.Monosemanticity()
    for start, stop in itertools.pairwise(edges):
        accumulator.update(codes[start:stop], torch.from_numpy(embeddings[start:stop]))
    report = accumulator.compute()
    for half, signed in ((report.positive, codes), (report.negative, -codes)):
        active = np.maximum(signed, 0)
        expected = [score_by_pairs(column, embeddings) for column in active.T]
        # Squares of sums up to 10 * 14 against pairs of weight 1 at least: 2e4 eps, a few times.
        np.testing.assert_allclose(half, expected, rtol=0, atol=1e5 * EPS)
    for counts, signed in ((report.positive_count, codes), (report.negative_count, -codes)):
        active = np.maximum(signed, 0)
        np.testing.assert_array_equal(counts, (active > active.min(0)).sum(0))
    everyone = score_by_pairs(np.r_[np.ones(n), 0.0], np.vstack([embeddings, np.ones(4)]))
    assert report.all_pairs == pytest.approx(everyone, abs=1e3 * EPS, nan_ok=True)
    assert report.count == n


def test_monosemanticity_scores_the_halves_apart_and_does_not_see_scale() -> None:
    digits, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    # Axis 0: zeros against everything else at random; axis 1: random; axis 2: dead.
    one, other = labels == 0, rng.random(len(labels)) < 0.1
    codes = np.stack([one * 1.0 - (other & ~one), rng.normal(size=len(labels)), 0 * one], axis=1)
    report = metrics.monosemanticity(codes, digits, mean=digits.mean(0))
    assert report.positive[0] > 0.5
    assert abs(report.negative[0]) < 0.1
    # Random weights know nothing: the level of all pairs.
    assert report.positive[1] == pytest.approx(report.all_pairs, abs=0.02)
    assert math.isnan(report.positive[2])
    assert math.isnan(report.negative[2])
    scaled = metrics.monosemanticity(1e-6 * codes, 7 * (digits - digits.mean(0)))
    np.testing.assert_allclose(scaled.positive, report.positive, atol=1e4 * EPS)
    flipped = metrics.monosemanticity(-codes, digits, mean=digits.mean(0))
    np.testing.assert_allclose(flipped.positive, report.negative, atol=1e4 * EPS)
    np.testing.assert_array_equal(flipped.negative_count, report.positive_count)


def test_errors_of_monosemanticity() -> None:
    codes, embeddings = np.eye(3), np.ones((3, 2))
    accumulator = metrics.Monosemanticity()
    with pytest.raises(ValueError, match="call update first"):
        accumulator.compute()
    with pytest.raises(ValueError, match="codes and embeddings must have the same number of rows"):
        accumulator.update(codes, embeddings[1:])
    with pytest.raises(ValueError, match="a row of zeros"):
        metrics.monosemanticity(codes, embeddings, mean=[1.0, 1.0])
    accumulator.update(codes, embeddings)
    with pytest.raises(ValueError, match="codes of one row and that of earlier batches"):
        accumulator.update(codes[:, :2], embeddings)
    with pytest.raises(ValueError, match="embeddings of one row and that of earlier batches"):
        accumulator.update(codes, codes)
    assert accumulator.compute().count == 3


# --- what the embeddings are used for -------------------------------------------------------------


def test_zero_shot_agreement_is_the_definition() -> None:
    z, z_hat = pairs_of_rows()
    z_hat = z_hat + np.random.default_rng(5).normal(size=z.shape)
    classes = np.random.default_rng(2).normal(size=(4, 6)) * np.array([[1e-3], [1], [10], [1e3]])
    before, after = cosines_of(z, classes).argmax(1), cosines_of(z_hat, classes).argmax(1)
    labels = np.random.default_rng(3).integers(4, size=len(z))
    report = metrics.zero_shot_agreement(z, torch.from_numpy(z_hat), classes, labels)
    assert report.agreement == np.mean(before == after) < 1
    assert report.accuracy_before == np.mean(before == labels)
    assert report.accuracy_after == np.mean(after == labels)
    assert report.count == len(z)
    own = metrics.zero_shot_agreement(z, 5 * z, classes)
    assert (own.agreement, own.accuracy_before, own.accuracy_after) == (1, None, None)


def test_errors_of_zero_shot_agreement() -> None:
    z = np.eye(3)
    with pytest.raises(ValueError, match="two rows or more"):
        metrics.zero_shot_agreement(z, z, z[:1])
    with pytest.raises(ValueError, match="class_embeddings has a row of zeros"):
        metrics.zero_shot_agreement(z, z, np.diag([1.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match="z and class_embeddings must agree"):
        metrics.zero_shot_agreement(z, z, np.eye(2))
    with pytest.raises(ValueError, match="labels must have shape"):
        metrics.zero_shot_agreement(z, z, z, [0, 1])
    for wrong in ([0, 1, 3], [-1, 0, 1], [0.0, 1.0, 2.0]):
        with pytest.raises(ValueError, match="labels must be integers in"):
            metrics.zero_shot_agreement(z, z, z, wrong)


def test_linear_probe_agreement_on_digits() -> None:
    digits, labels = (part[:600] for part in load_digits(return_X_y=True))
    names = np.array([f"digit {label}" for label in labels])
    same = metrics.linear_probe_agreement(digits, digits, names)
    assert same.agreement == 1
    assert same.accuracy_before == same.accuracy_after
    assert same.accuracy_before is not None
    assert same.accuracy_before > 0.9
    assert same.count == 150
    # The mean alone is one class; the same probe sees a mirrored image as another.
    mean = metrics.linear_probe_agreement(
        digits, np.broadcast_to(digits.mean(0), digits.shape), torch.from_numpy(labels)
    )
    assert mean.accuracy_before == same.accuracy_before
    assert mean.agreement < 0.2
    mirrored = digits.reshape(-1, 8, 8)[:, :, ::-1].reshape(-1, 64)
    other = metrics.linear_probe_agreement(digits, mirrored, labels)
    assert other.agreement < 0.7
    assert other == metrics.linear_probe_agreement(digits, mirrored, labels)


def test_errors_of_linear_probe_agreement() -> None:
    z = np.eye(4)
    for labels in ([0, 0, 0, 0], [0, 0, 0, 1]):
        with pytest.raises(ValueError, match="labels must have two classes or more"):
            metrics.linear_probe_agreement(z, z, labels)
    with pytest.raises(ValueError, match=r"labels must have shape \(4,\)"):
        metrics.linear_probe_agreement(z, z, [0, 1])


# --- bits -----------------------------------------------------------------------------------------


@quick
@given(axes=st.integers(1, 3000), part=st.floats(0, 1), value_bits=st.integers(0, 64))
def test_code_bits_is_the_exact_binomial(axes: int, part: float, value_bits: int) -> None:
    k = round(part * axes)
    exact = math.log2(math.comb(axes, k)) + k * value_bits
    # Each of at most 1500 logarithms has half an ulp, and their sum none but its own.
    assert metrics.code_bits(axes, k, value_bits) == pytest.approx(exact, rel=4 * EPS, abs=0)


def test_code_bits_at_its_ends() -> None:
    assert metrics.code_bits(8, 0) == 0
    assert metrics.code_bits(8, 8) == 256
    assert metrics.code_bits(8, 1, value_bits=0) == 3
    assert metrics.code_bits(10**12, 1, 0) == math.log2(10**12)
    with pytest.raises(ValueError, match="k must be at most axes, got k=9 of axes=8"):
        metrics.code_bits(8, 9)
    with pytest.raises(ValueError, match="axes must be at least 1"):
        metrics.code_bits(0, 0)
    with pytest.raises(TypeError, match="k must be an integer"):
        metrics.code_bits(8, 1.5)  # type: ignore[arg-type]
