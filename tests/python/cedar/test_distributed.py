"""`CEDAR` over processes: the same model for any partition of the rows, the same errors on all."""

from __future__ import annotations

import operator
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from cedar_cases import planted
from laplex.cedar import CEDAR, Moments, fitting, shards
from laplex.cedar.statistics import Spread, gather
from rank_cases import RankError, run_ranks
from strategies import quick

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT, DIM, CHUNK = 900, 16, 50
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "procrustes": ("array", {"n_init": 2}),
    "learned centre": ("batches", {"center": "learned"}),
    "adam": ("array", {"solver": "adam", "center": "learned"}),
    "adam on a stream": ("batches", {"solver": "adam"}),
    "invertible": ("file", {"basis": "invertible"}),
    "laplex": ("batches", {"basis": "laplex", "heads": 2}),
    "no centre": ("file", {"center": "none", "k": [2, 4]}),
}
#: What converges, forgets its roundings. Others, stopped on their way, are compared in float64.
CONVERGING = ("procrustes", "learned centre")


def data() -> np.ndarray:
    noise = np.random.default_rng(5).standard_normal((COUNT, DIM))
    return (planted(COUNT, DIM, 3, seed=0).data + 0.05 * noise + 3).astype(np.float32)


def source(kind: str, rows: np.ndarray, folder: Path, rank: int) -> Any:
    if kind == "array":
        return rows
    if kind == "batches":
        return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    if not len(rows):
        return rows  # NumPy maps no empty file
    np.save(folder / f"{rank}.npy", rows)
    return np.load(folder / f"{rank}.npy", mmap_mode="r")


def small_steps() -> None:
    """All stages of a fit with few rows: a sample, blocks of a file, checkpoints."""
    fitting._SAMPLE_ROWS, fitting._LEAST_ROWS, fitting._STEPS_PER_CHECKPOINT = 200, 1, 10
    shards._BUFFER_ROWS = 130


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in [
        (fitting, "_SAMPLE_ROWS"),
        (fitting, "_LEAST_ROWS"),
        (fitting, "_STEPS_PER_CHECKPOINT"),
        (shards, "_BUFFER_ROWS"),
    ]:
        monkeypatch.setattr(module, name, getattr(module, name))  # as it was, after the test
    small_steps()


def fits(
    mine: np.ndarray, folder: Path, rank: int, names: Iterable[str] = KINDS, **processes: Any
) -> dict[str, list[Any]]:
    found = {}
    for name in names:
        kind, parameters = KINDS[name]
        dtype = np.float32 if name in CONVERGING else np.float64
        steps = {"max_iter": 25} if parameters.keys() & {"solver", "basis"} else {"max_iter": 60}
        model = CEDAR(**{"k": 3, "random_state": 0, **steps, **parameters})
        model.fit(source(kind, mine.astype(dtype), folder, rank), **processes)
        score = model.score(mine, **processes)
        numbers = [model.scale_, score, model.n_samples_seen_, model.n_features_in_]
        found[name] = [
            model.restarts_, model.components_, model.mean_, model.data_mean_, model.loss_curve_,
            numbers,
        ]  # fmt: skip
    return found


def part(rank: int, cuts: list[int]) -> np.ndarray:
    return data()[([0, *cuts])[rank] : ([*cuts, COUNT])[rank]]


# The batches of a stream are the same for all partitions.
PARTITIONS: list[list[int]] = [[600], [350, 350], [0, 50]]


def groups() -> dict[int, dist.ProcessGroup]:
    """Groups of the first ranks, by their size."""
    return {size: dist.new_group(list(range(size))) for size in (1, 2, 3)}


def on_ranks(rank: int, size: int, folder: Path) -> list[dict[str, list[Any]]]:
    small_steps()
    known = groups()
    return [
        fits(part(rank, cuts), folder, rank, group=known[1 + len(cuts)])
        for cuts in PARTITIONS
        if rank <= len(cuts)
    ]


def test_ranks_find_what_one_process_finds(tmp_path: Path) -> None:
    alone = fits(data(), tmp_path, 0)
    first, second, third = run_ranks(on_ranks, 3, tmp_path)
    for cuts, *everyone in zip(PARTITIONS, first, second, [second[0], *third], strict=True):
        for name in KINDS:
            for ours, *others in zip(alone[name], *(one[name] for one in everyone), strict=True):
                for theirs in others:
                    np.testing.assert_allclose(
                        theirs, ours, rtol=1e-6, atol=1e-6, err_msg=f"{name}, {cuts}"
                    )
                    assert np.array_equal(theirs, others[0]), (name, cuts)


