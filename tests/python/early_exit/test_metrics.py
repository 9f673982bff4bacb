"""Metrics of exits against their definitions, written out, and scores that were made by hand."""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score

from laplex.early_exit.arrays import (
    as_correct,
    as_labels,
    as_logits,
    as_numpy,
    as_scores,
    correctness,
)
from laplex.early_exit.evaluation.curves import curve
from laplex.early_exit.evaluation.thresholds import fit_cuts
from laplex.early_exit.metrics.acceptance_toy import futility_toy
from laplex.early_exit.metrics.calibration import brier, ece, nll, smooth_ece
from laplex.early_exit.metrics.failure_prediction import (
    augrc,
    aurc,
    eaurc,
    eefp,
    eefp_labels,
    failure_auroc,
    fpr95,
)
from laplex.early_exit.metrics.per_exit import PerExit
from laplex.early_exit.metrics.reliability_diagram import reliability
from laplex.early_exit.metrics.score_heads import ScoreHeads
from laplex.early_exit.metrics.temperature import TemperatureScaling
from laplex.early_exit.policies import LearnedScore, MaxSoftmax
from strategies import quick

EPS = float(np.finfo(np.float64).eps)

# Few values, so that most draws have ties.
tied = st.integers(0, 4).map(lambda number: number / 4)


