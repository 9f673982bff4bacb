"""Certified thresholds: p-values and bounds by their definitions, and coverage by simulation."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from laplex.early_exit import (
    Entropy,
    LearnedScore,
    MaxSoftmax,
    Outputs,
    RiskControl,
    ScoreHeads,
    TemperatureScaling,
    control_risk,
)
from laplex.early_exit.evaluation.risk_control import tail_probability, upper_bound
from strategies import quick

COSTS = [0.4, 1.0]


class First:
    """A scorer: the first logit is the score."""

    def score(self, k: int, logits: Tensor) -> Tensor:
        return logits[:, 0].double()


POLICY = LearnedScore(First(), 0.5)
#: Shared thresholds from the safest to the cheapest.
CUTS = np.linspace(1, 0, 51)


def toy(samples: int, rng: np.random.Generator) -> Outputs:
    """Two exits: the first is right with the probability of its score, the last with 0.9.

    The score is uniform, and the two exits are right independently. Then at a threshold t the risk
    is (1 - t)^2 / 2 + t / 10 for errors, and 0.9 (1 - t)^2 / 2 for the loss of accuracy.
    """
    score = rng.random(samples)
    right = np.stack([rng.random(samples) < score, rng.random(samples) < 0.9])
    logits = np.zeros((2, samples, 3), np.float32)
    logits[..., 0] = score
    logits[..., 1] = np.where(right, 2.0, -2.0)
    logits[..., 2] = -logits[..., 1]  # class 1 is the label
    return Outputs(logits, np.ones(samples, np.int64), ("early", "output"))


TRUE_RISKS = {
    "error": lambda t: (1 - t) ** 2 / 2 + t / 10,
    "accuracy-loss": lambda t: 0.9 * (1 - t) ** 2 / 2,
}


def certified(data: Outputs, **options: Any) -> RiskControl:
    return control_risk(data, COSTS, **{"policy": POLICY, "cuts": CUTS, "epsilon": 0.1, **options})


# ------------------------------------------------------------------------------------- by formulas


@quick
@given(st.integers(1, 60), st.data(), st.floats(0.01, 0.99))
def test_the_binomial_tail_and_its_bound(samples: int, data: Any, limit: float) -> None:
    count = data.draw(st.integers(0, samples))
    risks = np.array([count / samples])
    p = tail_probability(risks, samples, np.array([limit]), True)[0]
    terms = [
        math.comb(samples, k) * limit**k * (1 - limit) ** (samples - k) for k in range(count + 1)
    ]
    assert p == pytest.approx(math.fsum(terms), rel=1e-9, abs=1e-12)
    # The upper bound of Clopper and Pearson is a quantile of a beta distribution.
    for level in (0.05, 0.2):
        bound = upper_bound(risks, samples, level, True)[0]
        beta = 1.0
        if count < samples:
            beta = scipy.stats.beta.ppf(1 - level, count + 1, samples - count)
        assert bound == pytest.approx(beta, rel=1e-7)
        if abs(bound - limit) > 1e-9:
            assert (bound <= limit) == (p <= level)


@quick
@given(st.integers(1, 200), st.floats(0, 1), st.floats(0.01, 0.99))
def test_the_tail_of_hoeffding_and_bentkus(samples: int, risk: float, limit: float) -> None:
    p = tail_probability(np.array([risk]), samples, np.array([limit]), False)[0]
    low = min(risk, limit)
    distance = (low * math.log(low / limit) if low else 0.0) + (1 - low) * math.log(
        (1 - low) / (1 - limit)
    )
    hoeffding = math.exp(-samples * distance)
    bentkus = math.e * scipy.stats.binom.cdf(math.ceil(samples * risk), samples, limit)
    assert p == pytest.approx(min(hoeffding, bentkus), rel=1e-9, abs=1e-300)
    bound = upper_bound(np.array([risk]), samples, 0.1, False)[0]
    assert bound >= risk
    # Of losses that are 0 or 1, the exact tail is never larger.
    whole = np.array([math.ceil(samples * risk) / samples])
    exact = tail_probability(whole, samples, np.array([limit]), True)[0]
    assert exact <= tail_probability(whole, samples, np.array([limit]), False)[0] * (1 + 1e-9)


def test_a_fixed_sequence_by_hand() -> None:
    data = toy(400, np.random.default_rng(1))
    found = certified(data, risk="error", epsilon=0.16)
    right = data.logits.argmax(-1) == 1
    score = data.logits[0, :, 0].astype(np.float64)
    losses = [np.where(score >= t, ~right[0], ~right[1]).sum() for t in CUTS]
    assert found.risks == pytest.approx(np.array(losses) / 400)
    assert found.p_values == pytest.approx(scipy.stats.binom.cdf(losses, 400, 0.16), rel=1e-9)
    passed = next(i for i, p in enumerate(found.p_values) if p > 0.05)
    assert 0 < passed < len(CUTS)
    assert found.certified.tolist() == [i < passed for i in range(len(CUTS))]
    assert found.costs == pytest.approx(np.where(score >= CUTS[:, None], 0.4, 1.0).mean(1))
    assert found.chosen == np.argmin(found.costs[:passed])
    assert found.bound <= 0.16
    assert ((found.bounds <= 0.16) == (found.p_values <= 0.05)).all()
    # All at once, each at a smaller level; the order is that of the thresholds no more.
    every = certified(data, risk="error", epsilon=0.2, method="bonferroni", cuts=CUTS[::-1])
    assert every.certified.tolist() == (every.p_values <= 0.05 / len(CUTS)).tolist()
    assert every.cost >= certified(data, risk="error", epsilon=0.2).cost
    # The policy does what was certified.
    assert found.policy is not None
    answers = found.policy.exit_index(data.logits).numpy()
    assert (~right[answers, np.arange(400)]).mean() == found.risk
    assert found.policy.cuts(2).numpy() == found.cuts[found.chosen]


def test_losses_by_name_and_of_your_own() -> None:
    data = toy(500, np.random.default_rng(2))
    answers = data.logits.argmax(-1)
    wrong = answers != 1
    for name, own in (
        ("error", wrong),
        ("accuracy-loss", wrong & ~wrong[-1]),
        ("disagreement", answers != answers[-1]),
    ):
        named, given_ = certified(data, risk=name), certified(data, risk=own)
        assert named.p_values.tolist() == given_.p_values.tolist()
        assert (named.tail, given_.tail) == ("binomial", "binomial")
        real = certified(data, risk=own.astype(float))
        assert real.tail == "Hoeffding-Bentkus"
        assert (real.p_values >= named.p_values * (1 - 1e-9)).all()
        assert real.risks == pytest.approx(named.risks)
    assert not certified(data, risk="disagreement").risks[0]


def test_thresholds_of_other_samples_and_with_a_calibration() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 3000)
    signal = np.array([1.5, 2.5, 4.0])[:, None, None] * np.eye(4)[labels]
    logits = (rng.normal(size=(3, 3000, 4)) + signal).astype(np.float32)
    data = Outputs(logits, labels, ("a", "b", "output"))
    unseen, here = data.subset(slice(1000)), data.subset(slice(1000, None))
    costs = [0.3, 0.6, 1.0]
    for policy, calibration, kind in (
        ("max-softmax", None, MaxSoftmax),
        ("entropy", None, Entropy),
        ("max-softmax", "temperature", LearnedScore),
        ("max-softmax", "eefp", LearnedScore),
    ):
        found = control_risk(
            here,
            costs,
            epsilon=0.05,
            policy=policy,
            calibration=calibration,  # type: ignore[arg-type]
            validation=unseen,
        )
        assert type(found.policy) is kind
        assert found.cuts.shape == (200, 2)
        assert found.cuts[0].tolist() == [math.inf, math.inf]
        assert 0.3 < found.cost < 1.0
        assert found.bound <= 0.05
        stopped = found.policy.exit_index(here.logits).numpy()
        assert np.array(costs)[stopped].mean() == pytest.approx(found.cost)
        assert (stopped < 2).any()
    for shared in (TemperatureScaling(), ScoreHeads()):
        fitted = shared.fit(unseen.logits, unseen.labels)
        found = control_risk(here, costs, epsilon=0.05, calibration=fitted)
        assert found.policy is not None
        assert found.cuts.shape == (500, 2)
        assert (np.diff(found.cuts, axis=0) < 0).all()


# ------------------------------------------------------------------------------------- the promise


@pytest.mark.parametrize("method", ["fixed-sequence", "bonferroni"])
@pytest.mark.parametrize("risk", ["error", "accuracy-loss", "losses in [0, 1]"])
def test_the_risk_is_what_was_promised(risk: str, method: Any) -> None:
    """Over many draws, the true risk exceeds epsilon in at most a share delta of them.

    If it did so with probability delta, more than the quantile below would be seen in one of 10^6
    repetitions of the test.
    """
    rng = np.random.default_rng(4)
    draws, delta, epsilon = 200, 0.2, 0.16
    broken = found = 0
    for _ in range(draws):
        data = toy(300, rng)
        own: Any = risk
        true = TRUE_RISKS["error"]
        if risk in TRUE_RISKS:
            true = TRUE_RISKS[risk]
        else:  # half of an error is lost, or all of it: 3 / 4 of the risk
            wrong = data.logits.argmax(-1) != 1
            own = wrong * rng.choice([0.5, 1.0], size=wrong.shape)
            true = lambda t: 0.75 * TRUE_RISKS["error"](t)  # noqa: E731
        result = certified(
            data, risk=own, epsilon=epsilon, delta=delta, method=method, cuts=CUTS[::3]
        )
        if result.chosen is not None:
            found += 1
            broken += true(result.cuts[result.chosen, 0]) > epsilon
    assert found > draws / 2  # it is of use
    assert broken <= scipy.stats.binom.ppf(1 - 1e-6, draws, delta)
    if (risk, method) == ("accuracy-loss", "fixed-sequence"):
        # The tests are exact: without them, thresholds at which the mean loss is at most epsilon
        # break the promise in half of the draws.
        assert broken > 0


# ----------------------------------------------------------------------------- results and mistakes


def test_nothing_certified_is_said() -> None:
    data = toy(30, np.random.default_rng(5))
    found = certified(data, epsilon=0.01)
    assert found.policy is None
    assert found.chosen is None
    assert math.isnan(found.cost)
    assert not found.certified.any()
    # (1 - 0.01)^299 > 0.05 >= (1 - 0.01)^299: the fewest samples that could do.
    assert "nothing can be certified: the smallest bound is 0.0950" in str(found)
    assert "at least 299, even if none has a loss" in repr(found)
    assert 0.99**299 <= 0.05 < 0.99**298
    found.plot().draw_without_rendering()
    again = RiskControl.from_json(found.to_json())
    assert again.chosen is None


def test_results_are_shown_and_kept() -> None:
    found = certified(toy(2000, np.random.default_rng(6)))
    text = str(found)
    assert text.startswith("accuracy-loss <= 0.1 with probability 0.95, by fixed-sequence tests")
    assert "chosen" in text
    assert re.search(r"RiskControl\(accuracy-loss <= 0\.1: cost .*%, risk .*, bound", repr(found))
    again = RiskControl.from_json(found.to_json())
    assert again.policy is None
    assert again.table() == text
    assert again.to_dict() == found.to_dict()
    copied = pickle.loads(pickle.dumps(found))
    assert copied.policy.thresholds == found.policy.thresholds
    figure = found.plot()
    figure.draw_without_rendering()
    assert {"chosen", "certified", "limit epsilon"} <= {
        str(line.get_label()) for line in figure.axes[0].get_lines()
    }


GOOD, OTHER = (toy(20, np.random.default_rng(seed)) for seed in (7, 8))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: certified(GOOD, epsilon=0.0), ValueError, "epsilon must be between 0 and 1"),
        (lambda: certified(GOOD, delta=1), ValueError, "delta must be between 0 and 1"),
        (lambda: certified(GOOD, epsilon="a"), TypeError, "epsilon must be a number"),
        (lambda: certified(GOOD, risk="loss"), ValueError, "risk must be one of"),
        (lambda: certified(GOOD, method="holm"), ValueError, "method must be one of"),
        (lambda: certified(GOOD, cuts=[]), ValueError, "cuts is empty"),
        (lambda: certified(GOOD, cuts=[[0.1, 0.2]]), ValueError, "one threshold or 1"),
        (lambda: certified(GOOD, cuts=None), ValueError, "cuts or validation must be given"),
        (lambda: certified(GOOD, risk=np.full((2, 20), 2.0)), ValueError, "losses in [0, 1]"),
        (lambda: certified(GOOD, risk=np.zeros((2, 9))), ValueError, "must have the same shape"),
        (lambda: certified(GOOD.logits), TypeError, "outputs must be Outputs, got ndarray"),
        (lambda: certified(GOOD, validation=3), TypeError, "validation must be Outputs, got int"),
        (
            lambda: certified(GOOD, policy="max-softmax", calibration="temperature"),
            ValueError,
            "pass them as validation",
        ),
        (
            lambda: certified(GOOD, policy="entropy", calibration="temperature", validation=OTHER),
            ValueError,
            "can only be evaluated offline",
        ),
        (lambda: certified(GOOD, validation=GOOD), ValueError, "validation is outputs itself"),
        (lambda: certified(GOOD, epsilon=math.nan), ValueError, "epsilon must be between 0 and 1"),
        (lambda: certified(GOOD, delta=None), TypeError, "delta must be a number, got None"),
        (lambda: certified(GOOD, epsilon=1), ValueError, "epsilon must be between 0 and 1, got 1"),
    ],
)
def test_mistakes_are_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


def test_arrays_of_torch_are_losses_too() -> None:
    wrong = torch.from_numpy(GOOD.logits.argmax(-1) != 1)
    assert (
        certified(GOOD, risk=wrong).p_values.tolist()
        == certified(GOOD, risk="error").p_values.tolist()
    )
