"""The loss of several exits, against numbers and gradients worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from exits_training_cases import CLASSES, data, plain, tiny
from laplex.early_exit import Distillation, MultiExitModel, Objective
from laplex.early_exit.training.objectives import Losses, scale_gradient

X, Y = (one[:8] for one in data(dtype=torch.float64).tensors)
COSTS = [0.3, 0.6, 1.1]


def losses(objective: Objective, model: MultiExitModel, part: Any = "all", **more: Any) -> Losses:
    return objective.losses(objective.logits(model, X, part), Y, part, **more)


def entropies(model: MultiExitModel, smoothing: float = 0.0) -> Tensor:
    """By the definition, without torch's cross_entropy."""
    found = []
    for logits in model(X):
        logs = logits - logits.exp().sum(1, keepdim=True).log()
        target = nn.functional.one_hot(Y, CLASSES).double() * (1 - smoothing) + smoothing / CLASSES
        found.append(-(target * logs).sum(1).mean())
    return torch.stack(found)


def gradients(total: Tensor, model: MultiExitModel) -> dict[str, Tensor]:
    found = torch.autograd.grad(
        total, list(model.parameters()), allow_unused=True, retain_graph=True
    )
    names = [name for name, _ in model.named_parameters()]
    return {name: one for name, one in zip(names, found, strict=True) if one is not None}


def same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("equal", [1, 1, 1]),
        ("linear", [1, 2, 3]),
        ("sdn", [min(0.01 + 0.25 * 0.3, 0.3), 0.01 + 0.25 * 0.6, 1]),
        ([0.5, 0, 2], [0.5, 0, 2]),
        (np.array([3, 1, 1]), [3, 1, 1]),
    ],
)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_weighted_mean(weights: Any, expected: list[float], smoothing: float) -> None:
    objective, model = Objective(weights, label_smoothing=smoothing), plain()
    each = entropies(model, smoothing)
    weight = torch.tensor(expected, dtype=torch.float64)
    found = losses(objective, model, progress=0.25, costs=COSTS)
    same(found.total, (weight * each).sum() / weight.sum())
    same(found.exits, each.detach())
    assert not found.exits.requires_grad

    heads = losses(objective, model, "heads", progress=0.25, costs=COSTS)
    same(heads.total, (weight * each)[:2].sum() / weight[:2].sum())
    same(heads.exits, each.detach())

    backbone = losses(objective, model, "backbone")
    same(backbone.total, each[2])
    same(backbone.exits[2], each[2].detach())
    assert torch.isnan(backbone.exits[:2]).all()


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_the_ramp_of_shallow_deep_networks(progress: float) -> None:
    weights = Objective("sdn").exit_weights(3, progress=progress, costs=COSTS)
    assert weights == [*(min(0.01 + progress * cost, cost) for cost in COSTS[:2]), 1.0]
    assert Objective("sdn").exit_weights(3, costs=COSTS) == [0.3, 0.6, 1.0]


def test_which_gradients_each_part_has() -> None:
    for objective in (Objective(), Objective(detach=True), Objective(gradient_equilibrium=True)):
        model = plain()
        found = {
            part: set(gradients(losses(objective, model, part).total, model))
            for part in ("backbone", "heads", "all")
        }
        names = {name for name, _ in model.named_parameters()}
        assert found["all"] == names
        assert found["heads"] == {name for name in names if name.startswith("heads")}
        assert found["backbone"] == names - found["heads"]


def test_heads_learn_what_they_would_on_a_frozen_backbone() -> None:
    model = plain()
    found = gradients(losses(Objective(), model, "heads").total, model)
    by_hand = gradients(entropies(model)[:2].sum() / 2, model)
    for name, gradient in found.items():
        same(gradient, by_hand[name])


def test_detached_exits_leave_the_backbone_the_gradient_of_its_own_loss() -> None:
    model = plain()
    found = gradients(losses(Objective(detach=True), model).total, model)
    joint = gradients(entropies(model).sum() / 3, model)
    alone = gradients(entropies(model)[2] / 3, model)
    for name, gradient in found.items():
        same(gradient, joint[name] if name.startswith("heads") else alone[name])


def test_gradient_equilibrium_on_a_chain() -> None:
    model = plain()
    found = gradients(losses(Objective(gradient_equilibrium=True), model).total, model)
    each = [gradients(one, model) for one in entropies(model) / 3]
    # What exit k of 1..3 sends back is scaled by 1/(4 - k); what passes exit k by (3 - k)/(4 - k).
    shares = {
        "backbone.0": [1 / 3, (2 / 3) * (1 / 2), (2 / 3) * (1 / 2) * 1],
        "backbone.1": [0, 1 / 2, (1 / 2) * 1],
        "backbone.2": [0, 0, 1],
        "heads.0": [1, 0, 0],
        "heads.1": [0, 1, 0],
    }
    for name, gradient in found.items():
        share = shares[name.rpartition(".")[0]]
        expected = sum(s * one[name] for s, one in zip(share, each, strict=True) if s)
        same(gradient, expected)


