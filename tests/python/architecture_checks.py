"""What is checked of every network of `architecture_cases`: the columns of the table."""

from __future__ import annotations

import copy
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from architecture_cases import CLASSES, PADDED, Case
from laplex.early_exit import MaxSoftmax, MultiExitModel, count_costs, time_exits, train
from laplex.early_exit.activations import map_tensors
from laplex.early_exit.deployment import ExportedModel, export

BATCHES = (1, 7, 64)
#: Logits of a sample in two batches, relative to the largest: the networks are in double, but some
#: compute norms in float32 all the same.
CLOSE = 1e-6


def attach(case: Case) -> MultiExitModel:
    """The network with two exits, in double and in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        backbone = _with_statistics(case.make().double(), double(case.inputs(32)))
        model = MultiExitModel.attach(
            backbone,
            list(case.at),
            num_classes=CLASSES,
            example=double(case.inputs(4)),
            head=case.head,
            **case.options,
        )
    widths = [head.linear.in_features for head in model.heads]
    assert widths == list(case.at.values()), f"the heads read {widths} features"
    return model


def real(model: MultiExitModel, case: Case) -> None:
    """Real exits are the offline ones at every batch size."""
    x = double(case.inputs(max(BATCHES)))
    logits = all_logits(model, x)
    rule = splitting(logits)
    expected = rule.exit_index(logits)
    assert len(expected.unique()) > 1, "all samples leave at one exit"
    for count in BATCHES:
        found = model.predict(first(x, count), rule)
        assert torch.equal(found.exit_index, expected[:count]), f"other exits at batch {count}"
        wanted = logits[expected, torch.arange(len(expected))][:count]
        assert close(found.logits, wanted, CLOSE), f"other logits at batch {count}"


def padding(model: MultiExitModel, case: Case) -> None:
    """Twenty more tokens of padding change no exit's logits."""
    short, long = (all_logits(model, double(case.inputs(16, more))) for more in (0, 20))
    assert close(long, short, CLOSE), [
        f"{float((one - two).abs().max() / two.abs().max()):.0%}"
        for one, two in zip(long, short, strict=True)
    ]


def training(model: MultiExitModel, case: Case) -> None:
    """One step of `train`, and every parameter of the heads has moved."""
    model = copy.deepcopy(model).float()
    before = copy.deepcopy(model.heads.state_dict())
    x, labels = case.inputs(8), torch.arange(8) % CLASSES
    batch = {**x, "labels": labels} if isinstance(x, Mapping) else (x, labels)
    result = train(model, [batch], strategy="joint", epochs=1, scheduler=None)
    assert all(torch.tensor(result.history[-1].train_loss).isfinite())
    for name, parameter in model.heads.named_parameters():
        # Of a single position the maximum is the mean, and their mix does not matter.
        moved = not torch.equal(parameter, before[name])
        assert moved or name.endswith("mix"), f"{name} has not moved"


def costs(model: MultiExitModel, case: Case) -> None:
    """Every segment and every head costs something."""
    found = count_costs(model, double(case.inputs(1)))
    assert (found.segments > 0).all(), found.table()
    assert (found.heads > 0).all(), found.table()


def timing(model: MultiExitModel, case: Case) -> None:
    """Times are measured."""
    found = time_exits(model, double(case.inputs(8)), MaxSoftmax(0.5), batch_sizes=(8,), repeats=1)
    assert all(run.seconds_min > 0 for run in found.runs)


def exporting(form: str) -> Callable[[MultiExitModel, Case], None]:
    """The exported segments give the same logits and exits as the model, in float32."""

    def check(model: MultiExitModel, case: Case) -> None:
        model = copy.deepcopy(model).float()
        x = case.inputs(max(BATCHES))
        logits = all_logits(model, x)
        rule = splitting(logits)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            export(model, first(x, 3), Path(folder) / "exported", format=form, policy=rule)
            files = ExportedModel.load(Path(folder) / "exported", trusted=True)
            for count in BATCHES:
                found = files.predict(map_tensors(Tensor.numpy, first(x, count)))
                assert found.exit_index.tolist() == rule.exit_index(logits)[:count].tolist()

    return check


#: Name of each column but the first, "attach", and its check.
COLUMNS: dict[str, Callable[[MultiExitModel, Case], None]] = {
    "real exits": real,
    "padding": padding,
    "train": training,
    "costs": costs,
    "time": timing,
    "torch.export": exporting("torch"),
    "ONNX": exporting("onnx"),
}
EXPORTS = ("torch.export", "ONNX")


def outcomes(case: Case, columns: tuple[str, ...] = tuple(COLUMNS)) -> dict[str, str]:
    """What comes of each column: "yes", "-" where it does not apply, or the message."""
    try:
        model = attach(case)
    except Exception as error:
        return {"attach": message(error)}
    found = {"attach": "yes"}
    for column in columns:
        if column == "padding" and case.inputs not in PADDED:
            found[column] = "-"
            continue
        try:
            COLUMNS[column](model, case)
            found[column] = "yes"
            if column == "real exits":
                found["runs again"] = "yes" if model.replays else "no"
        except Exception as error:
            found[column] = message(error)
    return found


def message(error: Exception) -> str:
    """The first line of what an exception says; a wrong result says so."""
    plain = re.sub("\x1b\\[[0-9;]*m", "", str(error)).strip()  # without torch's colours
    first_line = (plain or type(error).__name__).splitlines()[0]
    return f"WRONG: {first_line}" if isinstance(error, AssertionError) else first_line


# ------------------------------------------------------------------------------------------- parts


def _with_statistics(backbone: nn.Module, x: Any) -> nn.Module:
    """The backbone with BatchNorm statistics of a batch: with those of a new one, signals fade."""
    norms = [one for one in backbone.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        backbone.train()(x)
    return backbone.eval()


def double(x: Any) -> Any:
    return map_tensors(lambda one: one.double() if one.is_floating_point() else one, x)


def first(x: Any, count: int) -> Any:
    return map_tensors(lambda one: one[:count], x)


def all_logits(model: MultiExitModel, x: Any) -> Tensor:
    with torch.no_grad():
        return torch.stack(model.eval()(x))


def close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return bool((one - other).abs().max() <= tolerance * other.abs().max())


def splitting(logits: Tensor) -> MaxSoftmax:
    """A rule whose thresholds lie in the widest gap of the middle half of each exit's scores."""
    policy = MaxSoftmax(0.5)
    scores = policy.scores(logits)[:-1].sort(1).values
    quarter = scores.shape[1] // 4
    middle = scores[:, quarter : 3 * quarter + 1]
    wide = middle.diff(dim=1).argmax(1, keepdim=True)
    below, above = middle.gather(1, wide), middle.gather(1, wide + 1)
    assert (above - below > 10 * CLOSE).all(), "scores are too alike for a threshold between them"
    cuts = (below + above) / 2
    return policy.with_cuts(cuts[:, 0])  # type: ignore[return-value]
