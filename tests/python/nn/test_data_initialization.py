"""Initial anchors from data: what moves, what stays, and which inputs become neighbours."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize, prune

from laplex.nn import LaplexHead, LaplexLinear, initialize_from_data
from laplex.nn.data_initialization import bisection_order, loadings
from strategies import quick

pytestmark = pytest.mark.usefixtures("one_thread")

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 20)


def of_sources(layer, head):
    """What belongs to every input of a head, as columns."""
    parts = [layer.sources, layer.source_gain]
    if layer.source_phase is not None:
        parts.append(layer.source_phase)
    return torch.stack([part[head].detach() for part in parts])


@quick
@given(st.sampled_from([LaplexLinear, LaplexHead]), sizes, sizes, st.booleans(), seeds)
def test_every_head_keeps_its_columns(cls, inputs, outputs, phased, seed):
    torch.manual_seed(seed)
    layer = cls(inputs, outputs, heads=2, phased=phased)
    before = copy.deepcopy(layer)
    initialize_from_data(layer, torch.randn(5, inputs))
    for head in range(2):
        old, new = (of_sources(each, head) for each in (before, layer))
        assert torch.equal(old[:, old[0].argsort()], new[:, new[0].argsort()])
    for name in ("targets", "target_phase", "log_lengthscale", "bias"):
        if getattr(layer, name) is not None:
            assert torch.equal(getattr(layer, name), getattr(before, name))


@quick
@given(st.integers(1, 5), st.integers(0, 3), st.integers(4, 40), seeds)
def test_equal_inputs_become_neighbours(groups, members, samples, seed):
    torch.manual_seed(seed)
    groups, members = 2**groups, 2**members  # so that halves end where groups do
    group = torch.arange(groups).repeat(members)[torch.randperm(groups * members)]
    layer = LaplexLinear(groups * members, 3, heads=2)
    values = torch.randn(samples, groups, dtype=torch.float64)
    initialize_from_data(layer.double(), values[:, group])
    for places in layer.sources:
        along = group[places.argsort()].view(groups, members)
        assert (along == along[:, :1]).all()


@quick
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=50), st.integers(1, 4))
def test_a_bisection_along_one_axis_is_a_sort(values, axes):
    points = torch.zeros(len(values), axes, dtype=torch.float64)
    points[:, -1] = torch.tensor(values)
    order = bisection_order(points)
    assert order.sort().values.tolist() == list(range(len(values)))
    assert points[order, -1].tolist() == sorted(values)


@quick
@given(seeds)
def test_layers_are_initialised_one_after_another(seed):
    def layers():
        torch.manual_seed(seed)
        return LaplexLinear(9, 7, heads=2), LaplexHead(7, 3)

    inputs = torch.randn(4, 6, 9, generator=torch.Generator().manual_seed(seed))
    model = nn.Sequential(*layers())
    initialize_from_data(model, inputs)
    first, second = layers()
    initialize_from_data(first, inputs)
    initialize_from_data(second, first(inputs))
    for name, value in nn.Sequential(first, second).state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_heads_get_different_orders():
    torch.manual_seed(0)
    layer = LaplexLinear(64, 8, heads=2)
    initialize_from_data(layer, torch.randn(100, 64))
    first, second = (places.argsort() for places in layer.sources)
    assert not torch.equal(first, second)
    assert not torch.equal(first, second.flip(0))


def test_the_model_is_called_once_in_evaluation_mode():
    torch.manual_seed(0)
    layer = LaplexLinear(6, 6)
    model = nn.Sequential(nn.BatchNorm1d(6), layer, nn.Dropout(), layer, nn.ReLU().eval())
    inputs = 3 + torch.randn(10, 6)
    initialize_from_data(model, inputs)
    assert [module.training for module in model] == [True, True, True, True, False]
    assert torch.equal(model[0].running_mean, torch.zeros(6))
    assert not layer._forward_pre_hooks
    places = layer.sources.detach().clone()
    model(inputs)
    assert torch.equal(layer.sources, places)


def test_half_precision_and_constant_inputs():
    torch.manual_seed(0)
    layer = LaplexLinear(6, 4).bfloat16()
    inputs = torch.randn(10, 6, dtype=torch.bfloat16)
    inputs[:, 2:4] = 1
    initialize_from_data(layer, inputs)
    assert layer(inputs).isfinite().all()


def test_constant_inputs_are_alike_to_no_others():
    torch.manual_seed(0)
    inputs = torch.randn(301, 6, dtype=torch.float64)
    inputs[:, ::2] = 0.1  # whose mean is another number
    assert loadings(inputs)[::2].abs().max() < 1e-12


def test_sparse_inputs_and_inputs_by_keyword():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = LaplexLinear(6, 4)

        def forward(self, x):
            return self.layer(input=x)

    inputs = torch.randn(10, 6).relu()
    found = []
    for each in (inputs, inputs.to_sparse()):
        torch.manual_seed(0)
        model = Model()
        initialize_from_data(model, each)
        found.append(model.layer.sources)
    assert torch.equal(*found)


def parametrized():
    layer = LaplexLinear(4, 3)
    parametrize.register_parametrization(layer, "sources", nn.Tanh())
    return layer


@pytest.mark.parametrize(
    ("model", "inputs", "error", "message"),
    [
        ([], torch.randn(5, 4), TypeError, r"model must be a torch\.nn\.Module, got list"),
        (LaplexLinear(4, 3), [[1.0]], TypeError, "inputs must be a tensor, got list"),
        (nn.Linear(4, 3), torch.randn(5, 4), ValueError, "calls no LaplexLinear or LaplexHead"),
        (LaplexLinear(4, 3), torch.randn(4), ValueError, "at least two real samples, got 1 in"),
        (LaplexLinear(4, 3), torch.ones(5, 4) * 1j, ValueError, "real samples, got 5 in torch.c"),
        (LaplexLinear(4, 3), torch.ones(5, 4), ValueError, "inputs must vary"),
        (LaplexLinear(4, 3), torch.full((5, 4), torch.nan), ValueError, "inputs must be finite"),
        (LaplexLinear(4, 3), torch.randn(5, 3), ValueError, "3"),
        (LaplexLinear(4, 3, device="meta"), torch.randn(5, 4), ValueError, "the meta device"),
        (parametrized(), torch.randn(5, 4), ValueError, "sources of a .*LaplexLinear is sharded"),
        (prune.identity(LaplexHead(4, 3), "source_phase"), torch.randn(5, 4), ValueError,
         "source_phase of a LaplexHead is sharded, pruned or parametrized"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(model, inputs, error, message):
    hooks = len(getattr(model, "_forward_pre_hooks", ()))
    with pytest.raises(error, match=message):
        initialize_from_data(model, inputs)
    assert len(getattr(model, "_forward_pre_hooks", ())) == hooks
