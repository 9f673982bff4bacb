"""Fitting of a covariance model: covariance matching, then likelihood; resumable."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from laplex._support.optional import require

from . import checks, likelihood, matching
from .matching import Moments

if TYPE_CHECKING:
    from .model import LaplaceCovariance

#: Random sign vectors per step and per evaluation where exact sums would cost too much.
_STEP_PROBES = 8
_EVALUATION_PROBES = 64
#: Seed of the evaluation, which no fit is likely to have: on probes that a fit has used, the
#: estimate is too low, because its steps have lowered just that.
_SEED = 2**40 + 1
#: Learning rate of the likelihood steps, relative to that of matching.
_POLISH_RATE = 1 / 10


@dataclass
class History:
    """The record of a fit, from `LaplaceCovariance.fit`.

    Attributes
    ----------
    losses : list of float
        The squared Frobenius distance to the sample covariance before each matching step, relative
        to the squared norm of the latter. With mini-batches or random probes it is an unbiased
        estimate, which can be negative.
    log_likelihoods : list of float
        The mean log density of an image before each likelihood step.
    """

    losses: list[float] = field(default_factory=list)
    log_likelihoods: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Settings:
    """The settings that identify a run; see `LaplaceCovariance.fit`."""

    steps: int
    batch_size: int | None
    probes: int | None
    learning_rate: float
    likelihood_steps: int
    seed: int


def fit(
    model: LaplaceCovariance,
    images: Tensor,
    settings: Settings,
    *,
    progress: bool,
    checkpoint: str | os.PathLike[str] | None,
    checkpoint_every: int,
    resume: bool,
) -> History:
    """See `LaplaceCovariance.fit`."""
    images = checks.sample("images", images, model.dim)
    if resume and checkpoint is None:
        raise ValueError("resume=True needs the path of a checkpoint")
    path = None if checkpoint is None else Path(checkpoint)
    fingerprint = {} if path is None else _fingerprint(model, settings, images)
    state = None
    if path is not None:
        if not os.access(path.parent, os.W_OK):
            raise ValueError(
                f"checkpoint {path} cannot be written: its folder does not exist or is not writable"
            )
        if resume and path.exists():
            state = _read(path, fingerprint, model)

    # From here on the model changes.
    rows = standardised(model, images)
    moments = moments_of(rows)
    run = _Run(model, settings, fingerprint)
    if state is not None:
        run.resume(state)

    with torch.enable_grad(), _progress_bar(progress) as report:
        for stage in (run.matching(rows, moments), run.polish(images)):
            for number in range(len(stage.record), stage.steps):
                factor = 0.5 * (1 + math.cos(math.pi * number / stage.steps))
                run.optimiser.param_groups[0]["lr"] = stage.rate * factor
                stage.record.append(stage.take_step())
                if number + 1 == stage.steps:
                    stage.finish()
                report(stage.name, number + 1, stage.steps, stage.record[-1])
                if path is not None and (number + 1) % checkpoint_every == 0:
                    run.save(path)
    if path is not None:
        run.save(path)
    return run.history


def standardised(model: LaplaceCovariance, images: Tensor) -> Tensor:
    """Give the model the pixels' means and deviations in images [n, dim]; standardise these."""
    floats = images.detach().to(model.mean)
    deviation, mean = torch.std_mean(floats, dim=0, correction=0)
    if not bool(deviation.isfinite().all()):
        raise ValueError(f"images overflow the model's {floats.dtype}: scale them, or use float64")
    model.set_pixels(mean, deviation)
    return model.standardise(floats)


@dataclass(frozen=True)
class _Stage:
    """A sequence of steps, the record of their losses, and a function to call after the last."""

    name: str
    steps: int
    rate: float
    record: list[float]
    take_step: Callable[[], float]
    finish: Callable[[], object]


