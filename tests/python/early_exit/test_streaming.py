"""Evaluations without logits: chunks, memory, what metrics keep, and Tensors in and out."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from laplex.early_exit import (
    MultiExitModel,
    Outputs,
    PerExit,
    ScoreHeads,
    TemperatureScaling,
    augrc,
    aurc,
    brier,
    collect,
    eaurc,
    ece,
    eefp,
    eefp_labels,
    evaluate,
    evaluate_outputs,
    failure_auroc,
    fpr95,
    nll,
)
from laplex.early_exit.metrics import METRICS, Metric

COSTS = [0.3, 0.6, 1.1]


@pytest.fixture
def registered() -> Iterator[Callable[[str, type], None]]:
    """Registers metrics for one test."""
    names = []

    def register(name: str, member: type) -> None:
        METRICS.register(name)(member)
        names.append(name)

    yield register
    for name in names:
        METRICS.unregister(name)


def outputs(samples: int, classes: int = 4) -> Outputs:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, samples)
    logits = rng.normal(size=(3, samples, classes)) + np.eye(classes)[labels]
    return Outputs(logits.astype(np.float32), labels, ("a", "b", "output"))


class Given(nn.Module):
    """A backbone whose logits are its inputs, so that they are the same in any batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x)).flip(-1)
        return out


def given_logits() -> MultiExitModel:
    return MultiExitModel(Given(), {"first": nn.Identity(), "second": nn.Tanh()})


@pytest.mark.parametrize("policy", ["max-softmax", "entropy", "margin", "patience"])
@pytest.mark.parametrize("calibration", [None, "temperature", "eefp"])
def test_evaluate_is_collect_and_evaluate_outputs(policy: Any, calibration: Any) -> None:
    """To the bit: logits are reduced in the same chunks, in whatever batches they come."""
    if calibration == "eefp" and policy != "max-softmax":
        return
    model, rng = given_logits(), torch.Generator().manual_seed(0)
    x, unseen = (torch.randn(count, 5, generator=rng) for count in (701, 300))
    y, truth = (torch.randint(5, (len(one),), generator=rng) for one in (x, unseen))
    seen = collect(model, [(unseen, truth)])
    if calibration is not None:  # fitted once, as a search need not end with the same bits
        kind = TemperatureScaling() if calibration == "temperature" else ScoreHeads()
        calibration = kind.fit(seen.logits, seen.labels)
    options: dict[str, Any] = {"policy": policy, "calibration": calibration, "costs": COSTS}
    data = collect(model, [(x, y)])
    wanted = evaluate_outputs(data, COSTS, policy=policy, calibration=calibration, validation=seen)
    for size in (1, 64, 701):
        loader = list(zip(x.split(size), y.split(size), strict=True))
        for validation in (seen, [(unseen, truth)]):
            found = evaluate(model, loader, validation=validation, **options)
            assert found.to_json() == wanted.to_json()
            assert np.array_equal(found.validation_scores, wanted.validation_scores)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = outputs(1000)
    wanted = evaluate_outputs(data, COSTS, policy="entropy").to_dict()
    monkeypatch.setattr("laplex.early_exit.evaluation.reduction._AT_ONCE", 1)  # 64 samples each
    found = evaluate_outputs(data, COSTS, policy="entropy").to_dict()
    for name in ("nll", "brier", "ece", "auroc", "augrc", "area"):
        # The exponentials of other vectors may round otherwise.
        assert found[name] == pytest.approx(wanted[name], rel=1e-12)


