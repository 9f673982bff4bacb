"""Judging exits: thresholds fitted to budgets, curves, evaluations, comparisons."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from laplex.early_exit import (
    Entropy,
    LearnedScore,
    Margin,
    MaxSoftmax,
    MultiExitModel,
    Patience,
    networks,
)
from laplex.early_exit.costs import count_costs
from laplex.early_exit.evaluation.comparison import Comparison, compare
from laplex.early_exit.evaluation.curves import (
    Curve,
    curve,
    oracle_exits,
    random_exits,
    static_exits,
)
from laplex.early_exit.evaluation.evaluator import evaluate, evaluate_outputs
from laplex.early_exit.evaluation.outputs import Outputs, collect
from laplex.early_exit.evaluation.result import Evaluation
from laplex.early_exit.evaluation.thresholds import fit_cuts, geometric_shares, shared_cuts
from laplex.early_exit.metrics.score_heads import ScoreHeads
from laplex.early_exit.metrics.temperature import TemperatureScaling
from laplex.early_exit.policies import Policy

COSTS = [0.3, 0.6, 1.1]


def same_samples(data: Outputs) -> Outputs:
    """Another object of the same samples, which an evaluation would refuse."""
    return data.subset(slice(None))


def outputs(samples: int = 60, classes: int = 4, seed: int = 0, exits: int = 3) -> Outputs:
    """Logits that know more about the label at later exits."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples)
    signal = np.arange(1, exits + 1)[:, None, None] * np.eye(classes)[labels]
    logits = (rng.normal(size=(exits, samples, classes)) + signal).astype(np.float32)
    return Outputs(logits, labels, (*(f"block{k}" for k in range(exits - 1)), "output"))


def network(seed: int = 0, classes: int = 3) -> MultiExitModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = networks.small_mlp(6, classes, widths=(8, 8, 8), seed=seed)
        example = torch.zeros(1, 6)
        model = MultiExitModel.attach(
            backbone,
            networks.EXITS["small_mlp"],
            num_classes=classes,
            example=example,
            head="linear",
        )
        for parameter in model.parameters():  # scores far apart, as of a trained network
            nn.init.normal_(parameter, std=0.7)
        return model


def samples(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, 6, generator=generator),
        torch.randint(3, (count,), generator=generator),
    )


def leaving_cost(scores: Any, costs: Any, cuts: Any, policy: Policy) -> float:
    """Mean cost by looking at each sample in turn."""
    total = 0.0
    for n in range(scores.shape[1]):
        k = 0
        while k < len(cuts):
            score = scores[k, n]
            if score > cuts[k] if policy.strict else score >= cuts[k]:
                break
            k += 1
        total += costs[k]
    return total / scores.shape[1]


# ------------------------------------------------------------------------------------- thresholds


