"""The steps of a fit: first pass, starts, warm-up on a sample, checkpoints, and progress.

Start 0 sees all rows and is the model. The other starts see disjoint parts of the rows, which say
whether other rows confirm the axes of the model.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laplex._support.communicator import together
from laplex._support.complete_files import replacing
from laplex._support.progress import Report

from . import confirmation, plane_test, procrustes
from .adam import Training
from .arrangement import arranged
from .basis import Basis, DenseBasis, random_rotation
from .frame import FrameBasis, FrameSearch
from .minibatches import MiniBatches
from .parts import Part
from .ranks import of_first
from .rows import as_rows
from .settings import Settings
from .shards import Elsewhere, Shards
from .statistics import ConstantColumnWarning, DominantRowWarning, Statistics
from .sums import Sums
from .transforms import TRANSFORMS
from .transforms.base import Start, Transform
from .transforms.frame import Frame

#: Number of rows on which the alternating solver converges first, if there are more than four times
#: as many. The passes over all rows then start close to the solution.
_SAMPLE_ROWS = 2**16
#: Largest number of entries of a sample (1 GiB of float32), and its smallest number of rows.
_SAMPLE_NUMBERS, _LEAST_ROWS = 2**28, 1024
_SAMPLE_PASSES = 100
#: Number of passes over the sample that find a starting rotation for the gradient solver.
_STARTING_PASSES = 50
_STEPS_PER_CHECKPOINT = 100
_FORMAT = 2


@dataclass(frozen=True)
class Solution:
    """The result of one start of a solver."""

    basis: Basis
    centre: Tensor  # [d], float64
    losses: list[float]
    unfinished: str = ""  # what was still to gain, if the solver stopped before it converged


@dataclass(frozen=True)
class Fit:
    """The solutions, first that of all rows; what confirms its axes; and the statistics."""

    statistics: Statistics
    solutions: list[Solution]
    confirmation: confirmation.Confirmation | None


def fit(
    data: Shards | Elsewhere,
    settings: Settings,
    seed: int,
    *,
    random_state: object,
    report: Report,
    checkpoint: str | os.PathLike[str] | None,
    resume: bool,
) -> Fit:
    """Learn a change of basis from all rows, and others from disjoint parts of the rows.

    Parameters
    ----------
    seed : int
        Seed of everything random. The model does not depend on the number of starts.
    random_state : object
        Where the seed comes from; with None, the seed of a checkpoint is accepted.
    """
    rows, comm = data.rows, data.comm
    if isinstance(data, Elsewhere) and settings.solver != "procrustes":
        raise ValueError(
            f"fit_map_reduce needs solver='procrustes', got {settings.solver!r} for basis="
            f"{settings.basis!r} and {rows.dim} columns: mini-batches need fit, perhaps with group="
        )
    if resume and checkpoint is None:
        raise ValueError("resume=True needs the path of a checkpoint: pass checkpoint=PATH")
    path = None if checkpoint is None else Path(checkpoint)
    # Rank 0 alone reads and writes the file; nothing in it depends on the number of ranks.
    earlier = together(comm, lambda: None if comm.rank else _earlier(path))
    earlier = of_first(comm, earlier, rows.device) if resume else None
    if earlier is not None:
        if random_state is not None and earlier["seed"] != seed:
            raise ValueError(
                f"checkpoint {path} belongs to another fit, with another random_state: fit with "
                "the same random_state, or write to another path"
            )
        seed = earlier["seed"]
    report("first pass", 0, 1, "")
    statistics = data.statistics(sample_size(rows.dim), _generator(seed))
    report("first pass", 1, 1, f"{statistics.count} rows")
    run = _Run(data, settings, seed, statistics, report, path)
    if earlier is not None and path is not None:
        _check_same(path, earlier["fingerprint"], run.fingerprint)
        run.states = earlier["states"]
    solutions = []
    for start in range(settings.n_init):
        state = earlier["states"].get(start) if earlier is not None else None
        solutions.append(run.of_part(start, state) if start else run.solve(start, state))
    # Processors of different makes may have rounded differently.
    solutions = of_first(comm, solutions, rows.device)
    return Fit(statistics, solutions, _confirmed(run, solutions[0], solutions[1:]))


def confirm(
    data: Shards | Elsewhere, settings: Settings, seed: int, model: Solution, *, report: Report
) -> Fit:
    """Fit only the disjoint parts, and return them after a model that was fitted before."""
    report("first pass", 0, 1, "")
    statistics = data.statistics(sample_size(data.rows.dim), _generator(seed))
    run = _Run(data, settings, seed, statistics, report, None)
    others = [run.of_part(start, None) for start in range(1, settings.n_init)]
    others = of_first(data.comm, others, data.rows.device)
    return Fit(statistics, [model, *others], _confirmed(run, model, others))


def _confirmed(
    run: _Run, model: Solution, others: list[Solution]
) -> confirmation.Confirmation | None:
    """Return which axes of a model the fits to disjoint parts of the rows confirm."""
    axes = model.basis.axes
    if len(others) + 1 < confirmation.MIN_STARTS or axes > confirmation.MOST_AXES:
        return None
    statistics, report = run.statistics, run.report
    report("confirming axes", 0, 1, "")
    like = torch.empty(0, device=run.rows.device, dtype=run.rows.dtype)
    start = plane_test.Cloud(statistics.mean, statistics.scale, None, 1.0, like)
    bases = [one.basis for one in others]
    tested = plane_test.judge(
        run.over_sample,
        plane_test.shape(run.over_sample, start),
        bases,
        model.basis,
        model.centre,
        run.settings.ks[-1],
        run.seed,
    )
    found = confirmation.combined(
        model.basis.atoms, [basis.atoms for basis in bases], tested.p, tested.support, tested.counts
    )
    report("confirming axes", 1, 1, f"{int(found.confirmed.sum())} confirmed")
    return found


class _Run:
    """The state of one fit."""

    def __init__(
        self,
        data: Shards | Elsewhere,
        settings: Settings,
        seed: int,
        statistics: Statistics,
        report: Report,
        path: Path | None,
    ) -> None:
        self.data = data
        self.rows = data.rows
        self.settings = settings
        self.seed = seed
        self.report = report
        self.path = path
        self.statistics = self.whole = statistics
        self.centre = centre_of(statistics, settings)
        self.scale = scale_of(statistics, settings)
        self.states: dict[int, dict[str, Any]] = {}

    def of_part(self, start: int, state: dict[str, Any] | None) -> Solution:
        """Return the solution of a start other than the first, which sees a part of the rows."""
        part = Part(start - 1, max(2, self.settings.n_init - 1), self.seed)
        run = copy.copy(self)
        try:
            run.data = self.data.part(part)
            run.rows = run.data.rows
            with warnings.catch_warnings():
                for kind in (ConstantColumnWarning, DominantRowWarning):  # of a part alone
                    warnings.simplefilter("ignore", kind)
                run.statistics = run.data.statistics(
                    sample_size(self.rows.dim), _generator(self.seed)
                )
        except ValueError:
            # There is nothing to learn from: a start without knowledge, which confirms nothing.
            nothing = (
                FrameBasis(self._atoms(start))
                if self.settings.solver == "pursuit"
                else DenseBasis(self._rotation(start))
            )
            return Solution(nothing, self.centre, [1.0])
        if isinstance(run.data, Shards) and run.statistics.sampled == run.statistics.count:
            # All rows of the part are in memory: there is no need to look for them in each pass.
            rows = as_rows(run.statistics.sample, name=self.rows.name, empty=True)
            run.data, run.rows = Shards(rows, self.data.comm), rows
        run.centre = centre_of(run.statistics, self.settings)
        run.scale = scale_of(run.statistics, self.settings)
        return run.solve(start, state)

    def solve(self, start: int, state: dict[str, Any] | None) -> Solution:
        """Return the solution of one start, which may continue from the state of a checkpoint."""
        solvers = {
            "procrustes": self._alternate,
            "adam": self._descend,
            "pursuit": self._pursue,
        }
        found = solvers[self.settings.solver](start, state)
        basis = arranged(
            found.basis,
            found.centre.to(self.rows.device, self.rows.dtype),
            self.settings.ks[-1],
            self.scale,
            self.over_sample,
        )
        return replace(found, basis=basis)

    def over_sample(self, make: Callable[[Any], Sums]) -> Sums:
        """Return the sum of ``make(rows)`` over the sample; over all rows if there is none.

        The sample is uniform, and has all rows if there are no more than 65,536.
        """
        known = self.statistics
        return self.data.total(make, known.sample if known.sampled else None)

    def _alternate(self, start: int, state: dict[str, Any] | None) -> Solution:
        settings = self.settings
        if state is not None:
            found = procrustes.Search.restore(state)
        elif self.statistics.count > 4 * self.statistics.sampled > 0:
            near = self._on_sample(
                start, "sample", _SAMPLE_PASSES, learn_centre=settings.learn_centre
            )
            rotation, centre = near.solution()
            found = procrustes.Search(rotation.to(self.rows.dtype), centre, settings.learn_centre)
        else:
            found = procrustes.Search(self._rotation(start), self.centre, settings.learn_centre)

        def after(now: procrustes.Search) -> None:
            self._show(
                self._stage(start, "passes over the data"),
                now.passes,
                settings.max_iter,
                now.losses,
            )
            self._keep(start, now.state())

        found = procrustes.search(
            found,
            self.data.total,
            settings.ks,
            self.scale,
            max_passes=settings.max_iter,
            tolerance=settings.tol,
            after=after,
        )
        unfinished = ""
        if settings.tol and not found.converged(settings.tol):  # with tol=0, max_iter is meant
            unfinished = (
                f"max_iter={settings.max_iter} passes ended before tol={settings.tol:g} was "
                f"reached: the last {min(len(found.losses) - 1, procrustes.PATIENCE)} lowered the "
                f"loss by {found.gain:.2g} of the variance. Raise max_iter, or raise tol"
            )
        return Solution(*found.finished(), found.losses, unfinished)

    def _on_sample(
        self, start: int, what: str, passes: int, *, learn_centre: bool = False
    ) -> procrustes.Search:
        """Run the alternating solver on the sample, from a random rotation."""
        sample, stage = torch.split(self.statistics.sample, 2**13), self._stage(start, what)
        return procrustes.search(
            procrustes.Search(self._rotation(start), self.centre, learn_centre),
            lambda make: self.data.total(make, sample),
            self.settings.ks,
            self.scale,
            max_passes=passes,
            tolerance=self.settings.tol,
            after=lambda now: self._show(stage, now.passes, passes, now.losses),
        )

    def _descend(self, start: int, state: dict[str, Any] | None) -> Solution:
        settings, data = self.settings, self.data
        assert isinstance(data, Shards)
        training = new_training(
            settings,
            self._transform(start, resumed=state is not None),
            self.centre.to(self.rows.dtype),
            self.scale,
            steps=settings.max_iter,
        )
        place = {"epoch": 0, "used": 0}
        if state is not None:
            training.restore(state["training"])
            place = state["place"]
        batches = MiniBatches(data, settings.batch_size, self.seed + 7919 * (start + 1), **place)
        stage = self._stage(start, "gradient steps")
        while training.step < settings.max_iter:
            training.advance(next(batches))
            self._show(stage, training.step, settings.max_iter, training.losses)
            if training.step % _STEPS_PER_CHECKPOINT == 0 or training.step == settings.max_iter:
                now = {"epoch": batches.epoch, "used": batches.used}
                self._keep(start, {"training": training.state(), "place": now})
        training.check()
        chance = TRANSFORMS[settings.basis].starts_from == "chance"
        unfinished = training.unfinished(from_chance=chance)
        return Solution(training.basis(), training.mean(), training.losses, unfinished)

    def _pursue(self, start: int, state: dict[str, Any] | None) -> Solution:
        """Find a frame for the sample: all rows, if there are no more than 65,536."""
        settings, rows = self.settings, self.rows
        assert isinstance(self.data, Shards)
        sample = self.data.everything(self.statistics.sample)
        sample = (sample - self.centre.to(rows.dtype)).div_(self.scale)
        found = FrameSearch.restore(state) if state else FrameSearch(self._atoms(start))
        while len(found.losses) < settings.max_iter:
            if found.converged(settings.tol) or 3 * len(found.losses) >= 2 * settings.max_iter:
                found.late = True
            found.advance(sample, settings.ks)
            self._show(
                self._stage(start, "passes over the sample"),
                len(found.losses),
                settings.max_iter,
                found.losses,
            )
            self._keep(start, found.state())
            if found.late and found.converged(settings.tol):
                break
        unfinished = found.unfinished(settings.tol)
        return Solution(found.finished(), self.centre, found.losses, unfinished)

    def _transform(self, start: int, *, resumed: bool) -> Transform:
        kind = TRANSFORMS[self.settings.basis]
        rotation = sample = None
        if kind.starts_from == "rotation" and not resumed:
            rotation = self._on_sample(start, "starting rotation", _STARTING_PASSES).solution()[0]
            rotation = rotation.to(self.rows.dtype)
        elif kind.starts_from == "rows" and not resumed:
            assert isinstance(self.data, Shards)
            sample = self.data.everything(self.statistics.sample)
            sample = sample - self.centre.to(self.rows.dtype)
        rows, random = self.rows, _generator(self.seed + start)
        begun = Start(rows.dim, random, rows.device, rows.dtype, rotation, sample)
        return kind.new(self.settings, begun)

    def _rotation(self, start: int) -> Tensor:
        rotation = random_rotation(self.rows.dim, _generator(self.seed + start))
        return rotation.to(self.rows.device, self.rows.dtype)

    def _atoms(self, start: int) -> Tensor:
        random = _generator(self.seed + start)
        atoms = Frame.starting_atoms(self.rows.dim, self.settings.redundancy, random)
        return atoms.to(self.rows.device, self.rows.dtype)

    def _stage(self, start: int, what: str) -> str:
        return what if self.settings.n_init == 1 else f"{what}, start {start + 1}"

    def _show(self, stage: str, done: int, total: int, losses: list[float]) -> None:
        self.report(stage, done, total, f"FVE {1 - losses[-1]:.4f}")

    # --- checkpoints ------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Return what must agree for a checkpoint to belong to this fit."""
        statistics = self.whole
        return {
            **{name: _plain(value) for name, value in asdict(self.settings).items()},
            "number of rows": statistics.count,
            "number of columns": self.rows.dim,
            "dtype": str(self.rows.dtype),
            "variance": statistics.scale,
            "mean": statistics.mean.tolist(),
        }

    def _keep(self, start: int, state: dict[str, Any]) -> None:
        """Write a checkpoint to a temporary file, which then replaces the old one."""
        if self.path is not None:
            self.states[start] = state
            together(self.data.comm, self._write)

    def _write(self) -> None:
        if self.path is None or self.data.comm.rank:
            return
        content = {
            "format": _FORMAT,
            "seed": self.seed,
            "fingerprint": self.fingerprint,
            "states": self.states,
        }
        with replacing(self.path) as part:
            torch.save(content, part)


