"""Losses of other kinds: their formulas, the labels they take, and training by them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from exits_training_cases import CLASSES, FEATURES, data, differing, loader, plain, snapshot, tiny
from laplex.early_exit import Distillation, MultiExitModel, Objective, Phase, train

X, Y = (one[:8] for one in data(dtype=torch.float64).tensors)
SOFT = torch.linspace(0.1, 2, 24, dtype=torch.float64).reshape(8, 3).softmax(1)
WEIGHTS = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)


def logits_of(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    """Unreduced, as a user would write it."""
    logs = logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]
    return -((1 - logs.exp()) ** 2) * logs


def same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


# --- formulas --------------------------------------------------------------------------------

LOGS = logits_of(8, 3).log_softmax(1)
PICKED = LOGS.gather(1, Y[:, None])[:, 0]
SIGMOID = logits_of(8, 3).sigmoid()
MULTI = (logits_of(8, 3) > 0.3).long()
CASES: dict[str, tuple[dict[str, Any], Tensor, Tensor]] = {
    "soft": ({}, SOFT, -(SOFT * LOGS).sum(1).mean()),
    "soft, smoothed": (
        {"label_smoothing": 0.3},
        SOFT,
        -((0.7 * SOFT + 0.1) * LOGS).sum(1).mean(),
    ),
    "weighted": (
        {"class_weights": [0.5, 1, 3]},
        Y,
        -(WEIGHTS[Y] * PICKED).sum() / WEIGHTS[Y].sum(),
    ),
    "multi-label": (
        {"loss": "bce"},
        MULTI,
        -(MULTI * SIGMOID.log() + (1 - MULTI) * (1 - SIGMOID).log()).mean(),
    ),
    "multi-label, weighted": (
        {"loss": "bce", "class_weights": WEIGHTS},
        MULTI.bool(),
        -(WEIGHTS * (MULTI * SIGMOID.log() + (1 - MULTI) * (1 - SIGMOID).log())).mean(),
    ),
    "regression": ({"loss": "mse"}, SOFT.float(), ((logits_of(8, 3) - SOFT) ** 2).mean()),
    "unreduced": ({"loss": focal}, Y, focal(logits_of(8, 3), Y).mean()),
    "module": ({"loss": nn.CrossEntropyLoss(reduction="sum")}, Y, -PICKED.sum()),
}


@pytest.mark.parametrize("name", CASES)
def test_each_loss_by_its_formula(name: str) -> None:
    options, labels, expected = CASES[name]
    loss = Objective(**options).exit_loss
    loss.check(labels, logits_of(8, 3), "loader")
    tolerance = 1e-6 if name == "regression" else 1e-12  # its labels are in single precision
    torch.testing.assert_close(loss.mean(logits_of(8, 3), labels), expected, rtol=tolerance, atol=0)
    if name not in ("weighted", "module"):
        each = loss.each(logits_of(8, 3), labels)
        assert each.shape == (8,)
        torch.testing.assert_close(each.mean(), expected, rtol=tolerance, atol=0)


def test_tokens_that_do_not_count_change_nothing() -> None:
    logits, labels = logits_of(4, 6, 3), torch.arange(24).reshape(4, 6) % 3
    counted = torch.arange(6) < torch.tensor([[6], [3], [0], [1]])
    loss = Objective(label_smoothing=0.1, class_weights=[1, 2, 4]).exit_loss
    masked = labels.masked_fill(~counted, -100)
    same(loss.mean(logits, masked), loss.mean(logits[counted], labels[counted]))
    same(loss.accuracy(logits, masked), (logits.argmax(-1) == labels)[counted].float().mean())
    assert loss.count(logits, masked) == 10
    each = loss.each(logits, masked)
    same(each[0], loss.each(logits[0], labels[0]).mean())
    assert each[2] == 0
    nothing = torch.full((4, 6), -100)
    needs = logits.clone().requires_grad_()
    loss.mean(needs, nothing).backward()
    assert needs.grad is not None
    assert needs.grad.abs().max() == loss.count(logits, nothing) == 0
    soft = functional.one_hot(labels, 3).double()
    same(Objective().exit_loss.mean(logits, soft), Objective().exit_loss.mean(logits, labels))

    found = Objective(distillation=Distillation(0.5)).losses((logits, logits * 2), masked).total
    alone = Objective(distillation=Distillation(0.5)).losses(
        (logits[counted], logits[counted] * 2), labels[counted]
    )
    same(found, alone.total)


@pytest.mark.parametrize(
    ("options", "labels", "expected"),
    [
        ({}, SOFT, float((logits_of(8, 3).argmax(1) == SOFT.argmax(1)).double().mean())),
        ({"loss": "bce"}, MULTI, float(((logits_of(8, 3) > 0) == (MULTI > 0)).double().mean())),
        ({"loss": "mse"}, SOFT, math.nan),
        ({"loss": focal}, Y, float((logits_of(8, 3).argmax(1) == Y).double().mean())),
        ({"loss": focal}, {"any": "thing"}, math.nan),
    ],
)
def test_accuracy_where_it_has_a_meaning(options: Any, labels: Any, expected: float) -> None:
    found = Objective(**options).exit_loss.accuracy(logits_of(8, 3), labels)
    np.testing.assert_allclose(float(found), expected, rtol=1e-6)


# --- checks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "labels", "said"),
    [
        ({}, SOFT * 2, "soft labels of L must be probabilities with the sum 1: .* pass loss='bce'"),
        ({}, SOFT - 0.5, "soft labels of L must be probabilities"),
        ({}, SOFT[:, :2], r"must be int64 \[8\], one for each sample, or float \[8, 3\] with prob"),
        ({}, Y - 5, "labels of L must be 0 to 2, as the model has 3 classes, got -"),
        (
            {"loss": "bce"},
            Y,
            r"must be \[8, 3\] for loss='bce', like the outputs .* got int64 \[8\]",
        ),
        ({"loss": "bce"}, SOFT + 1, "labels of L must be 0 to 1 for loss='bce'"),
        (
            {"loss": "mse"},
            SOFT[:, 0],
            r"must be \[8, 3\] for loss='mse', like the outputs .* got float64 \[8\]$",
        ),
        ({}, Y.int(), r"must be int64 \[8\].*, got int32 \[8\]: pass labels.long\(\)"),
        ({}, Y.byte(), r"got uint8 \[8\]: pass labels.long\(\)"),
        ({"loss": "mse"}, [0.5], "labels of L must be a Tensor, got list"),
        ({"class_weights": [1, 2]}, Y, "class_weights has 2 entries, but the model has 3 classes"),
    ],
)
def test_labels_that_do_not_suit_are_refused(options: Any, labels: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        Objective(**options).exit_loss.check(labels, logits_of(8, 3), "L")


def test_a_dimension_in_another_place_is_named() -> None:
    with pytest.raises(ValueError, match=r"must be \[8, 1\] .*: pass labels\[..., None\]"):
        Objective(loss="mse").exit_loss.check(SOFT[:, 0], logits_of(8, 1), "L")
    images = logits_of(2, 3, 4, 5)  # as torch has them, with the classes first
    labels = torch.zeros(2, 4, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"must be the last one: return logits.movedim\(1, -1\)"):
        Objective(class_weights=[1, 2, 3]).exit_loss.check(labels, images, "L")
    loss = Objective().exit_loss
    loss.check(labels, images.movedim(1, -1), "L")
    same(loss.mean(images.movedim(1, -1), labels), functional.cross_entropy(images, labels))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_of_classes_without_weight_has_no_loss(smoothing: float) -> None:
    loss = Objective(class_weights=[0, 1, 1], label_smoothing=smoothing).exit_loss
    needs = logits_of(8, 3).requires_grad_()
    found = loss.mean(needs, torch.zeros_like(Y).index_fill(0, torch.tensor([3]), -100))
    found.backward()
    assert needs.grad is not None
    assert found == needs.grad.abs().max() == 0
    assert loss.mean(needs, Y) > 0


@pytest.mark.parametrize("loss", ["cross-entropy", "bce", "mse", focal])
def test_exits_of_other_shapes_are_refused_by_every_loss(loss: Any) -> None:
    """The loss of one output would broadcast with three targets; more classes would just train."""
    labels = SOFT if loss in ("bce", "mse") else Y
    objective = Objective(loss=loss)
    for outputs in (1, 7):
        model = plain()
        model.heads[1] = nn.Linear(8, outputs).double()
        before = snapshot(model)
        said = rf"exit '1' gives logits \[8, {outputs}\], but the backbone \[8, 3\]: pass a head"
        with pytest.raises(ValueError, match=said):
            objective(model, X, labels)
        with pytest.raises(ValueError, match=said):  # before the phase of the backbone
            train(model, [(X, labels)], epochs=2, loss=loss)
        assert not differing(before, snapshot(model))
    logits = logits_of(8, 3)
    with pytest.raises(ValueError, match=r"exit 0 gives logits \[8, 1\], but the backbone"):
        objective.losses((logits[:, :1], logits), labels)
    if loss == "mse":
        with pytest.raises(ValueError, match=r"labels of the batch must be \[8, 1\]"):
            objective.losses((logits[:, :1], logits[:, :1]), labels[:, 0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": "l1"}, "loss must be one of 'cross-entropy', 'bce', 'mse', or a function"),
        ({"loss": "mse", "label_smoothing": 0.1}, "label_smoothing is for .* but loss is 'mse'"),
        ({"loss": focal, "label_smoothing": 0.1}, "label_smoothing is for .* loss is a function"),
        ({"loss": "mse", "class_weights": [1]}, "class_weights are for .* but loss is 'mse'"),
        ({"class_weights": [0, 0]}, r"class_weights must be finite, .* got \[0.0, 0.0\]"),
        ({"class_weights": 3}, "class_weights must be one number for each class, got 3"),
        ({"loss": "bce", "distillation": Distillation()}, "distillation compares softmax prob"),
        ({"combine": 3}, "combine must be a function of SampleLosses, got 3"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(options: Any, said: str) -> None:
    model = tiny()
    before = snapshot(model)
    with pytest.raises((TypeError, ValueError), match=said):
        train(model, loader(), **options)
    assert not differing(before, snapshot(model))


def test_a_loss_that_returns_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match="loss must return a Tensor, got float"):
        Objective(loss=lambda logits, labels: 0.5)(plain(), X, Y)
    with pytest.raises(ValueError, match="loss must return one loss for each of the 8 samples"):
        Objective(loss=nn.CrossEntropyLoss(), combine=lambda seen: seen.total)(plain(), X, Y)


# --- training --------------------------------------------------------------------------------


def test_training_by_each_kind() -> None:
    x, y = data(24).tensors
    targets = torch.stack((x[:, 0] * 2, x[:, 1] - x[:, 2], x.mean(1)), 1)
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "soft": (functional.one_hot(y, 3).float() * 0.9 + 1 / 30, {"distillation": Distillation()}),
        "several": ((x[:, :3] > 0).float(), {"loss": "bce", "class_weights": [1, 2, 1]}),
        "numbers": (targets, {"loss": "mse"}),
        "own": (y, {"loss": focal, "distillation": Distillation()}),
    }
    for name, (labels, options) in kinds.items():
        batches = [(x[i::3], labels[i::3]) for i in range(3)]
        result = train(
            plain(torch.float32), batches, batches, epochs=30, learning_rate=0.05, **options
        )
        first, last = result.history[15], result.history[-1]  # of the phase of everything
        assert max(last.val_loss) < 0.8 * max(first.val_loss[:2]), name
        assert all(math.isnan(one) == (name == "numbers") for one in last.val_accuracy)
        assert all(one > 0.7 for one in last.val_accuracy if one == one)


def test_the_loss_takes_the_place_of_an_accuracy_that_has_no_meaning() -> None:
    batches = [(X.float(), SOFT.float())]
    result = train(plain(torch.float32), batches, batches, loss="mse", epochs=2)
    lines = result.table().splitlines()
    assert lines[0] == "validation loss of each exit"
    assert lines[-1].split()[4:] == [f"{one:.4f}" for one in result.history[-1].val_loss]
    assert "validation loss by exit" in repr(result)
    left, right = result.plot().axes
    assert left.get_ylabel() == "validation loss"
    assert "no accuracy" in [one.get_text() for one in right.texts]


class Tokens(nn.Module):
    """A tagger of several arguments, called by keywords as a tokenizer's output is."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor, shift: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(ids) + shift[:, None, None]).tanh())