class _Run:
    """The state of a running fit: model, optimiser, generator and history."""

    def __init__(
        self, model: LaplaceCovariance, settings: Settings, fingerprint: dict[str, Any]
    ) -> None:
        self.model = model
        self.settings = settings
        self.fingerprint = fingerprint
        self.history = History()
        self.generator = torch.Generator().manual_seed(settings.seed)
        # Momentum over a hundred steps: with the usual 0.999 large first gradients slow the rest.
        self.optimiser = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99))

    def matching(self, rows: Tensor, moments: Moments) -> _Stage:
        """Return the stage of covariance matching, which ends by fitting the noise."""
        batch, dim = self.settings.batch_size, self.model.dim
        batch = None if batch is None or batch >= len(rows) else batch
        weight = 1 / (batch or len(rows))
        probes = _probe_count(self.model, self.settings.probes, _STEP_PROBES)
        orthogonal = bool(probes)
        if batch is None and (orthogonal or len(rows) > dim):
            rows, weight = matching.square_root(rows, weight), 1.0
        unit_vectors = matching.probe_vectors(dim, None, None).to(rows) if probes is None else None

        def take_step() -> float:
            drawn, each = rows, weight
            if batch is not None:
                drawn = rows[torch.randperm(len(rows), generator=self.generator)[:batch]]
                if orthogonal:
                    drawn, each = matching.square_root(drawn, weight), 1.0
            vectors = unit_vectors
            if vectors is None:
                vectors = matching.probe_vectors(dim, probes, self.generator).to(rows)
            distance = matching.squared_distance(
                self.model.parts(), moments, drawn, each, vectors, orthogonal
            )
            return self._step(distance / moments.squared_norm)

        def finish() -> None:
            with torch.no_grad():
                noise = matching.best_noise(self.model.parts(), moments.variance)
                self.model.log_noise.copy_(noise.log())
            self.optimiser.state.clear()  # the other loss has gradients of another size

        rate, record = self.settings.learning_rate, self.history.losses
        return _Stage("matching", self.settings.steps, rate, record, take_step, finish)

    def polish(self, images: Tensor) -> _Stage:
        """Return the stage that raises the mean log density of an image."""
        batch = self.settings.batch_size

        def take_step() -> float:
            drawn = images
            if batch is not None and batch < len(images):
                drawn = images[torch.randperm(len(images), generator=self.generator)[:batch]]
            with torch.random.fork_rng(devices=[]):  # stochastic Lanczos draws from torch's own
                torch.manual_seed(int(torch.randint(2**31, (), generator=self.generator)))
                if not record:
                    likelihood.raise_noise(self.model, drawn)
                density = self.model.log_prob(drawn).mean() / self.model.dim
                return -self.model.dim * self._step(-density)

        rate, record = self.settings.learning_rate * _POLISH_RATE, self.history.log_likelihoods
        steps = self.settings.likelihood_steps
        return _Stage("likelihood", steps, rate, record, take_step, lambda: None)

    def _step(self, loss: Tensor) -> float:
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ValueError(f"the fit diverged, its loss is {value}: lower learning_rate")
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        if not bool(self.model.anchors.detach().isfinite().all()):
            raise ValueError("the fit diverged, anchors are infinite: lower learning_rate")
        return value

    def save(self, path: Path) -> None:
        """Write a checkpoint to a new file beside the old one, then replace the old one."""
        state = {
            "fingerprint": self.fingerprint,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
            "history": asdict(self.history),
        }
        part = path.with_name(path.name + ".part")
        torch.save(state, part)
        os.replace(part, path)

    def resume(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.history.losses[:] = state["history"]["losses"]
        self.history.log_likelihoods[:] = state["history"]["log_likelihoods"]


def _read(path: Path, fingerprint: dict[str, Any], model: LaplaceCovariance) -> dict[str, Any]:
    """Read the state from a checkpoint of this run, without changing the model."""
    broken = ValueError(
        f"checkpoint {path} was not written by fit, or is damaged: delete it, or write to another "
        "path"
    )
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        theirs = dict(state["fingerprint"])
        shapes = {name: value.shape for name, value in state["model"].items()}
        complete = {"optimiser", "generator", "history"} <= state.keys()
    except Exception as error:  # torch.load raises as many kinds as there are ways to be broken
        raise broken from error
    for name, value in fingerprint.items():
        if theirs.get(name) != value:
            raise ValueError(
                f"checkpoint {path} belongs to another run: its {name} is {theirs.get(name)}, but "
                f"this run's is {value}; fit with the same arguments, or write to another path"
            )
    if not complete or shapes != {k: v.shape for k, v in model.state_dict().items()}:
        raise broken
    return state


def moments_of(rows: Tensor) -> Moments:
    """Return the moments of standardised images [n, dim]."""
    return Moments(
        variance=rows.square().mean(0),
        squared_norm=matching.gram_squared_norm(rows) / len(rows) ** 2,
    )


@torch.no_grad()
def relative_error(model: LaplaceCovariance, images: Tensor, probes: int | None) -> float:
    """See `LaplaceCovariance.relative_error`."""
    images = checks.flat_images("images", images, model.dim)
    if len(images) == 0 or model.dim < 2:
        raise ValueError(
            "there is no covariance to compare with: pass at least one image of at least two pixels"
        )
    checks.finite("images", images)
    if probes is not None:
        probes = checks.count("probes", probes)
    rows, weight = model.standardise(images), 1 / len(images)
    moments = moments_of(rows)
    count = _probe_count(model, probes, _EVALUATION_PROBES)
    orthogonal = bool(count)
    if orthogonal or len(rows) > model.dim:
        rows, weight = matching.square_root(rows, weight), 1.0
    vectors = matching.probe_vectors(model.dim, count, torch.Generator().manual_seed(_SEED)).to(
        rows
    )
    heads = model.parts()
    distance = matching.off_diagonal_distance(heads, moments, rows, weight, vectors, orthogonal)
    return float(distance) / moments.off_diagonal


def _probe_count(model: LaplaceCovariance, probes: int | None, default: int) -> int | None:
    """Return the number of random vectors for the cross terms; None stands for unit vectors."""
    if model.heads == 1:
        return 0  # there are no cross terms
    return default if probes is None and model.dim > matching.EXACT_UP_TO else probes


def _fingerprint(model: LaplaceCovariance, settings: Settings, images: Tensor) -> dict[str, Any]:
    """The values that identify this run, in types that a checkpoint may hold."""
    return {
        **{name: getattr(model, name) for name in ("dim", "heads", "phased")},
        **asdict(settings),
        "dtype": str(model.mean.dtype),
        "number of images": len(images),
        "hash of the images": _hash(images),
    }


def _hash(images: Tensor) -> str:
    """Hash images [count, dim] one at a time, which avoids a copy of all of them."""
    digest = hashlib.blake2b(str(images.dtype).encode(), digest_size=16)
    for image in images.detach():
        digest.update(image.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def _progress_bar(show: bool) -> Iterator[Callable[[str, int, int, float], None]]:
    """Yield a function that shows (stage, steps taken, steps, loss or log density)."""
    if not show:
        yield lambda name, taken, steps, value: None
        return
    bars = require("rich.progress", extra="demo", feature="progress=True")
    columns = (*bars.Progress.get_default_columns(), bars.TextColumn("{task.fields[value]}"))
    with bars.Progress(*columns) as display:
        tasks: dict[str, Any] = {}

        def report(name: str, taken: int, steps: int, value: float) -> None:
            if name not in tasks:
                tasks[name] = display.add_task(name, total=steps, value="")
            label = "loss" if name == "matching" else "log density"
            display.update(tasks[name], completed=taken, value=f"{label} {value:.5g}")

        yield report
