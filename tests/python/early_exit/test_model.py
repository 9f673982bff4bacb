"""Attaching exits, leaving by them for real, and the policies that decide."""

from __future__ import annotations

import copy
import gc
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from exits_cases import MODELS, images
from laplex.early_exit import (
    Entropy,
    LearnedScore,
    Margin,
    MaxSoftmax,
    MultiExitModel,
    Patience,
    networks,
)
from laplex.early_exit.heads import GridHead, make_head
from laplex.early_exit.policies import Policy

pytestmark = pytest.mark.usefixtures("seeded")


class Halves:
    """A scorer: how far the first logit is above 0."""

    def score(self, k: int, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits[:, 0])


POLICIES: dict[str, Policy] = {
    "max softmax": MaxSoftmax(0.5),
    "entropy": Entropy(0.5),
    "margin": Margin(0.5),
    "learned": LearnedScore(Halves(), 0.5),
}


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def head(width: int = 8) -> nn.Module:
    return nn.Linear(width, 3)


def offline(model: MultiExitModel, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.stack(model(x))


def middle_cuts(scores: Tensor, share: float) -> list[float]:
    """Cuts near a share of the samples, in the widest gap there: no rounding decides who leaves.

    Scores of a smaller batch are off by some 1e-7: next to any place two samples may be as near.
    """
    found = []
    for row in scores[:-1].sort(dim=1).values:
        if len(row) == 1:
            found.append(float(row[0]))
            continue
        place, reach = max(1, int(share * len(row))), len(row) // 6
        first, last = max(1, place - reach), min(len(row) - 1, place + reach)
        place = first + int(row[first - 1 : last + 1].diff().argmax())
        assert float(row[place] - row[place - 1]) > 1e-5
        found.append(float((row[place - 1] + row[place]) / 2))
    return found


# --------------------------------------------------------------------------------------- real exits


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("name", MODELS)
def test_real_exits_are_the_offline_ones(name: str, batch: int, policy: Policy) -> None:
    model = MODELS[name]()
    x = images(batch)
    logits = offline(model, x)
    scores = policy.scores(logits)
    some = middle_cuts(scores, 0.6)
    last = model.num_exits - 1
    for fallback in ("last", "most_confident"):
        for cuts in ([-math.inf] * last, [math.inf] * last, some):
            rule = policy.with_cuts(cuts)
            rule.fallback = fallback  # type: ignore[assignment]
            found = model.predict(x, rule)
            expected = rule.exit_index(logits)
            if batch == 1 and cuts is some:  # a cut at the sample's own score: rounding decides
                expected = found.exit_index
            assert torch.equal(found.exit_index, expected)
            answered = logits[expected, torch.arange(batch)]
            # Products and convolutions add up in another order for another number of rows.
            torch.testing.assert_close(found.logits, answered, rtol=1e-4, atol=1e-5)
            stopped = rule.decide(scores)[1] if batch > 1 or cuts is not some else expected
            if fallback == "last" or cuts is not some or batch > 1:
                computed = [int((stopped >= k).sum()) for k in range(last + 1)]
                assert list(found.samples_per_segment) == computed


@pytest.mark.parametrize("name", MODELS)
def test_patience_leaves_for_real(name: str) -> None:
    model = MODELS[name]()
    x = images(64)
    logits = offline(model, x)
    for n in (0, 1, 2, 5):
        found = model.predict(x, Patience(n))
        assert torch.equal(found.exit_index, Patience(n).exit_index(logits))


def test_what_is_left_behind_is_not_computed() -> None:
    model = MODELS["resnet"]()
    rows: dict[str, int] = {}
    for name in ("layer1", "layer2", "layer3"):
        model.backbone.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: rows.__setitem__(name, len(inputs[0]))
        )
    x = images(16)
    scores = MaxSoftmax(0).scores(offline(model, x))
    policy = MaxSoftmax(0.5).with_cuts([middle_cuts(scores, 0.6)[0], middle_cuts(scores, 0.4)[1]])
    rows.clear()
    found = model.predict(x, policy)
    assert tuple(rows.values()) == found.samples_per_segment
    assert 0 < found.samples_per_segment[2] < found.samples_per_segment[1] < 16
    rows.clear()
    model.predict(x, MaxSoftmax(0.0))  # all leave at the first exit
    assert rows == {"layer1": 16}


