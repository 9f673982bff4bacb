"""Counted and measured cost of early exits: counts by hand, and clocks that cannot lie."""

import json
import math
import time

import numpy as np
import pytest
import torch
from torch import nn

from laplex.early_exit import networks
from laplex.early_exit.costs import Costs, count_costs
from laplex.early_exit.flop_counting import unfused
from laplex.early_exit.heads import LaplexExit, LinearHead, PooledHead, TokenHead
from laplex.early_exit.model import MultiExitModel
from laplex.early_exit.policies import MaxSoftmax, Patience
from laplex.early_exit.timing import time_exits
from laplex.nn import LaplexHead

pytestmark = pytest.mark.usefixtures("seeded")


def convolutional():
    backbone = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),  # 8 x 8
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),  # 4 x 4
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 5),
    )
    return MultiExitModel(backbone, {"1": PooledHead(4, 5), "3": LinearHead(6, 5)})


SEGMENTS = [4 * 9 * 64, 6 * 4 * 9 * 16, 96 * 5]
HEADS = [4 * 5, 6 * 5]


@pytest.mark.parametrize(("convention", "unit"), [("multiply-adds", 1), ("flops", 2)])
def test_a_convolutional_network_by_hand(convention, unit):
    costs = count_costs(convolutional(), torch.randn(3, 1, 8, 8), convention=convention)
    assert costs.convention == convention
    assert costs.segments.tolist() == [unit * one for one in SEGMENTS]
    assert costs.heads.tolist() == [unit * one for one in HEADS]
    assert costs.backbone == unit * sum(SEGMENTS)
    first = SEGMENTS[0] + HEADS[0]
    second = first + SEGMENTS[1] + HEADS[1]
    assert costs.exits.tolist() == [unit * first, unit * second, unit * (second + SEGMENTS[2])]
    assert costs.relative.tolist() == (costs.exits / costs.backbone).tolist()
    assert costs.relative[-1] == 1 + sum(HEADS) / sum(SEGMENTS)
    assert costs.exit_names == ("1", "3", "output")
    assert costs.backbone_parameters == (4 * 9 + 4) + 8 + (6 * 4 * 9 + 6) + (96 * 5 + 5)
    assert costs.head_parameters == (1 + 4 * 5 + 5, 6 * 5 + 5)


def test_a_vision_transformer_by_hand():
    """Fused attention counts, though the CPU has a kernel for it that PyTorch doesn't count."""
    dim, tokens, patch, classes = 32, 17, 7, 10
    vit = networks.small_vit(dim=dim, depth=3, heads=4)
    model = MultiExitModel(
        vit, {"blocks.0": TokenHead(dim, classes), "blocks.1": LinearHead(dim, 10)}
    )
    attention = 2 * tokens * tokens * dim
    block = tokens * (3 * dim * dim + dim * dim + 2 * 2 * dim * dim) + attention
    patches = (tokens - 1) * patch * patch * dim
    costs = count_costs(model, torch.randn(2, 1, 28, 28))
    assert costs.segments.tolist() == [patches + block, block, block + dim * classes]
    assert costs.heads.tolist() == [dim * classes, dim * classes]