# --- the sums -------------------------------------------------------------------------------------


@quick
@given(cuts=st.lists(st.integers(0, 60), max_size=4), shift=st.sampled_from([0.0, 1e6]))
def test_sums_do_not_depend_on_the_parts(cuts: list[int], shift: float) -> None:
    rows = np.random.default_rng(0).standard_normal((60, 6)) + shift
    parts = np.split(rows, sorted(cuts))
    spread = pickle.loads(pickle.dumps(sum(map(Spread.of, parts)))).checked("rows")
    # Differences to a row of the data have a relative error of eps, and as many digits cancel as
    # the distance of that row has above the deviation: 1 here.
    np.testing.assert_allclose(spread.mean, rows.mean(0), rtol=1e-14, atol=1e-13)
    deviation = np.sqrt(((rows - rows.mean(0)) ** 2).sum(1).mean())
    assert abs(spread.scale - deviation) < 1e-9 * max(1.0, shift * 1e-6)
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    given = {"rotation": rotation, "centre": rows.mean(0), "k": [1, 3], "scale": 2.0}
    whole = Moments.of(rows, **given, means=True)
    found = sum(Moments.of(part, **given, means=True) for part in parts)
    found = pickle.loads(pickle.dumps(found))
    assert found.count == 60
    for name in ("correlation", "total", "total_code", "mean", "mean_code"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), atol=1e-9, rtol=0)
    assert found.loss == pytest.approx(whole.loss, rel=1e-12)
    torch.testing.assert_close(found.solve(rotation), whole.solve(rotation), atol=1e-9, rtol=0)


def test_solving_lowers_the_loss_and_mixed_passes_are_refused() -> None:
    rows = planted(300, 6, 2, seed=3).data
    rotation, centre, losses = torch.eye(6, dtype=torch.float64), torch.zeros(6), []
    for _ in range(5):
        moments = Moments.of(rows, rotation, centre, k=2)
        losses.append(moments.loss)
        rotation = moments.solve(rotation)
    assert losses == sorted(losses, reverse=True)
    with pytest.raises(ValueError, match="different passes cannot be added"):
        moments + Moments.of(rows, rotation, centre, k=3)
    with pytest.raises(ValueError, match=r"\[n, 5\], \[6, 6\] and \[6\]"):
        Moments.of(rows[:, :5], rotation, centre, k=2)


def test_the_sample_is_that_of_the_row_numbers() -> None:
    rows = torch.arange(5000.0).reshape(1000, 5)

    def drawn(parts: list[torch.Tensor], before: int = 0) -> torch.Tensor:
        given = shards.as_rows(parts)
        return gather(given, 100, torch.Generator().manual_seed(0), before=before).sample

    expected = drawn([rows])
    assert torch.equal(drawn(list(rows.split(7))), expected)
    # Of the last rows alone, those of the whole sample are among the smallest keys.
    last = expected[expected[:, 0] >= rows[600, 0]]
    assert set(last[:, 0].tolist()) <= set(drawn([rows[600:]], before=600)[:, 0].tolist())


# --- errors and files -----------------------------------------------------------------------------


class Failing:
    """Batches that can be read only a few times."""

    def __init__(self, rows: np.ndarray, times: int) -> None:
        self.rows, self.times = rows, times

    def __iter__(self) -> Iterator[np.ndarray]:
        self.times -= 1
        if self.times < 0:
            raise UnicodeDecodeError("ascii", b"", 0, 1, "disk is gone")
        yield self.rows


