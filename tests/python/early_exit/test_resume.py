"""A training run that was interrupted goes on to the bits of one that was not."""

from __future__ import annotations

import contextlib
import csv
import itertools
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset, Sampler, WeightedRandomSampler

from exits_training_cases import CLASSES, SAMPLES, data, differing, loader, snapshot, tiny
from laplex.early_exit import Distillation, ExitStopping, MultiExitModel, Phase, train

PHASES = [Phase("backbone", 2), Phase("all", 2), Phase("heads", 2, learning_rate=0.01)]


class Noisy(Dataset[Any]):
    """Samples that every global generator has a hand in."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = data()[index]
        noise = random.gauss(0, 0.1) + np.random.normal(0, 0.1)  # noqa: NPY002
        return x + noise + 0.1 * torch.randn(x.shape), y


class GlobalShuffle(Sampler[int]):
    """An order drawn from torch's global generator; it has none of its own."""

    def __iter__(self) -> Iterator[int]:
        yield from torch.randperm(SAMPLES).tolist()

    def __len__(self) -> int:
        return SAMPLES


class NumpyShuffle(Sampler[int]):
    """Its `generator` is none of torch's, and may not be taken for one."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def __iter__(self) -> Iterator[int]:
        self.generator = np.random.default_rng(0)
        yield from self.generator.permutation(SAMPLES).tolist()

    def __len__(self) -> int:
        return SAMPLES


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def one_cycle(optimizer: Optimizer, steps: int) -> OneCycleLR:
    return OneCycleLR(optimizer, max_lr=0.2, total_steps=steps)


def momentum(parameters: Any) -> SGD:
    return SGD(parameters, lr=0.1, momentum=0.9, nesterov=True)


#: From nothing to the loaders and arguments of a run; anew for each, as in a new process.
RUNS: dict[str, Callable[[], dict[str, Any]]] = {
    "shuffled, without validation": lambda: {"train_loader": loader(shuffle=True)},
    "generator of its own, early stopping": lambda: {
        "train_loader": loader(shuffle=True, generator=generator()),
        "val_loader": loader(shuffle=True, generator=generator()),
        "strategy": [Phase("backbone", 4), Phase("heads", 4), Phase("all", 4)],
        # No progress is that large: each phase ends after its second epoch.
        "early_stopping": ExitStopping(patience=1, min_delta=1e6),
    },
    "weighted sampler, momentum, one cycle": lambda: {
        "train_loader": loader(
            sampler=WeightedRandomSampler(torch.arange(1.0, SAMPLES + 1).tolist(), SAMPLES)
        ),
        "val_loader": loader(shuffle=True),
        "optimizer": momentum,
        "scheduler": one_cycle,
        "weights": "sdn",
    },
    "noise from everywhere": lambda: {
        "train_loader": DataLoader(Noisy(), batch_size=8, sampler=GlobalShuffle()),
        "val_loader": DataLoader(Noisy(), batch_size=8),
        "distillation": Distillation(),
        "gradient_equilibrium": True,
    },
    "bfloat16, a list, clipping": lambda: {
        "train_loader": list(loader()),
        "precision": "bf16-mixed",
        "trainer_options": {"gradient_clip_val": 0.1, "accumulate_grad_batches": 2},
        "detach": True,
    },
    "a sampler with another generator": lambda: {
        "train_loader": loader(sampler=NumpyShuffle()),
        "val_loader": loader(),
        "scheduler": None,
    },
}

#: Processes, which take their time, and their seeds, which are drawn when an iterator is made.
WORKERS: dict[str, Callable[[], dict[str, Any]]] = {
    "workers": lambda: {
        "train_loader": DataLoader(Noisy(), batch_size=8, shuffle=True, num_workers=1),
        "val_loader": DataLoader(Noisy(), batch_size=8, shuffle=True, num_workers=1),
        "strategy": [Phase("all", 3)],
    }
}


class Interruption(pl.Callback):
    """Counts moments at which a run may break off, and breaks it off at one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.moments = at, 0

    def _moment(self, *_: Any) -> None:
        self.moments += 1
        if self.moments - 1 == self.at:
            raise (RuntimeError, KeyboardInterrupt)[self.at % 2]("broken off")

    on_train_start = _moment
    on_train_epoch_start = _moment
    on_train_batch_start = _moment
    on_train_batch_end = _moment
    on_validation_end = _moment
    on_train_epoch_end = _moment  # before the checkpoint of the epoch is written
    on_train_end = _moment  # and after that of the last one
    on_fit_end = _moment


def run(name: str, model: MultiExitModel, **options: Any) -> str:
    arguments = {"strategy": PHASES, **(RUNS | WORKERS)[name](), **options}
    return train(model, arguments.pop("train_loader"), **arguments).to_json()