@pytest.mark.parametrize("keywords", [True, False])
def test_tokens_in_batches_of_several_inputs(keywords: bool) -> None:
    ids = torch.arange(40).reshape(8, 5) % 9
    labels = (ids % 3).masked_fill(torch.arange(5) >= 3, -100)
    shift = torch.zeros(8)
    batch: Any = (ids, shift, labels)
    if keywords:
        batch = {"ids": ids, "shift": shift, "labels": labels}
    model = MultiExitModel(Tokens(), {"embed": nn.Linear(8, 3), "mix": nn.Linear(8, 3)})
    result = train(model, [batch], [batch], weights="sdn", epochs=40, learning_rate=0.05)
    assert min(result.history[-1].val_accuracy) == 1.0
    with pytest.raises(
        ValueError, match=r"labels of train_loader must be int64 \[8, 5\], one for "
    ):
        train(model, [(ids, shift, labels[:, 0])], epochs=2)


# --- a loop of one's own ---------------------------------------------------------------------


def test_a_loop_of_ones_own_and_train_do_the_same() -> None:
    objective = Objective("linear", label_smoothing=0.1, class_weights=[1, 2, 1])
    one, other = plain(), plain()
    batches = [(X[:4], Y[:4]), (X[4:], Y[4:])]

    def descend(parameters: Any) -> torch.optim.SGD:
        return torch.optim.SGD(parameters, lr=0.1)

    train(
        one,
        batches,
        strategy=[Phase("all", 2)],
        scheduler=None,
        optimizer=descend,
        weights="linear",
        label_smoothing=0.1,
        class_weights=[1, 2, 1],
    )
    optimizer = descend(other.parameters())
    for x, y in batches * 2:
        losses = objective(other, x, y)
        assert losses.count == 4
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        same(left, right)


