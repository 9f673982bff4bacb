"""Training of exits by phases: freezing, what Lightning is told, what comes back."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, IterableDataset

from exits_training_cases import (
    CLASSES,
    FEATURES,
    SAMPLES,
    data,
    differing,
    loader,
    plain,
    snapshot,
    tiny,
)
from laplex.early_exit import (
    Distillation,
    ExitStopping,
    MultiExitModel,
    Phase,
    TrainingResult,
    train,
)
from laplex.early_exit.training.exit_stopping import Counters
from laplex.early_exit.training.freezing import training_only
from laplex.early_exit.training.result import EpochRecord
from laplex.early_exit.training.seeding import EpochSeeds
from laplex.early_exit.training.strategies import PARTS, STRATEGIES, Part, phases_of

PARTS_OF = {"backbone": ("backbone",), "heads": ("heads",), "all": ("backbone", "heads")}


def momentum(parameters: Any) -> SGD:
    return SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1)


class Watch(pl.Callback):
    """Compares each phase's beginning and end, and looks at its optimiser."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.before: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.before = snapshot(pl_module.model)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        (optimizer,) = trainer.optimizers
        assert not optimizer.state
        held = {id(one) for group in optimizer.param_groups for one in group["params"]}
        names = {name for name, one in pl_module.model.named_parameters() if id(one) in held}
        assert {name.split(".")[0] for name in names} == set(PARTS_OF[pl_module.phase.train])

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        part: Part = pl_module.phase.train
        changed = differing(self.before, snapshot(pl_module.model))
        # Everything of the trained part, statistics and counters of batches too; nothing else.
        assert changed == [name for name in self.before if name.split(".")[0] in PARTS_OF[part]]
        self.parts.append(part)


# --- freezing --------------------------------------------------------------------------------


def every_three_in_a_row() -> list[Part]:
    """29 parts in which every three follow each other once: a de Bruijn sequence, greedily."""
    order, seen = [PARTS[0]] * 2, set()
    while len(seen) < 27:
        part = next(one for one in reversed(PARTS) if (*order[-2:], one) not in seen)
        seen.add((*order[-2:], part))
        order.append(part)
    return order


@pytest.mark.parametrize("order", [*([part] for part in PARTS), every_three_in_a_row()], ids=len)
def test_what_a_phase_does_not_train_stays_to_the_bit_in_every_order(order: list[Part]) -> None:
    watch, model = Watch(), tiny()
    train(
        model,
        loader(16),
        strategy=[Phase(part, 1) for part in order],
        optimizer=momentum,
        callbacks=[watch],
    )
    assert watch.parts == order


def test_adamw_leaves_the_frozen_part_alone_too() -> None:
    for order in itertools.permutations(PARTS):
        watch = Watch()
        phases = [Phase(part, 2) for part in order]
        train(tiny(), loader(16), loader(), strategy=phases, weight_decay=0.5, callbacks=[watch])
        assert watch.parts == list(order)