class Shrinking:
    """Batches that get shorter."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.times = rows, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        self.times += 1
        yield self.rows if self.times < 5 else self.rows[:-1]


def with_nan(rows: np.ndarray) -> np.ndarray:
    rows = rows.copy()
    rows[7, 1] = np.nan
    return rows


WRONG: dict[str, tuple[Callable[[np.ndarray], Any], dict[str, Any], str]] = {
    "nan": (with_nan, {}, "rank 1: X has NaN or infinity in row 7"),
    "width": (lambda x: x[:, :9], {}, "rank 1: X has the number of columns 9, but 16 on rank 0"),
    "dtype": (lambda x: x.astype(float), {}, "rank 1: X has the dtype torch.float64, but"),
    "kind": (lambda x: "rows.npy", {}, "rank 1: there is no file rows.npy"),
    "stream": (lambda x: Failing(x, 6), {}, "rank 1: 'ascii' codec can't decode"),
    "stream of adam": (lambda x: Failing(x, 4), {"solver": "adam"}, "rank 1: 'ascii' codec"),
    "rows": (Shrinking, {}, "rank 1: X had 300 rows in the first pass and 299 in a later one"),
    "k": (lambda x: x, {"k": 4}, "rank 1: k is 4, but 3 on rank 0"),
    "bad k": (lambda x: x, {"k": 0}, "rank 1: k must be at least 1"),
    "seed": (lambda x: x, {"random_state": 1}, "rank 1: random_state is"),
    "bad seed": (lambda x: x, {"random_state": "no"}, "rank 1: 'no' cannot be used to seed"),
}


def failures(rank: int, size: int, folder: Path) -> list[str]:
    small_steps()
    rows, said = part(rank, [300, 600]), []
    for change, parameters, _ in WRONG.values():
        here = {"solver": parameters.get("solver", "auto"), **(parameters if rank == 1 else {})}
        model = CEDAR(**{"k": 3, "random_state": 0, "max_iter": 8, **here})
        with pytest.raises((TypeError, ValueError, FileNotFoundError)) as raised:
            model.fit(change(rows) if rank == 1 else rows, group=dist.group.WORLD)
        said.append(str(raised.value))
    with pytest.raises(ValueError, match="its folder does not exist") as raised:
        CEDAR(k=3).fit(rows, group=dist.group.WORLD, checkpoint=folder / "none" / "file")
    with pytest.raises(ValueError, match="X has no rows on any rank"):
        CEDAR(k=3).fit([], group=dist.group.WORLD)
    return [*said, str(raised.value)]


def test_an_error_on_one_rank_is_raised_on_all_and_names_it(tmp_path: Path) -> None:
    everyone = run_ranks(failures, 3, tmp_path)
    assert everyone[1] == everyone[0] == everyone[2]
    for said, (_, _, expected) in zip(everyone[0], WRONG.values(), strict=False):
        assert said.startswith(expected)


class _Stopped(Exception):
    pass


def resumed(rank: int, size: int, folder: Path) -> dict[Any, Any]:
    """Models of fits that were stopped on two ranks and resumed on others."""
    small_steps()
    keep, known, found = fitting._Run._keep, groups(), {}

    def fit(solver: str, cuts: list[int], path: Path) -> tuple[np.ndarray, list[float]] | None:
        if rank > len(cuts):
            return None
        model = CEDAR(k=3, random_state=0, solver=solver, max_iter={"adam": 40}.get(solver, 5))
        group = known[1 + len(cuts)]
        model.fit(part(rank, cuts), group=group, checkpoint=path, resume=True)
        return model.components_, model.loss_curve_

    for solver in ("procrustes", "adam"):
        calls = iter(range(2))

        def stopping(self: Any, start: int, state: Any, calls: Iterator[int] = calls) -> None:
            keep(self, start, state)
            if next(calls, None) is None:
                raise _Stopped

        fitting._Run._keep = stopping
        if rank < 2:
            with pytest.raises(_Stopped):
                fit(solver, [400], folder / solver)
        fitting._Run._keep = keep
        dist.barrier()
        found[solver, "whole"] = fit(solver, [400], folder / f"{solver} whole")
        for cuts in ([400], [1, 400], []):
            if rank == 0:
                shutil.copy(folder / solver, folder / "copy")
            found[solver, len(cuts)] = fit(solver, cuts, folder / "copy")
            dist.barrier()
    return found


def test_any_number_of_ranks_resumes_a_fit(tmp_path: Path) -> None:
    found = run_ranks(resumed, 3, tmp_path)
    for solver in ("procrustes", "adam"):
        expected, losses = found[0][solver, "whole"]
        for cuts, ranks in ((1, (0, 1)), (2, (0, 1, 2)), (0, (0,))):
            for rank in ranks:
                components, curve = found[rank][solver, cuts]
                np.testing.assert_allclose(components, expected, atol=1e-6)
                np.testing.assert_allclose(curve, losses, rtol=1e-6)
                if cuts == 1:
                    assert np.array_equal(components, expected)
                    assert curve == losses


# --- elsewhere ------------------------------------------------------------------------------------


def test_dask_finds_what_one_process_finds() -> None:
    bag = pytest.importorskip("dask.bag")
    rows = data()
    fitting._SAMPLE_ROWS = 2**16  # fit_map_reduce has no sample
    blocks = bag.from_sequence(np.array_split(rows, 5), npartitions=5)

    def map_reduce(make: Callable[[Any], Any]) -> Any:
        make = pickle.loads(pickle.dumps(make))  # as for workers that are processes
        return blocks.map(make).fold(operator.add).compute(scheduler="threads")

    for parameters in ({"n_init": 2}, {"center": "learned"}):
        model = CEDAR(k=3, random_state=0, **parameters)
        expected = CEDAR(k=3, random_state=0, **parameters).fit(rows)
        model.fit_map_reduce(map_reduce)
        np.testing.assert_allclose(model.restarts_, expected.restarts_, atol=1e-6)
        np.testing.assert_allclose(model.mean_, expected.mean_, rtol=1e-6)
        assert len(model.loss_curve_) == len(expected.loss_curve_)
    with pytest.raises(ValueError, match="needs solver='procrustes', got 'adam'"):
        CEDAR(k=3, basis="invertible").fit_map_reduce(map_reduce)
    with pytest.raises(TypeError, match=r"must return the sum of make\(rows\).*got list"):
        CEDAR(k=3).fit_map_reduce(lambda make: [make(rows)])


TOTAL, LIMIT = 480, 400  # MiB: all rows, and what a process may take in addition to what it has
FILES = 8


def limited(rank: int, size: int, folder: Path) -> tuple[int, float]:
    """Fit files of which a process may hold half; the work takes about 90 MiB, and has 160."""
    small_steps()
    status = Path("/proc/self/status").read_text()
    used = int(status.split("VmData:")[1].split()[0]) * 1024
    allowed = used + LIMIT * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
    mine = [np.load(path) for path in sorted(folder.glob("*.npy"))[rank::size]]
    batches = [batch for rows in mine for batch in np.array_split(rows, 60)]
    model = CEDAR(k=8, random_state=0, max_iter=2).fit(batches, group=dist.group.WORLD)
    return model.n_samples_seen_, model.loss_curve_[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and limits as Linux does")
def test_two_processes_fit_what_one_cannot_hold(tmp_path: Path) -> None:
    dim = 64
    count = TOTAL * 2**20 // (4 * dim * FILES)
    for number in range(FILES):
        rows = np.random.default_rng(number).standard_normal((count, dim), np.float32)
        np.save(tmp_path / f"{number}.npy", rows)
    with pytest.raises(RankError) as raised:
        run_ranks(limited, 1, tmp_path)
    assert "MemoryError" in raised.value.errors[0][0]
    (seen, loss), other = run_ranks(limited, 2, tmp_path)
    assert other == (seen, loss)
    assert seen == FILES * count
    assert 0 < loss < 1


MPI = """
import sys
sys.path[:0] = {paths!r}
from test_distributed import *
from mpi4py import MPI
small_steps()
torch.set_num_threads(1)
comm, folder, names = MPI.COMM_WORLD, Path({folder!r}), ("procrustes", "adam on a stream")
found = fits(part(comm.rank, [350]), folder, comm.rank, names, comm=comm)
everyone = comm.gather(found)
if comm.rank == 0:
    alone = fits(data(), folder, 3, names)
    for name in names:
        for theirs in everyone:
            for ours, its in zip(alone[name], theirs[name], strict=True):
                np.testing.assert_allclose(its, ours, rtol=1e-6, atol=1e-6, err_msg=name)
    print("agrees")
"""


def test_mpi_finds_what_one_process_finds(tmp_path: Path) -> None:
    beside = Path(sys.executable).with_name("mpirun")
    mpirun = str(beside) if beside.exists() else shutil.which("mpirun")
    if mpirun is None:
        pytest.skip("there is no mpirun: install laplex[mpi]")
    here = Path(__file__).parent
    script = tmp_path / "script.py"
    script.write_text(MPI.format(paths=[str(here), str(here.parent)], folder=str(tmp_path)))
    idle = ["--mca", "mpi_yield_when_idle", "true"]
    done = subprocess.run(
        [
            mpirun,
            "--allow-run-as-root",
            "--oversubscribe",
            *idle,
            "-n",
            "2",
            sys.executable,
            script,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "agrees" in done.stdout
