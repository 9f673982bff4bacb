"""Metrics and costs beside those of other libraries, to their digits.

torchmetrics and scikit-learn are always there. The others are compared where they are installed.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.special
import sklearn.metrics
import torch
import torchmetrics.functional.classification as peer
from torch import nn

from laplex.early_exit import (
    MultiExitModel,
    TemperatureScaling,
    augrc,
    aurc,
    brier,
    count_costs,
    ece,
    failure_auroc,
    fpr95,
    networks,
    nll,
)

EXITS, SAMPLES, CLASSES = 3, 500, 7
# All sum or sort 500 numbers of size 1 in float64.
DIGITS = 1e-12


def installed(name: str) -> Any:
    """A module, or the test is skipped; what it warns of while it is imported is its own affair."""
    pytest.importorskip(name.partition(".")[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    """Logits [exits, samples, classes] that know the labels ever better, and what follows."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, SAMPLES)
    signal = np.array([1.0, 2.0, 3.0])[:, None, None] * np.eye(CLASSES)[labels]
    logits = rng.normal(size=(EXITS, SAMPLES, CLASSES)) + signal
    chances = scipy.special.softmax(logits, axis=-1)
    return {
        "logits": logits,
        "labels": labels,
        "chances": chances,
        "confidence": chances.max(-1),
        "correct": logits.argmax(-1) == labels,
    }