def scrambled() -> MultiExitModel:
    model = tiny()
    with torch.no_grad():
        for one in model.parameters():
            one.fill_(0.5)
    return model


def go_on(name: str, folder: Path, **options: Any) -> tuple[str, dict[str, Tensor]]:
    """As in a new process: all but the checkpoint is lost, and chance stands elsewhere."""
    model = scrambled() if (folder / "last.ckpt").exists() else tiny()
    torch.manual_seed(99)
    result = run(name, model, checkpoint_dir=folder, resume=True, **options)
    return result, snapshot(model)


def reference(name: str) -> tuple[str, dict[str, Tensor], int]:
    model, counted = tiny(), Interruption()
    result = run(name, model, callbacks=[counted])
    return result, snapshot(model), counted.moments


def check(name: str, moments: Callable[[int], range], folder: Path) -> None:
    result, weights, count = reference(name)
    chosen = moments(count)
    assert len(chosen)
    for at in chosen:
        here = folder / str(at)
        with pytest.raises((RuntimeError, KeyboardInterrupt), match=r"broken off|^$"):
            run(name, tiny(), checkpoint_dir=here, callbacks=[Interruption(at)])
        found, after = go_on(name, here)
        assert found == result, f"broken off at moment {at}"
        assert not differing(after, weights), f"broken off at moment {at}"
        assert [one.name for one in here.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_goes_on_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    # Moments in all phases, epochs and places of a batch; other ones for each run.
    start = 3 + list(RUNS).index(name)
    check(name, lambda count: range(start, count, max(7, count // 4)), tmp_path)


def test_a_run_with_workers_goes_on(tmp_path: Path) -> None:
    check("workers", lambda count: range(2 * count // 3 - 2, count, count), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS | WORKERS)
def test_a_run_goes_on_from_every_moment(name: str, tmp_path: Path) -> None:
    check(name, range, tmp_path)


def test_a_run_may_break_off_again_and_again(tmp_path: Path) -> None:
    name = "generator of its own, early stopping"
    result, weights, _ = reference(name)
    times, done = 0, False
    while not done:
        try:
            # Enough moments for an epoch and a bit of the next one.
            found, after = go_on(name, tmp_path, callbacks=[Interruption(15)])
            done = True
        except (RuntimeError, KeyboardInterrupt):
            times += 1
    assert times >= 3
    assert found == result
    assert not differing(after, weights)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    name = "generator of its own, early stopping"
    result, weights, _ = reference(name)
    run(name, tiny(), checkpoint_dir=tmp_path)
    counted = Interruption()
    found, after = go_on(name, tmp_path, callbacks=[counted])
    assert counted.moments == 0
    assert found == result
    assert not differing(after, weights)


def test_without_resume_a_run_begins_anew(tmp_path: Path) -> None:
    name = "shuffled, without validation"
    result, _, moments = reference(name)
    run(name, tiny(), checkpoint_dir=tmp_path)
    counted = Interruption()
    assert run(name, tiny(), checkpoint_dir=tmp_path, callbacks=[counted]) == result
    assert counted.moments == moments


@pytest.mark.parametrize("moment", [22, 40])  # between two phases, within the second one
def test_steps_of_loggers_go_on(moment: int, tmp_path: Path) -> None:
    def logged(folder: Path, version: str, at: int | None) -> list[dict[str, str]]:
        logger = pl.loggers.CSVLogger(folder, name="", version=version)
        options: dict[str, Any] = {"logger": logger, "callbacks": [Interruption(at)]}
        with contextlib.suppress(RuntimeError, KeyboardInterrupt):
            go_on("shuffled, without validation", folder, **options)
        with (Path(logger.log_dir) / "metrics.csv").open() as file:
            return [
                {key: value for key, value in row.items() if value} for row in csv.DictReader(file)
            ]

    whole = logged(tmp_path / "whole", "whole", None)
    assert [row["step"] for row in whole] == [str(4 * epoch - 1) for epoch in range(1, 7)]
    broken = logged(tmp_path / "broken", "first", moment)
    assert 0 < len(broken) < 6
    assert broken + logged(tmp_path / "broken", "second", None) == whole


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_is_an_interrupt_as_everywhere() -> None:
    class Press(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    for _ in range(2):  # the second press is heard, too
        with pytest.raises(KeyboardInterrupt):
            train(tiny(), loader(), callbacks=[Press()])
        assert signal.getsignal(signal.SIGINT) is handler

    class Leave(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise SystemExit(3)

    with pytest.raises(SystemExit, match="3"):
        train(tiny(), loader(), callbacks=[Leave()])


# --- checkpoints -----------------------------------------------------------------------------


def test_an_older_checkpoint_survives_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "generator of its own, early stopping"
    result, weights, _ = reference(name)
    save, calls = pl.Trainer.save_checkpoint, itertools.count()

    def failing(self: pl.Trainer, path: Path, *args: Any, **kwargs: Any) -> None:
        save(self, path, *args, **kwargs)
        if next(calls) == 3:
            Path(path).write_bytes(Path(path).read_bytes()[:100])
            raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pl.Trainer, "save_checkpoint", failing)
        with pytest.raises(OSError, match="no space left"):
            run(name, tiny(), checkpoint_dir=tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["last.ckpt"]
    found, after = go_on(name, tmp_path)
    assert found == result
    assert not differing(after, weights)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(KeyboardInterrupt):
        train(
            tiny(), loader(), strategy=PHASES, checkpoint_dir=folder, callbacks=[Interruption(31)]
        )
    return folder


def other_exits() -> MultiExitModel:
    model = tiny()
    return MultiExitModel(model.backbone, {"0": model.heads[0]})


def other_width() -> MultiExitModel:
    model = tiny()
    model.backbone[2] = torch.nn.Linear(8, CLASSES + 1)
    return model


@pytest.mark.parametrize(
    ("model", "changed", "said"),
    [
        (tiny, {"seed": 7}, "its seed is 0, not 7"),
        (tiny, {"strategy": "mixed"}, r"its phases is \[\['backbone', 2, None, None\]"),
        (tiny, {"learning_rate": 1.0}, "its learning_rate is 0.001, not 1.0"),
        (tiny, {"weight_decay": 0.0}, "its weight_decay is 0.01, not 0.0"),
        (tiny, {"weights": "linear"}, "its objective is .*'equal'.*, not .*'linear'"),
        (tiny, {"scheduler": None}, "its scheduler is 'cosine', not None"),
        (tiny, {"optimizer": momentum}, "its optimizer is 'AdamW', not 'a function'"),
        (tiny, {"precision": "bf16-mixed"}, "its precision is '32-true', not 'bf16-mixed'"),
        (
            tiny,
            {"early_stopping": ExitStopping(3), "val_loader": loader()},
            r"its early_stopping is 'None', not 'ExitStopping\(patience=3",
        ),
        (tiny, {"train_loader": loader(7)}, None),  # as many batches: not seen
        (tiny, {"train_loader": loader(14)}, "its batches is 4, not 2"),
        (tiny, {"trainer_options": {"gradient_clip_val": 0.1}}, r"its steps is \{\}, not"),
        (other_exits, {}, r"its exits is \['0', '1'\], not \['0'\]"),
        (other_width, {}, "its model is '[0-9a-f]{16}', not '[0-9a-f]{16}'"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    interrupted: Path, model: Any, changed: dict[str, Any], said: str | None
) -> None:
    before = (interrupted / "last.ckpt").read_bytes()
    arguments = {"train_loader": loader(), "strategy": PHASES, **changed}
    options = {"checkpoint_dir": interrupted, "resume": True}
    if said is None:
        train(model(), arguments.pop("train_loader"), **arguments, **options)
        (interrupted / "last.ckpt").write_bytes(before)
        return
    message = rf"last.ckpt is a checkpoint of another run: {said}.*: pass the value that the run"
    with pytest.raises(ValueError, match=message):
        train(model(), arguments.pop("train_loader"), **arguments, **options)
    assert (interrupted / "last.ckpt").read_bytes() == before


@pytest.mark.parametrize("broken", ["cut", "empty", "text", "other"])
def test_a_broken_checkpoint_is_refused(interrupted: Path, tmp_path: Path, broken: str) -> None:
    path = tmp_path / "last.ckpt"
    if broken == "other":
        torch.save({"state_dict": {"weight": torch.zeros(3)}}, path)
    else:
        content = (interrupted / "last.ckpt").read_bytes()
        path.write_bytes({"cut": content[:999], "empty": b"", "text": b"hello"}[broken])
    with pytest.raises(ValueError, match=r"last.ckpt is not a checkpoint of train, or is broken"):
        train(tiny(), loader(), strategy=PHASES, checkpoint_dir=tmp_path, resume=True)


def test_resume_without_a_folder_or_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="resume=True needs the folder of a checkpoint"):
        train(tiny(), loader(), resume=True)
    new, model, same = tmp_path / "a" / "b", tiny(), tiny()
    train(model, loader(), epochs=2, checkpoint_dir=new, resume=True)
    train(same, loader(), epochs=2)
    assert (new / "last.ckpt").is_file()
    assert not differing(snapshot(model), snapshot(same))