def test_an_evaluation_holds_no_logits() -> None:
    """NumPy's memory stays below the formula of `evaluate`, which knows no classes."""
    samples, classes = 20_000, 60
    model, rng = given_logits(), np.random.default_rng(0)

    def loader() -> Any:
        for _ in range(samples // 100):
            yield torch.from_numpy(rng.normal(size=(100, classes))), torch.arange(100) % classes

    def growth(call: Callable[[], object]) -> int:
        call()
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    kept = 25 * 3 * samples + 8 * samples
    # Beside that one array twice, what curves need, and chunks of 2 MiB in some five copies.
    most = kept + 8 * 3 * samples + 40 * samples + 10 * 2**20
    data = collect(model, loader())
    assert most < 1.5 * data.logits.nbytes < 3 * most  # so that holding logits would be noticed
    assert growth(lambda: evaluate(model, loader(), costs=COSTS)) < most
    assert growth(lambda: evaluate_outputs(data, COSTS)) < most


def test_a_metric_says_what_it_keeps_of_a_batch(registered: Any) -> None:
    class Largest(Metric):
        """The mean of the largest logit."""

        label, better = "largest", "higher"
        per_sample = staticmethod(lambda logits, labels: logits.max(-1))
        per_exit = staticmethod(lambda judged: judged.per_sample.mean(1))

    class Everything(Metric):
        """A metric that needs all logits."""

        label, better = "everything", "higher"
        per_sample = staticmethod(lambda logits, labels: logits)
        per_exit = staticmethod(lambda judged: judged.per_sample.max((1, 2)))

    registered("largest", Largest)
    registered("everything", Everything)
    data = outputs(1000)
    found = evaluate_outputs(data, COSTS)
    assert found.largest == pytest.approx(data.logits.max(-1).mean(1), rel=1e-6)
    assert found.everything == pytest.approx(data.logits.max((1, 2)))

    # Calibrated logits: with a temperature of 2, half of it.
    fitted = {**TemperatureScaling().fit(data.logits, data.labels).to_dict()}
    two = TemperatureScaling.from_dict({**fitted, "temperatures": [2.0] * 3})
    assert evaluate_outputs(data, COSTS, calibration=two).everything == pytest.approx(
        found.everything / 2
    )


def test_a_metric_that_keeps_something_else_is_named(registered: Any) -> None:
    class Wrong(Metric):
        """One number for each sample, instead of each exit and sample."""

        label, better = "wrong", "higher"
        per_sample = staticmethod(lambda logits, labels: logits.max((0, 2)))

    registered("wrong", Wrong)
    with pytest.raises(ValueError, match=r"'wrong' must return an array \[3, 1024, '\.\.\.'\]"):
        evaluate_outputs(outputs(1000), COSTS)


# --------------------------------------------------------------------------------- Tensors in, out

METRICS_OF_SCORES = (failure_auroc, aurc, eaurc, augrc, fpr95, eefp)


def test_tensors_give_tensors_and_arrays_give_arrays() -> None:
    data = outputs(40)
    logits, labels = data.logits.astype(np.float64), data.labels
    confidence = np.random.default_rng(1).random((3, 40))
    right = logits.argmax(-1) == labels
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        *((one, (confidence, right)) for one in METRICS_OF_SCORES),
        *((one, (logits, labels)) for one in (nll, brier)),
        (ece, (confidence, right)),
        (nll, (logits[0], labels)),
        (brier, (logits[0], labels)),
        (ece, (confidence[0], right[0])),
        (eefp_labels, (right,)),
        (TemperatureScaling().fit(logits, labels).transform, (logits,)),
        (ScoreHeads().fit(logits, labels).scores, (logits,)),
    ]
    for call, arguments in calls:
        expected = call(*arguments)
        found = call(*map(torch.from_numpy, arguments))
        if isinstance(expected, PerExit):
            assert isinstance(found, PerExit)
            assert isinstance(found.mean, Tensor)
            assert found.mean.item() == pytest.approx(expected.mean, rel=1e-12, nan_ok=True)
            assert repr(found) == repr(expected)
            found, expected = found.values, expected.values
        assert isinstance(found, Tensor)
        assert isinstance(expected, np.ndarray | float)
        assert found.dtype in (torch.float64, torch.bool)
        np.testing.assert_array_equal(found.numpy(), expected)
    # The tuple that a model returns counts as a Tensor; PerExit is an array for NumPy either way.
    several = nll(tuple(torch.from_numpy(logits)), labels)
    assert isinstance(several.values, Tensor)
    assert np.asarray(several).tolist() == nll(logits, labels).values.tolist()
    assert list(several) == several.values.tolist()