def test_the_batch_does_not_matter() -> None:
    model = MODELS["vit"]()
    x = images(32)
    policy = MaxSoftmax(0.5).with_cuts(middle_cuts(MaxSoftmax(0).scores(offline(model, x)), 0.5))
    whole = model.predict(x, policy)
    ones = [model.predict(x[i : i + 1], policy) for i in range(32)]
    assert torch.equal(whole.exit_index, torch.cat([one.exit_index for one in ones]))
    computed = np.sum([one.samples_per_segment for one in ones], axis=0)
    assert tuple(computed) == whole.samples_per_segment


def test_an_empty_batch() -> None:
    found = MODELS["mlp"]().predict(images(0), MaxSoftmax(0.5))
    assert found.logits.shape == (0, 10)
    assert found.samples_per_segment == (0, 0, 0)


def test_predict_restores_modes_and_statistics() -> None:
    model = MODELS["resnet"]().train()
    model.backbone.layer1.eval()  # type: ignore[union-attr, operator]
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    one = model.predict(images(1), MaxSoftmax(0.9))  # BatchNorm could not train on it
    assert one.logits.shape == (1, 10)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not one.logits.requires_grad


def test_the_backbone_is_not_changed() -> None:
    backbone = networks.small_resnet(width=4)
    keys = list(backbone.state_dict())
    model = MultiExitModel.attach(backbone, ["layer1"], num_classes=10, example=images(2))
    model(images(2))
    with pytest.raises(ZeroDivisionError):
        model.walk(images(2), lambda k, activation: 1 / 0)
    assert list(backbone.state_dict()) == keys
    backbone(images(2))  # alone, its hooks do nothing
    del model
    gc.collect()
    assert all(not module._forward_hooks for module in backbone.modules())


def test_pickle_copy_and_state() -> None:
    model = MODELS["resnet"]()
    x = images(3)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(offline(other, x), offline(model, x))
        assert other.exit_names == model.exit_names
    fresh = MODELS["resnet"]()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(offline(fresh, x), offline(model, x))
    assert "exits at layer1, layer2 and the end" in repr(model)


def test_nested_inputs_and_named_outputs() -> None:
    class Output:
        def __init__(self, logits: Tensor) -> None:
            self.logits = logits

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.end = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: dict[str, Tensor]) -> Output:
            return Output(self.end(self.body(x["pixels"])))

    model = MultiExitModel(Named(), {"body": head()}).eval()
    x = {"pixels": torch.randn(6, 4)}
    logits = offline(model, x)  # type: ignore[arg-type]
    found = model.predict(x, MaxSoftmax(0.45))
    assert torch.equal(found.exit_index, MaxSoftmax(0.45).exit_index(logits))


# --------------------------------------------------------------------------------------- bad models


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"exit 'layer9' is not a module of the backbone: it has"):
        MultiExitModel(networks.small_resnet(), {"layer9": head()})
    with pytest.raises(ValueError, match=r"'layer' is not a module .* has layer1, "):
        MultiExitModel(networks.small_resnet(), {"layer": head()})
    with pytest.raises(ValueError, match="exits is empty: name modules of the backbone, such as 0"):
        MultiExitModel(chain(), {})
    with pytest.raises(TypeError, match=r"exits\['1'\] must be a torch.nn.Module, got int"):
        MultiExitModel(chain(), {"1": 3})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="exits must map names of modules to heads, got list"):
        MultiExitModel(chain(), ["1"])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="at must be a sequence of names, got '1': pass"):
        MultiExitModel.attach(chain(), "1", num_classes=3, example=torch.zeros(1, 4))


def test_exits_out_of_order() -> None:
    model = MultiExitModel(chain(), {"3": head(), "1": head()})
    with pytest.raises(ValueError, match="exits are out of order: '1' ran before '3', which is "):
        model(torch.zeros(2, 4))
    model = MultiExitModel(chain(), {"1": head(), "3": head()})  # and none of it stays behind
    assert len(model(torch.zeros(2, 4))) == 3