def sample_size(dim: int) -> int:
    """Return the number of rows of a sample of rows with ``dim`` columns."""
    return max(_LEAST_ROWS, min(_SAMPLE_ROWS, _SAMPLE_NUMBERS // dim))


def centre_of(statistics: Statistics, settings: Settings) -> Tensor:
    """Return the starting value of the centre b [d] in float64."""
    return torch.zeros_like(statistics.mean) if settings.center == "none" else statistics.mean


def scale_of(statistics: Statistics, settings: Settings) -> float:
    """Return the root of the mean squared distance of the rows from b."""
    if settings.center != "none":
        return statistics.scale
    return float((statistics.scale**2 + statistics.mean.square().sum()) ** 0.5)


def new_training(
    settings: Settings, transform: Transform, centre: Tensor, scale: float, *, steps: int | None
) -> Training:
    """Make the gradient solver at its start."""
    return Training(
        transform,
        centre,
        scale,
        settings.ks,
        learning_rate=settings.learning_rate,
        steps=steps,
        learn_centre=settings.learn_centre,
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _earlier(path: Path | None) -> dict[str, Any] | None:
    """Read a checkpoint, if there is one; refuse to write over what is none."""
    if path is not None and not path.absolute().parent.is_dir():
        raise ValueError(f"checkpoint {path} cannot be written: its folder does not exist")
    return _read(path) if path is not None and path.exists() else None


def _read(path: Path) -> dict[str, Any]:
    broken = ValueError(
        f"checkpoint {path} is not a checkpoint of CEDAR.fit, or it is damaged: delete it, or "
        "write to another path"
    )
    try:
        content: dict[str, Any] = torch.load(path, weights_only=True)
        complete = {"format", "seed", "fingerprint", "states"} <= content.keys()
    except Exception as error:  # torch.load raises as many kinds as there are ways to be broken
        raise broken from error
    if not complete or content["format"] != _FORMAT:
        raise broken
    return content


def _check_same(path: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    for name, value in ours.items():
        if name in ("mean", "variance"):  # another number of ranks rounds them differently
            scale = ours["variance"]
            agrees = np.shape(theirs.get(name, 0)) == np.shape(value) and np.allclose(
                theirs[name], value, rtol=1e-9, atol=1e-9 * scale
            )
        else:
            agrees = theirs.get(name) == value
        if not agrees:
            shown = "" if name == "mean" else f" ({theirs.get(name)} there, {value} here)"
            raise ValueError(
                f"checkpoint {path} belongs to another fit, with another {name}{shown}: fit with "
                "the same arguments and data, or write to another path"
            )