def test_a_phase_of_the_heads_trains_the_output_head() -> None:
    model = MultiExitModel(plain().backbone, {"0": nn.Linear(8, 3)}, nn.Linear(3, 3)).double()
    before = snapshot(model)
    result = train(model, [(X, Y)], [(X, Y)], strategy=[Phase("heads", 1)])
    changed = differing(before, snapshot(model))
    assert changed == [one for one in before if not one.startswith("backbone")]
    assert all(math.isfinite(one) for one in result.history[0].train_loss)
    expected = sum(functional.cross_entropy(one, Y) for one in model(X)) / 2
    same(Objective()(model, X, Y, "heads").total, expected)
    shared = MultiExitModel(plain().backbone, {"0": nn.Linear(8, 3)})
    shared.output_head = nn.Sequential(shared.backbone[2])
    with pytest.raises(ValueError, match=r"the head of exit 'output' shares '0.weight'"):
        train(shared, [(X.float(), Y)], epochs=2)


def test_combine_sees_each_sample() -> None:
    seen: list[Any] = []

    def combine(losses: Any) -> Tensor:
        seen.append(losses)
        total: Tensor = (losses.each * torch.arange(8)).sum()
        return total

    model = plain()
    found = Objective("linear", combine=combine)(model, X, Y, costs=[0.1, 0.2, 1.0])
    each = torch.stack([functional.cross_entropy(one, Y, reduction="none") for one in model(X)])
    same(seen[0].each, each)
    same(found.total, (each * torch.arange(8)).sum())
    same(seen[0].total, Objective("linear")(model, X, Y).total)
    same(found.exits, each.mean(1).detach())
    assert (seen[0].weights, seen[0].costs) == ([1.0, 2.0, 3.0], [0.1, 0.2, 1.0])
    same(Objective(combine=combine)(model, X, Y, "backbone").total, each[2].mean())


