"""Learning from embeddings that arrive in batches, each of which is seen once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .adam import Training
from .basis import Basis, DenseBasis, nearest_rotation, random_rotation
from .fitting import new_training
from .moments import solved, sweep
from .rows import Rows
from .settings import Settings
from .statistics import check_size, log_sums, mean_and_deviation
from .transforms import TRANSFORMS
from .transforms.base import Start

#: Number of rows, per column, that count in full before forgetting begins.
_ROWS_PER_COLUMN = 20
#: The fraction of all rows seen that is remembered after that.
_REMEMBERED = 1 / 3


@dataclass(frozen=True)
class Known:
    """A model to continue from: rows seen, their statistics, b, the basis and its loss."""

    count: int
    mean: Tensor
    deviation: float
    centre: Tensor
    basis: Basis
    loss: float
    log_norms: tuple[float, float] | None = None


class Learner:
    """State between calls of ``partial_fit``.

    Attributes
    ----------
    count : int
        Number of rows seen.
    mean : Tensor [d]
        Mean of these rows, in float64.
    deviation : float
        Root of the mean squared distance of these rows from their mean.
    scale : float
        The same from the starting value of b; losses are fractions of its square.
    losses : list of float
        Loss of each batch, before learning from it.
    """

    def __init__(
        self, rows: Rows, settings: Settings, seed: int, known: Known | None = None
    ) -> None:
        self._dim = rows.dim
        self._dtype = rows.dtype
        self._start: Basis | None = None
        self._settings = settings
        self._random = torch.Generator().manual_seed(seed)
        self.mean = torch.zeros(rows.dim, dtype=torch.float64, device=rows.device)
        self._square = 0.0
        self._logs = torch.zeros(3, dtype=torch.float64)
        self._offset = torch.zeros_like(self.mean)
        self._correlation = self.mean.new_zeros(rows.dim, rows.dim if self._alternates else 0)
        self._rotation: Tensor | None = None
        if self._alternates:
            start = random_rotation(rows.dim, self._random)
            self._rotation = start.to(rows.device, rows.dtype)
        self._training: Training | None = None
        self.count = 0
        self.deviation = 0.0
        self.scale = 0.0
        self.losses: list[float] = []
        if known is not None:
            self._take_up(known)

    def _take_up(self, known: Known) -> None:
        """Continue from a model as if it had been learned here."""
        self.count = known.count
        self.mean = known.mean.to(self.mean)
        self._square = known.deviation**2 * known.count
        if known.log_norms is not None:
            mean, deviation = known.log_norms
            moments = [1.0, mean, mean**2 + deviation**2]
            self._logs = known.count * torch.tensor(moments, dtype=torch.float64)
        self._set_scale()
        self._offset = known.centre.to(self.mean) - self._base()
        basis = known.basis.to(self.mean.device, self._dtype)
        if not self._alternates:
            self._start = basis
            return
        self._rotation = nearest_rotation(basis.readouts.double()).to(self._dtype)
        # At a solution S^T Z is a symmetric matrix times U. Its trace is the energy of the codes as
        # a fraction of the variance. How it was distributed is unknown: it is spread evenly here.
        window = min(self.count, self._window())
        energy = window * len(self._settings.ks) * (1 - known.loss) / self._dim
        self._correlation = energy * self._rotation.double()

    @property
    def _alternates(self) -> bool:
        return self._settings.solver == "procrustes"

    def learn(self, rows: Rows, settings: Settings) -> None:
        """Learn from each batch as it comes; after an error, this learner is of no use."""
        if settings != self._settings:
            raise ValueError(
                "parameters have changed between calls of partial_fit: call fit, or keep the same "
                "parameters"
            )
        held: list[Tensor] = []  # the first batches, until there are two different rows
        begun, count = self.count > 0, 0
        for batch in rows.batches():
            check_size(batch.abs().amax(), rows.name)
            count += len(batch)
            held.append(batch)
            begun = begun or any(bool((one != held[0][0]).any()) for one in held)
            while begun and held:
                self._learn(held.pop(0))
        if not count:
            raise ValueError(f"{rows.name} has 0 sample(s) while a minimum of 1 is required.")
        if held:
            raise ValueError(
                f"{rows.name} has {count} sample(s), but the first call of partial_fit needs at "
                "least 2 different rows"
            )

    def _learn(self, batch: Tensor) -> None:
        self._see(batch)
        if self._alternates:
            self._alternate(batch)
        else:
            self._descend(batch)

    def centre(self) -> Tensor:
        """Return the centre b [d] in float64."""
        if self._training is not None:
            return self._training.mean()
        centre: Tensor = self._base() + self._offset
        return centre

    def basis(self) -> Basis:
        """Return the current change of basis."""
        if self._training is not None:
            return self._training.basis()
        assert self._rotation is not None
        return DenseBasis(self._rotation.clone())

    def _base(self) -> Tensor:
        return torch.zeros_like(self.mean) if self._settings.center == "none" else self.mean

    def _see(self, batch: Tensor) -> None:
        """Update the running mean and variance (Chan, Golub and LeVeque, 1983)."""
        exact = batch.double()
        mean = exact.mean(0)
        square = float((exact - mean).square().sum())
        count, total = len(batch), self.count + len(batch)
        gap = mean - self.mean
        self.mean = self.mean + gap * (count / total)
        self._square += square + float(gap.square().sum()) * self.count * count / total
        self.count = total
        self._set_scale()
        if self.deviation:  # distances of earlier rows stay those from the mean of their time
            self._logs = self._logs + log_sums(batch, self.mean, self.deviation)

    @property
    def log_norms(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the logarithm of the distance from the mean."""
        return mean_and_deviation(self._logs)

    def _set_scale(self) -> None:
        self.deviation = math.sqrt(self._square / self.count)
        from_zero = float(self.mean.norm()) if self._settings.center == "none" else 0.0
        self.scale = math.hypot(self.deviation, from_zero) or 1.0

    def _window(self) -> float:
        """Return the number of rows that count."""
        return max(_ROWS_PER_COLUMN * self._dim, _REMEMBERED * self.count)

    def _alternate(self, batch: Tensor) -> None:
        assert self._rotation is not None
        found = sweep(
            [batch],
            self._rotation,
            self.centre(),
            self._settings.ks,
            self.scale,
            means=self._settings.learn_centre,
        )
        forgotten = math.exp(-len(batch) / self._window())
        self._correlation = forgotten * self._correlation + found.correlation
        self.losses.append(found.loss)
        solution = solved(self._correlation, self._rotation)
        if self._settings.learn_centre:
            apart = found.mean - found.mean_code @ solution.double() - self._base()
            self._offset += (apart - self._offset) * (len(batch) / self.count)
        self._rotation = solution.to(self._rotation.dtype)

    def _descend(self, batch: Tensor) -> None:
        base = self._base().to(batch.dtype)
        if self._training is None:
            kind = TRANSFORMS[self._settings.basis]
            if self._start is not None:
                transform = kind.at(self._start, self._settings)
            else:
                start = Start(self._dim, self._random, batch.device, batch.dtype)
                transform = kind.new(self._settings, start._replace(sample=batch - base))
            self._training = new_training(self._settings, transform, base, self.scale, steps=None)
            with torch.no_grad():
                self._training.shift.copy_(self._offset / self.scale)
        self._training.centre = base
        for part in torch.split(batch, self._settings.batch_size):
            self.losses.append(self._training.advance(part))
        self._training.check()