def test_the_forward_pass_is_the_same_however_gradients_are_sent() -> None:
    model = tiny().eval()
    x = X.float()
    for objective in (Objective(), Objective(detach=True), Objective(gradient_equilibrium=True)):
        for part in ("all", "heads"):
            for one, other in zip(objective.logits(model, x, part), model(x), strict=True):
                assert one is not None
                assert torch.equal(one, other)


def test_scale_gradient_scales_the_gradient_alone() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.equal(scale_gradient(x, 0.25), x)
    (found,) = torch.autograd.grad(scale_gradient(x, 0.25).sin().sum(), x)
    same(found, 0.25 * x.detach().cos())


def test_distillation_by_its_formula() -> None:
    model, how = plain(), Distillation(weight=0.3, temperature=4.0)
    logits = model(X)
    last = (logits[-1].detach() / 4).softmax(1)
    each = list(entropies(model))
    for k in range(2):
        own = (logits[k] / 4).softmax(1)
        kl = (last * (last.log() - own.log())).sum(1).mean()
        each[k] = 0.7 * each[k] + 0.3 * 16 * kl
    found = losses(Objective("linear", distillation=how), model)
    expected = (each[0] + 2 * each[1] + 3 * each[2]) / 6
    same(found.total, expected)
    same(found.exits, entropies(model).detach())
    by_hand = gradients(expected, model)
    for name, gradient in gradients(found.total, model).items():
        same(gradient, by_hand[name])


def test_losses_of_half_precision_are_taken_in_float32() -> None:
    logits = tuple(one.bfloat16() for one in plain()(X))
    found = Objective(distillation=Distillation()).losses(logits, Y)
    assert found.total.dtype == found.exits.dtype == torch.float32
    alone = Objective().losses((None, None, logits[2]), Y, "backbone")
    assert alone.exits.dtype == torch.float32


@pytest.mark.parametrize("part", ["heads", "all"])
@pytest.mark.parametrize("equilibrium", [False, True])
def test_a_backbone_may_write_over_what_an_exit_has_seen(part: Any, equilibrium: bool) -> None:
    """The module after the exit works in place; the head gets what was there before."""
    model = plain()
    chain: Any = model.backbone
    chain.insert(1, nn.ReLU(inplace=True))  # exits at "0" and, by its new name, "2"
    model = MultiExitModel(chain, dict(zip(("0", "2"), model.heads, strict=True)))
    objective = Objective(gradient_equilibrium=equilibrium)
    for one, other in zip(objective.logits(model, X, part), model(X), strict=True):
        assert one is not None
        assert torch.equal(one, other)
    assert gradients(losses(objective, model, part).total, model)


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.floats(0, 10), min_size=3, max_size=3).filter(lambda w: sum(w[:2]) > 1e-3),
    st.floats(0.01, 100),
)
def test_only_the_ratio_of_weights_counts(weights: list[float], factor: float) -> None:
    logits = tuple(one.detach() for one in plain()(X))
    for part in ("all", "heads"):
        one = Objective(weights).losses(logits, Y, part).total
        other = Objective([factor * w for w in weights]).losses(logits, Y, part).total
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"weights": "even"}, ValueError, "weights must be 'equal', 'linear', 'sdn', or one"),
        ({"weights": 3}, ValueError, "weights must be .* one number for each exit, got 3"),
        ({"weights": ["a"]}, ValueError, "weights must be .* one number for each exit"),
        ({"weights": [1, -1]}, ValueError, "weights must be finite, not negative"),
        ({"weights": [0.0, 0.0]}, ValueError, r"not all 0, got \[0.0, 0.0\]"),
        ({"weights": [math.inf, 1]}, ValueError, "weights must be finite"),
        ({"weights": [math.nan, 1]}, ValueError, "weights must be finite"),
        (
            {"detach": True, "gradient_equilibrium": True},
            ValueError,
            "detach and gradient_equilibrium exclude each other",
        ),
        ({"label_smoothing": 1.0}, ValueError, "label_smoothing must be below 1, got 1"),
        ({"label_smoothing": -0.1}, ValueError, "label_smoothing must be at least 0"),
        ({"label_smoothing": "a"}, TypeError, "label_smoothing must be a number, got 'a'"),
        ({"distillation": 0.5}, TypeError, "distillation must be a Distillation such as"),
    ],
)
def test_bad_settings(options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Objective(**options)


def test_bad_weights_and_distillations() -> None:
    with pytest.raises(ValueError, match="weights has 2 entries, but there are 3 exits"):
        Objective([1, 2]).exit_weights(3)
    with pytest.raises(ValueError, match="weights are 0 for all exits but the last"):
        Objective([0, 0, 1]).exit_weights(3, "heads")
    with pytest.raises(ValueError, match="weights='sdn' needs the costs of the exits"):
        Objective("sdn").exit_weights(3)
    with pytest.raises(ValueError, match=r"Distillation.weight must be between 0 and 1, got 1.5"):
        Distillation(weight=1.5)
    with pytest.raises(ValueError, match=r"Distillation.temperature must be positive"):
        Distillation(temperature=0)
    with pytest.raises(TypeError, match=r"Distillation.weight must be a number, got 'a'"):
        Distillation(weight="a")  # type: ignore[arg-type]