def test_what_the_user_froze_stays_with_its_statistics_and_in_evaluation_mode() -> None:
    model = tiny()
    # A module without parameters takes after the frozen one around it.
    model.backbone[0].append(nn.BatchNorm1d(8, affine=False))
    model.backbone[0].requires_grad_(False)
    model.heads[0][0].requires_grad_(False)
    modes_seen: dict[str, dict[str, bool]] = {}

    class Modes(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
            found = {name: one.training for name, one in pl_module.model.named_modules()}
            assert modes_seen.setdefault(pl_module.phase.train, found) == found

    before = snapshot(model)
    train(
        model,
        loader(),
        loader(),  # validation changes modes in between
        strategy=[Phase(part, 2) for part in PARTS],
        optimizer=momentum,
        callbacks=[Modes()],
    )
    changed = differing(before, snapshot(model))
    frozen = ("backbone.0.", "heads.0.0.")
    assert changed == [name for name in before if not name.startswith(frozen)]
    everything = {name: False for name, _ in model.named_modules()}
    backbone = {"backbone", "backbone.1", *(f"backbone.1.{i}" for i in range(4)), "backbone.2"}
    heads = {"heads", "heads.0", "heads.0.1", "heads.1"}
    assert modes_seen["backbone"] == everything | dict.fromkeys(backbone, True)
    assert modes_seen["heads"] == everything | dict.fromkeys(heads, True)
    assert modes_seen["all"] == everything | dict.fromkeys(backbone | heads, True)


def _unusual() -> MultiExitModel:
    model = tiny().eval()
    model.backbone[1].train()
    model.heads[1].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize("fails", [None, RuntimeError("stop"), KeyboardInterrupt()])
@pytest.mark.parametrize("part", PARTS)
def test_flags_modes_and_generators_are_put_back(fails: BaseException | None, part: Part) -> None:
    class Failing(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            if fails is not None:
                raise fails

    model = _unusual()
    modes = [one.training for one in model.modules()]
    flags = [one.requires_grad for one in model.parameters()]
    mine = torch.Generator().manual_seed(3)
    batches = loader(shuffle=True, generator=mine)
    state, sampler = mine.get_state(), batches.sampler.generator
    everywhere = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002

    def run() -> None:
        train(model, batches, strategy=[Phase(part, 1)], weights="sdn", callbacks=[Failing()])

    if fails is None:
        run()
    else:
        with pytest.raises(type(fails)):
            run()
    assert [one.training for one in model.modules()] == modes
    assert [one.requires_grad for one in model.parameters()] == flags
    assert all(one.grad is None for one in model.parameters())
    assert batches.generator is mine
    assert batches.sampler.generator is sampler
    assert torch.equal(mine.get_state(), state)
    assert torch.equal(torch.get_rng_state(), everywhere[0])
    assert np.array_equal(np.random.get_state()[1], everywhere[1])  # noqa: NPY002
    assert random.getstate() == everywhere[2]


def test_training_only_refuses_a_part_without_anything_to_train() -> None:
    model = tiny()
    model.heads.requires_grad_(False)
    with (
        pytest.raises(ValueError, match=r"trains 'heads', but no parameter of the heads requires"),
        training_only(model, "heads"),
    ):
        pass
    before = snapshot(model)
    with pytest.raises(ValueError, match="no parameter of the heads"):  # before the first phase
        train(model, loader(), strategy="disjoint")
    assert not differing(before, snapshot(model))


# --- steps -----------------------------------------------------------------------------------


def test_training_is_the_loop_that_one_would_write() -> None:
    chain, same = plain(), plain()
    batches = DataLoader(data(dtype=torch.float64), batch_size=8)
    result = train(
        chain, batches, batches, strategy="joint", epochs=3, optimizer=momentum, scheduler=None
    )
    optimizer = momentum(same.parameters())
    for epoch in range(3):
        losses = []
        for x, y in batches:
            each = [nn.functional.cross_entropy(one, y) for one in same(x)]
            loss = sum(each[1:], each[0]) / 3
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append((len(y), loss.item(), *(one.item() for one in each)))
        mean = np.average(np.array(losses)[:, 1:], axis=0, weights=np.array(losses)[:, 0])
        record = result.history[epoch]
        # Means are kept in float32.
        np.testing.assert_allclose([record.loss, *record.train_loss], mean, rtol=1e-6)
        x, y = batches.dataset.tensors
        with torch.no_grad():
            logits = torch.stack(same(x))
        right = (logits.argmax(-1) == y).double().mean(1)
        np.testing.assert_allclose(record.val_accuracy, right, rtol=1e-6)
        loss = nn.functional.cross_entropy(logits.movedim(0, 2), y[:, None].expand(-1, 3))
        np.testing.assert_allclose(np.mean(record.val_loss), loss, rtol=1e-6)
    for name, one in chain.state_dict().items():
        torch.testing.assert_close(one, same.state_dict()[name], rtol=1e-12, atol=1e-12)


class Rates(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.seen += [group["lr"] for group in trainer.optimizers[0].param_groups]


def test_the_cosine_begins_anew_in_each_phase_at_its_own_rate() -> None:
    rates = Rates()
    phases = [Phase("backbone", 2), Phase("heads", 1, learning_rate=0.5)]
    train(tiny(), loader(), strategy=phases, learning_rate=0.25, callbacks=[rates])
    expected = [0.25 * (1 + math.cos(math.pi * t / 8)) / 2 for t in range(8)]
    expected += [0.5 * (1 + math.cos(math.pi * t / 4)) / 2 for t in range(4)]
    np.testing.assert_allclose(rates.seen, expected, rtol=1e-12)


def test_an_optimiser_and_a_scheduler_of_ones_own() -> None:
    rates, lengths = Rates(), []

    def scheduler(optimizer: torch.optim.Optimizer, steps: int) -> StepLR:
        lengths.append(steps)
        return StepLR(optimizer, step_size=2, gamma=0.1)

    train(
        tiny(),
        loader(),
        strategy=[Phase("backbone", 1), Phase("heads", 2, learning_rate=1.0)],
        optimizer=lambda p: SGD(p, lr=0.5),
        scheduler=scheduler,
        callbacks=[rates],
    )
    assert lengths == [4, 8]
    expected = [0.5, 0.5, 0.05, 0.05] + [0.1 ** (t // 2) for t in range(8)]
    np.testing.assert_allclose(rates.seen, expected, rtol=1e-12)


def test_the_sdn_ramp_goes_from_0_to_1_over_each_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    from laplex.early_exit.training.objectives import Objective

    seen: list[tuple[float, list[float]]] = []
    weigh = Objective.exit_weights

    def note(self: Any, *args: Any, progress: float = 1.0, **more: Any) -> list[float]:
        if progress != 1.0:
            seen.append((progress, more["costs"]))
        return weigh(self, *args, progress=progress, **more)

    monkeypatch.setattr(Objective, "exit_weights", note)
    model = plain(torch.float32)
    train(model, loader(), strategy=[Phase("all", 1), Phase("heads", 2)], weights="sdn")
    assert [t for t, _ in seen] == [k / 4 for k in range(4)] + [k / 8 for k in range(8)]
    body = FEATURES * 8 + 64 + 8 * CLASSES
    head = 8 * CLASSES
    expected = [FEATURES * 8 + head, FEATURES * 8 + 64 + 2 * head, body + 2 * head]
    np.testing.assert_allclose(seen[0][1], np.array(expected) / body)


def test_inputs_may_be_nested() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(FEATURES, 8), nn.Linear(8, CLASSES)

        def forward(self, x: dict[str, list[Tensor]]) -> Tensor:
            return self.last(self.first(x["pair"][0] + x["pair"][1]))

    x, y = data(24).tensors
    rows = [({"pair": [a, 2 * a]}, b) for a, b in zip(x, y, strict=True)]
    batches = DataLoader(rows, batch_size=8)
    model = MultiExitModel(Sums(), {"first": nn.Linear(8, CLASSES)})
    result = train(model, batches, batches, strategy="mixed", epochs=2, weights="sdn")
    assert len(result.history) == 2
    assert all(math.isfinite(one.loss) for one in result.history)


def test_the_seed_decides_and_nothing_else_does() -> None:
    found = []
    for seed, world in ((0, 0), (0, 1), (1, 0)):
        torch.manual_seed(world)
        np.random.seed(world)  # noqa: NPY002
        model, batches = tiny(), loader(shuffle=True)
        list(batches)  # what was drawn before
        train(model, batches, epochs=2, seed=seed)
        found.append(snapshot(model))
    assert not differing(found[0], found[1])
    assert differing(found[0], found[2])


def test_each_epoch_has_numbers_of_its_own_and_processes_share_the_order() -> None:
    batches = loader(SAMPLES, shuffle=True)
    seeds = EpochSeeds(0, batches)
    drawn: dict[tuple[int, int, int], tuple[Any, ...]] = {}
    with seeds.in_place():
        for place in itertools.product(range(2), range(2), range(2)):
            seeds.start(*place)
            numbers = torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002
            order = tuple(next(iter(batches))[0][:, 0].tolist())
            lent = tuple(one.generator.initial_seed() for one in seeds.owners)
            assert torch.initial_seed() not in lent
            drawn[place] = (*numbers, order)
            seeds.start(*place)
            assert torch.rand(1).item() == numbers[0]
    for column in range(3):
        assert len({one[column] for one in drawn.values()}) == 8
    assert len({one[3] for one in drawn.values()}) == 4
    for phase, epoch in itertools.product(range(2), range(2)):
        assert drawn[phase, epoch, 0][3] == drawn[phase, epoch, 1][3]


# --- phases ----------------------------------------------------------------------------------


def test_strategies_by_name() -> None:
    assert STRATEGIES == {
        "disjoint": ("backbone", "heads"),
        "joint": ("all",),
        "mixed": ("backbone", "all"),
    }
    assert phases_of("joint") == (Phase("all", 10),)
    assert phases_of("mixed", 2) == (Phase("backbone", 1), Phase("all", 1))
    assert phases_of("disjoint", 7) == (Phase("backbone", 4), Phase("heads", 3))
    own = [Phase("heads", 1, learning_rate=0.5), Phase("heads", 2)]
    assert phases_of(own) == tuple(own)


@pytest.mark.parametrize(
    ("strategy", "epochs", "error", "said"),
    [
        ("both", None, ValueError, "strategy must be one of disjoint, joint, mixed, or a sequence"),
        ("mixed", 1, ValueError, "epochs must be at least 2 for strategy='mixed', one for each"),
        ("joint", 0, ValueError, "epochs must be at least 1, got 0"),
        ("joint", 1.5, TypeError, "epochs must be a whole number, got 1.5"),
        ([Phase("all", 1)], 3, ValueError, "epochs is only for a strategy given by name"),
        ([], None, ValueError, "strategy has no phases: pass at least one"),
        (["all"], None, TypeError, r"strategy\[0\] must be a Phase, got str"),
        (Phase("all", 1), None, TypeError, "strategy must be a name or a sequence of Phase"),
        (3, None, TypeError, "strategy must be a name or a sequence of Phase, got int"),
    ],
)
def test_bad_strategies(strategy: Any, epochs: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        train(tiny(), loader(), strategy=strategy, epochs=epochs)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("head", 1), ValueError, "Phase.train must be one of backbone, all, heads, got 'head'"),
        (("all", 0), ValueError, "Phase.epochs must be at least 1, got 0"),
        (("all", "2"), TypeError, "Phase.epochs must be a whole number, got '2'"),
        (("all", 1, 0.0), ValueError, "Phase.learning_rate must be positive and finite, got 0"),
        (("all", 1, math.inf), ValueError, "Phase.learning_rate must be positive and finite"),
        (("all", 1, "a"), TypeError, "Phase.learning_rate must be a number, got 'a'"),
        (("all", 1, {"head": 1}), ValueError, "must have numbers for 'backbone' and 'heads', got"),
        (("all", 1, {"heads": 1}), ValueError, "Phase.learning_rate has no number for 'backbone'"),
        (("heads", 1, {"heads": 0}), ValueError, r"learning_rate\['heads'\] must be positive"),
        (("all", 1, None, 1.5), ValueError, "Phase.layer_decay must be at most 1, got 1.5"),
    ],
)
def test_bad_phases(arguments: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Phase(*arguments)


# --- bad input -------------------------------------------------------------------------------


class Widened(nn.Module):
    """A head around the backbone's own last layer."""

    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.shared(x)
        return logits


def sharing() -> MultiExitModel:
    model = tiny()
    return MultiExitModel(model.backbone, {"0": Widened(model.backbone[2])})


def sharing_statistics() -> MultiExitModel:
    backbone = nn.Sequential(
        nn.Linear(FEATURES, 8), nn.BatchNorm1d(8, affine=False), nn.Linear(8, CLASSES)
    )
    head = nn.Sequential(Widened(backbone[1]), nn.Linear(8, CLASSES))
    return MultiExitModel(backbone, {"0": head})


def frozen() -> MultiExitModel:
    return tiny().requires_grad_(False)


def check_refused(
    model: Any, loaders: Any, options: Any, error: type[Exception], said: str
) -> None:
    trained = model()
    before = snapshot(trained)
    with pytest.raises(error, match=said):
        train(trained, *loaders, **options)
    assert not differing(before, snapshot(trained))


@pytest.mark.parametrize(
    ("model", "loaders", "options", "error", "said"),
    [
        (tiny, (None,), {}, TypeError, "train_loader is None: pass a DataLoader"),
        (tiny, (3,), {}, TypeError, "train_loader must be a DataLoader, got int"),
        (tiny, (iter(loader()),), {}, TypeError, "train_loader is an iterator, which is exhausted"),
        (tiny, (loader(), iter(loader())), {}, TypeError, "val_loader is an iterator"),
        (tiny, (loader(99, drop_last=True),), {}, ValueError, "train_loader is empty: pass one"),
        (tiny, (loader(), []), {}, ValueError, "val_loader is empty"),
        (tiny, (loader(), loader()), {"early_stopping": 3}, TypeError, "must be an ExitStopping"),
    ],
)
def test_bad_loaders_are_refused_before_any_work(
    model: Any, loaders: Any, options: Any, error: type[Exception], said: str
) -> None:
    check_refused(model, loaders, options, error, said)


@pytest.mark.parametrize(
    ("model", "options", "error", "said"),
    [
        (lambda: tiny().backbone, {}, TypeError, "model must be a MultiExitModel"),
        (
            tiny,
            {"early_stopping": ExitStopping()},
            ValueError,
            "early_stopping needs validation losses: pass a val_loader",
        ),
        (tiny, {"weights": [1, 1]}, ValueError, "2 entries, but there are 3 exits"),
        (tiny, {"weights": [1, 1], "strategy": "joint"}, ValueError, "there are 3 exits"),
        (
            tiny,
            {"weights": [0, 0, 1], "strategy": "disjoint"},
            ValueError,
            "weights are 0 for all exits but the last",
        ),
        (tiny, {"learning_rate": 0}, ValueError, "learning_rate must be positive"),
        (tiny, {"learning_rate": {"heads": 1.0}}, ValueError, "no number for 'backbone', which a"),
        (tiny, {"layer_decay": 0}, ValueError, "layer_decay must be positive and finite, got 0"),
        (tiny, {"weight_decay": -1}, ValueError, "weight_decay must be at least 0"),
        (tiny, {"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        (tiny, {"scheduler": "step"}, ValueError, "scheduler must be 'cosine', None"),
        (tiny, {"optimizer": "SGD"}, TypeError, "optimizer must be a function of"),
        (
            tiny,
            {"optimizer": lambda p: list(p)},
            TypeError,
            "optimizer must return a torch.optim.Optimizer, got list",
        ),
        (
            tiny,
            {"scheduler": lambda o, n: ReduceLROnPlateau(o)},
            TypeError,
            "scheduler must return .* without a metric, got ReduceLROnPlateau",
        ),
        (
            tiny,
            {"trainer_options": {"max_epochs": 3}},
            ValueError,
            "'max_epochs', which train sets itself: pass epochs, or the epochs of each Phase, to",
        ),
        (
            tiny,
            {"trainer_options": {"precision": 16}},
            ValueError,
            "trainer_options has 'precision', which train sets itself: pass precision",
        ),
        (sharing, {}, ValueError, "exit '0' shares 'shared.weight' with '2.weight'"),
        (
            sharing_statistics,
            {},
            ValueError,
            "exit '0' shares '0.shared.running_mean' with '1.running_mean' of the backbone",
        ),
        (frozen, {}, ValueError, "no parameter of the backbone requires a gradient"),
        (
            frozen,
            {"strategy": "joint"},
            ValueError,
            "no parameter of the model requires a gradient: call requires_grad_",
        ),
    ],
)
def test_bad_arguments_are_refused_before_any_work(
    model: Any, options: Any, error: type[Exception], said: str
) -> None:
    check_refused(model, (loader(),), options, error, said)


def test_an_optimiser_that_is_used_again_is_refused() -> None:
    model = tiny()
    made = SGD(model.parameters(), lr=0.1)
    with pytest.raises(
        ValueError, match="optimizer returned an optimiser of other parameters than"
    ):
        train(model, loader(), optimizer=lambda p: made)


def _batches(y: Any, x: Any = None) -> list[Any]:
    return [(data().tensors[0][:4] if x is None else x, y)]


@pytest.mark.parametrize("which", ["train_loader", "val_loader"])
@pytest.mark.parametrize(
    ("batches", "said"),
    [
        (_batches(torch.tensor([0, 1, 3, 0])), "labels of {} must be 0 to 2, .* 3 classes, got 3"),
        (_batches(torch.tensor([0, -1, 1, 0])), "labels of {} must be 0 to 2, .*, got -1"),
        (_batches(torch.zeros(4)), r"labels of {} must be int64 \[4\], .*, got float32 \[4\]"),
        (_batches(torch.zeros(4, dtype=torch.int32)), "labels of {} must be int64 .* got int32"),
        (_batches(torch.zeros(4, 3).long()), r"labels of {} must be .*, got int64 \[4, 3\]"),
        (_batches(torch.zeros(3).long()), r"labels of {} must be .*, got int64 \[3\]"),
        (_batches([0, 1, 2, 0]), "labels of {} must be a Tensor, got list"),
        ([data().tensors[0][:4]], r"a batch of {} must be \(x, labels\), or .*, got Tensor"),
        ([{"x": data().tensors[0]}], "a batch of {} must have 'labels' beside its inputs, got x"),
        ([data().tensors[:1]], r"a batch of {} must be \(x, labels\), or .*, got 1 items"),
    ],
)
@pytest.mark.parametrize("part", PARTS)
def test_bad_batches(which: str, batches: Any, said: str, part: Part) -> None:
    good = _batches(torch.tensor([0, 1, 2, 0]))
    loaders = {"train_loader": good, "val_loader": good, which: batches}
    with pytest.raises((TypeError, ValueError), match=said.format(which)):
        train(tiny(), strategy=[Phase(part, 1)], **loaders)


def _one_left() -> DataLoader[Any]:
    return DataLoader(data(9), batch_size=8)


@pytest.mark.parametrize("batches", [_one_left(), loader(1), loader(27, shuffle=True)])
@pytest.mark.parametrize("strategy", ["joint", "disjoint", "mixed"])
def test_a_batch_of_one_sample_with_batchnorm_is_refused(batches: Any, strategy: str) -> None:
    model = tiny()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"batch of one sample, from which BatchNorm \('0.1'\)"):
        train(model, batches, strategy=strategy)
    assert not differing(before, snapshot(model))  # said before any work
    with pytest.raises(ValueError, match=r"BatchNorm \('0.1'\).*: pass drop_last=True"):
        train(model, list(batches), strategy=strategy)  # a list is not looked through before


def test_a_batch_of_one_sample_is_fine_where_torch_can_take_it() -> None:
    one = _one_left()
    train(plain(torch.float32), one, epochs=2)
    quiet = tiny()  # BatchNorm in the backbone alone, which is not trained
    quiet.heads[0] = nn.Linear(8, CLASSES)
    train(quiet, one, strategy=[Phase("heads", 1)])
    with pytest.raises(ValueError, match="batch of one sample"):
        train(quiet, one, strategy=[Phase("heads", 1), Phase("backbone", 1)])
    backbone = nn.Sequential(
        nn.Unflatten(1, (1, FEATURES)),
        nn.BatchNorm1d(1),
        nn.Flatten(),
        nn.Linear(FEATURES, CLASSES),
    )
    model = MultiExitModel(backbone, {"2": nn.Linear(FEATURES, CLASSES)})
    train(model, one, strategy="joint", epochs=1)  # six values a channel


def test_a_loss_that_is_not_finite_says_where() -> None:
    model = tiny()
    with torch.no_grad():
        model.heads[1].bias.fill_(torch.nan)
    with pytest.raises(
        ValueError,
        match=r"the loss of exit '1' is not finite in epoch 1 of phase 2 \(heads\): try a smaller",
    ):
        train(model, loader(), loader(), strategy="disjoint")
    with pytest.raises(ValueError, match="train_loader yielded no batches"):
        train(tiny(), Empty(), scheduler=None)


class Empty:
    """Has no length to say beforehand that it is empty."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


# --- early stopping --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "best", "ends"),
    [
        # Patience 2, min_delta 0.1. One exit that gets better keeps the phase going.
        ([[1.0, 1.0], [1.0, 0.5], [1.0, 0.2], [1.0, 0.15], [1.0, 0.3]], [0, 1, 2, 3], 4),
        # Progress by less than min_delta does not count, but adds up.
        ([[1.0, 2.0], [0.95, 2.0], [0.85, 2.0], [0.8, 2.0], [0.76, 2.0]], [0, 1, 2, 3, 4], 4),
        # The exits take turns.
        ([[1.0, 1.0], [0.5, 2.0], [2.0, 0.5], [0.3, 2.0], [2.0, 0.3]], [0], None),
        # NaN is no progress and never the best; what comes after it may be.
        ([[math.nan, 1.0], [1.0, 0.8], [math.nan, math.nan], [0.5, 0.5]], [1, 3], None),
        ([[math.nan, math.nan]] * 2, [], 1),
        # One exit only; equal is no progress.
        ([[1.0], [1.0], [1.0], [0.0]], [0, 3], 2),
    ],
)
def test_counters(losses: list[list[float]], best: list[int], ends: int | None) -> None:
    counters = Counters(ExitStopping(patience=2, min_delta=0.1))
    found, ended = [], None
    for epoch, one in enumerate(losses):
        if counters.update(one):
            found.append(epoch)
        if counters.run_out and ended is None:
            ended = epoch
        again = Counters(counters.rule)  # as from a checkpoint
        again.load(counters.state())
        counters = again
    assert found == best
    assert ended == ends


def test_bad_stopping() -> None:
    with pytest.raises(ValueError, match=r"ExitStopping.patience must be at least 1, got 0"):
        ExitStopping(patience=0)
    with pytest.raises(TypeError, match=r"ExitStopping.patience must be a whole number"):
        ExitStopping(patience=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"ExitStopping.min_delta must be at least 0"):
        ExitStopping(min_delta=-1)


def test_a_phase_ends_when_every_counter_has_run_out() -> None:
    result = train(
        plain(torch.float32),
        loader(),
        loader(),
        strategy=[Phase(part, 9) for part in PARTS],
        optimizer=lambda p: SGD(p, lr=0.0),  # no loss ever changes after the first epoch
        early_stopping=ExitStopping(patience=2),
    )
    assert [(one.phase, one.epoch) for one in result.history] == [
        (phase, epoch) for phase in range(3) for epoch in range(3)
    ]


@pytest.mark.parametrize("restore", [True, False])
def test_the_best_weights_come_back(restore: bool) -> None:
    def uphill(parameters: Any) -> SGD:
        return SGD(parameters, lr=0.1, maximize=True)

    def run(epochs: int, rule: ExitStopping | None) -> dict[str, Tensor]:
        model = plain()
        batches = DataLoader(data(dtype=torch.float64), batch_size=SAMPLES)
        result = train(
            model,
            batches,
            batches,
            # Convex in the heads, so that each step uphill makes every loss worse.
            strategy=[Phase("heads", epochs)],
            optimizer=uphill,
            scheduler=None,
            early_stopping=rule,
        )
        losses = [sum(one.val_loss[:2]) for one in result.history]
        assert losses == sorted(losses)
        return snapshot(model)

    rule = ExitStopping(patience=2, restore_best=restore)
    assert not differing(run(8, rule), run(1 if restore else 3, None))


# --- the result ------------------------------------------------------------------------------


def test_the_result_as_table_plot_and_json() -> None:
    result = train(tiny(), loader(), loader(), strategy="disjoint", epochs=3)
    assert result.exit_names == ("0", "1", "output")
    assert result.phases == (Phase("backbone", 2), Phase("heads", 1))
    assert [(one.phase, one.epoch, one.train) for one in result.history] == [
        (0, 0, "backbone"),
        (0, 1, "backbone"),
        (1, 0, "heads"),
    ]
    first, last = result.history[0], result.history[2]
    assert all(math.isnan(one) for one in first.train_loss[:2])
    assert math.isfinite(first.train_loss[2])
    assert all(map(math.isfinite, [*last.train_loss, *first.val_loss, *first.val_accuracy]))
    again = TrainingResult.from_dict(json.loads(result.to_json()))
    assert again.to_json() == result.to_json()
    assert again.phases == result.phases
    assert again.history[2] == last
    lines = result.table().splitlines()
    assert lines[1].split() == ["phase", "epoch", "loss", "0", "1", "output"]
    assert lines[2].split()[:3] == ["1", "backbone", "1"]
    assert lines[4].split()[3:] == [f"{one:.4f}" for one in (last.loss, *last.val_accuracy)]
    assert "phases: backbone 2, heads 1" in repr(result)
    left, right = result.plot().axes
    assert [line.get_label() for line in left.lines[:3]] == ["0", "1", "output"]
    assert list(right.lines[2].get_ydata()) == [one.val_accuracy[2] for one in result.history]


def test_the_result_without_validation() -> None:
    result = train(tiny(), loader(), strategy="disjoint", epochs=2)
    assert result.table().splitlines()[-1].split()[-3:] == ["-", "-", "-"]
    left, right = result.plot().axes
    assert left.get_ylabel() == "training loss"
    np.testing.assert_array_equal(
        left.lines[2].get_ydata(), [one.train_loss[2] for one in result.history]
    )
    assert "no validation" in [one.get_text() for one in right.texts]


def test_what_is_not_finite_survives_json() -> None:
    nothing = (math.inf, math.nan)
    record = EpochRecord(0, 0, "all", math.inf, nothing, nothing, (0.5, math.nan))
    result = TrainingResult(("0", "output"), (Phase("all", 1),), (record,))
    again = TrainingResult.from_dict(json.loads(result.to_json()))
    assert again.history[0].loss == math.inf
    assert again.history[0].val_loss[0] == math.inf
    assert math.isnan(again.history[0].val_accuracy[1])


# --- Lightning -------------------------------------------------------------------------------


def test_nothing_is_said_unless_asked_for(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train(tiny(), loader(), loader(), epochs=2)
    train(tiny(), loader(num_workers=1), epochs=2)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    train(tiny(), loader(), loader(), epochs=2, progress=True)
    out, err = capfd.readouterr()
    assert "Epoch 0" in out + err
    assert "loss" in out + err


def test_precision_clipping_and_callbacks_are_lightnings() -> None:
    norms: list[float] = []
    kinds: set[torch.dtype] = set()

    class Look(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            grads = [one.grad for one in module.model.parameters() if one.grad is not None]
            norms.append(float(torch.stack([one.norm() for one in grads]).norm()))

    model = tiny()
    model.backbone[2].register_forward_hook(lambda *args: kinds.add(args[2].dtype))
    look = Look()
    result = train(
        model,
        loader(),
        loader(),
        epochs=2,
        precision="bf16-mixed",
        callbacks=[look],
        distillation=Distillation(),
        trainer_options={"gradient_clip_val": 1e-3},
    )
    assert kinds == {torch.bfloat16}
    assert {one.dtype for one in model.parameters()} == {torch.float32}
    assert all(math.isfinite(one.loss) for one in result.history)
    assert len(norms) == 8

    class After(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            grads = [one.grad for one in module.model.parameters() if one.grad is not None]
            assert float(torch.stack([one.norm() for one in grads]).norm()) <= 1e-3 * (1 + 1e-5)

    assert min(norms) > 1e-3  # there was something to clip
    train(tiny(), loader(), callbacks=[After()], trainer_options={"gradient_clip_val": 1e-3})


def test_a_logger_gets_every_metric_once_an_epoch_and_counts_on(tmp_path: Path) -> None:
    logger = pl.loggers.CSVLogger(tmp_path, name="run")
    phases = [Phase("backbone", 2), Phase("heads", 1), Phase("all", 2)]
    result = train(tiny(), loader(), loader(), strategy=phases, logger=logger)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [4 * e - 1 for e in range(1, 6)]
    assert [float(row["epoch"]) for row in rows] == list(range(5))
    assert [float(row["phase"]) for row in rows] == [0, 0, 1, 2, 2]
    for row, record in zip(rows, result.history, strict=True):
        assert float(row["loss"]) == pytest.approx(record.loss, rel=1e-6)
        for k, name in enumerate(result.exit_names):
            for what in ("train_loss", "val_loss", "val_accuracy"):
                value, text = getattr(record, what)[k], row[f"{what}/{name}"]
                if math.isnan(value):
                    assert text == ""
                else:
                    assert float(text) == pytest.approx(value, rel=1e-6)


def test_the_last_validation_of_an_epoch_counts_and_there_may_be_none() -> None:
    often = train(
        plain(torch.float32),
        loader(),
        loader(),
        strategy=[Phase("all", 1)],
        trainer_options={"val_check_interval": 0.25},
    )
    once = train(plain(torch.float32), loader(), loader(), strategy=[Phase("all", 1)])
    assert often.to_json() == once.to_json()
    seldom = train(
        plain(torch.float32),
        loader(),
        loader(),
        strategy=[Phase("all", 4)],
        trainer_options={"check_val_every_n_epoch": 2},
        early_stopping=ExitStopping(),
    )
    known = [not math.isnan(one.val_loss[0]) for one in seldom.history]
    assert known == [False, True, False, True]


def test_a_loader_without_a_length() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(data())

    stream = DataLoader(Stream(), batch_size=8)
    result = train(tiny(), stream, stream, epochs=2, scheduler=None)
    assert len(result.history) == 2
    for options in ({}, {"scheduler": StepLR}, {"scheduler": None, "weights": "sdn"}):
        with pytest.raises(ValueError, match=r"train_loader has no length, but .* needs it"):
            train(tiny(), stream, **options)
    limited = train(
        tiny(), stream, strategy="joint", epochs=1, trainer_options={"limit_train_batches": 2}
    )
    assert len(limited.history) == 1


def test_a_list_of_batches_is_one_loader() -> None:
    batches = list(loader())
    listed = train(tiny(), batches, tuple(batches), epochs=2)
    assert listed.to_json() == train(tiny(), loader(), loader(), epochs=2).to_json()


def test_a_checkpoint_callback_is_let_in(tmp_path: Path) -> None:
    callback = pl.callbacks.ModelCheckpoint(tmp_path, monitor="val_loss/output")
    train(tiny(), loader(), loader(), epochs=2, callbacks=[callback])
    assert Path(callback.best_model_path).is_file()


SHARED_OUT = """
import hashlib
import sys
import torch
from exits_training_cases import loader, tiny
from laplex.early_exit import ExitStopping, Phase, train

if __name__ == "__main__":
    model = tiny()
    result = train(
        model,
        loader(4, shuffle=True),
        loader(),
        strategy=[Phase("backbone", 2), Phase("heads", 1)],
        early_stopping=ExitStopping(1),
        checkpoint_dir=sys.argv[2],
        resume=True,
        trainer_options={"strategy": sys.argv[1], "devices": 2, "accelerator": "cpu"},
    )
    weights = b"".join(one.numpy().tobytes() for one in model.state_dict().values())
    print("result", len(result.history), hashlib.sha256(weights).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_several_processes_come_to_the_same_however_they_start(tmp_path: Path) -> None:
    script = tmp_path / "shared_out.py"
    script.write_text(textwrap.dedent(SHARED_OUT))
    said = set()
    for strategy in ("ddp", "ddp_spawn", "ddp_notebook"):
        for _ in range(2):  # the second run finds that of the first, and has nothing to do
            done = subprocess.run(
                [sys.executable, script, strategy, tmp_path / strategy],
                capture_output=True,
                text=True,
                check=False,
                timeout=600,
                env=_environment(),
            )
            assert done.returncode == 0, done.stderr
            said |= {line for line in done.stdout.splitlines() if line.startswith("result")}
    assert len(said) == 1
    assert said.pop().startswith("result 3 ")


def _environment() -> dict[str, str]:
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
