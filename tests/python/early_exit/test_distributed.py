"""Early exits on several processes: evaluation of gathered samples, and training by plain DDP."""

from __future__ import annotations

import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from laplex._support.complete_files import replacing
from laplex._support.processes import processes
from laplex._support.progress import progress_bar
from laplex.early_exit import Distillation, MultiExitModel, Objective, collect, evaluate
from laplex.early_exit.training.freezing import training_only
from rank_cases import run_ranks

SAMPLES = 23  # a prime: no number of ranks divides it


class RowByRow(nn.Module):
    """A linear layer whose results have the same bits in every batch."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outs, ins))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([row @ self.weight.T for row in x.split(1)])


def network() -> MultiExitModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = nn.Sequential(RowByRow(4, 8), nn.Tanh(), RowByRow(8, 8), RowByRow(8, 3))
        return MultiExitModel(backbone, {"1": RowByRow(8, 3), "2": RowByRow(8, 3)})


def samples(seed: int, count: int = SAMPLES) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator)
    return TensorDataset(x, torch.randint(3, (count,), generator=generator))


def loader(seed: int, how: str) -> Any:
    """The part of a rank, or everything without a process group."""
    data = samples(seed)
    if not dist.is_initialized():
        return DataLoader(data, batch_size=5)
    rank, size = dist.get_rank(), dist.get_world_size()
    if how == "parts":  # the last rank has nothing, unless it is the only one
        parts = np.array_split(np.arange(SAMPLES), max(1, size - 1))
        return DataLoader(torch.utils.data.Subset(data, parts[rank] if rank < len(parts) else []))
    sampler = DistributedSampler(data, shuffle=how == "shuffled", seed=7)
    return DataLoader(data, batch_size=4, sampler=sampler)


def evaluation(how: str, calibration: str) -> tuple[Any, ...]:
    group = dist.group.WORLD if dist.is_initialized() else None
    found = evaluate(
        network(),
        loader(1, how),
        validation=loader(2, how),
        calibration=calibration,  # type: ignore[arg-type]
        group=group,
    )
    policy = found.policy_at(0.7)
    return found.to_json(), found.validation_scores, repr(policy), found.cuts_at(0.5)


def _evaluations(rank: int, size: int) -> tuple[list[Any], int]:
    cases = [("dealt", "temperature"), ("shuffled", "correct"), ("parts", "eefp")]
    own = len(collect(network(), loader(1, "dealt")))  # without a group
    return [evaluation(*case) for case in cases], own


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("size", [2, 3])
def test_all_ranks_have_the_evaluation_of_one_process(size: int) -> None:
    ranks, own = zip(*(one[0] for one in everything(size)), strict=True)
    assert own == (-(-SAMPLES // size),) * size  # some twice, as the sampler deals them
    for k, calibration in enumerate(("temperature", "correct", "eefp")):
        alone = evaluation("all", calibration)
        for found in (one[k] for one in ranks):
            assert found[0] == alone[0]  # every metric, curve and threshold, in all digits
            assert found[2] == alone[2]
            np.testing.assert_array_equal(found[1], alone[1])
            np.testing.assert_array_equal(found[3], alone[3])


FAULTS = {
    "labels": "rank 1: labels go from 7 to 9, but the model has classes 0 to 2",
    "nan": "rank 1: exit '1' gave logits that are not finite",
    "argument": "rank 1: budgets must be positive",
    "classes": "same exits and classes on all ranks, got rank 0: 3 and 3, rank 1: 3 and 5",
    "none": "loader yielded no samples",
    "wrapped": "got DistributedDataParallel: pass model.module",
    "sampler": "loader has a DistributedSampler on some ranks only",
}


def _fault(rank: int, what: str) -> None:
    x, labels = samples(1).tensors
    model: Any = network()
    group: Any = dist.group.WORLD
    if what == "labels" and rank == 1:
        labels = labels + 7
    if what == "nan" and rank == 1:
        x = x / 0
    if what == "classes" and rank == 1:
        model.backbone[3], model.heads[0] = RowByRow(8, 5), RowByRow(8, 5)
        model.heads[1] = RowByRow(8, 5)
    if what == "none":
        x, labels = x[:0], labels[:0]
    if what == "wrapped":
        model = DistributedDataParallel(model)
    batches = loader(1, "dealt") if what == "sampler" and rank == 1 else [(x, labels)]
    budgets = (0.5, -1.0) if what == "argument" and rank == 1 else (0.5,)
    evaluate(model, batches, budgets=budgets, group=group)


def _faults(rank: int, size: int) -> list[str]:
    found = []
    for what in FAULTS:
        try:
            _fault(rank, what)
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def test_an_error_of_one_rank_is_that_of_all() -> None:
    zero, one = (one[2] for one in everything(2))
    assert zero == one
    assert len(zero) == len(FAULTS)
    for found, expected in zip(zero, FAULTS.values(), strict=True):
        assert expected in found


def test_group_must_be_a_group() -> None:
    with pytest.raises(TypeError, match=r"group must be a process group, got bool: pass torch\."):
        collect(network(), [], group=True)  # type: ignore[arg-type]


class Loss(nn.Module):
    """What DistributedDataParallel needs: one module from a batch to the loss of a phase."""

    def __init__(self, model: MultiExitModel, objective: Objective, part: Any) -> None:
        super().__init__()
        self.model, self.objective, self.part = model, objective, part

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        logits = self.objective.logits(self.model, x, self.part)
        return self.objective.losses(logits, labels, self.part).total


OBJECTIVES = {
    "plain": Objective(),
    "equilibrium": Objective("linear", gradient_equilibrium=True),
    "detached": Objective(detach=True),
    "distilled": Objective(distillation=Distillation()),
}
PARTS = ("backbone", "heads", "all")


def _gradients(rank: int, size: int) -> dict[tuple[str, ...], dict[str, Any]]:
    """The gradients of every objective and phase, for the rank's part of a batch of 12."""
    x, labels = samples(1, 12).tensors
    mine = slice(rank * 12 // size, (rank + 1) * 12 // size)
    x, labels = x[mine].double(), labels[mine]
    found = {}

    def note(model: MultiExitModel, *case: str) -> None:
        each = model.named_parameters()
        found[case] = {name: one.grad.numpy() for name, one in each if one.grad is not None}

    def wrapped(module: nn.Module, **options: Any) -> nn.Module:
        return DistributedDataParallel(module, **options) if dist.is_initialized() else module

    for name, objective in OBJECTIVES.items():
        for part in PARTS:
            model = network().double()
            with training_only(model, part):  # type: ignore[arg-type]
                step = wrapped(Loss(model, objective, part))
                step(x, labels).backward()
                note(model, name, part)
            # Without frozen parts, DistributedDataParallel has to look for what is not used.
            model = network().double()
            step = wrapped(Loss(model, objective, part), find_unused_parameters=True)
            step(x, labels).backward()
            note(model, name, part, "unused")
    model = network().double()
    both = wrapped(model)  # kept until backward, in which it reduces
    OBJECTIVES["plain"].losses(both(x), labels).total.backward()
    note(model, "the model itself")
    return found


@pytest.mark.parametrize("size", [2, 3])
def test_gradients_are_those_of_the_whole_batch(size: int) -> None:
    # The parts are equally large, so the mean of their gradients is that of the batch, up to the
    # rounding of sums of 12 terms of order 1.
    alone = _gradients(0, 1)
    for found in (one[1] for one in everything(size)):
        assert found.keys() == alone.keys()
        for case, gradients in alone.items():
            for name, expected in gradients.items():
                np.testing.assert_allclose(found[case][name], expected, rtol=1e-12, atol=1e-14)
            for name in found[case].keys() - gradients.keys():
                assert not found[case][name].any()


def _files(rank: int, size: int, folder: str) -> tuple[Any, str, list[str]]:
    """One file from all ranks at the same time; a bar on rank 0."""
    path = Path(folder) / "all.json"
    with replacing(path) as part:
        dist.barrier()
        part.write_text(f"of rank {rank}")
        dist.barrier()
    dist.barrier()
    left = [one.read_text() for one in Path(folder).iterdir()]
    with progress_bar(True, extra="exits") as report:
        # A bar has a display; silence has nothing.
        return processes(), type(report.__closure__).__name__, left


def test_files_and_progress() -> None:
    for rank, (_, _, _, found) in enumerate(everything(3)):
        group, closure, left = found
        assert group == (rank, 3, "torch.distributed, backend gloo")
        assert closure == ("NoneType" if rank else "tuple")
        assert len(left) == 1
        assert re.fullmatch("of rank [012]", left[0])


def _everything(rank: int, size: int, folder: str) -> tuple[Any, ...]:
    shared = rank, size
    return _evaluations(*shared), _gradients(*shared), _faults(*shared), _files(*shared, folder)


@cache
def everything(size: int) -> list[tuple[Any, ...]]:
    """All that the tests ask of a number of ranks, at once, because starting them takes seconds."""
    with tempfile.TemporaryDirectory() as folder:
        return run_ranks(_everything, size, folder)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2, "launched by torchrun, no process group yet")),
        ({"RANK": "private"}, None),
        (
            {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "3"},
            (0, 3, "MPI, launched by Open MPI"),
        ),
    ],
)
def test_processes_of_launchers(
    variables: dict[str, str], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "PMI_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert processes() == expected