@st.composite
def judged(draw: Any, most: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Scores and correctness [exits, samples]."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, most)))
    return (draw(hnp.arrays(np.float64, shape, elements=tied)), draw(hnp.arrays(np.bool_, shape)))


def random_logits(exits: int, samples: int, classes: int, seed: int = 0) -> tuple[Any, Any]:
    """Logits that know something of the labels, later exits more."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples)
    logits = rng.normal(size=(exits, samples, classes))
    logits[:, np.arange(samples), labels] += np.linspace(0.5, 2, exits)[:, None]
    return logits, labels


# --- what is accepted -----------------------------------------------------------------------------


def test_arrays_tensors_and_lists_are_the_same() -> None:
    logits, labels = random_logits(2, 5, 3)
    half = torch.tensor(logits, dtype=torch.bfloat16)
    leaf = torch.tensor(logits, requires_grad=True)
    for given_ in (logits, logits.tolist(), leaf, tuple(leaf), list(logits)):
        found = as_logits("logits", given_)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, logits)
    np.testing.assert_array_equal(as_logits("logits", half), half.double().numpy())
    for whole in (labels, labels.astype(np.uint8), torch.tensor(labels), labels.tolist()):
        found = as_labels("labels", whole, 5, 3)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, labels)
    zero_or_one = [[1, 0], [0, 1]]
    for right in (zero_or_one, np.array(zero_or_one, bool), torch.tensor(zero_or_one).bool()):
        np.testing.assert_array_equal(as_correct("correct", right), np.eye(2, dtype=bool))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: as_logits("logits", np.zeros((2, 3))), ValueError, "logits must be [exits, sam"),
        (lambda: as_logits("logits", np.zeros((2, 0, 3))), ValueError, "logits is empty"),
        (lambda: as_logits("logits", [[["a"]]]), TypeError, "logits must hold real numbers"),
        (lambda: as_logits("logits", [[[1j]]]), TypeError, "logits must hold real numbers"),
        (lambda: as_logits("logits", [[[1.0], [2.0, 3.0]]]), ValueError, "of one shape"),
        (
            lambda: as_logits("logits", (torch.zeros(2, 3), torch.zeros(1, 3))),
            ValueError,
            "logits must have entries of one shape",
        ),
        (
            lambda: as_scores("scores", [[1.0, math.nan]]),
            ValueError,
            "scores must be finite, got nan at index (0, 1)",
        ),
        (
            lambda: as_scores("scores", torch.tensor([[1.0, math.inf]])),
            ValueError,
            "scores must be finite, got inf",
        ),
        (
            lambda: as_labels("labels", [0, 1, 9, 12], 4, 10),
            ValueError,
            "labels must be in [0, 10), as logits have 10 classes, got 12 at index 3",
        ),
        (lambda: as_labels("labels", [0, -1], 2, 10), ValueError, "got -1 at index 1"),
        (lambda: as_labels("labels", [0.0], 1, 10), TypeError, "labels must be whole numbers"),
        (lambda: as_labels("labels", [True], 1, 10), TypeError, "labels must be whole numbers"),
        (lambda: as_labels("labels", [[0]], 1, 10), ValueError, "labels must have shape (1,)"),
        (lambda: as_correct("correct", [[0, 2]]), ValueError, "got 2 at index (0, 1)"),
        (lambda: as_correct("correct", [True]), ValueError, "correct must be [exits, samples]"),
        (lambda: failure_auroc([[1.0, 2]], [[True]]), ValueError, "must have the same shape"),
        (lambda: eefp([[1.0, 2]], [[True]]), ValueError, "must have the same shape"),
        (lambda: ece([0.5, 1.5], [1, 0]), ValueError, "confidence must be in [0, 1]"),
        (lambda: ece([-0.1], [1]), ValueError, "confidence must be in [0, 1]"),
        (lambda: ece([0.1], [1], bins=0), ValueError, "bins must be at least 1"),
        (lambda: ece([0.1], [1], bins=2.5), TypeError, "bins must be a whole number"),
        (lambda: ece([0.1], [1], norm="l3"), ValueError, "norm must be one of"),
        (lambda: ece([[0.1]], [1]), ValueError, "correct must be"),
        (lambda: smooth_ece([2.0], [1]), ValueError, "confidence must be in [0, 1]"),
        (lambda: nll(np.zeros((4, 3)), [0, 1, 2, 3]), ValueError, "got 3 at index 3"),
        (lambda: PerExit([[1.0]]), ValueError, "values must be [exits]"),
        (lambda: futility_toy(0), ValueError, "samples must be at least 1"),
        (lambda: futility_toy(10, seed=-1), ValueError, "seed must be at least 0"),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_complex_views_and_negated_tensors() -> None:
    numbers = torch.tensor([[1 + 2j, 3 - 1j]], dtype=torch.complex128)
    imaginary = numbers.conj().imag  # a view with the negative bit
    np.testing.assert_array_equal(as_numpy("x", imaginary), [[-2, 1]])


def test_first_of_equal_logits_is_the_prediction() -> None:
    logits = np.array([[[1.0, 1, 0], [0, 2, 2]]])
    np.testing.assert_array_equal(correctness(logits, np.array([0, 2])), [[True, False]])


# --- a number for each exit -----------------------------------------------------------------------


def test_per_exit() -> None:
    found = PerExit([0.5, math.nan, 1.0])
    assert found.mean == 0.75  # over the defined, and no warning
    assert math.isnan(PerExit([math.nan, math.nan]).mean)
    assert len(found) == 3
    assert found[0] == 0.5
    assert list(found)[2] == 1.0
    np.testing.assert_array_equal(np.asarray(found), [0.5, math.nan, 1.0])
    np.testing.assert_array_equal(np.array(found, dtype=np.float32), [0.5, math.nan, 1.0])
    np.testing.assert_array_equal(found[:2], [0.5, math.nan])
    assert repr(found) == "PerExit([0.5, nan, 1], mean=0.75)"
    copied = np.array(found, copy=True)
    copied[0] = 7
    assert found[0] == 0.5


# --- failure prediction ---------------------------------------------------------------------------


def auroc_by_pairs(scores: np.ndarray, positive: np.ndarray) -> float:
    won, pairs = 0.0, 0
    for i, j in itertools.product(range(len(scores)), repeat=2):
        if positive[i] and not positive[j]:
            pairs += 1
            won += 1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0
    return won / pairs if pairs else math.nan


def leaves(correct: np.ndarray, k: int, i: int) -> bool:
    if correct[k, i]:
        return True
    for later in range(k + 1, len(correct)):  # noqa: SIM110, the definition as it is said
        if correct[later, i]:
            return False
    return True


@quick
@given(judged())
def test_auroc_is_that_of_all_pairs(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, correct = case
    expected = [auroc_by_pairs(*one) for one in zip(scores, correct, strict=True)]
    # Sums of ranks are exact; both divide once.
    np.testing.assert_array_equal(failure_auroc(scores, correct).values, expected)
    for one, right, area in zip(scores, correct, expected, strict=True):
        if not math.isnan(area):  # scikit-learn adds up to 9 trapezia
            assert roc_auc_score(right, one) == pytest.approx(area, abs=16 * EPS)


@quick
@given(judged())
def test_eefp_is_that_of_all_pairs(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, correct = case
    exits, samples = scores.shape
    wanted = np.array([[leaves(correct, k, i) for i in range(samples)] for k in range(exits)])
    np.testing.assert_array_equal(eefp_labels(correct), wanted)
    found = eefp(scores, correct)
    expected = [auroc_by_pairs(scores[k], wanted[k]) for k in range(exits - 1)] + [math.nan]
    np.testing.assert_array_equal(found.values, expected)
    defined = [one for one in expected if not math.isnan(one)]
    if defined:
        assert found.mean == pytest.approx(sum(defined) / len(defined), abs=8 * EPS)
    else:
        assert math.isnan(found.mean)


@quick
@given(judged(most=6))
def test_aurc_is_the_mean_over_orders_of_equal_scores(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, correct = case
    for found, one, right in zip(aurc(scores, correct), scores, correct, strict=True):
        areas = []
        for order in itertools.permutations(range(len(one))):
            if any(one[a] < one[b] for a, b in itertools.pairwise(order)):
                continue
            wrong = 0
            risks = []
            for count, i in enumerate(order, 1):
                wrong += not right[i]
                risks.append(wrong / count)
            areas.append(sum(risks) / len(risks))
        # At most 720 orders of values in [0, 1], summed one by one.
        assert found == pytest.approx(sum(areas) / len(areas), abs=1000 * EPS)


@quick
@given(judged(most=30))
def test_eaurc_and_augrc_are_their_formulas(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, correct = case
    found = zip(eaurc(scores, correct), augrc(scores, correct), strict=True)
    areas = zip(aurc(scores, correct), failure_auroc(scores, correct), strict=True)
    count = scores.shape[1]
    for (excess, generalised), (area, auroc), right in zip(found, areas, correct, strict=True):
        good = int(right.sum())
        best = sum(max(0, n - good) / n for n in range(1, count + 1)) / count
        # Sums of at most 30 numbers of at most 1.
        assert excess == pytest.approx(area - best, abs=100 * EPS)
        assert excess >= -100 * EPS
        error = 1 - good / count
        between = 0 if math.isnan(auroc) else (1 - auroc) * error * (1 - error)
        assert generalised == pytest.approx(between + error**2 / 2, abs=100 * EPS)


def test_augrc_is_the_area_under_its_curve() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6]])
    correct = np.array([[True, False, True, False]])
    risks = [0, 0, 1 / 4, 1 / 4, 2 / 4]  # of none to all four accepted
    assert augrc(scores, correct)[0] == pytest.approx(
        sum(risks[:-1] + np.diff(risks) / 2) / 4, abs=4 * EPS
    )
    assert eaurc(scores, correct)[0] == pytest.approx(
        (1 / 2 + 1 / 3 + 1 / 2) / 4 - (1 / 3 + 1 / 2) / 4, abs=4 * EPS
    )


@quick
@given(judged(most=25))
def test_fpr95_tries_all_thresholds(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, correct = case
    for found, one, right in zip(fpr95(scores, correct), scores, correct, strict=True):
        if right.all() or not right.any():
            assert math.isnan(found)
            continue
        passed = [t for t in one if 100 * int((one[right] >= t).sum()) >= 95 * int(right.sum())]
        wrong = one[~right]
        assert found == sum(s >= max(passed) for s in wrong) / len(wrong)


def test_fpr95_of_twenty_lets_one_go() -> None:
    # 19 of 20 are exactly 95 %: the lowest right one does not count, a wrong one above it does not.
    scores = np.array([[*range(20), 0.5, 1.5]])
    correct = np.array([[True] * 20 + [False] * 2])
    assert fpr95(scores, correct).values == [0.5]
    correct[0, 0] = False  # of 19, all are needed
    assert fpr95(scores, correct).values == [1 / 3]


def test_undefined_is_nan_without_a_warning() -> None:
    scores = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    correct = np.array([[True, True], [False, False], [True, False]])
    np.testing.assert_array_equal(failure_auroc(scores, correct).values, [math.nan, math.nan, 0])
    np.testing.assert_array_equal(fpr95(scores, correct).values, [math.nan, math.nan, 1])
    np.testing.assert_array_equal(aurc(scores, correct).values[:2], [0, 1])
    # At exit 1 the first sample should go on, the second leave: it is surer of the second.
    found = eefp(scores, correct)
    np.testing.assert_array_equal(found.values, [math.nan, 1, math.nan])
    assert found.mean == 1


@quick
@given(judged())
def test_only_the_order_of_scores_counts(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, correct = case
    for metric in (failure_auroc, aurc, eaurc, augrc, fpr95, eefp):
        expected = metric(scores, correct).values
        np.testing.assert_array_equal(metric(2.0**-40 * scores - 1, correct).values, expected)
        order = np.random.default_rng(0).permutation(scores.shape[1])
        found = metric(torch.tensor(scores[:, order]), torch.tensor(correct[:, order])).values
        np.testing.assert_array_equal(found, expected)


# --- calibration ----------------------------------------------------------------------------------


def test_ece_by_hand() -> None:
    # Four bins: [0, 1/4], (1/4, 1/2], (1/2, 3/4], (3/4, 1].
    confidence = np.array([0.0, 0.25, 0.5, np.nextafter(0.5, 1), 0.75, 1.0, 1.0, 0.875])
    correct = np.array([0, 1, 1, 0, 1, 1, 0, 1], bool)
    table = reliability(confidence, correct, bins=4)
    np.testing.assert_array_equal(table.edges, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(table.counts, [2, 1, 2, 3])
    np.testing.assert_array_equal(table.accuracy, [0.5, 1, 0.5, 2 / 3])
    np.testing.assert_allclose(table.confidence, [0.125, 0.5, 0.625, 2.875 / 3], rtol=4 * EPS)
    gaps = np.array([0.375, 0.5, 0.125, 0.875 / 3])
    weights = np.array([2, 1, 2, 3]) / 8
    assert ece(confidence, correct, 4) == pytest.approx(weights @ gaps, rel=8 * EPS)
    assert ece(confidence, correct, 4, "l2") == pytest.approx(
        math.sqrt(weights @ gaps**2), rel=8 * EPS
    )
    assert ece(confidence, correct, 4, "max") == 0.5


def test_ends_are_in_the_first_and_last_bin() -> None:
    for bins in range(1, 40):
        table = reliability([0.0, 1.0], [True, True], bins=bins)
        assert table.counts[0] >= 1
        assert table.counts[-1] >= 1
        assert table.counts.sum() == 2
        if bins > 1:
            assert math.isnan(table.accuracy[1:-1].sum()) == (bins > 2)


def test_a_softmax_that_rounds_above_one_is_one() -> None:
    above = np.nextafter(np.float32(1), np.float32(2))
    table = reliability(torch.tensor([above, 0.25]), [True, False], bins=2)
    np.testing.assert_array_equal(table.confidence, [0.25, 1])


def test_reliability_is_drawn_for_each_exit() -> None:
    confidence = np.array([[0.1, 0.2, 0.9], [0.6, 0.7, 0.8]])
    table = reliability(confidence, np.array([[0, 1, 1], [1, 0, 1]], bool), bins=2)
    figure = table.plot()
    assert [ax.get_title() for ax in figure.axes] == ["exit 0", "exit 1"]
    for ax, expected in zip(figure.axes, ([[0.15, 0.5], [0.9, 1]], [[0.7, 2 / 3]]), strict=True):
        dots = np.asarray(ax.collections[-1].get_offsets())
        np.testing.assert_allclose(dots, expected, rtol=8 * EPS)
    alone = reliability(confidence[0], [False, True, True], bins=2).plot()
    assert len(alone.axes) == 1


def test_one_bin_is_the_difference_of_means() -> None:
    rng = np.random.default_rng(0)
    confidence, correct = rng.random(100), rng.random(100) < 0.3
    for norm in ("l1", "l2", "max"):
        # Sums of 100 numbers of at most 1.
        assert ece(confidence, correct, 1, norm) == pytest.approx(
            abs(confidence.mean() - correct.mean()), abs=100 * EPS
        )


@quick
@given(judged(most=20), st.integers(1, 20), st.booleans())
def test_ece_of_exits_and_its_bounds(
    case: tuple[np.ndarray, np.ndarray], bins: int, adaptive: bool
) -> None:
    confidence, correct = case
    by_norm = [ece(confidence, correct, bins, norm, adaptive) for norm in ("l1", "l2", "max")]
    for k, (one, right) in enumerate(zip(confidence, correct, strict=True)):
        l1, l2, most = (found[k] for found in by_norm)
        assert l1 == ece(one, right, bins, "l1", adaptive)
        tiny = 100 * EPS  # sums of at most 20 numbers of at most 1
        assert abs(one.mean() - right.mean()) <= l1 + tiny
        assert l1 <= l2 + tiny
        assert l2 <= most + tiny
        table = reliability(one, right, bins, adaptive=adaptive)
        assert table.counts.sum() == len(one)
        back = reliability(one[::-1], right[::-1], bins, adaptive=adaptive)
        np.testing.assert_array_equal(table.counts, back.counts)
        for b in range(bins):
            inside = (one > table.edges[b]) & (one <= table.edges[b + 1])
            if b == 0:
                inside |= one == 0
            # Adaptive edges may coincide: then all but one of the bins there are empty.
            assert table.counts[b] in (inside.sum(), *((one == table.edges[b]).sum(),) * adaptive)


def test_adaptive_bins_hold_equal_numbers() -> None:
    confidence = np.array([0.9, 0.91, 0.95, 0.955, 0.99, 1.0])
    correct = np.array([1, 0, 1, 1, 1, 1], bool)
    table = reliability(confidence, correct, bins=3, adaptive=True)
    np.testing.assert_array_equal(table.counts, [2, 2, 2])
    np.testing.assert_array_equal(table.accuracy, [0.5, 1, 1])
    gaps = [0.905 - 0.5, 1 - 0.9525, 1 - 0.995]
    assert ece(confidence, correct, 3, adaptive=True) == pytest.approx(sum(gaps) / 3, rel=16 * EPS)
    # Of one width, all would be in the last.
    np.testing.assert_array_equal(reliability(confidence, correct, bins=3).counts, [0, 0, 6])
    # Equal confidences cannot be told apart, so they are not parted.
    same = reliability(np.full(6, 0.5), correct, bins=3, adaptive=True)
    assert sorted(same.counts.tolist()) == [0, 0, 6]


def test_smooth_ece_of_one_confidence() -> None:
    pytest.importorskip("relplot")
    # All at 0.8, right half of the time: any smoothing leaves the residual 0.3 as it is, but for
    # what relplot's grid of confidences costs.
    right = np.tile([True, False], 100)
    assert smooth_ece(np.full(200, 0.8), right) == pytest.approx(0.3, abs=0.01)
    both = smooth_ece(np.full((2, 200), 0.8), np.stack((right, np.ones(200, bool))))
    assert isinstance(both, PerExit)
    np.testing.assert_allclose(both.values, [0.3, 0.2], atol=0.01)


def test_nll_and_brier_by_hand() -> None:
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    labels = [0, 2]
    expected_nll = -(math.log(0.5) + math.log(0.1)) / 2
    expected_brier = (0.25 + 0.0625 + 0.0625 + 0.01 + 0.64 + 0.81) / 2
    assert nll(logits, labels) == pytest.approx(expected_nll, rel=16 * EPS)
    assert brier(logits, labels) == pytest.approx(expected_brier, rel=16 * EPS)
    # Any constant may be added; wrong and infinitely sure is 2.
    both = np.stack((logits + 700, [[0, -2000, -2000], [0, -2000, -2000.0]]))
    found = nll(torch.tensor(both), torch.tensor(labels))
    np.testing.assert_allclose(found.values, [expected_nll, 1000], rtol=1000 * EPS)
    np.testing.assert_allclose(brier(both, labels).values, [expected_brier, 1], rtol=1000 * EPS)


# --- temperature ----------------------------------------------------------------------------------


def with_temperature(t: float, exits: int = 1) -> TemperatureScaling:
    fitted = TemperatureScaling().fit(np.zeros((exits, 1, 2)), [0]).to_dict()
    return TemperatureScaling.from_dict({**fitted, "temperatures": [t] * exits})


def test_temperature_with_a_closed_form() -> None:
    # Two classes, always `gap` apart, right 3 times of 4: T makes that log(3).
    for gap in (1e-3, 0.1, 2.0, 50.0):
        logits = np.tile([gap, 0.0], (2, 8, 1))
        logits[1] *= -1
        scaling = TemperatureScaling(bounds=(1e-4, 1e4)).fit(logits, [0, 0, 0, 1, 0, 0, 1, 0])
        # The slope is below 1e-10 there, or steps are of the size of rounding: sqrt(eps) wide.
        assert scaling.temperatures_[0] == pytest.approx(gap / math.log(3), rel=1e-7)
        # The second exit is wrong more often than right: no temperature is hot enough.
        assert scaling.temperatures_[1] == 1e4
        assert scaling.at_bound_.tolist() == [False, True]


def test_temperature_is_the_best_of_each_exit() -> None:
    logits, labels = random_logits(3, 400, 5)
    logits *= np.array([0.05, 1, 20])[:, None, None]
    scaling = TemperatureScaling().fit(torch.tensor(logits, requires_grad=True), labels)
    for one, found in zip(logits, scaling.temperatures_, strict=True):
        best = scipy.optimize.minimize_scalar(
            lambda log_t, one=one: nll(one / math.exp(log_t), labels),
            bounds=(math.log(0.01), math.log(100)),
            method="bounded",
            options={"xatol": 1e-9},
        )
        # A search that only compares values sees the minimum sqrt(eps) wide, times the curvature.
        assert math.log(found) == pytest.approx(best.x, abs=1e-6)
        # Each exit for itself. The search ends at a slope of 1e-10, against a curvature near 1.
        alone = TemperatureScaling().fit(one, labels)
        assert alone.temperatures_[0] == pytest.approx(found, rel=1e-7)
    before, after = nll(logits, labels), nll(scaling.transform(logits), labels)
    assert (after.values <= before.values).all()


def test_temperature_at_its_bounds() -> None:
    sure = np.array([[[3.0, 0, 0], [0, 9, 1]]])  # always right: the colder the better
    assert TemperatureScaling().fit(sure, [0, 1]).temperatures_ == pytest.approx([0.01])
    assert TemperatureScaling().fit(sure, [1, 0]).temperatures_ == [100]
    equal = TemperatureScaling().fit(np.zeros((1, 2, 3)), [0, 1])  # all temperatures are alike
    assert equal.temperatures_ == [1]


@quick
@example(np.array([[[1.75 + 5 * EPS, 1.75 + 6 * EPS]]]), 1.7)
@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=5),
        # Neighbours in float64 too, which a division may round to one value.
        elements=st.one_of(tied, st.integers(0, 6).map(lambda ulps: 1.75 + ulps * EPS)),
    ),
    st.floats(0.01, 100),
)
def test_temperature_never_changes_predictions(logits: np.ndarray, t: float) -> None:
    scaling = with_temperature(t, len(logits))
    scaled = scaling.transform(logits)
    np.testing.assert_array_equal(scaled.argmax(-1), logits.argmax(-1))
    np.testing.assert_allclose(scaled, logits / t, rtol=4 * EPS)


def test_a_division_may_round_two_logits_to_one() -> None:
    close = np.array([1.75 + 5 * EPS, 1.75 + 6 * EPS])  # the example above is one
    assert close[0] < close[1]
    assert close[0] / 1.7 == close[1] / 1.7


def test_temperature_may_change_who_is_surest() -> None:
    # One rival at a distance of 1, against two at 1.2: 1 / (1 + e^(-1/T)), against
    # 1 / (1 + 2 e^(-1.2/T)). At T = 1 two rivals are worse, 0.73 against 0.62; at T = 0.1 distance
    # counts, 1 - 4.5e-5 against 1 - 1.2e-5. The third class of the first is too
    # far to matter.
    logits = np.array([[[4.0, 3.0, -99.0], [3.0, 1.8, 1.8]]])
    cold = with_temperature(0.1).transform(logits)
    np.testing.assert_array_equal(cold.argmax(-1), logits.argmax(-1))
    warm_first, warm_second = MaxSoftmax(0.5).scores(logits)[0].tolist()
    cold_first, cold_second = MaxSoftmax(0.5).scores(cold)[0].tolist()
    assert warm_first == pytest.approx(1 / (1 + math.exp(-1)), rel=16 * EPS)
    assert cold_second == pytest.approx(1 / (1 + 2 * math.exp(-12)), rel=16 * EPS)
    assert warm_first > warm_second
    assert cold_first < cold_second


def test_temperature_scores_as_it_transforms() -> None:
    logits, labels = random_logits(3, 60, 4)
    scaling = TemperatureScaling().fit(logits, labels)
    learned = LearnedScore(scaling, 0.6)
    plain = MaxSoftmax(0.6).scores(scaling.transform(logits))
    # The exponentials amplify a rounding of logits below 10 by as much.
    np.testing.assert_allclose(learned.scores(logits), plain, rtol=100 * EPS)


def test_temperature_is_kept_and_checked() -> None:
    logits, labels = random_logits(2, 30, 4)
    scaling = TemperatureScaling().fit(logits, labels)
    again = TemperatureScaling.from_dict(json.loads(json.dumps(scaling.to_dict())))
    np.testing.assert_array_equal(again.transform(logits), scaling.transform(logits))
    assert repr(again) == repr(scaling)
    with pytest.raises(AttributeError, match="not fitted: call fit"):
        TemperatureScaling().transform(logits)
    with pytest.raises(ValueError, match="3 exits, but temperatures were fitted for 2"):
        scaling.transform(np.zeros((3, 2, 4)))
    with pytest.raises(ValueError, match="labels must be in"):
        TemperatureScaling().fit(logits, labels + 4)
    with pytest.raises(ValueError, match="values must be those of to_dict"):
        TemperatureScaling.from_dict({})
    with pytest.raises(ValueError, match="bounds must be two positive, finite"):
        TemperatureScaling(bounds=(2, 1))


# --- learned scores -------------------------------------------------------------------------------


def hopeless_logits(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three exits and four classes; where class 3 leads, nobody knows, elsewhere the last does."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, samples)
    logits = 0.3 * rng.normal(size=(3, samples, 4))
    lost = rng.random(samples) < 0.3
    for k, skill in enumerate((0.4, 0.7, 1.0)):
        knows = rng.random(samples) < skill
        logits[k, knows, labels[knows]] += 3
        logits[k, lost] = 0.05 * rng.normal(size=(int(lost.sum()), 4))
        logits[k, lost, 3] += 1
    return logits, labels


def test_score_heads_learn_who_is_beyond_help() -> None:
    logits, labels = hopeless_logits(3000, 0)
    unseen, truth = hopeless_logits(3000, 1)
    right = correctness(unseen, truth)
    futile = ScoreHeads("eefp").fit(logits, labels).scores(unseen)
    plain = ScoreHeads("correct").fit(logits, labels).scores(unseen)
    lost = ~right.any(0)
    # The plain score puts those below all others at exit 0, the other one above those who go on.
    assert plain[0, lost].mean() < plain[0, ~lost].mean()
    assert futile[0, lost].mean() > futile[0, ~lost & ~right[0]].mean()
    assert eefp(futile, right).mean > eefp(plain, right).mean
    assert ece(plain, right).mean < ece(futile, right).mean


def test_by_class_tells_classes_apart() -> None:
    # Two classes with the same confidences, mirrored: only which one is predicted tells that the
    # first is always right and the second never, at any exit but the last.
    strength = np.random.default_rng(0).random(200) + 0.5
    first = np.repeat([1.0, -1.0], 100) * strength
    logits = np.stack([np.stack((first, -first), 1)] * 2)
    logits[1] = [3.0, 0.0]
    labels = np.zeros(200, dtype=np.int64)
    right = correctness(logits, labels)
    told = ScoreHeads(by_class=True).fit(logits, labels).scores(logits)
    untold = ScoreHeads().fit(logits, labels).scores(logits)
    assert eefp(told, right).values[0] == 1
    assert eefp(untold, right).values[0] < 0.7


def test_score_heads_minimise_the_penalised_cross_entropy() -> None:
    logits, labels = random_logits(3, 300, 4)
    right = correctness(logits, labels)
    for target, wanted in (("correct", right), ("eefp", eefp_labels(right))):
        heads = ScoreHeads(target).fit(logits, labels)
        scores = heads.scores(logits)
        for k in range(2):
            # Where the slope to the unpenalised intercept is 0, scores are right on average. The
            # search ends when no slope of the mean loss is above 1e-8.
            assert scores[k].mean() == pytest.approx(wanted[k].mean(), abs=1e-6)
            assert np.any(heads.coefficients_[k] != 0)


def test_scores_are_those_of_any_batch() -> None:
    logits, labels = random_logits(3, 50, 6)
    heads = ScoreHeads().fit(logits, labels)
    whole = heads.scores(logits)
    assert whole.shape == (3, 50)
    assert ((whole > 0) & (whole < 1)).all()
    # Torch sums and exponentiates a row of another batch by other instructions: each feature, of
    # logits below 8 in size, is off by a few units in the last place of 8, the sum over features
    # by as much times the slopes, and the score by a quarter of that.
    assert np.abs(logits).max() < 8
    slopes = np.abs(heads.coefficients_ / heads.scales_).sum(1)
    for k in range(3):
        parts = [heads.score(k, torch.tensor(logits[k, i : i + 1])) for i in range(50)]
        rounding = 8 * 8 * EPS * slopes[k] / 4 + 8 * EPS
        np.testing.assert_allclose(torch.cat(parts).numpy(), whole[k], rtol=0, atol=rounding)
    policy = LearnedScore(heads, 0.7)
    rounding = 8 * 8 * EPS * slopes.max() / 4 + 8 * EPS
    found = policy.scores(torch.tensor(logits)).numpy()
    np.testing.assert_allclose(found, whole, rtol=0, atol=rounding)
    extreme = torch.tensor([[1e4, 0, 0, 0, 0, 0], [0.0] * 6])
    found = heads.score(0, extreme)
    assert ((found > 0) & (found < 1)).all()


def test_a_target_of_one_class_has_a_constant_score() -> None:
    logits, _ = random_logits(3, 40, 4)
    labels = logits[0].argmax(-1)  # the first exit is always right
    heads = ScoreHeads("correct").fit(logits, labels)
    scores = heads.scores(logits)
    # One number for all, but a sigmoid in a vector's tail is another function than in its body.
    assert np.ptp(scores[0]) <= 4 * EPS
    assert scores[0, 0] == pytest.approx(41 / 42, rel=8 * EPS)  # 40 of 40, and one of each kind
    assert np.ptp(scores[1]) > 0
    # The last exit lets everybody go.
    assert np.ptp(ScoreHeads("eefp").fit(logits, labels).scores(logits)[2]) <= 4 * EPS


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 12])
def test_score_heads_are_kept(by_class: bool, classes: int) -> None:
    logits, labels = random_logits(2, 80, classes)
    heads = ScoreHeads("correct", by_class=by_class).fit(logits, labels)
    again = ScoreHeads.from_dict(json.loads(json.dumps(heads.to_dict())))
    np.testing.assert_array_equal(again.scores(logits), heads.scores(logits))
    twice = ScoreHeads("correct", by_class=by_class).fit(torch.tensor(logits), labels)
    # The search ends where no slope of the mean loss is above 1e-8, and products of vectors round
    # by where these lie in memory. The penalty curves the loss by 1/80 at least, so a coefficient
    # is known to 1e-6, and a score to that times a quarter of the features, 20 of up to 10.
    np.testing.assert_allclose(twice.scores(logits), heads.scores(logits), rtol=0, atol=5e-5)
    assert repr(again) == repr(heads)


def test_score_heads_check() -> None:
    logits, labels = random_logits(2, 30, 4)
    with pytest.raises(ValueError, match="target must be one of"):
        ScoreHeads("futile")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="C must be positive"):
        ScoreHeads(C=0.0)
    with pytest.raises(AttributeError, match="not fitted: call fit"):
        ScoreHeads().scores(logits)
    heads = ScoreHeads().fit(logits, labels)
    with pytest.raises(ValueError, match="k must be 0 to 1, the exits that were fitted, got 2"):
        heads.score(2, torch.zeros(1, 4))
    with pytest.raises(ValueError, match="the classes it was fitted with"):
        heads.score(0, torch.zeros(1, 5))
    with pytest.raises(ValueError, match="3 exits, but scores were fitted for 2"):
        heads.scores(np.zeros((3, 2, 4)))
    with pytest.raises(ValueError, match="values must be those of to_dict"):
        ScoreHeads.from_dict({})


# --- the acceptance toy ---------------------------------------------------------------------------

SAMPLES = 20_000
# A mean of N numbers in [0, 1] is further off with a probability of 2e-6 at most (Hoeffding), and
# so is any function that one sample of N changes by 1 / N (McDiarmid).
NOISE = math.sqrt(math.log(1e6) / (2 * SAMPLES))
BIN_NOISE = math.sqrt(15 / SAMPLES) / 2
COSTS = np.array([1, 2, 3]) / 3


def population(points: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Both scores without chance [3, 5 points / 4]: even difficulties, and a fifth hopeless."""
    right, leave = [], []
    for difficulty in (np.arange(points) + 0.5) / points:
        p = [1 / (1 + math.exp(-10 * (a - difficulty))) for a in (0.56, 0.79, 1.02)]
        right.append(p)
        nobody = (1 - p[1]) * (1 - p[2])
        leave.append([p[0] + (1 - p[0]) * nobody, p[1] + (1 - p[1]) * (1 - p[2]), 1.0])
    hopeless = points // 4
    return (
        np.array(right + [[0.0, 0.0, 0.0]] * hopeless).T,
        np.array(leave + [[1.0, 1.0, 1.0]] * hopeless).T,
    )


def leaving_at(scores: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """The exit of each sample, [samples]."""
    return np.where(scores[0] >= cuts[0], 0, np.where(scores[1] >= cuts[1], 1, 2))


def expected_at(scores: np.ndarray, right: np.ndarray, budget: float) -> tuple[float, float]:
    """Cost and accuracy in expectation, thresholds fitted to the budget."""
    exits = leaving_at(scores, fit_cuts(scores, COSTS, budget))
    return float(COSTS[exits].mean()), float(right[exits, np.arange(len(exits))].mean())


def test_the_toy_is_what_is_known() -> None:
    # Known are 55.2 % and 64.4 % at half cost and an ECE of .238, not how they were made: the
    # construction is ours, and meets them, in expectation, to within two units of the last digit.
    right, leave = population()
    # Means of 4,000 points of smooth functions, and a half that 5,000 samples cannot split further.
    assert expected_at(right, right, 0.5) == pytest.approx((0.5, 0.5515), abs=1e-3)
    assert expected_at(leave, right, 0.5) == pytest.approx((0.5, 0.6456), abs=1e-3)
    # P(leave) is above P(correct) everywhere, so its error is the difference of their means.
    assert (leave - right).mean() == pytest.approx(0.2378, abs=1e-4)


def test_the_first_score_has_no_better_thresholds() -> None:
    right, leave = population(400)
    best = dict.fromkeys((0.4, 0.5, 0.6, 0.7, 0.8), 0.0)
    values = [*np.unique(right[0])[::8], 2.0], [*np.unique(right[1])[::8], 2.0]
    for cuts in itertools.product(*values):
        exits = leaving_at(right, np.array(cuts))
        cost = COSTS[exits].mean()
        found = right[exits, np.arange(len(exits))].mean()
        for budget in best:
            if cost <= budget:
                best[budget] = max(best[budget], float(found))
    for budget, found in best.items():
        assert expected_at(leave, right, budget)[1] > found + 0.005


def test_calibration_ranks_the_toy_the_wrong_way() -> None:
    toy, validation = futility_toy(SAMPLES, seed=0), futility_toy(SAMPLES, seed=1)
    right, leave = population()
    np.testing.assert_allclose(toy.costs, COSTS, rtol=4 * EPS)

    calibrated, other = ece(toy.right_scores, toy.correct), ece(toy.leave_scores, toy.correct)
    # The gap of a bin of n calibrated samples is 1 / (2 sqrt(n)) at most, in the mean: weighted and
    # summed over 15 of them, at most sqrt(15 / N) / 2.
    assert calibrated.values.max() <= BIN_NOISE + NOISE
    expected = (leave - right).mean(1)
    np.testing.assert_allclose(other.values, expected, atol=BIN_NOISE + 2 * NOISE)
    assert calibrated.mean < other.mean / 5

    # EEFP ranks them the other way, and AUROC against correctness as calibration does.
    by_right, by_leave = (eefp(one, toy.correct) for one in (toy.right_scores, toy.leave_scores))
    assert by_right.mean < by_leave.mean - 0.1
    plain, futile = (
        failure_auroc(one, toy.correct) for one in (toy.right_scores, toy.leave_scores)
    )
    assert plain[:2].min() > futile[:2].max()

    # Leaving by either score, with thresholds from other samples.
    budgets = [0.4, 0.5, 0.6, 0.7, 0.8]
    found = {}
    for name, score in (("right_scores", right), ("leave_scores", leave)):
        cuts = [fit_cuts(getattr(validation, name), COSTS, one) for one in budgets]
        found[name] = curve(getattr(toy, name), toy.correct, COSTS, cuts)
        costs, accuracies = zip(*(expected_at(score, right, one) for one in budgets), strict=True)
        # Shares of both draws are off by NOISE, and each by it again; costs by 2 / 3 of that, and
        # accuracy follows cost with a slope of 2 at most, on top of its own noise.
        np.testing.assert_allclose(found[name].cost, costs, atol=2 * NOISE)
        np.testing.assert_allclose(found[name].accuracy, accuracies, atol=5 * NOISE)
    gained = found["leave_scores"].accuracy - found["right_scores"].accuracy
    assert (gained > 0).all()
    assert found["leave_scores"].accuracy[1] > found["right_scores"].accuracy[1] + 0.05


def test_leave_scores_are_the_probability_of_their_label() -> None:
    toy = futility_toy(SAMPLES, seed=1)
    found = ece(toy.leave_scores, eefp_labels(toy.correct))
    assert found.values.max() <= BIN_NOISE + NOISE
    assert found[2] == 0  # the last exit lets everybody go
    hopeless = (toy.right_scores == 0).all(0)
    assert hopeless.mean() == pytest.approx(0.2, abs=NOISE)
    assert not toy.correct[:, hopeless].any()
    np.testing.assert_array_equal(toy.leave_scores[:, hopeless], 1)


def test_the_toy_is_drawn_from_its_seed() -> None:
    first, again, other = (futility_toy(500, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.correct, again.correct)
    np.testing.assert_array_equal(first.leave_scores, again.leave_scores)
    assert (first.right_scores != other.right_scores).any()
