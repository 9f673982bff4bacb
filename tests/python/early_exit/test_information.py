"""Mutual information: estimators against closed forms and definitions, and layers that tell."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import digamma
from torch import nn

from dynamics_cases import labels, normal
from exits_cases import MODELS, images
from laplex.early_exit import MultiExitModel
from laplex.early_exit.dynamics import (
    gaussian_information,
    gaussian_label_information,
    ksg_information,
    ksg_label_information,
    label_entropy,
    mutual_information,
)

# --- estimators -----------------------------------------------------------------------------------


def gaussian_pairs(rho, n, seed):
    """x, z [n, d] with correlation rho_i of their i-th columns, then mixed by matrices."""
    rho = np.atleast_1d(rho)
    rng = np.random.default_rng(seed)
    x, noise = rng.standard_normal((2, n, len(rho)))
    z = rho * x + np.sqrt(1 - rho**2) * noise
    return x, z, -0.5 * np.log1p(-(rho**2)).sum()


@pytest.mark.parametrize("rho", [[0.0], [0.5], [0.9], [-0.8, 0.3], [0.6, 0.0, 0.9]])
def test_gaussian_information_is_unbiased_at_any_size(rho):
    n = 2 * len(rho) + 6
    found = []
    for seed in range(600):
        x, z, truth = gaussian_pairs(rho, n, seed)
        mix = np.random.default_rng(1).standard_normal((2, len(rho), len(rho)))
        found.append(gaussian_information(x @ mix[0] + 4, z @ mix[1]))
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - truth) < 4.5 * error
    # The bias that is taken off would be seen.
    order, d = np.arange(1, len(rho) + 1), len(rho)
    assert 0.5 * (digamma((n - order) / 2) - digamma((n - d - order) / 2)).sum() > 5 * error


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9, 0.99])
def test_ksg_information_of_gaussians(rho):
    found = []
    for seed in range(20):
        x, z, truth = gaussian_pairs(rho, 500, seed)
        found.append(ksg_information(x, z))
    # Its bias at 500 samples is some hundredths of a nat (Kraskov et al. 2004, figure 4).
    assert abs(np.mean(found) - truth) < 4 * np.std(found) / math.sqrt(20) + 0.02


def test_ksg_information_of_vectors():
    found = []
    for seed in range(10):
        x, z, truth = gaussian_pairs([0.8, -0.5], 1000, seed)
        found.append(ksg_information(x, z))
    assert abs(np.mean(found) - truth) < 4 * np.std(found) / math.sqrt(10) + 0.05
    # Of a function of the other, it says no more than the samples can tell.
    assert ksg_information(x, x @ [[1.0, 2.0], [0.0, 1.0]]) <= digamma(1000) - digamma(3)
    assert gaussian_information(x, x @ [[1.0, 2.0], [0.0, 1.0]]) == math.inf


def test_ksg_information_by_its_definition():
    x, z, _ = gaussian_pairs([0.7, 0.2], 60, 3)
    x, z = (one / one.std(0) for one in (x, z))
    dx, dz = (np.abs(one[:, None] - one[None]).max(-1) for one in (x, z))
    each = []
    for i in range(60):
        others = np.arange(60) != i
        radius = np.sort(np.maximum(dx[i], dz[i])[others])[4 - 1]
        each.append(sum(digamma((one[i][others] < radius).sum() + 1) for one in (dx, dz)))
    expected = digamma(4) + digamma(60) - np.mean(each)
    assert ksg_information(x, z, neighbours=4) == pytest.approx(expected, abs=1e-12)


def test_ksg_label_information_by_its_definition():
    rng = np.random.default_rng(0)
    y = np.array([0] * 20 + [1] * 15 + [2] * 3 + [3])  # 3 has no neighbour in its class
    z = rng.standard_normal((39, 2)) + y[:, None]
    kept = y != 3
    scaled = z[kept] / z[kept].std(0)
    distance = np.abs(scaled[:, None] - scaled[None]).max(-1)
    each = []
    for i, label in enumerate(y[kept]):
        same = np.flatnonzero((y[kept] == label) & (np.arange(38) != i))
        k = min(4, len(same))
        radius = np.sort(distance[i][same])[k - 1]
        closer = (distance[i] < radius).sum()  # itself included
        each.append(digamma(k) - digamma(len(same) + 1) - digamma(closer))
    expected = digamma(38) + np.mean(each)
    assert ksg_label_information(z, y, neighbours=4) == pytest.approx(expected, abs=1e-12)


def two_gaussians(gap):
    """I(Z;Y) of N(0, 1) and N(gap, 4) with even odds, by quadrature."""

    def density(z, label):
        mean, deviation = (0.0, 1.0) if label == 0 else (gap, 2.0)
        size = deviation * math.sqrt(2 * math.pi)
        return math.exp(-(((z - mean) / deviation) ** 2) / 2) / size

    def integrand(z):
        p = [density(z, label) for label in (0, 1)]
        return sum(0.5 * one * math.log(2 * one / sum(p)) for one in p if one > 0)

    return quad(integrand, -30, 30 + gap, limit=200, points=[0, gap])[0]


@pytest.mark.parametrize("gap", [0.0, 1.0, 4.0, 12.0])
@pytest.mark.parametrize("estimate", [ksg_label_information, gaussian_label_information])
def test_label_information_of_two_gaussians(gap, estimate):
    truth, found = two_gaussians(gap), []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        y = rng.permutation(600) % 2
        found.append(estimate(rng.standard_normal(600) * (1 + y) + gap * y, y))
    # Ross (2014), figure 2: a bias of about a hundredth of a nat.
    assert abs(np.mean(found) - truth) < 4 * np.std(found) / math.sqrt(20) + 0.015


@pytest.mark.parametrize("estimate", [ksg_label_information, gaussian_label_information])
def test_label_information_of_nothing_and_of_everything(estimate):
    rng = np.random.default_rng(0)
    y = rng.permutation(400) % 4
    # The standard deviation of either is some hundredths here.
    assert abs(estimate(rng.standard_normal((400, 2)), y)) < 0.15
    apart = 1000 * np.stack((y // 2, y % 2), 1) + rng.standard_normal((400, 2))
    assert estimate(apart, y) == pytest.approx(math.log(4), abs=0.03)
    assert label_entropy(y) == pytest.approx(math.log(4))


def test_gaussian_label_information_does_not_flatter():
    """60 samples in 4 dimensions know nothing; judged on what it was fitted to, q would seem to."""
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found.append(gaussian_label_information(rng.standard_normal((60, 4)), np.arange(60) % 2))
    assert np.mean(found) < 0


@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-10, 10))
@settings(max_examples=20, deadline=None)
def test_estimates_do_not_depend_on_order_shift_and_scale(seed, scale, shift):
    x, z, _ = gaussian_pairs([0.5, 0.9], 80, seed)
    y = (x[:, 0] > 0).astype(int)
    order = np.random.default_rng(seed).permutation(80)
    moved = z[order] * [scale, 1] + shift
    for estimate, other in (
        (ksg_information, x),
        (gaussian_information, x),
        (ksg_label_information, y),
    ):
        pair, turned = (z, other), (moved, other[order])
        # Noise of 1e-10 parts equal distances, so a count may differ by one: 1 / 80 at most.
        assert estimate(*turned) == pytest.approx(estimate(*pair), abs=1e-9)
    assert gaussian_information(x, z) == pytest.approx(gaussian_information(z, x), abs=1e-9)


def test_constant_columns_tell_nothing():
    x, y = np.random.default_rng(0).standard_normal(200), np.arange(200) % 2
    assert abs(ksg_information(x, np.full(200, 7.0))) < 0.1
    assert abs(ksg_label_information(np.full(200, 7.0), y)) < 0.1
    with pytest.raises(ValueError, match="columns of z are constant or linearly dependent"):
        gaussian_information(x, np.full(200, 7.0))
    with pytest.raises(ValueError, match="columns of class 0 are constant"):
        gaussian_label_information(np.full(200, 7.0), y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: ksg_information(x, x[:-1]), "the same number of rows, got 20 and 19"),
        (lambda x, y: ksg_information(x, np.where(x > 0, np.nan, x)), "z must be finite"),
        (lambda x, y: ksg_information(x, x, neighbours=0), "neighbours must be at least 1"),
        (
            lambda x, y: ksg_information(x, x, neighbours=20),
            "20 samples are too few for 20 neighbours",
        ),
        (lambda x, y: gaussian_information(x[:5], x[:5]), "5 samples are too few"),
        (lambda x, y: ksg_label_information(x, np.arange(20)), "no class of two samples"),
        (lambda x, y: ksg_label_information(x, y[:-1]), "labels must have shape"),
        (lambda x, y: ksg_label_information(x, y + 0.5), "labels must be whole numbers"),
        (lambda x, y: gaussian_label_information(x, y, folds=1), "folds must be at least 2"),
        (lambda x, y: gaussian_label_information(x, np.arange(20) // 4), "class 0 has 3 samples"),
    ],
)
def test_estimators_refuse(call, message):
    rng = np.random.default_rng(0)
    with pytest.raises((ValueError, TypeError), match=message):
        call(rng.standard_normal((20, 2)), np.arange(20) % 2)


# --- information of layers ------------------------------------------------------------------------


def telling_net():
    """Layers that know the label (a coordinate's sign), nothing of it, and nothing at all."""
    backbone = nn.Sequential(nn.Linear(3, 1), nn.Linear(1, 3), nn.Linear(3, 2)).double()
    model = MultiExitModel(backbone, {"0": nn.Linear(1, 2)}).double()
    with torch.no_grad():
        backbone[0].weight.copy_(torch.tensor([[1.0, 0, 0]]))
        backbone[1].weight.zero_()
    return model


@pytest.mark.parametrize("estimator", ["ksg", "gaussian"])
@pytest.mark.parametrize("reduction", ["pca", "random"])
def test_information_of_layers(estimator, reduction):
    model, x = telling_net(), normal(400, 3)
    x[:, 0] = x[:, 0].sign() * 3 + 0.5 * normal(400, seed=1)
    y = (x[:, 0] > 0).long()
    data = list(zip(x.split(150), y.split(150), strict=True))
    found = mutual_information(model, data, estimator=estimator, reduction=reduction, noise=0.1)
    assert found.layers == ("0", "1", "2")
    assert found.layer_dims.tolist() == [1, 0, 0]
    assert found.label_information[0] == pytest.approx(math.log(2), abs=0.03)
    assert found.label_information[1:].tolist() == [0, 0]
    assert found.input_information[1:].tolist() == [0, 0]
    assert (found.input_dims, found.samples) == (3, 400)
    assert found.label_entropy == pytest.approx(math.log(2), abs=0.02)
    flipped = mutual_information(
        model, [(x.flip(1), y)], estimator=estimator, layers=["0"], reduction=reduction
    )
    assert abs(flipped.label_information[0]) < 0.15


def test_noise_makes_the_information_of_a_function_what_the_formula_says():
    """z = x_0 + noise of deviation s in units of z: -1/2 log(1 - rho^2), rho^2 = 1 / (1 + s^2)."""
    model, x = telling_net(), normal(3000, 3)
    for noise in (0.5, 2.0):
        found = mutual_information(
            model,
            [(x, labels(3000, 2))],
            layers=["0"],
            noise=noise,
            estimator="gaussian",
            max_samples=3000,
        )
        # The deviation of a correlation's transform is 1 / sqrt(n).
        expected = 0.5 * math.log1p(1 / noise**2)
        assert found.input_information[0] == pytest.approx(expected, abs=5 / math.sqrt(3000))
    exact = mutual_information(model, [(x, labels(3000, 2))], layers=["0"], estimator="gaussian")
    assert exact.input_information.tolist() == [math.inf]
    assert exact.to_dict()["input_information"] == [None]
    exact.plot().draw_without_rendering()


def test_a_layers_numbers_do_not_depend_on_which_others_are_asked_for():
    model, data = MODELS["resnet"](), [(images(40), labels(40, 10))]
    options = {"dims": 2, "reduction": "random", "noise": 0.1}
    every = mutual_information(model, data, **options)
    one = mutual_information(model, data, layers=["layer2"], inputs=False, **options)
    assert every.label_information[every.layers.index("layer2")] == one.label_information[0]
    assert one.input_information is None
    assert one.input_dims == 0
    assert "I(X;Z)" not in one.table()


def test_inputs_that_are_no_numbers_have_no_information():
    backbone = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 2))
    model = MultiExitModel(backbone, {"1": nn.Linear(8, 2)})
    data = [(labels(60, 9).reshape(30, 2), labels(30, 2))]
    with pytest.raises(ValueError, match=r"int64.*pass inputs=False"):
        mutual_information(model, data)
    found = mutual_information(model, data, inputs=False, layers={"all": "1"})
    assert found.layers == ("all",)
