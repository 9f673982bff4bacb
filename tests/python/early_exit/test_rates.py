"""Learning rates by part of the model and by depth."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import SGD

from exits_training_cases import CLASSES, FEATURES, loader, plain, tiny
from laplex.early_exit import MultiExitModel, Phase, TrainingResult, train
from laplex.early_exit.training.rates import depths_of


class Groups(pl.Callback):
    """The learning rate of each parameter at the start of each phase."""

    def __init__(self) -> None:
        self.rates: list[dict[str, float]] = []
        self.names: list[list[str]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        (optimizer,) = trainer.optimizers
        names = {id(one): name for name, one in pl_module.model.named_parameters()}
        groups = optimizer.param_groups
        self.rates.append({names[id(p)]: group["lr"] for group in groups for p in group["params"]})
        self.names.append([group.get("name") for group in groups])


def rate_of(rates: dict[str, float], prefix: str) -> float:
    (rate,) = {value for name, value in rates.items() if name.startswith(prefix)}
    return rate


@pytest.mark.parametrize("own", [False, True])
def test_rates_by_part_and_by_depth(own: bool) -> None:
    groups = Groups()
    result = train(
        tiny(),
        loader(),
        strategy=[
            Phase("all", 1, {"backbone": 0.01, "heads": 0.5}, layer_decay=0.5),
            Phase("all", 1),
            Phase("heads", 1, {"heads": 0.25}),
            Phase("backbone", 1, 0.125, layer_decay=1.0),
            Phase("all", 1, 0.5),
        ],
        learning_rate={"backbone": 0.1, "heads": 0.2},
        layer_decay=0.1,
        optimizer=(lambda p: SGD(p, lr=7.0)) if own else None,
        scheduler=None,
        callbacks=[groups],
    )
    prefixes = ("backbone.0", "backbone.1", "backbone.2", "heads")
    found = [[rate_of(one, prefix) for prefix in prefixes] for one in groups.rates[:2]]
    np.testing.assert_allclose(
        found, [[0.0025, 0.005, 0.01, 0.5], [0.001, 0.01, 0.1, 0.2]], rtol=1e-12
    )
    segments = [f"backbone segment {k}" for k in range(3)]
    assert groups.names[:3] == [[*segments, "heads"], [*segments, "heads"], ["heads"]]
    assert set(groups.rates[2].values()) == {0.25}
    assert set(groups.rates[3].values()) == {0.125}
    assert rate_of(groups.rates[4], "backbone.0") == pytest.approx(0.5 * 0.01)
    again = TrainingResult.from_dict(json.loads(result.to_json()))
    assert again.phases == result.phases


def test_an_optimiser_of_ones_own_chooses_the_rate_that_decays() -> None:
    groups = Groups()
    seen: list[list[Any]] = []

    def split(parameters: Any) -> SGD:
        """No weight decay for biases, as is usual."""
        seen.append(list(parameters))
        made = []
        for group in seen[-1]:
            weights = [one for one in group["params"] if one.ndim > 1]
            rest = [one for one in group["params"] if one.ndim == 1]
            made += [{"params": weights}, {"params": rest, "weight_decay": 0.0}]
        return SGD(made, lr=0.5, weight_decay=0.1)

    train(
        plain(torch.float32),
        loader(),
        strategy="joint",
        epochs=1,
        layer_decay=0.5,
        optimizer=split,
        scheduler=None,
        callbacks=[groups],
    )
    assert len(seen[0]) == 4
    found = [rate_of(groups.rates[0], f"backbone.{k}") for k in range(3)]
    assert [*found, rate_of(groups.rates[0], "heads")] == [0.125, 0.25, 0.5, 0.5]

    def merged(parameters: Any) -> SGD:
        return SGD([one for group in parameters for one in group["params"]], lr=0.5)

    with pytest.raises(ValueError, match="optimizer put parameters with different learning rates"):
        train(plain(torch.float32), loader(), epochs=2, layer_decay=0.5, optimizer=merged)


def test_segments_of_nested_exits() -> None:
    inner = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 8))
    backbone = nn.Sequential(inner, nn.Linear(8, CLASSES))
    exits = {"0.1": nn.Linear(8, CLASSES), "0": nn.Linear(8, CLASSES)}
    model = MultiExitModel(backbone, exits)
    depths = depths_of(model)
    assert {name: depths[name] for name in ("0.0", "0.1", "0.2", "1")} == {
        "0.0": 2,
        "0.1": 2,
        "0.2": 1,
        "1": 0,
    }