def test_a_module_that_runs_twice_or_never() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.idle = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(self.a(x)))

    with pytest.raises(ValueError, match="exit 'a' ran twice in one forward of the backbone"):
        MultiExitModel(Twice(), {"a": head(4)})(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="exit 'idle' did not run in the backbone's forward"):
        MultiExitModel(Twice(), {"idle": head(1)})(torch.zeros(2, 4))


class Around(nn.Module):
    """Something of the batch passes `a` and `b` by."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a, self.b, self.c, self.how = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3), how
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        y = self.a(x)
        if self.how == "sum":
            return self.c(self.b(y + x) * y)
        if self.how == "rows":
            return self.c(self.b(y.reshape(rows, -1)).reshape(rows, -1))
        if self.how == "in place":
            z = self.b(self.act(y)) + x
            z += 1
            return self.c(self.act(z))
        return self.c(torch.cat((self.b(y), y), 1)[:, :4])


@pytest.mark.parametrize("how", ["sum", "rows", "in place", "concatenated"])
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_exits_that_something_passes_by(how: str, batch: int) -> None:
    torch.manual_seed(0)
    model = MultiExitModel(Around(how), {"a": head(4), "b": head(4)}).eval()
    x = torch.randn(batch, 4)
    logits = offline(model, x)
    scores = MaxSoftmax(0).scores(logits)
    cuts = [middle_cuts(scores, share) for share in (0.3, 0.6, 0.9)]
    for fallback in ("last", "most_confident"):
        for chosen in ([-math.inf] * 2, [math.inf] * 2, *(cuts if batch > 1 else [])):
            policy = MaxSoftmax(0.5, fallback=fallback).with_cuts(chosen)  # type: ignore[arg-type]
            found = model.predict(x, policy)
            expected = policy.exit_index(logits)
            assert torch.equal(found.exit_index, expected)
            torch.testing.assert_close(found.logits, logits[expected, torch.arange(batch)])
            stopped = policy.decide(scores)[1]
            assert list(found.samples_per_segment) == [int((stopped >= k).sum()) for k in range(3)]
    assert model.replays is (True if batch > 1 else None)
    assert all("forward" not in vars(module) for module in model.modules())


class Gathering(nn.Module):
    """Later layers take from the input by row number: wrong rows would have the right shape."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.coarse, self.fine, self.how = nn.Linear(16, 16), nn.Linear(8, 3), how

    def forward(self, x: Tensor) -> Tensor:
        h = self.coarse(x)
        if self.how == "gather":
            return self.fine(x.gather(1, h.topk(8, 1).indices))
        if self.how == "slice":
            return self.fine(x[: len(h), :8] * h[:, 8:])
        return self.fine((x.reshape(-1)[: h.numel()].reshape(h.shape) + h)[:, :8])


@pytest.mark.parametrize("how", ["gather", "slice", "flat"])
@pytest.mark.parametrize("batch", [2, 7, 256])
def test_rows_of_other_samples_are_noticed(how: str, batch: int) -> None:
    torch.manual_seed(0)
    model = MultiExitModel(Gathering(how), {"coarse": nn.Linear(16, 3)}).eval()
    x = torch.randn(batch, 16)
    logits = offline(model, x)
    policy = MaxSoftmax(0.5).with_cuts(middle_cuts(MaxSoftmax(0).scores(logits), 0.5))
    found = model.predict(x, policy)
    expected = policy.exit_index(logits)
    assert torch.equal(found.exit_index, expected)
    torch.testing.assert_close(found.logits, logits[expected, torch.arange(batch)])
    assert model.replays is True


def test_samples_that_depend_on_each_other_are_refused() -> None:
    body = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, track_running_stats=False))
    model = MultiExitModel(nn.Sequential(body, nn.Linear(8, 3)), {"0.0": head()})
    with pytest.raises(ValueError, match="depend on the other samples of its batch"):
        model.predict(torch.randn(16, 8), MaxSoftmax(0.5))


def test_samples_that_are_alike_tell_nothing() -> None:
    model = MultiExitModel(Gathering("gather"), {"coarse": nn.Linear(16, 3)}).eval()
    model.predict(torch.zeros(8, 16), MaxSoftmax(0.9))
    assert model.replays is None
    model.predict(torch.randn(8, 16), MaxSoftmax(0.9))
    assert model.replays is True


