"""Learning rates by part of the model and by depth."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
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
    depths = depths_of(model, torch.zeros(2, FEATURES))
    assert {name: depth for name, depth in depths.items() if "weight" in name} == {
        "0.0.weight": 2,
        "0.2.weight": 1,
        "1.weight": 0,
    }


class Reversed(nn.Module):
    """Layers that are registered from the last to the first, and shared or used inside others."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.norm = nn.Linear(8, CLASSES), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.b, self.a = nn.Linear(8, 8), nn.Linear(FEATURES, 8)
        self.tied, self.first = nn.Linear(8, 8), nn.Linear(8, 8)
        self.tied.weight = self.first.weight
        self.shift = nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.first(self.a(x) + self.shift))[:, None]
        x = self.attention(x, x, x)[0]
        logits: Tensor = self.out(self.norm(self.tied(x[:, 0])))
        return logits


@pytest.mark.parametrize("compiled", [False, True])
def test_segments_follow_the_order_in_which_modules_run(compiled: bool) -> None:
    own = Reversed()
    backbone: Any = torch.compile(own, backend="eager") if compiled else own
    exits = {"a": nn.Linear(8, CLASSES), "b": nn.Linear(8, CLASSES)}
    model = MultiExitModel(backbone, exits).train()
    prefix = "_orig_mod." if compiled else ""
    found = depths_of(model, torch.zeros(3, FEATURES))
    expected = {"out": 0, "norm": 0, "attention": 0, "b.": 1, "a.": 2, "tied.bias": 0}
    assert found.keys() == {name for name, _ in model.backbone.named_parameters()}
    for name, depth in expected.items():
        of_module = {found[one] for one in found if one.startswith(f"{prefix}{name}")}
        assert of_module == {depth}, name
    assert (
        found[f"{prefix}tied.weight"] == found[f"{prefix}first.bias"] == 1
    )  # that of `first`, which runs before
    assert found[f"{prefix}shift"] == 2
    assert model.training
    assert not any(module._forward_pre_hooks for module in own.modules())


def test_the_rates_follow_that_order() -> None:
    model = MultiExitModel(Reversed(), {"a": nn.Linear(8, CLASSES), "b": nn.Linear(8, CLASSES)})
    groups, batch = Groups(), (torch.zeros(4, FEATURES), torch.arange(4) % CLASSES)
    phases = [Phase("all", 1, 0.1, layer_decay=0.5)]
    train(model, [batch], strategy=phases, scheduler=None, callbacks=[groups])
    found = [rate_of(groups.rates[0], f"backbone.{name}.") for name in ("a", "b", "norm")]
    assert found == pytest.approx([0.025, 0.05, 0.1])
