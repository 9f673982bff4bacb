"""Weight decay: for gains and dense weights, never for anchors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize, prune

from laplex.nn import LaplexHead, LaplexLinear, param_groups
from strategies import quick


def names(model, groups):
    of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [{of[id(parameter)] for parameter in group["params"]} for group in groups]


@pytest.mark.parametrize("cls", [LaplexLinear, LaplexHead])
@pytest.mark.parametrize("phased", [True, False])
def test_only_gains_of_a_layer_decay(cls, phased):
    layer = cls(8, 4, heads=2, phased=phased)
    groups = param_groups(layer, 0.1)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    decayed, others = names(layer, groups)
    assert decayed == {"source_gain"}
    assert decayed | others == {name for name, _ in layer.named_parameters()}


def test_other_modules_follow_the_usual_rule():
    model = nn.ModuleDict(
        {
            "embedding": nn.Embedding(5, 8),
            "convolution": nn.Conv1d(2, 3, 3),
            "norm": nn.LayerNorm(8),
            "block": nn.Sequential(LaplexLinear(8, 4), nn.Linear(4, 2)),
        }
    )
    decayed, _ = names(model, param_groups(model, weight_decay=0.01))
    assert decayed == {
        "embedding.weight", "convolution.weight", "block.0.source_gain", "block.1.weight",
    }  # fmt: skip


def test_every_parameter_is_in_one_group_once():
    shared = LaplexLinear(8, 8)
    model = nn.Sequential(shared, nn.Linear(8, 8), shared, nn.Linear(8, 8))
    model[3].weight = model[1].weight
    shared.targets.requires_grad_(False)
    groups = param_groups(model, 0.1)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(found) == sorted(id(parameter) for parameter in model.parameters())


def test_what_anchors_are_made_of_does_not_decay():
    layer = LaplexLinear(8, 4, heads=2)
    parametrize.register_parametrization(layer, "targets", nn.Identity())
    parametrize.register_parametrization(layer, "source_gain", nn.Identity())
    prune.identity(layer, "sources")
    decayed, others = names(layer, param_groups(layer, 0.1))
    assert decayed == {"parametrizations.source_gain.original"}
    assert {"parametrizations.targets.original", "sources_orig"} <= others


def test_an_optimiser_takes_them():
    layer = LaplexLinear(8, 4, heads=2)
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    optimiser = torch.optim.SGD(param_groups(layer, 0.5), lr=1.0)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    for name, value in layer.named_parameters():
        expected = 0.5 * before[name] if name == "source_gain" else before[name]
        torch.testing.assert_close(value.detach(), expected)
    torch.optim.AdamW(param_groups(nn.ReLU(), 0.5))  # two empty groups


@quick
@given(st.integers(1, 9), st.integers(1, 9), st.booleans(), st.floats(1e-6, 10), st.integers(0, 99))
def test_rates_in_the_units_of_each_layer(inputs, outputs, phased, lr, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(
        LaplexLinear(inputs, outputs, heads=2, phased=phased), LaplexHead(outputs, 3), nn.ReLU(),
        nn.Linear(3, 2),
    )  # fmt: skip
    with torch.no_grad():
        model[1].source_gain.zero_()
    groups = param_groups(model, 0.1, lr=lr)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    plain = param_groups(model, 0.1)
    assert decays == {id(p): group["weight_decay"] for group in plain for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rates)
    for layer, size in (
        (model[0], model[0].source_gain.detach().square().mean().sqrt()),
        (model[1], 1),
    ):
        length = lr * float(layer.lengthscale.detach().mean())
        # A few roundings of float32, in which these are computed here.
        close = {"rel": 1e-6, "abs": 0}
        assert rates.pop(id(layer.targets)) == pytest.approx(length, **close)
        assert rates.pop(id(layer.sources)) == pytest.approx(length, **close)
        assert rates.pop(id(layer.source_gain)) == pytest.approx(lr * float(size), **close)
    assert set(rates.values()) == {lr}
    torch.optim.AdamW(groups)


@pytest.mark.parametrize(
    ("model", "decay", "error", "message"),
    [
        ([nn.Parameter(torch.zeros(2))], 0.1, TypeError, r"model must be a torch\.nn\.Module, got"),
        (nn.ReLU(), -0.1, ValueError, r"weight_decay must be finite and at least 0, got -0\.1"),
        (nn.ReLU(), float("nan"), ValueError, "weight_decay must be finite"),
        (nn.ReLU(), "0.1", TypeError, "weight_decay must be a number, got '0.1'"),
        (nn.ReLU(), True, TypeError, "weight_decay must be a number, got True"),
    ],
)
def test_bad_arguments(model, decay, error, message):
    with pytest.raises(error, match=message):
        param_groups(model, decay)


@pytest.mark.parametrize(("lr", "error"), [(-1, ValueError), ("1", TypeError)])
def test_bad_rates(lr, error):
    with pytest.raises(error, match="lr must be"):
        param_groups(nn.ReLU(), 0.1, lr=lr)