# --- exits that would never train ------------------------------------------------------------


class Checkpointed(nn.Module):
    """Two blocks under gradient checkpointing, or under torch.no_grad."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh())
        self.b = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.c, self.how = nn.Linear(8, CLASSES), how

    def forward(self, x: Tensor) -> Tensor:
        for block in (self.a, self.b):
            if self.how == "no_grad":
                with torch.no_grad():
                    x = block(x)
            elif self.how == "plain":
                x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=self.how == "reentrant")
        logits: Tensor = self.c(x)
        return logits


def checkpointed(how: str) -> MultiExitModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, CLASSES))
        return MultiExitModel(Checkpointed(how), {"a": head, "b": nn.Linear(8, CLASSES)}).double()


@pytest.mark.parametrize("part", ["backbone", "all", "heads"])
@pytest.mark.parametrize("options", [{}, {"gradient_equilibrium": True}, {"detach": True}])
def test_checkpointed_blocks_have_the_gradients_of_plain_ones(options: Any, part: Any) -> None:
    found = []
    for how in ("plain", "not reentrant"):
        model = checkpointed(how)
        Objective(**options)(model, X, Y, part).total.backward()
        found.append({name: one.grad for name, one in model.named_parameters()})
    for name, gradient in found[0].items():
        assert (gradient is None) == (found[1][name] is None)
        if gradient is not None:
            assert torch.equal(gradient, found[1][name])


def test_the_model_itself_may_be_called_under_checkpointing() -> None:
    found = []
    for how in ("plain", "not reentrant"):
        model = checkpointed(how)
        sum(functional.cross_entropy(one, Y) for one in model(X)).backward()  # type: ignore
        found.append([one.grad for one in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("how", ["reentrant", "no_grad"])
def test_a_backbone_that_would_not_learn_from_an_exit_is_refused(how: str) -> None:
    model = checkpointed(how)
    before = snapshot(model)
    said = "exit 'a' runs without gradients .*: pass use_reentrant=False to .*, or freeze the"
    with pytest.raises(ValueError, match=said):
        train(model, [(X, Y)], strategy="joint", epochs=1)
    assert not differing(before, snapshot(model))
    train(model, [(X, Y)], strategy=[Phase("heads", 1)])  # the heads alone can learn
    if how == "no_grad":
        model.backbone.a.requires_grad_(False)
        model.backbone.b.requires_grad_(False)
        train(model, [(X, Y)], strategy="joint", epochs=1)


def test_a_head_without_gradients_is_refused() -> None:
    class Stopped(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    model = plain()
    model.heads[1] = Stopped(8, 3).double()
    with pytest.raises(ValueError, match="exit '1' would never train, because its logits do not"):
        train(model, [(X, Y)], strategy=[Phase("heads", 1)])
    with torch.no_grad():
        Objective()(model, X, Y)  # for a validation loss
    model.heads[1].requires_grad_(False)
    train(model, [(X, Y)], strategy="joint", epochs=1)