def test_scikit_learn(data: dict[str, np.ndarray]) -> None:
    labels = data["labels"]
    loss, score = nll(data["logits"], labels), brier(data["logits"], labels)
    area = failure_auroc(data["confidence"], data["correct"])
    for k in range(EXITS):
        chances = data["chances"][k]
        expected = sklearn.metrics.log_loss(labels, chances, labels=np.arange(CLASSES))
        assert loss[k] == pytest.approx(expected, rel=DIGITS)
        difference = (chances - np.eye(CLASSES)[labels]) ** 2
        # Its mean over samples and classes is the score divided by the number of classes.
        expected = sklearn.metrics.mean_squared_error(np.eye(CLASSES)[labels], chances) * CLASSES
        assert score[k] == pytest.approx(expected, rel=DIGITS)
        assert score[k] == pytest.approx(difference.sum(1).mean(), rel=DIGITS)
        right, confidence = data["correct"][k], data["confidence"][k]
        assert area[k] == pytest.approx(
            sklearn.metrics.roc_auc_score(right, confidence), rel=DIGITS
        )
        # The first point of its curve with a true positive rate of at least 95 %.
        false, true, _ = sklearn.metrics.roc_curve(right, confidence, drop_intermediate=False)
        found = fpr95(data["confidence"], data["correct"])[k]
        assert found == pytest.approx(false[true >= 0.95][0], rel=DIGITS)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_torchmetrics(data: dict[str, np.ndarray], norm: Any) -> None:
    labels = torch.from_numpy(data["labels"])
    chances = torch.from_numpy(data["chances"])
    found = ece(torch.from_numpy(data["confidence"]), torch.from_numpy(data["correct"]), 15, norm)
    area = failure_auroc(data["confidence"], data["correct"])
    for k in range(EXITS):
        expected = peer.multiclass_calibration_error(
            chances[k], labels, CLASSES, n_bins=15, norm=norm
        )
        # It bins and sums in float32: 500 roundings of numbers up to 1, and the root of l2 doubles
        # the relative error of its argument at most.
        assert float(found[k]) == pytest.approx(float(expected), abs=1e-5)
        confidence = torch.from_numpy(data["confidence"][k])
        right = torch.from_numpy(data["correct"][k])
        assert area[k] == pytest.approx(float(peer.binary_auroc(confidence, right.int())), rel=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_netcal(data: dict[str, np.ndarray]) -> None:
    metrics = installed("netcal.metrics")
    for bins in (5, 15):
        for norm, name in (("l1", "ECE"), ("max", "MCE")):
            found = ece(data["confidence"], data["correct"], bins, norm)  # type: ignore[arg-type]
            for k in range(EXITS):
                expected = getattr(metrics, name)(bins).measure(
                    data["confidence"][k], data["correct"][k].astype(int)
                )
                assert found[k] == pytest.approx(expected, rel=DIGITS)


@pytest.mark.filterwarnings("ignore")
def test_torch_uncertainty(data: dict[str, np.ndarray]) -> None:
    metrics = installed("torch_uncertainty.metrics.classification")
    labels = torch.from_numpy(data["labels"])
    confidence, right = data["confidence"], data["correct"]
    ours = {
        "AURC": aurc(confidence, right),
        "AUGRC": augrc(confidence, right),
        "FPR95": fpr95(confidence, right),
        "BrierScore": brier(data["logits"], labels),
    }
    for k in range(EXITS):
        chances = torch.from_numpy(data["chances"][k])
        found = {}
        for name in ("AURC", "AUGRC"):
            one = getattr(metrics, name)()
            one.update(chances, labels)
            found[name] = float(one.compute())
        # It integrates by trapezia from a coverage of 1 / N, and divides by the width 1 - 1 / N. Of
        # the risks R_n it so takes half of the first and of the last; ours is the mean of all.
        order = np.argsort(-confidence[k])
        first, last = float(not right[k][order[0]]), float((~right[k]).mean())
        n = SAMPLES
        expected = (found["AURC"] * (n - 1) + (first + last) / 2) / n
        assert ours["AURC"][k] == pytest.approx(expected, rel=1e-6)  # its risks are in float32
        # Of the generalised risks, ours begins at a coverage of 0.
        expected = found["AUGRC"] * (n - 1) / n + first / n / (2 * n)
        assert ours["AUGRC"][k] == pytest.approx(expected, rel=1e-6)
        fpr = metrics.FPR95(pos_label=1)
        fpr.update(torch.from_numpy(confidence[k]), torch.from_numpy(right[k]).long())
        assert ours["FPR95"][k] == pytest.approx(float(fpr.compute()), rel=1e-6)
        score = metrics.BrierScore(num_classes=CLASSES)
        score.update(chances, labels)
        assert ours["BrierScore"][k] == pytest.approx(float(score.compute()), rel=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_temperatures_of_torch_uncertainty(data: dict[str, np.ndarray]) -> None:
    scalers = installed("torch_uncertainty.post_processing")
    logits, labels = torch.from_numpy(data["logits"][0]).float(), torch.from_numpy(data["labels"])
    scaler = scalers.TemperatureScaler(model=nn.Identity(), device="cpu")
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(logits, labels), batch_size=SAMPLES
    )
    scaler.fit(loader, progress=False)
    found = TemperatureScaling().fit(logits[None], labels).temperatures_[0]
    # Its search in float32 ends within some 1e-3 of the minimum.
    assert found == pytest.approx(float(scaler.temperature[0]), rel=1e-2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["small_resnet", "small_vit"])
def test_fvcore_counts_the_same_multiply_adds(kind: str) -> None:
    counting = installed("fvcore.nn")
    backbone = getattr(networks, kind)(seed=0)
    x = torch.zeros(1, 1, 28, 28)
    model = MultiExitModel.attach(backbone, networks.EXITS[kind], num_classes=10, example=x)
    costs = count_costs(model, x)
    # It leaves out attention: in each layer, two products of 17 tokens with 17 in 64 dimensions. It
    # also leaves out what runs without reaching the output, so an MSDNet would differ.
    attention = 4 * 2 * 17 * 17 * 64 if kind == "small_vit" else 0
    for module, expected in ((backbone, costs.backbone), (model, costs.exits[-1])):
        analysis = counting.FlopCountAnalysis(module.eval(), x)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        operators = analysis.by_operator()
        products = ("conv", "linear", "matmul", "addmm", "bmm", "einsum")
        assert sum(operators[name] for name in products) + attention == expected