@st.composite
def scored(draw: st.DrawFn, most: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Scores of few different values, so with many ties, and rising costs."""
    exits = draw(st.integers(2, 4))
    count = draw(st.integers(1, 25))
    values = draw(st.lists(st.integers(0, most), min_size=exits * count, max_size=exits * count))
    steps = draw(st.lists(st.floats(0.01, 1.0), min_size=exits, max_size=exits))
    return np.array(values, dtype=float).reshape(exits, count), np.cumsum(steps)


@settings(max_examples=150, deadline=None)
@given(case=scored(), part=st.floats(0.05, 1.3), strict=st.booleans())
def test_fitted_thresholds_meet_the_budget(
    case: tuple[np.ndarray, np.ndarray], part: float, strict: bool
) -> None:
    scores, costs = case
    budget = part * float(costs[-1])
    cuts = fit_cuts(scores, costs, budget, strict=strict)
    cost = leaving_cost(scores, costs, cuts, Policy(0.0, strict=strict))
    if budget < costs[0]:
        assert cost == pytest.approx(costs[0], rel=1e-12)
        assert (cuts == -math.inf).all()
    else:
        assert cost <= budget * (1 + 1e-12)
    if budget >= costs[-1]:
        assert (cuts == math.inf).all()


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    exits=st.integers(2, 5),
    count=st.integers(5, 60),
    part=st.floats(0.0, 1.0),
)
def test_fitted_thresholds_spend_the_budget(seed: int, exits: int, count: int, part: float) -> None:
    # Without ties the numbers that leave change one by one as q rises, at worst at all exits at
    # once: then each of K - 1 exits hands one sample on, for c[K - 1] - c[0] in all.
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(float(count)), (exits, 1)), axis=1)
    costs = np.cumsum(rng.uniform(0.1, 1.0, exits))
    budget = float(costs[0] + part * (costs[-1] - costs[0]))
    cost = leaving_cost(scores, costs, fit_cuts(scores, costs, budget), Policy(0.0))
    step = (costs[-1] - costs[0]) / count
    assert budget - step - 1e-9 <= cost <= budget * (1 + 1e-12)


def test_shares_are_geometric() -> None:
    rng = np.random.default_rng(0)
    count = 4000
    found = curve(
        scores := rng.normal(size=(4, count)),
        np.ones((4, count), dtype=bool),
        costs := [0.2, 0.5, 0.8, 1.0],
        [fit_cuts(scores, costs, 0.55)],
    )
    p = found.shares[0]
    # The numbers that have left are rounded to whole samples: each share is off by 1 / count.
    for k in range(2):
        assert p[k + 1] ** 2 == pytest.approx(p[k] * p[k + 2], abs=4 / count)
    assert p == pytest.approx(geometric_shares(costs, 0.55), abs=2 / count)


def test_thresholds_lie_between_samples() -> None:
    scores = [[0.9, 0.8, 0.6, 0.5], [0.0, 0.1, 0.2, 0.3]]
    assert fit_cuts(scores, [0.5, 1.0], 0.75) == pytest.approx([0.7], abs=1e-15)
    assert fit_cuts(scores, [0.5, 1.0], 0.75, strict=True) == pytest.approx([0.7], abs=1e-15)
    near = np.nextafter(0.5, 1)  # nothing lies between neighbours
    for strict, cut in ((False, near), (True, 0.5)):
        assert fit_cuts([[near, 0.5], [0, 0]], [0.5, 1.0], 0.75, strict=strict) == [cut]


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=6), part=st.floats(0.0, 1.0))
def test_geometric_shares_cost_the_budget(steps: list[float], part: float) -> None:
    costs = np.cumsum(steps)
    budget = float(costs[0] + part * (costs[-1] - costs[0]))
    shares = geometric_shares(costs, budget)
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    assert shares @ costs == pytest.approx(budget, rel=1e-9)
    assert geometric_shares(costs, float(costs[-1]) + 1)[-1] == 1
    assert geometric_shares(costs, float(costs[0]) / 2)[0] == 1


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", ["max-softmax", "temperature", "learned"])
def test_the_test_sweep_is_that_of_the_public_benchmark(strict: bool, kind: str) -> None:
    """Whatever the comparison of the policy: its loop is written out here."""
    data = outputs(80)
    data.logits[:, :9] *= 500  # the largest probability is exactly 1, which 1 does not exceed
    policy: Policy = MaxSoftmax(0.5, strict=strict)
    if kind == "temperature":
        fitted = TemperatureScaling().fit(data.logits, data.labels)
        policy = LearnedScore(fitted, 0.5, strict=strict)
    elif kind == "learned":
        heads = ScoreHeads().fit(data.logits, data.labels)
        policy = LearnedScore(heads, 0.5, strict=strict)
    found = evaluate_outputs(data, COSTS, policy=policy)
    confidence = policy.scores(data.logits).numpy()
    right = data.logits.argmax(-1) == data.labels
    assert len(found.curve) == 100
    for i, threshold in enumerate(np.linspace(0, 1, 100)):
        leaves = [next((k for k in range(2) if confidence[k, n] > threshold), 2) for n in range(80)]
        shares = np.bincount(leaves, minlength=3) / 80
        assert found.curve.shares[i].tolist() == shares.tolist()
        assert found.curve.accuracy[i] == right[leaves, np.arange(80)].mean()
    assert found.curve.shares[0].tolist() == [1, 0, 0]
    assert found.curve.shares[-1].tolist() == [0, 0, 1]
    assert "from 0 to 1, which a score must exceed" in found.conventions["thresholds"]


def test_shared_thresholds_span_the_scores_and_both_ends() -> None:
    scores = np.array([[0.2, 0.9], [0.4, 0.5], [-7.0, 7.0]])  # nobody asks the last exit
    cuts = shared_cuts(scores)
    assert len(cuts) == 102
    assert (cuts[0], cuts[-1]) == (-math.inf, math.inf)
    assert cuts[1:-1] == pytest.approx(np.linspace(0.2, 0.9, 100))
    found = curve(scores, scores > 0, COSTS, cuts)
    assert (found.shares[0] == [1, 0, 0]).all()
    assert (found.shares[-1] == [0, 0, 1]).all()


# ----------------------------------------------------------------------------------------- curves

SCORES = [[0.9, 0.8, 0.6, 0.4], [0.5, 0.5, 0.5, 0.5]]
CORRECT = [[1, 0, 1, 0], [1, 1, 1, 0]]


def test_a_curve_by_hand() -> None:
    found = curve(SCORES, CORRECT, [0.5, 1.0], [math.inf, 0.85, [0.7], -math.inf])
    assert found.cost == pytest.approx([1.0, 0.875, 0.75, 0.5])
    assert found.accuracy == pytest.approx([0.75, 0.75, 0.5, 0.5])
    assert found.shares == pytest.approx(np.array([[0, 1], [0.25, 0.75], [0.5, 0.5], [1, 0]]))
    at = found.accuracy_at([0.49, 0.5, 0.8125, 1.0, 3.0])
    assert math.isnan(at[0])
    assert at[1:] == pytest.approx([0.5, 0.625, 0.75, 0.75])
    # (0.25 * 0.5 + 0.125 * 0.625 + 0.125 * 0.75) / 0.5
    assert found.area == pytest.approx(0.59375)
    assert "4 points" in repr(found)


def test_baselines_by_hand() -> None:
    static = static_exits(CORRECT, [0.5, 1.0])
    assert static.cost == pytest.approx([0.5, 1.0])
    assert static.accuracy == pytest.approx([0.5, 0.75])
    chance = random_exits(CORRECT, [0.5, 1.0], count=3)
    assert chance.cost == pytest.approx([0.5, 0.75, 1.0])
    assert chance.accuracy == pytest.approx([0.5, 0.625, 0.75])
    oracle = oracle_exits(CORRECT, [0.5, 1.0])  # only the second sample is worth going on for
    assert oracle.cost == pytest.approx([0.5, 0.625])
    assert oracle.accuracy == pytest.approx([0.5, 0.75])


@settings(max_examples=100, deadline=None)
@given(case=scored(), data=st.data())
def test_no_policy_beats_the_oracle(case: tuple[np.ndarray, np.ndarray], data: Any) -> None:
    scores, costs = case
    size = scores.size
    correct = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size))).reshape(
        scores.shape
    )
    cuts = data.draw(st.lists(st.floats(-1, 5), min_size=len(costs) - 1, max_size=len(costs) - 1))
    fallback = data.draw(st.sampled_from(["last", "most_confident"]))
    found = curve(scores, correct, costs, [cuts], policy=Policy(0.0, fallback=fallback))
    oracle = oracle_exits(correct, costs)
    # One rounding of a mean cost moves the bound by slope times epsilon.
    assert found.accuracy[0] <= oracle.accuracy_at(found.cost * (1 + 1e-12))[0] + 1e-9


def test_falling_back_to_a_confident_exit_costs_the_last_one() -> None:
    rule = Policy(0.0, fallback="most_confident")
    found = curve([[0.4, 0.9], [0.3, 0.2]], [[1, 1], [0, 0]], [0.5, 1.0], [math.inf], policy=rule)
    assert (found.accuracy[0], found.cost[0]) == (1.0, 1.0)
    assert found.shares.tolist() == [[0, 1]]


def test_equal_costs_are_averaged_and_late_curves_have_no_area() -> None:
    shares = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = Curve(
        np.array([0.5, 0.5, 1.0]), np.array([0.2, 0.4, 0.7]), shares, np.zeros((3, 1)), 0.5
    )
    assert found.accuracy_at(0.5) == pytest.approx(0.3)
    assert found.area == pytest.approx(0.5)
    assert math.isnan(dataclasses.replace(found, low=0.4).area)
    assert math.isnan(curve(SCORES, CORRECT, [1.0, 2.0], [0.5]).area)


# ------------------------------------------------------------------------------------ evaluation


def brute_force(data: Outputs, policy: Policy, cuts: Any) -> tuple[float, float]:
    """Accuracy and mean cost, sample by sample, from softmax by the formula."""
    right = cost = 0.0
    for n in range(len(data)):
        for k in range(3):
            z = [float(one) for one in data.logits[k, n]]
            total = sum(math.exp(one) for one in z)
            p = sorted((math.exp(one) / total for one in z), reverse=True)
            score = {
                "MaxSoftmax": p[0],
                "Margin": p[0] - p[1],
                "Entropy": sum(one * math.log(one) for one in p),
            }[type(policy).__name__]
            if k == 2 or score >= cuts[k]:
                right += z.index(max(z)) == data.labels[n]
                cost += COSTS[k]
                break
    return right / len(data), cost / len(data)


@pytest.mark.parametrize("policy", [MaxSoftmax(0.6), Margin(0.3), Entropy(0.9)])
@pytest.mark.parametrize("validated", [True, False])
def test_curves_are_those_of_a_loop_over_samples(policy: Policy, validated: bool) -> None:
    data = outputs()
    found = evaluate_outputs(
        data, COSTS, policy=policy, validation=outputs(seed=1) if validated else None
    )
    assert found.protocol == ("validation" if validated else "p1-test-sweep")
    assert found.validation_samples == (60 if validated else 0)
    confident = isinstance(policy, MaxSoftmax)
    assert len(found.curve) == (30 if validated else 100 if confident else 102)
    scores = policy.scores(data.logits).numpy()[:2]
    for i, cuts in enumerate(found.curve.cuts):
        if np.abs(scores - cuts[:, None]).min() > 1e-12:  # a sweep begins and ends at a score
            wanted = brute_force(data, policy, cuts)
            assert (found.curve.accuracy[i], found.curve.cost[i]) == pytest.approx(wanted)
    own = found.operating_point
    assert own is not None
    cuts = policy.cuts(3).numpy()
    assert (own.accuracy, own.cost) == pytest.approx(brute_force(data, policy, cuts))
    assert own.shares @ COSTS == pytest.approx(own.cost)
    assert own.policy == repr(policy)


def test_measures_are_their_formulas() -> None:
    data = outputs(25)
    found = evaluate_outputs(data, COSTS, bins=4)
    for k in range(3):
        p = np.exp(data.logits[k].astype(float))
        p /= p.sum(1, keepdims=True)
        of_label = p[np.arange(25), data.labels]
        right = p.argmax(1) == data.labels
        score = p.max(1)
        assert found.accuracy[k] == pytest.approx(right.mean())
        assert found.nll[k] == pytest.approx(-np.log(of_label).mean())
        assert found.brier[k] == pytest.approx((p**2).sum(1).mean() - 2 * of_label.mean() + 1)
        bins = np.minimum(np.ceil(score * 4).astype(int), 4) - 1
        gaps = [abs((right * 1.0 - score)[bins == b].sum()) for b in range(4)]
        assert found.ece[k] == pytest.approx(sum(gaps) / 25)
        later = np.any([data.logits[j].argmax(1) == data.labels for j in range(k + 1, 3)], axis=0)
        for name, good in (("auroc", right), ("eefp", right | ~later)):
            pairs = [
                (a > b) + 0.5 * (a == b) for a in score[good] for b in score[~np.asarray(good)]
            ]
            value = getattr(found, name)[k]
            assert value == pytest.approx(np.mean(pairs)) if pairs else math.isnan(value)
    assert math.isnan(found.eefp[2])
    assert found.mean_eefp == pytest.approx(found.eefp[:2].mean())
    assert found.mean_ece == pytest.approx(found.ece[:2].mean())
    assert found.mean_auroc == pytest.approx(found.auroc[:2].mean())
    assert found.reliability.counts.sum(1).tolist() == [25, 25, 25]
    assert found.accuracy_at_budgets == pytest.approx(
        found.curve.accuracy_at([0.25, 0.5, 0.75, 1.0]), nan_ok=True
    )
    assert math.isnan(found.accuracy_at_budgets[0])  # the first exit costs 0.3
    assert found.static.accuracy == pytest.approx(found.accuracy)


def test_thresholds_are_fitted_on_validation_samples_for_the_policy_s_comparison() -> None:
    data, unseen = outputs(50), outputs(50, seed=1)
    found = evaluate_outputs(data, COSTS, validation=unseen)
    scores = MaxSoftmax(0.5).scores(unseen.logits)
    budgets = np.linspace(0.3, 1.1, 30)
    wanted = np.stack([fit_cuts(scores, COSTS, float(one)) for one in budgets])
    assert np.array_equal(found.curve.cuts, wanted)
    # Between two neighbouring numbers there is no threshold, so it must be the right one of them.
    logits = np.zeros((2, 2, 2), dtype=np.float32)
    logits[..., -1] = [-1, -2]
    near = Table({-1: 0.5, -2: float(np.nextafter(0.5, 1))})
    two = Outputs(logits, np.zeros(2, dtype=np.int64), ("early", "output"))
    for strict in (False, True):
        policy = LearnedScore(near, 0.5, strict=strict)
        one = evaluate_outputs(two, [0.5, 1.0], policy=policy, validation=same_samples(two))
        assert 0.75 in one.curve.cost


def test_fitted_on_validation_holds_there() -> None:
    data = outputs(200)
    found = evaluate_outputs(data, COSTS, validation=same_samples(data))
    assert (found.curve.cost <= np.linspace(0.3, 1.1, 30) * (1 + 1e-12)).all()
    cuts = found.cuts_at(0.7)
    own = evaluate_outputs(data, COSTS, policy=MaxSoftmax(cuts)).operating_point
    assert own is not None
    assert 0.65 < own.cost <= 0.7
    with pytest.raises(ValueError, match=r"budget must be at least 0\.3"):
        found.cuts_at(0.2)


def test_cuts_are_fitted_to_the_budget_on_the_validation_samples() -> None:
    """Also between the budgets of the curve, and whatever the test samples are."""
    unseen = outputs(200, seed=3)
    scores = MaxSoftmax(0.5).scores(unseen.logits)
    found = [evaluate_outputs(outputs(90, seed=i), COSTS, validation=unseen) for i in (1, 2)]
    for budget in (0.3, 0.5, 0.613, 0.9, 2.0):
        cuts = found[0].cuts_at(budget)
        assert np.array_equal(cuts, fit_cuts(scores, COSTS, budget))
        assert np.array_equal(cuts, found[1].cuts_at(budget))
        spent = np.array(COSTS)[found[0].policy_at(budget).decide(scores)[1].numpy()].mean()
        assert spent <= budget * (1 + 1e-12)
        # The cuts of the curve are for 30 budgets: one of them may be almost 0.03 too small.
        assert spent >= min(budget, 1.1) - 0.01
    strict = evaluate_outputs(
        outputs(90), COSTS, policy=MaxSoftmax(0.5, strict=True), validation=unseen
    )
    assert np.array_equal(strict.cuts_at(0.6), fit_cuts(scores, COSTS, 0.6, strict=True))


def test_cuts_without_validation_scores_are_those_of_a_point_of_the_curve() -> None:
    unseen = outputs(200, seed=3)
    swept = evaluate_outputs(outputs(200), COSTS, validation=unseen, protocol="p1-test-sweep")
    fitted = evaluate_outputs(outputs(200), COSTS, validation=unseen)
    for found in (swept, Evaluation.from_json(fitted.to_json())):
        assert found.validation_scores is None
        within = found.curve.cost <= 0.613
        best = found.curve.cost == found.curve.cost[within].max()
        assert found.cuts_at(0.613).tolist() in found.curve.cuts[best].tolist()


def test_temperature_keeps_answers_and_is_fitted_on_validation() -> None:
    data, unseen = outputs(300, seed=2), outputs(300, seed=3)
    plain = evaluate_outputs(data, COSTS, validation=unseen)
    scaled = evaluate_outputs(data, COSTS, validation=unseen, calibration="temperature")
    assert scaled.accuracy.tolist() == plain.accuracy.tolist()
    fitted = TemperatureScaling().fit(unseen.logits, unseen.labels)
    again = evaluate_outputs(data, COSTS, validation=unseen, calibration=fitted)
    assert again.to_dict() == scaled.to_dict()
    by_hand = Outputs(fitted.transform(data.logits), data.labels, data.exit_names)
    assert scaled.nll == pytest.approx(evaluate_outputs(by_hand, COSTS).nll, rel=1e-12)
    assert (scaled.calibration, plain.calibration) == ("temperature", "none")
    learned = evaluate_outputs(data, COSTS, policy=LearnedScore(fitted, 0.5))
    assert learned.ece == pytest.approx(scaled.ece, rel=1e-9)


@pytest.mark.parametrize("target", ["eefp", "correct"])
def test_score_heads_take_the_place_of_the_policy(target: str) -> None:
    data, unseen = outputs(200, seed=2), outputs(200, seed=3)
    found = evaluate_outputs(data, COSTS, validation=unseen, calibration=target)  # type: ignore[arg-type]
    heads = ScoreHeads(target=target).fit(unseen.logits, unseen.labels)  # type: ignore[arg-type]
    given = evaluate_outputs(data, COSTS, validation=unseen, calibration=heads)
    assert found.policy == given.policy == "learned score"
    assert target in found.calibration
    assert given.calibration == found.calibration
    policy = LearnedScore(heads, 0.5)
    direct = evaluate_outputs(data, COSTS, validation=unseen, policy=policy)
    for other in (given, direct):
        # Two fits agree to where their searches end, some 1e-6 of a score.
        assert other.ece == pytest.approx(found.ece, abs=1e-5)
        for name in ("auroc", "eefp", "nll"):
            assert getattr(other, name) == pytest.approx(getattr(found, name), nan_ok=True)
        assert other.curve.accuracy == pytest.approx(found.curve.accuracy)


class Table:
    """A scorer that reads the group of a sample from its last logit."""

    def __init__(self, scores: dict[int, float]) -> None:
        self.scores = scores

    def score(self, k: int, logits: Tensor) -> Tensor:
        found = [self.scores[round(float(one))] for one in logits[:, -1]]
        return torch.tensor(found, dtype=torch.float64)


def test_failure_prediction_beats_calibration_where_samples_are_hopeless() -> None:
    # Group -1: 10 samples, 8 right at the first exit. -2: 10, 5 right. -3: 5, right nowhere. The
    # last exit is right about the first two groups. Scores are exact probabilities, of being right
    # and of (right or hopeless): the first keeps the hopeless to the end.
    group = np.repeat([-1, -2, -3], [10, 10, 5])
    right = np.zeros((2, 25), dtype=bool)
    right[0, :8] = right[0, 10:15] = True
    right[1, :20] = True
    logits = np.zeros((2, 25, 3), dtype=np.float32)
    logits[..., 2] = group
    logits[..., 0] = np.where(right, 1.0, -1.0)  # class 0 is the label, or else class 1 wins
    data = Outputs(logits, np.zeros(25, dtype=np.int64), ("early", "output"))
    exact = LearnedScore(Table({-1: 0.8, -2: 0.5, -3: 0.0}), 0.6)
    ours = LearnedScore(Table({-1: 0.8, -2: 0.5, -3: 1.0}), 0.6)
    calibrated, predicted = (
        evaluate_outputs(data, [0.4, 1.0], policy=one, validation=same_samples(data))
        for one in (exact, ours)
    )
    assert calibrated.auroc[0] > predicted.auroc[0]
    assert calibrated.eefp[0] < predicted.eefp[0]
    assert calibrated.area < predicted.area
    inside = np.linspace(0.4, 1.0, 13)[1:-1]
    assert (calibrated.curve.accuracy_at(inside) < predicted.curve.accuracy_at(inside)).all()
    own = predicted.operating_point
    assert own is not None
    assert own.accuracy == pytest.approx((8 + 10) / 25)
    assert own.cost == pytest.approx((15 * 0.4 + 10) / 25)


# ---------------------------------------------------------------------------------- with a model


def test_evaluate_runs_a_model_and_counts_its_costs() -> None:
    model = network()
    x, y = samples(50)
    model.train()
    model.backbone.eval()
    modes = [module.training for module in model.modules()]
    loader = DataLoader(TensorDataset(x, y), batch_size=16)
    unseen = DataLoader(TensorDataset(*samples(40, 1)), batch_size=40)
    found = evaluate(model, loader, validation=unseen)
    assert [module.training for module in model.modules()] == modes
    assert not model._forward_pre_hooks
    assert found.exit_names == ("layers.0", "layers.1", "output")
    costs = count_costs(model, x)
    assert found.costs == pytest.approx(costs.relative)
    with torch.no_grad():
        logits = torch.stack(model(x)).numpy()
    direct = evaluate_outputs(
        Outputs(logits, y.numpy(), found.exit_names), costs, validation=collect(model, unseen)
    )
    assert found.accuracy == pytest.approx(direct.accuracy)
    assert found.nll == pytest.approx(direct.nll, rel=1e-5)  # batches of another size round anew
    flops = evaluate(model, iter([(x, y)]), cost_convention="flops")  # can be asked only once
    assert flops.costs == pytest.approx(found.costs)
    assert "flops" in flops.conventions["cost"]
    given = evaluate(model, loader, costs=[0.5, 0.75, 1.0], validation=collect(model, unseen))
    assert given.costs.tolist() == [0.5, 0.75, 1.0]


@pytest.mark.parametrize("policy", ["max-softmax", "entropy", "margin", "patience"])
def test_points_of_the_curve_are_what_predict_does(policy: Any) -> None:
    rule = {
        "max-softmax": MaxSoftmax(0.5),
        "entropy": Entropy(0.5),
        "margin": Margin(0.5),
        "patience": Patience(1),
    }[policy]
    model = network(3)
    x, y = samples(80)
    data = collect(model, [(x, y)])
    found = evaluate(model, [(x, y)], policy=policy, validation=data)
    scores = rule.scores(data.logits).numpy()[:-1]
    costs = count_costs(model, x)
    seen = 0
    for i, cuts in enumerate(found.curve.cuts):
        # Logits of a smaller batch differ in their last digits, 1e-6 here: a sample whose score
        # is as near as that to a threshold may go either way.
        if np.abs(scores - cuts[:, None]).min() < 1e-5:
            continue
        seen += 1
        answer = model.predict(x, rule.with_cuts(cuts))
        right = float((answer.labels == y).double().mean())
        assert found.curve.accuracy[i] == pytest.approx(right)
        assert found.curve.cost[i] == pytest.approx(
            costs.mean(answer.samples_per_segment) / costs.backbone
        )
    assert seen >= 2  # both ends at least: patience has few scores, so few thresholds


def network_that_can_leave() -> tuple[MultiExitModel, Tensor, Tensor, Outputs]:
    model = network(3)
    x, y = samples(300)
    return model, x, y, collect(model, [(x, y)])


@pytest.mark.parametrize(
    ("policy", "calibration", "kind"),
    [
        ("max-softmax", None, MaxSoftmax),
        ("entropy", None, Entropy),
        (Margin(0.5, strict=True), None, Margin),
        ("max-softmax", "temperature", LearnedScore),
        (MaxSoftmax(0.5, strict=True, fallback="most_confident"), "temperature", LearnedScore),
        ("patience", "temperature", Patience),
        ("max-softmax", "eefp", LearnedScore),
        ("max-softmax", "correct", LearnedScore),
    ],
)
def test_policy_at_decides_as_the_curve_says(policy: Any, calibration: Any, kind: type) -> None:
    model, x, y, data = network_that_can_leave()
    unseen = collect(model, [samples(200, 1)])
    costs = count_costs(model, x)
    found = evaluate_outputs(data, costs, policy=policy, calibration=calibration, validation=unseen)
    seen = 0
    budgets = np.linspace(found.costs[0], found.costs[-1], 30)  # of the points of the curve
    for point in (0, 7, 13, 18, 24, 29):
        real = found.policy_at(float(budgets[point]))
        assert type(real) is kind
        cuts = found.curve.cuts[point]
        assert np.array_equal(real.cuts(3).numpy(), cuts)
        assert np.array_equal(found.cuts_at(float(budgets[point])), cuts)
        scores = real.scores(data.logits).numpy()
        # As in the test above: samples this near to a threshold may go either way.
        near = (np.abs(scores[:-1] - cuts[:, None]) < 1e-5).any(0)
        answers, stopped = (one.numpy() for one in real.decide(real.scores(data.logits)))
        allowed = near.mean() + 1e-12
        shares = np.bincount(stopped, minlength=3) / len(y)
        assert np.abs(shares - found.curve.shares[point]).max() <= allowed
        answer = model.predict(x, real)
        assert np.array_equal(answer.exit_index.numpy()[~near], answers[~near])
        if kind is Patience or not near.any():
            seen += 1
            right = float((answer.labels == y).double().mean())
            assert found.curve.accuracy[point] == pytest.approx(right)
            assert found.curve.cost[point] == pytest.approx(
                costs.mean(answer.samples_per_segment) / costs.backbone
            )
    assert seen >= 2


def test_thresholds_of_a_calibrated_evaluation_suit_only_its_own_policy() -> None:
    """What `policy_at` is for: ``with_cuts`` of a plain policy takes them without a word."""
    data, unseen = outputs(400, seed=2), outputs(400, seed=3)
    sharp = Outputs(8 * data.logits, data.labels, data.exit_names)
    seen = Outputs(8 * unseen.logits, unseen.labels, unseen.exit_names)
    found = evaluate_outputs(sharp, COSTS, validation=seen, calibration="temperature")
    own, plain = found.policy_at(0.7), MaxSoftmax(0.5).with_cuts(found.cuts_at(0.7))
    spent = [
        np.array(COSTS)[one.exit_index(torch.from_numpy(sharp.logits)).numpy()].mean()
        for one in (own, plain)
    ]
    assert spent[0] == pytest.approx(0.7, abs=0.05)
    assert abs(spent[1] - 0.7) > 0.1


def test_the_policy_of_an_evaluation_may_be_missing() -> None:
    data, unseen = outputs(100), outputs(100, seed=1)
    found = evaluate_outputs(data, COSTS, validation=unseen, calibration="temperature")
    with pytest.raises(ValueError, match=r"budget must be at least 0\.3"):
        found.policy_at(0.2)
    copied = pickle.loads(pickle.dumps(found))
    assert copied.policy_at(0.7).thresholds == found.policy_at(0.7).thresholds
    assert not {"evaluated", "validation_scores"} & found.to_dict().keys()
    read = Evaluation.from_json(found.to_json())
    assert read.evaluated is None
    with pytest.raises(ValueError, match=r"read from a file.*calibration temperature\)"):
        read.policy_at(0.7)
    for policy in ("entropy", "margin"):
        offline = evaluate_outputs(
            data, COSTS, policy=policy, validation=unseen, calibration="temperature"
        )
        with pytest.raises(ValueError, match="can only be evaluated offline"):
            offline.policy_at(0.7)


def test_collect_gathers_batches_and_nested_inputs() -> None:
    model = network()
    x, y = samples(21)
    found = collect(model, DataLoader(TensorDataset(x, y), batch_size=8))
    assert (found.logits.shape, found.logits.dtype) == ((3, 21, 3), np.float32)
    assert found.labels.tolist() == y.tolist()
    some = found.subset(found.labels == 1)
    assert (some.labels == 1).all()
    assert some.logits.tolist() == found.logits[:, found.labels == 1].tolist()
    assert repr(found) == "Outputs(3 exits, 21 samples, 3 classes)"
    with pytest.raises(ValueError, match="logits must be"):
        found.subset([])


def test_collect_evaluates() -> None:
    backbone = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    model = MultiExitModel(backbone, {"1": nn.Linear(8, 3)}).train()
    x, y = samples(9)
    found = collect(model, [(x, y)])
    assert model.backbone[1].training
    assert np.array_equal(found.logits, torch.stack(model.eval()(x)).detach().numpy())


def test_collect_leaves_modes_after_an_error() -> None:
    model = network().train()
    with pytest.raises(ValueError, match="labels go from 0 to 7, but the model has classes 0 to 2"):
        collect(model, [(torch.zeros(2, 6), torch.tensor([0, 7]))])
    assert all(module.training for module in model.modules())


def test_a_progress_bar_is_shown_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    collect(network(), [samples(4)], progress=True)
    assert "collect outputs" in capsys.readouterr().out
    collect(network(), [samples(4)])
    assert not capsys.readouterr().out


# --------------------------------------------------------------------------------------- results


def same(a: Any, b: Any) -> bool:
    return json.dumps(a.to_dict()) == json.dumps(b.to_dict())


@pytest.mark.parametrize("policy", ["max-softmax", MaxSoftmax([0.5, 0.6])])
def test_json_round_trip(tmp_path: Path, policy: Any) -> None:
    found = evaluate_outputs(outputs(), COSTS, policy=policy, validation=outputs(seed=1))
    back = Evaluation.from_json(found.to_json(tmp_path / "found.json"))
    for one in (back, Evaluation.from_json(tmp_path / "found.json")):
        assert same(one, found)
        assert one.table() == found.table()
        assert np.array_equal(one.curve.cuts, found.curve.cuts)
        assert np.isinf(one.curve.cuts).any()
        assert one.reliability.counts.dtype == np.int64
        assert one.area == found.area
        assert one.oracle.cuts.shape == found.oracle.cuts.shape
    assert json.loads(found.to_json())["eefp"][-1] is None
    for broken in ({}, {"kind": "x"}, {**found.to_dict(), "accuracy": [1.0]}):
        with pytest.raises(ValueError, match="values are not those of Evaluation"):
            Evaluation.from_dict(broken)
    with pytest.raises(ValueError, match="is not JSON"):
        Evaluation.from_json("{,")


def test_the_table_says_what_it_shows() -> None:
    found = evaluate_outputs(outputs(), COSTS, policy=MaxSoftmax(0.7))
    text = str(found)
    assert "p1-test-sweep" in text
    assert f"{found.accuracy[0]:.1%}" in text
    assert f"{found.area:.1%}" in text
    assert "MaxSoftmax(0.7): accuracy" in text
    widths = {len(line) for line in text.splitlines() if line.startswith(("exit ", "mean"))}
    assert max(widths) <= 100
    assert "print it for the table" in repr(found)
    assert "validation" in evaluate_outputs(outputs(), COSTS, validation=outputs()).table()


def test_plots_draw_what_was_found() -> None:
    found = evaluate_outputs(outputs(), COSTS, policy=MaxSoftmax(0.7))
    figure = found.plot()
    figure.draw_without_rendering()
    assert len(figure.axes) == 4
    curve_lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert curve_lines["policy"].get_xdata() == pytest.approx(100 * np.sort(found.curve.cost))
    assert curve_lines["single exit"].get_ydata() == pytest.approx(100 * found.accuracy)
    heights = [bar.get_height() for bar in figure.axes[1].patches]
    assert heights == pytest.approx(list(100 * found.accuracy))
    assert "MaxSoftmax(0.7)" in curve_lines


def test_plots_have_room_for_many_exits_long_names_and_many_groups() -> None:
    few = evaluate_outputs(outputs(), COSTS, policy=MaxSoftmax([0.7, 0.6]))
    many = outputs(exits=9)
    names = tuple(f"features.stage{k}.blocks.2.out" for k in range(9))
    found = evaluate_outputs(Outputs(many.logits, many.labels, names), np.linspace(0.2, 1.1, 9))
    groups = {f"{strategy}, score heads (eefp)": few for strategy in "abcdefghijkl"}
    for figure in (few.plot(), found.plot(), compare(groups).plot()):
        figure.draw_without_rendering()
        columns = 2 if len(figure.axes) == 4 else 1
        boxes = []
        for ax in figure.axes:
            assert ax.get_window_extent().width > 0.7 * figure.bbox.width / columns
            boxes.append(ax.get_window_extent())
            if ax.get_legend() is not None:
                boxes.append(ax.get_legend().get_window_extent())
            if ax.get_title():
                boxes.append(ax.title.get_window_extent())
        for i, one in enumerate(boxes):
            assert figure.bbox.x0 <= one.x0 < one.x1 <= figure.bbox.x1
            assert figure.bbox.y0 <= one.y0 <= one.y1 <= figure.bbox.y1
            assert not any(one.overlaps(other) for other in boxes[i + 1 :])


def test_absent_classes_and_exits_that_are_always_right_are_undefined() -> None:
    logits = np.tile(np.array([2.0, 0.0, 1.0], dtype=np.float32), (3, 5, 1))
    found = evaluate_outputs(Outputs(logits, np.zeros(5, dtype=np.int64), ("a", "b", "c")), COSTS)
    assert found.accuracy.tolist() == [1, 1, 1]
    assert np.isnan(found.auroc).all()
    assert math.isnan(found.mean_eefp)
    assert found.area == pytest.approx(1)
    found.plot().draw_without_rendering()
    assert same(Evaluation.from_dict(found.to_dict()), found)
    compare({"a": [found, found]}).plot().draw_without_rendering()
    assert math.isnan(compare({"a": [found] * 4}).correlations().rows[0].pearson)


# ------------------------------------------------------------------------------------ comparison


def run(area: float, ece: float, **more: Any) -> Evaluation:
    """An evaluation with a flat curve."""
    base = evaluate_outputs(outputs(), COSTS)
    flat = dataclasses.replace(base.curve, accuracy=np.full(len(base.curve), area))
    return dataclasses.replace(base, curve=flat, ece=np.full(3, ece), **more)


def test_areas_are_compared_over_one_range_of_costs() -> None:
    data = outputs(400)
    runs = [evaluate_outputs(data, costs) for costs in ([0.2, 0.6, 1.0], [0.5, 0.7, 1.0])]
    found = compare({"cheap": runs[0], "dear": runs[1]})
    # The mean height over [0.5, 1], from many points of the interpolated curve.
    at = np.linspace(0.5, 1, 200_001)
    height = runs[0].curve.accuracy_at(at)
    mean = float(np.mean((height[1:] + height[:-1]) / 2))
    values = found.values()
    # The rule of trapezoids misses at each of 100 kinks at most its width times a jump below 1.
    assert values["cheap"]["area"][0] == pytest.approx(mean, abs=100 / 200_000)
    assert values["dear"]["area"][0] == runs[1].area
    assert "first exits cost 20.0% to 50.0%, so all areas are over" in found.table()
    assert compare({"a": runs[0], "b": [runs[0]]}).notes == []
    fewer = evaluate_outputs(outputs(300), [0.2, 0.6, 1.0])
    assert "different samples (300, 400 of them)" in compare({"a": runs[0], "b": fewer}).table()


def test_p_values_of_few_runs_are_those_of_all_permutations() -> None:
    for area, wanted in (([0.5, 0.6, 0.8], 1 / 3), ([0.5, 0.6, 0.7, 0.9], 1 / 12)):
        runs = [run(a, 1 - a**2) for a in area]
        row = compare({"a": runs}).correlations().rows[2]
        assert row.spearman == pytest.approx(-1)
        assert row.spearman_p == pytest.approx(wanted)  # 2 of n! orders
    rng = np.random.default_rng(1)
    area, ece = rng.uniform(0.3, 0.9, (2, 5))
    row = compare({"a": [run(*map(float, one)) for one in zip(area, ece, strict=True)]})
    for name in ("pearson", "spearman"):
        measure = getattr(scipy.stats, f"{name}r")
        known = scipy.stats.permutation_test(
            (area,),
            lambda x, measure=measure: measure(x, ece).statistic,
            permutation_type="pairings",
            n_resamples=np.inf,
            vectorized=False,
        )
        found = getattr(row.correlations().rows[2], f"{name}_p")
        # scipy counts each tail alone and doubles the smaller; we count both tails as they are.
        both = np.abs(known.null_distribution) >= abs(known.statistic) - 1e-12
        assert found == pytest.approx(both.mean())


def test_the_table_tells_of_few_samples_of_thresholds_too_high_and_of_no_area() -> None:
    assert "with only 60 samples, the standard error" in evaluate_outputs(GOOD, COSTS).table()
    found = evaluate_outputs(outputs(200), [1.05, 1.1, 1.2], policy=MaxSoftmax(1.0))
    assert "No sample leaves early; the scores are probabilities from 0." in found.table()
    assert "the area is undefined" in found.table()
    assert "Note" not in evaluate_outputs(outputs(200), COSTS).table()


def test_a_comparison_has_means_and_deviations() -> None:
    found = compare({"joint": [run(0.5, 0.1), run(0.7, 0.3)], "mixed": run(0.8, 0.2)})
    values = found.values()
    assert values["joint"]["area"] == pytest.approx([0.5, 0.7])
    assert values["joint"]["at 50%"] == pytest.approx([0.5, 0.7])
    lines = found.table().splitlines()
    joint, mixed = (next(one for one in lines if one.startswith(name)) for name in values)
    assert "60.0 ± 14.1%" in joint  # 20 / sqrt(2)
    assert "0.200 ± 0.141" in joint
    assert "80.0%" in mixed
    assert "±" not in mixed
    assert "0.200" in mixed
    assert re.search(r"mixed +1 +- +80.0%", mixed)  # the first exit costs more than 25 %
    assert "p1-test-sweep" in lines[-1]
    assert str(found) == found.table()
    again = Comparison.from_json(found.to_json())
    assert same(again, found)
    other = compare({"a": run(0.5, 0.1), "b": run(0.5, 0.1, protocol="validation")})
    assert "different protocols: p1-test-sweep, validation" in other.table()


def test_correlations_are_those_of_the_formulas() -> None:
    area = np.array([0.5, 0.6, 0.65, 0.8, 0.7])
    ece = np.array([0.3, 0.1, 0.2, 0.02, 0.05])
    runs = [run(float(a), float(e)) for a, e in zip(area, ece, strict=True)]
    found = compare({"a": runs[:2], "b": runs[2:]}).correlations()
    assert [one.measure for one in found.rows[:2]] == ["mean accuracy", "first exit's accuracy"]
    row = found.rows[2]
    assert row.measure == "mean ECE"
    assert row.runs == 5
    assert row.pearson == pytest.approx(np.corrcoef(area, ece)[0, 1])
    ranks = [np.argsort(np.argsort(one)) for one in (area, ece)]
    assert row.spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])
    # t = r sqrt((n - 2) / (1 - r^2)), against Student's t with n - 2 degrees of freedom.
    twice = compare({"a": runs * 2}).correlations().rows[2]
    t = abs(twice.pearson) * math.sqrt(8 / (1 - twice.pearson**2))
    assert twice.pearson_p == pytest.approx(2 * scipy.stats.t.sf(t, 8), rel=1e-6)
    assert "Only 5 runs" in str(found)
    assert math.isnan(found.rows[3].pearson)  # all runs have one AUROC
    assert math.isnan(found.rows[0].partial)  # given itself
    assert "independent" in compare({"a": runs * 2}).correlations().note


def test_correlations_given_accuracy_and_within_groups() -> None:
    rng = np.random.default_rng(0)
    accuracy = rng.uniform(0.4, 0.9, 8)
    ece = 0.3 * accuracy + 0.05 * rng.normal(size=8)
    area = 0.8 * accuracy - 0.3 * ece + 0.02 * rng.normal(size=8)
    runs = [
        run(float(a), float(e), accuracy=np.array([one, one, 0.95]))
        for a, e, one in zip(area, ece, accuracy, strict=True)
    ]
    found = compare({"a": runs[:3], "b": runs[3:7], "alone": runs[7:]}).correlations().rows[2]
    # The recursion formula of partial correlations.
    r = np.corrcoef([ece, area, accuracy])
    wanted = (r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert found.partial == pytest.approx(wanted, rel=1e-9)
    centred = [
        np.concatenate([one[:3] - one[:3].mean(), one[3:7] - one[3:7].mean()])
        for one in (ece, area)
    ]
    assert found.within == pytest.approx(np.corrcoef(centred)[0, 1], rel=1e-9)
    assert (found.runs, found.within_runs) == (8, 7)
    # Student's t with 8 - 3 and 8 - 3 - 1 degrees of freedom, which scipy has for plain
    # correlations of 7 and 6 runs.
    for value, p, free in ((found.partial, found.partial_p, 5), (found.within, found.within_p, 4)):
        t = abs(value) * math.sqrt(free / (1 - value**2))
        assert p == pytest.approx(2 * scipy.stats.t.sf(t, free), rel=1e-9)
    few = compare({"a": runs[:2], "b": runs[2:3]}).correlations().rows[2]
    assert math.isnan(few.within)
    assert math.isnan(few.partial)
    assert (few.runs, few.within_runs) == (3, 2)
    four = compare({"a": runs[:4]}).correlations().rows[2]
    assert math.isfinite(four.partial)
    assert math.isnan(four.partial_p)  # of one degree of freedom


# ---------------------------------------------------------------------------------- bad arguments

GOOD = outputs()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"policy": "certain"}, ValueError, "policy must be one"),
        ({"policy": MaxSoftmax([0.1, 0.2, 0.3])}, ValueError, "threshold has 3 entries"),
        ({"calibration": "temperature"}, ValueError, "pass them as validation"),
        ({"calibration": "isotonic"}, ValueError, "calibration must be one of"),
        ({"calibration": 3}, TypeError, "calibration must be a"),
        ({"calibration": TemperatureScaling()}, ValueError, "not fitted"),
        (
            {"calibration": TemperatureScaling().fit(GOOD.logits[:2], GOOD.labels)},
            ValueError,
            "fitted for 2 exits, but the model has 3",
        ),
        (
            {"calibration": "eefp", "policy": "entropy", "validation": outputs()},
            ValueError,
            "either a calibration or a policy",
        ),
        ({"protocol": "test"}, ValueError, "protocol must be"),
        ({"protocol": "validation"}, ValueError, "pass validation"),
        ({"budgets": [0.5, 0]}, ValueError, "budgets must be"),
        ({"bins": 0}, ValueError, "bins must be at least 1"),
        ({"validation": outputs(classes=5)}, ValueError, "same exits and classes"),
        ({"validation": GOOD}, ValueError, "validation is outputs itself: pass other samples"),
        ({"budgets": None}, TypeError, "budgets must hold real numbers, got None"),
        ({"budgets": 0.5}, ValueError, "budgets must be a sequence of mean costs"),
    ],
)
def test_bad_options_are_named(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate_outputs(GOOD, COSTS, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: evaluate_outputs(GOOD, COSTS[:2]), ValueError, "costs must be 3 numbers"),
        (lambda: evaluate_outputs(GOOD, [1.0, 0.5, 2.0]), ValueError, "must not decrease"),
        (lambda: evaluate_outputs(GOOD, [1, 1, 1]), ValueError, "costs must increase"),
        (lambda: evaluate_outputs(GOOD, None), TypeError, "costs must hold real numbers, got None"),
        (
            lambda: evaluate_outputs(Outputs(GOOD.logits[-1:], GOOD.labels, ("output",)), [1.0]),
            ValueError,
            "only the exit 'output': pass the logits of at least one early exit",
        ),
        (
            lambda: evaluate_outputs(GOOD, COSTS).policy_at("0.5x"),  # type: ignore[arg-type]
            TypeError,
            "budget must be a number, got '0.5x'",
        ),
        (
            lambda: evaluate_outputs(GOOD, COSTS).policy_at(math.nan),
            ValueError,
            "budget must be positive and finite, got nan",
        ),
        (
            lambda: collect(network(), [(torch.zeros(2, 6), torch.tensor([0, -100]))]),
            ValueError,
            "leave out the samples without a class",
        ),
        (
            lambda: collect(network(), [(torch.zeros(2, 6), torch.zeros(2, 3).long())]),
            ValueError,
            "one class for each sample",
        ),
        (lambda: evaluate_outputs(GOOD.logits, COSTS), TypeError, "outputs must be Outputs"),
        (
            lambda: evaluate_outputs(Outputs(GOOD.logits, GOOD.labels + 3, GOOD.exit_names), COSTS),
            ValueError,
            r"outputs.labels must be in \[0, 4\)",
        ),
        (lambda: Outputs(GOOD.logits, GOOD.labels[:3], ("a",)), ValueError, "60 labels and 3"),
        (lambda: Outputs(GOOD.logits[0], GOOD.labels, ("a",)), ValueError, "logits must be"),
        (lambda: evaluate(nn.Linear(2, 2), []), TypeError, "model must be a MultiExitModel"),
        (lambda: evaluate(network(), []), ValueError, "loader yielded no samples"),
        (lambda: evaluate(network(), samples(2)[0]), TypeError, "pass a DataLoader"),
        (lambda: evaluate(network(), [samples(2)[0]]), TypeError, "must be .x, labels."),
        (lambda: evaluate(network(), [samples(2)], costs=[1.0]), ValueError, "costs must be 3"),
        (
            lambda: evaluate(network(), [(torch.full((2, 6), math.nan), torch.zeros(2).long())]),
            ValueError,
            "not finite",
        ),
        (
            lambda: collect(network(), [(torch.zeros(2, 6), torch.zeros(2))]),
            ValueError,
            "class indices of an integer type",
        ),
        (
            lambda: collect(network(), [(torch.zeros(2, 6), torch.zeros(3).long())]),
            ValueError,
            "one number for each of the 2",
        ),
        (
            lambda: evaluate(network(), [(torch.zeros(2, 6), torch.zeros(2, 4).long())]),
            ValueError,
            r"got shape \[2, 4\]: this evaluates one class for each sample",
        ),
        (
            lambda: evaluate(network(classes=1), [(torch.zeros(2, 6), torch.zeros(2).long())]),
            ValueError,
            r"an evaluation needs logits .* at least 2 classes, or .* got logits \[2, 1\]",
        ),
        (lambda: curve(SCORES, CORRECT, COSTS[:2], [[0.1, 0.2]]), ValueError, "one threshold or 1"),
        (lambda: curve(SCORES, CORRECT, COSTS[:2], []), ValueError, "cuts is empty"),
        (lambda: curve(SCORES, CORRECT, COSTS[:2], [math.nan]), ValueError, "got NaN"),
        (lambda: curve(SCORES, CORRECT[:1], [1.0], [0.5]), ValueError, "costs must be"),
        (lambda: fit_cuts([[0.1, 0.2]], [1.0], 1.0), ValueError, "at least two exits"),
        (lambda: fit_cuts(SCORES, COSTS[:2], -1.0), ValueError, "budget must be positive"),
        (lambda: fit_cuts([[math.nan], [1.0]], COSTS[:2], 1.0), ValueError, "finite"),
        (lambda: shared_cuts(SCORES, count=1), ValueError, "count must be at least 2"),
        (lambda: compare({}), ValueError, "results is empty"),
        (lambda: compare({"a": []}), ValueError, "is empty: leave it out"),
        (lambda: compare({"a": [3]}), TypeError, "must hold Evaluations"),
        (lambda: compare([1]), TypeError, "results must map names"),
        (
            lambda: compare(
                {
                    "a": evaluate_outputs(GOOD, COSTS),
                    "b": evaluate_outputs(GOOD, COSTS, budgets=[1]),
                }
            ),
            ValueError,
            "other budgets",
        ),
        (lambda: Comparison.from_dict({}), ValueError, "values are not those of Comparison"),
    ],
)
def test_bad_arguments_are_named(
    call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


def test_validation_samples_are_others_and_costs_are_relative() -> None:
    model = MultiExitModel.attach(
        networks.small_mlp(4, 3, seed=0), ["layers.0"], num_classes=3, example=torch.zeros(2, 4)
    )
    loader = [(torch.randn(12, 4), torch.arange(12) % 3)]
    with pytest.raises(ValueError, match="validation is the loader itself: pass other samples"):
        evaluate(model, loader, validation=loader)
    with pytest.raises(ValueError, match="costs must be in units of the plain backbone, about 1"):
        evaluate(model, loader, costs=[40.0, 100.0])