def test_classes_and_rows_must_agree() -> None:
    with pytest.raises(ValueError, match="num_classes is 10, but the backbone has 3 classes"):
        MultiExitModel.attach(chain(), ["1"], num_classes=10, example=torch.zeros(2, 4))
    with pytest.raises(
        ValueError, match=r"exit '1' gives logits \[2, 5\], but the backbone \[2, 3"
    ):
        MultiExitModel(chain(), {"1": nn.Linear(8, 5)})(torch.zeros(2, 4))

    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.end = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.end(self.body(x.transpose(0, 1)).mean(1))

    with pytest.raises(ValueError, match="the backbone gives 5 rows of logits for 2 samples"):
        MultiExitModel.attach(Sequence(), ["body"], num_classes=3, example=torch.zeros(2, 5, 4))


def test_attach_leaves_modes() -> None:
    backbone = networks.small_resnet(width=4).train()
    backbone.layer1.eval()  # type: ignore[union-attr, operator]
    modes = [module.training for module in backbone.modules()]
    model = MultiExitModel.attach(backbone, ["layer1"], num_classes=10, example=images(2))
    assert [module.training for module in backbone.modules()] == modes
    assert model.heads.training


def test_scorers_that_do_not_fit() -> None:
    class Other(Halves):
        num_exits = 4

    with pytest.raises(ValueError, match="scorer was fitted for 4 exits, but the model has 3"):
        MODELS["mlp"]().predict(images(2), LearnedScore(Other(), 0.5))

    class Whole:
        def score(self, k: int, logits: Tensor) -> Tensor:
            return logits

    with pytest.raises(ValueError, match=r"scorer.score must return a Tensor \[2\], one score for"):
        MODELS["mlp"]().predict(images(2), LearnedScore(Whole(), 0.5))


def test_what_passes_by_is_not_computed_twice() -> None:
    model = MultiExitModel(Around("sum"), {"a": head(4), "b": head(4)}).eval()
    x = torch.randn(16, 4)
    policy = MaxSoftmax(0.5).with_cuts(middle_cuts(MaxSoftmax(0).scores(offline(model, x)), 0.5))
    model.predict(x, policy)  # finds out that something passes by
    rows: list[int] = []
    forward = model.backbone.b.forward  # type: ignore[union-attr, operator]
    model.backbone.b.forward = lambda y: (rows.append(len(y)), forward(y))[1]  # type: ignore[union-attr, operator]
    found = model.predict(x, policy)
    assert rows == [found.samples_per_segment[1]]
    assert vars(model.backbone.b)["forward"] is not None  # type: ignore[arg-type]


def test_a_backbone_that_needs_all_its_samples_is_refused() -> None:
    class Counting(Around):
        def forward(self, x: Tensor) -> Tensor:
            y = self.c(self.b(self.a(x)))
            return torch.cat((y, y))[:16]

    model = MultiExitModel(Counting("sum"), {"a": head(4)})
    x = torch.randn(16, 4)
    cut = middle_cuts(MaxSoftmax(0).scores(offline(model, x)), 0.5)
    with pytest.raises(ValueError, match="'output' gives 16 rows of logits for 8 samples"):
        model.predict(x, MaxSoftmax(0.5).with_cuts(cut))


def test_logits_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"the head of exit '0' must give logits \[batch, classes"):
        MultiExitModel(chain(), {"0": nn.Flatten(0)})(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"the backbone must give logits \[batch, classes\], got"):
        MultiExitModel(nn.Sequential(nn.Linear(4, 8), nn.Flatten(0)), {"0": head()})(
            torch.zeros(2, 4)
        )
    tokens = MultiExitModel(nn.Sequential(nn.Linear(4, 3), nn.Identity()), {"0": nn.Identity()})
    assert tokens(torch.zeros(2, 5, 4))[0].shape == (2, 5, 3)
    with pytest.raises(ValueError, match=r"predict needs logits .* but those of '0' are"):
        tokens.predict(torch.zeros(2, 5, 4), MaxSoftmax(0.5))
    with pytest.raises(TypeError, match="policy must be a Policy such as MaxSoftmax"):
        MultiExitModel(chain(), {"1": head()}).predict(torch.zeros(2, 4), 0.9)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("kind", ["pooled", "grid", "linear", "mlp", "laplex", "conv", "token"])
