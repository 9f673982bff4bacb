"""Learning from embeddings that arrive in batches, each seen once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .adam import Training
from .basis import Basis, DenseBasis, nearest_rotation, random_rotation
from .fitting import new_training, new_transform
from .procrustes import sweep
from .rows import Rows
from .settings import Settings

#: Rows that count in full before forgetting begins, for each column.
_ROWS_PER_COLUMN = 20
#: The part of all rows seen that is remembered then.
_REMEMBERED = 1 / 3


class Learner:
    """State between calls of `partial_fit`.

    Attributes
    ----------
    count : int
        Rows seen.
    mean : Tensor [d]
        Of these rows, float64.
    deviation : float
        Root of their mean square norm less that.
    scale : float
        The same less where b starts, which losses are in parts of.
    losses : list of float
        Of each batch, before learning from it.
    """

    def __init__(self, rows: Rows, settings: Settings, seed: int) -> None:
        self._dim = rows.dim
        self._settings = settings
        self._random = torch.Generator().manual_seed(seed)
        self.mean = torch.zeros(rows.dim, dtype=torch.float64, device=rows.device)
        self._square = 0.0
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

    @property
    def _alternates(self) -> bool:
        return self._settings.solver == "procrustes"

    def learn(self, rows: Rows, settings: Settings) -> None:
        """Learn from each batch of rows, after all of them were found to do."""
        if settings != self._settings:
            raise ValueError(
                "parameters have changed between calls of partial_fit: call fit, or go on with "
                "the same ones"
            )
        batches = list(rows.batches())
        if self.count == 0:
            together = torch.cat(batches)
            if len(together) < 2 or not bool((together != together[0]).any()):
                raise ValueError(
                    f"{rows.name} has {len(together)} sample(s), but the first call of partial_fit "
                    "needs at least 2 different rows"
                )
        for batch in batches:
            self._see(batch)
            if self._alternates:
                self._alternate(batch)
            else:
                self._descend(batch)

    def centre(self) -> Tensor:
        """The centre b [d], float64."""
        if self._training is not None:
            return self._training.mean()
        centre: Tensor = self._base() + self._offset
        return centre

    def basis(self) -> Basis:
        """The change of basis as it is now."""
        if self._training is not None:
            return self._training.basis()
        assert self._rotation is not None
        return DenseBasis(self._rotation.clone())

    def _base(self) -> Tensor:
        return torch.zeros_like(self.mean) if self._settings.center == "none" else self.mean

    def _see(self, batch: Tensor) -> None:
        """Running mean and variance (Chan, Golub and LeVeque, 1983)."""
        exact = batch.double()
        mean = exact.mean(0)
        square = float((exact - mean).square().sum())
        count, total = len(batch), self.count + len(batch)
        gap = mean - self.mean
        self.mean = self.mean + gap * (count / total)
        self._square += square + float(gap.square().sum()) * self.count * count / total
        self.count = total
        self.deviation = math.sqrt(self._square / total)
        from_zero = float(self.mean.norm()) if self._settings.center == "none" else 0.0
        self.scale = math.hypot(self.deviation, from_zero) or 1.0

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
        window = max(_ROWS_PER_COLUMN * self._dim, _REMEMBERED * self.count)
        self._correlation = math.exp(-len(batch) / window) * self._correlation + found.correlation
        self.losses.append(found.loss)
        size = self._correlation.norm() * 1e-7
        solution = nearest_rotation(self._correlation + size * self._rotation)
        if self._settings.learn_centre:
            apart = found.mean - found.mean_code @ solution - self._base()
            self._offset += (apart - self._offset) * (len(batch) / self.count)
        self._rotation = solution.to(self._rotation.dtype)

    def _descend(self, batch: Tensor) -> None:
        base = self._base().to(batch.dtype)
        if self._training is None:
            transform = new_transform(
                self._settings,
                self._dim,
                self._random,
                batch.device,
                batch.dtype,
                sample=batch - base,
            )
            self._training = new_training(self._settings, transform, base, self.scale, steps=None)
        self._training.centre = base
        for part in torch.split(batch, self._settings.batch_size):
            self.losses.append(self._training.advance(part))