class Recurrent(nn.Module):
    """Layers that PyTorch runs as one fused operator each."""

    def __init__(self):
        super().__init__()
        self.recur = nn.LSTM(5, 6, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(6, 2, dim_feedforward=7, batch_first=True)
        self.mix = nn.MultiheadAttention(6, 3, batch_first=True)
        self.gate = nn.Parameter(torch.ones(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.layer(self.recur(x)[0])
        x = self.mix(x, x, x, need_weights=False)[0]
        return self.head(x.mean(1)) * (x[:, 0] @ self.gate)[:, None]


def test_fused_layers_by_hand():
    steps = 4
    head = nn.Sequential(nn.Flatten(), nn.Linear(6 * steps, 3))
    model = MultiExitModel(Recurrent(), {"layer": head}).eval()
    lstm = steps * 4 * 6 * (5 + 6)
    attention = steps * 4 * 6 * 6 + 2 * steps * steps * 6
    costs = count_costs(model, torch.randn(2, steps, 5))
    assert costs.segments.tolist() == [lstm + attention + steps * 2 * 6 * 7, attention + 18 + 6]
    assert costs.heads.tolist() == [6 * steps * 3]


@pytest.mark.parametrize(("phased", "anchor"), [(True, 6), (False, 2)])
def test_laplace_kernels_by_hand(phased, anchor):
    """A product with each head's kernel, and one for the normaliser, which has no phases."""
    heads, features, classes = 3, 20, 7
    backbone = nn.Sequential(nn.Linear(4, features), nn.Linear(features, classes))
    head = LaplexHead(features, classes, heads=heads, phased=phased)
    costs = count_costs(MultiExitModel(backbone, {"0": head}), torch.randn(5, 4))
    assert costs.heads.tolist() == [heads * (features + classes) * (anchor + 2)]
    assert costs.head_parameters == (sum(one.numel() for one in head.parameters()),)


@pytest.mark.parametrize("batch", [1, 2, 9])
def test_the_batch_does_not_matter(batch):
    backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    model = MultiExitModel(backbone, {"1": LaplexExit(8, 3)})
    costs = count_costs(model, torch.randn(batch, 4))
    assert costs.to_dict() == count_costs(model, torch.randn(33, 4)).to_dict()


def test_counting_leaves_no_trace():
    model = convolutional()
    model.backbone[1].eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    count_costs(model, torch.randn(2, 1, 8, 8))
    with pytest.raises(RuntimeError):  # of PyTorch: 2 channels for 1
        count_costs(model, torch.randn(2, 2, 8, 8))
    assert [module.training for module in model.modules()] == modes
    assert flags == (torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks


def test_threads_that_count_leave_no_trace():
    flags = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    first, second = unfused(), unfused()
    first.__enter__()  # as two threads whose times overlap
    second.__enter__()
    first.__exit__(None, None, None)
    assert not torch.backends.mha.get_fastpath_enabled()
    second.__exit__(None, None, None)
    assert flags == (torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.1])
def test_mean_cost_is_that_of_the_samples(threshold):
    model, x = convolutional(), 5 * torch.randn(40, 1, 8, 8)
    found = model.predict(x, MaxSoftmax(threshold))
    costs = count_costs(model, x)
    expected = costs.exits[found.exit_index.numpy()].mean()
    assert costs.mean(found.samples_per_segment) == pytest.approx(expected, rel=1e-14)


def test_the_mean_counts_where_computing_stopped():
    """A sample that falls back to an earlier answer has cost all segments."""
    model, x = convolutional(), torch.randn(6, 1, 8, 8)
    found = model.predict(x, MaxSoftmax(1.1, fallback="most_confident"))
    costs = count_costs(model, x)
    assert costs.mean(found.samples_per_segment) == pytest.approx(costs.exits[-1], rel=1e-14)


def test_costs_are_written_and_read():
    costs = count_costs(convolutional(), torch.randn(2, 1, 8, 8))
    again = Costs.from_dict(json.loads(json.dumps(costs.to_dict())))
    assert again.to_dict() == costs.to_dict()
    assert str(again) == str(costs) == costs.table()
    lines = costs.table().splitlines()
    assert lines[0] == "Cost of a sample by exit, in multiply-adds"
    assert [line.split()[0] for line in lines[3:]] == ["1", "3", "output", "plain"]
    assert lines[3].split() == ["1", "2,304", "20", "2,324", f"{2324 / sum(SEGMENTS):.1%}", "26"]
    assert "multiply-adds" in repr(costs)
    broken = costs.to_dict()
    broken["heads"] = broken["heads"][:1]
    for values in ({}, broken, {**costs.to_dict(), "convention": "MACs"}):
        with pytest.raises(ValueError, match=r"values are not those of Costs\.to_dict"):
            Costs.from_dict(values)


def test_costs_say_what_they_need():
    model, x = convolutional(), torch.randn(2, 1, 8, 8)
    with pytest.raises(TypeError, match="model must be a MultiExitModel, got Sequential"):
        count_costs(model.backbone, x)
    with pytest.raises(ValueError, match="convention must be one of"):
        count_costs(model, x, convention="MACs")
    with pytest.raises(ValueError, match="example has no samples"):
        count_costs(model, x[:0])
    nothing = MultiExitModel(nn.Sequential(nn.ReLU(), nn.Softmax(-1)), {"0": nn.Linear(4, 4)})
    with pytest.raises(ValueError, match="nothing in the backbone was counted"):
        count_costs(nothing, torch.randn(2, 4))
    costs = count_costs(model, x)
    for counts in ([4, 2], [0, 0, 0]):
        with pytest.raises(ValueError, match="samples_per_segment must be 3 numbers"):
            costs.mean(counts)


# --- timing --------------------------------------------------------------------------------------


#: Longer than a busy machine takes the processor away in the best of three passes.
SLEEP = 0.02


class Sleeps(nn.Module):
    def forward(self, x):
        time.sleep(SLEEP)
        return x


def sleepy():
    layers = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), Sleeps(), nn.Linear(8, 3))
    return MultiExitModel(layers, {"0": nn.Linear(8, 3), "1": nn.Linear(8, 3)})


def test_timing_measures_what_is_left_out():
    """Behind the exits there is a sleep: who leaves does not sleep."""
    model, x = sleepy(), torch.randn(6, 4)
    model.backbone[1].eval()
    modes = [module.training for module in model.modules()]
    threads = torch.get_num_threads()
    timing = time_exits(model, x, MaxSoftmax(0.0), batch_sizes=(1, 4), repeats=3)
    assert [module.training for module in model.modules()] == modes
    assert torch.get_num_threads() == threads
    assert [(one.batch_size, one.way) for one in timing.runs] == [
        (size, way) for size in (1, 4) for way in ("predict", "backbone", "all exits")
    ]
    costs = count_costs(model, x)
    for size, passes in ((1, 6), (4, 2)):
        plain, whole = timing.run("backbone", size), timing.run("all exits", size)
        left = timing.run("predict", size)
        for run in (plain, whole):
            assert run.seconds_min >= SLEEP * passes / 6
            assert run.cpu_seconds_min < run.seconds_min  # a sleep takes none
        assert left.seconds_min < plain.seconds_min
        for run in (plain, whole, left):
            assert run.samples == 6
            assert 0 < run.seconds_min <= run.seconds_median
            assert 0 < run.cpu_seconds_min <= run.cpu_seconds_median
        assert left.counted == costs.relative[0]
        assert (plain.counted, whole.counted) == (1.0, costs.relative[-1])
    assert timing.threads == 1
    assert timing.repeats == 3
    assert timing.versions["torch"] == torch.__version__


def test_timing_counts_by_what_predict_computed():
    model, x = convolutional(), 5 * torch.randn(30, 1, 8, 8)
    rule = Patience(1)
    timing = time_exits(model, x, rule, batch_sizes=(8,), repeats=1, threads=None)
    costs = count_costs(model, x)
    expected = costs.exits[model.predict(x, rule).exit_index.numpy()].mean() / costs.backbone
    assert timing.run("predict", 8).counted == pytest.approx(expected, rel=1e-12)
    values = json.loads(json.dumps(timing.to_dict()))
    assert values["policy"] == "Patience(1)"
    assert values["device"].startswith("cpu")
    assert len(values["runs"]) == 3
    assert values["runs"][1]["way"] == "backbone"
    text = str(timing)
    assert "predict, batch 8" in text
    assert f"{expected:.1%}" in text
    assert "batch 8" in repr(timing)
    with pytest.raises(KeyError, match="was not timed at batch_size=64"):
        timing.run("predict", 64)


def test_timing_says_what_it_needs():
    model, x, rule = sleepy(), torch.randn(2, 4), MaxSoftmax(0.5)
    with pytest.raises(TypeError, match="model must be a MultiExitModel"):
        time_exits(model.backbone, x, rule)
    with pytest.raises(TypeError, match="policy must be a Policy"):
        time_exits(model, x, 0.5)
    with pytest.raises(ValueError, match="threshold has 3 entries"):
        time_exits(model, x, MaxSoftmax([0.1, 0.2, 0.3]))
    with pytest.raises(ValueError, match="inputs has no samples"):
        time_exits(model, x[:0], rule)
    with pytest.raises(ValueError, match="batch_sizes is empty"):
        time_exits(model, x, rule, batch_sizes=())
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        time_exits(model, x, rule, batch_sizes=(1,), repeats=0)
    with pytest.raises(ValueError, match="batch_sizes has 64, but inputs has only 2 samples"):
        time_exits(model, x, rule)
    with pytest.raises(TypeError, match="batch_sizes must be whole numbers"):
        time_exits(model, x, rule, batch_sizes=(1.5,))


def test_counts_are_whole_numbers():
    costs = count_costs(convolutional(), torch.randn(1, 1, 8, 8))
    assert np.array_equal(costs.exits, np.rint(costs.exits))
    assert math.isclose(costs.exits[-1] - sum(costs.heads), costs.backbone)