def test_heads_fit_what_they_take(kind: str) -> None:
    maps = [(2, 6, 5, 5)]
    shapes = {"conv": maps, "grid": maps, "token": [(2, 5, 6)]}.get(
        kind, [*maps, (2, 5, 6), (2, 6)]
    )
    for shape in shapes:
        activation = torch.randn(shape)
        made = make_head(kind, activation, 3, where="x")
        assert made(activation).shape == (2, 3)
        assert torch.equal(made.eval()([None, activation]), made(activation))
    if kind in ("conv", "grid", "token"):
        with pytest.raises(ValueError, match=f"head='{kind}' needs activations .* choose another"):
            make_head(kind, torch.randn(2, 6), 3, where="x")


def test_pooled_head_by_hand() -> None:
    made = make_head("pooled", torch.zeros(1, 1, 1, 2), 1, where="x")
    with torch.no_grad():
        made.mix.fill_(math.log(3))  # a share of 3/4 for the maximum
        made.linear.weight.fill_(2)
        made.linear.bias.fill_(1)
    assert float(made(torch.tensor([[[[1.0, 5.0]]]])).detach()) == pytest.approx(
        2 * (0.75 * 5 + 0.25 * 3) + 1
    )


@pytest.mark.parametrize("side", [3, 4, 7, 8])
def test_grid_head_by_hand(side: int) -> None:
    head = GridHead(2, 3)
    maps = torch.randn(5, 2, side, side)
    # Cell i takes rows floor(i side / 4) to ceil((i + 1) side / 4), also where cells overlap.
    edges = [slice(i * side // 4, -(-(i + 1) * side // 4)) for i in range(4)]
    cells = [maps[:, :, rows, columns].flatten(2) for rows in edges for columns in edges]
    pooled = torch.stack([(cell.amax(2) + cell.mean(2)) / 2 for cell in cells], 2).flatten(1)
    torch.testing.assert_close(head(maps), head.linear(pooled))
    with pytest.raises(ValueError, match="grid must be at least 1, got 0"):
        GridHead(2, 3, grid=0)


def test_bad_heads() -> None:
    with pytest.raises(ValueError, match=r"head must be one of conv, grid, laplex, .* got 'deep'"):
        make_head("deep", torch.zeros(1, 2), 3, where="x")
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        make_head("linear", torch.zeros(1, 2), 0, where="x")
    with pytest.raises(TypeError, match=r"num_classes must be an integer, got 1\.5"):
        make_head("linear", torch.zeros(1, 2), 1.5, where="x")  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------- policies


def test_scores_by_hand() -> None:
    logits = torch.log(torch.tensor([[[0.7, 0.2, 0.1]], [[0.25, 0.25, 0.5]]]))
    entropy = [-sum(p * math.log(p) for p in row) for row in ((0.7, 0.2, 0.1), (0.25, 0.25, 0.5))]
    for policy, expected in (
        (MaxSoftmax(0), [0.7, 0.5]),
        (Margin(0), [0.5, 0.25]),
        (Entropy(0), [-entropy[0], -entropy[1]]),
    ):
        np.testing.assert_allclose(policy.scores(logits)[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("policy", [MaxSoftmax(0.9), Margin(0.5), Entropy(0.1), Patience(1)])
def test_a_single_logit_is_no_choice_of_classes(policy: Policy) -> None:
    """Its softmax is 1, so that every sample would leave at the first exit."""
    said = r"needs logits of at least 2 classes, got 1: give the model two outputs, or pass a pol"
    with pytest.raises(ValueError, match=f"{type(policy).__name__} {said}"):
        policy.exit_index(torch.zeros(2, 3, 1))
    model = MultiExitModel(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1)), {"0": nn.Linear(8, 1)})
    for batch in (1, 5):
        with pytest.raises(ValueError, match=said):
            model.predict(torch.zeros(batch, 4), policy)


def test_predict_refuses_exits_of_other_classes() -> None:
    model = MultiExitModel(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), {"0": nn.Linear(8, 7)})
    with pytest.raises(ValueError, match=r"exit '0' gives logits \[5, 7\], but the back"):
        model.predict(torch.zeros(5, 4), MaxSoftmax(0.9))


def test_thresholds_are_inclusive_unless_strict() -> None:
    logits = torch.zeros(2, 1, 2)  # every probability is a half
    assert MaxSoftmax(0.5).exit_index(logits).tolist() == [0]
    assert MaxSoftmax(0.5, strict=True).exit_index(logits).tolist() == [1]
    assert Margin(0.0, strict=True).exit_index(logits).tolist() == [1]
    assert Entropy(math.log(2) + 1e-12).exit_index(logits).tolist() == [0]
    assert Entropy(math.log(2) - 1e-12).exit_index(logits).tolist() == [1]


def test_patience_by_hand() -> None:
    labels = torch.tensor([[0, 0, 1], [0, 1, 1], [0, 1, 0], [0, 1, 0]])
    logits = nn.functional.one_hot(labels, 2).float()
    assert Patience(1).scores(logits).tolist() == [[0, 0, 0], [1, 0, 1], [2, 1, 0], [3, 2, 1]]
    assert Patience(1).exit_index(logits).tolist() == [1, 2, 1]
    assert Patience(2).exit_index(logits).tolist() == [2, 3, 3]
    assert Patience(0).exit_index(logits).tolist() == [0, 0, 0]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 5),
    st.integers(0, 6),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.sampled_from(["last", "most_confident"]),
)
def test_decisions_by_brute_force(
    exits: int, samples: int, seed: int, strict: bool, fallback: str
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(-2, 3, (exits, samples, 3)).astype(float)  # many ties
    cuts = rng.choice([0.3, 0.5, 0.6, 0.9], exits - 1)
    policy = MaxSoftmax(list(cuts), strict=strict, fallback=fallback)  # type: ignore[arg-type]
    scores = policy.scores(logits).numpy()
    for i, found in enumerate(policy.exit_index(logits).tolist()):
        for k in range(exits - 1):
            if scores[k, i] > cuts[k] or (not strict and scores[k, i] == cuts[k]):
                assert found == k
                break
        else:
            best = int(np.argmax(scores[:, i]))
            assert found == (exits - 1 if fallback == "last" else best)


def test_bad_policies() -> None:
    model = MODELS["mlp"]()
    with pytest.raises(ValueError, match="threshold has 1 entry, but the model has 2 exits before"):
        model.predict(images(2), MaxSoftmax([0.5]))
    with pytest.raises(ValueError, match="n has 3 entries, but the model has 2 exits before"):
        Patience([1, 1, 1]).cuts(3)
    with pytest.raises(ValueError, match="threshold must be finite, got nan"):
        MaxSoftmax(math.nan)
    with pytest.raises(TypeError, match="threshold must be a number, or one for each exit but the"):
        Margin("high")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="threshold must be a number"):
        Margin(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"n must be a whole number of at least 0, got 1\.5"):
        Patience(1.5)
    with pytest.raises(ValueError, match="n must be a whole number of at least 0, got -1"):
        Patience(1).with_thresholds(-1)
    with pytest.raises(
        ValueError, match="fallback must be 'last' or 'most_confident', got 'first'"
    ):
        Entropy(1, fallback="first")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"scorer must have a method score\(k, logits\), got str"):
        LearnedScore("x", 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"logits must be \[exits, samples, classes\]"):
        MaxSoftmax(0.5).scores(torch.zeros(3, 4))


def test_policies_copy_and_show() -> None:
    policy = Entropy([0.5, 0.25], strict=True, fallback="most_confident")
    assert repr(policy) == "Entropy([0.5, 0.25], strict=True, fallback='most_confident')"
    assert policy.cuts(3).tolist() == [-0.5, -0.25]
    other = policy.with_thresholds(1)
    assert repr(other) == "Entropy(1, strict=True, fallback='most_confident')"
    assert policy.with_cuts([-1.0, -2.0]).thresholds == (1.0, 2.0)
    assert repr(pickle.loads(pickle.dumps(MaxSoftmax(0.9)))) == "MaxSoftmax(0.9)"
