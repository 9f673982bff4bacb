"""A check whether embeddings resemble those of the fit: their mean, size and sparsity."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import torch
from torch import Tensor

from .basis import Basis
from .fitted import Fitted
from .statistics import log_sums, mean_and_deviation

#: With fewer rows than this, mean and norm say too little about where the data come from.
_ROWS_TO_JUDGE = 32
#: What the axes explain of fewer rows than this says too little where few rows have all the energy.
_ROWS_TO_JUDGE_AXES = 100
#: Packages whose code is not that of the user.
_INSIDE = ("laplex.", "sklearn.", "torch.")
_FAR_MEAN = 0.5
_FAR_NORM = 1.5
#: Smaller differences than this many standard errors may be due to the rows that happened to come.
_STANDARD_ERRORS = 4
#: The axes are tried on about this many rows of a batch, evenly spaced, to cost little.
_ROWS_TO_TRY = 256
#: A rotation fitted to n rows of noise leaves out less of them than of other rows, by up to this
#: times sqrt(d / n) of what a random rotation leaves out: 0.7 to 1.3 was measured, for n / d from 1
#: to 30, d of 20 and 64, and k of d / 16 to d / 4.
_OPTIMISM = 1.5


def _frames_inside() -> int:
    """Return the stacklevel with which our caller's warning points to the code of the user.

    Batches come through generators, and methods through wrappers of other packages, so that the
    number of frames between is not the same everywhere.
    """
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(_INSIDE):
        level, frame = level + 1, frame.f_back
    return level


class DriftWarning(UserWarning):
    """The embeddings differ from those of the fit in mean, norm, or what the axes explain."""


class Drift:
    r"""Compares rows with those of the fit: their mean, their spread, and what the axes explain.

    The spread is compared by the mean of the logarithms of the norms, because few rows may hold
    most of a mean of squares, which then differs from batch to batch. For the same reason, neither
    mean nor spread counts as different by less than four standard errors.

    In a space that was rotated, mean and spread may be those of the fit, but the axes mean nothing.
    They then leave out as much of the rows as a random rotation does, and that is known: a random
    direction on the sphere has about :math:`2 (q \phi(q) + \Phi(-q))` of its energy in its k
    largest coordinates, where :math:`2 \Phi(-q) = k / d`. The rows are told to be different if they
    lose half of what the fit had gained over that. Axes that gained no more than chance finds in
    as few rows cannot be judged.

    Parameters
    ----------
    fitted : Fitted
        The model.
    name : str
        What the rows are called in the warning.
    basis : Basis, optional
        Its basis, where ``fitted`` has none.
    """

    def __init__(self, fitted: Fitted, name: str = "X", basis: Basis | None = None) -> None:
        self.fitted = fitted
        self.name = name
        self.basis = basis
        self.scale = fitted.scale
        self.apart = (fitted.mean.double() - fitted.data_mean) / (fitted.scale or 1.0)
        self.count = 0
        self.total: Any = 0.0
        self.square = 0.0
        self.logs = torch.zeros(3, dtype=torch.float64)
        self.tried = 0
        self._axes = fitted.dim
        self.moments = torch.zeros(5, dtype=torch.float64)

    @torch.no_grad()
    def see(self, z: Tensor) -> None:
        """Add rows [n, d] from which b was subtracted."""
        if not self.scale or not len(z):
            return
        z = z / self.scale  # squares of tiny or huge numbers would not fit a float32
        self.count += len(z)
        self.total = self.total + z.sum(0, dtype=torch.float64).cpu()
        self.square += float(z.square().sum(1).sum(dtype=torch.float64))
        if self.basis is None:
            self.basis = self.fitted.basis.to(z.device, z.dtype)
        self._axes = self.basis.axes
        some = z[:: max(1, len(z) // _ROWS_TO_TRY)]
        self.logs += log_sums(some, -self.apart.to(some), 1.0)
        left_out = some - self.basis.synthesise(self.basis.encode(some, self.fitted.k))
        lost, energy = (one.double().square().sum(1) for one in (left_out, some))
        products = (lost, energy, lost * lost, lost * energy, energy * energy)
        self.moments += torch.stack([one.sum() for one in products]).cpu()
        self.tried += len(some)

    def warn(self) -> None:
        """Warn if the rows seen are far from the rows of the fit; once, of all differences."""
        found = self._differences() if self.count >= _ROWS_TO_JUDGE else []
        if found:
            warnings.warn(
                f"{'; '.join(found)}: the codes may mean something else. Check the encoder and its "
                "normalisation, or fit again; for rows of another kind, such as texts for a model "
                "of images, call add_modality",
                DriftWarning,
                stacklevel=_frames_inside(),
            )

    def _differences(self) -> list[str]:
        found = []
        mean = self.total / self.count
        away = float((mean + self.apart).norm())
        variance = max(0.0, self.square / self.count - float(mean.square().sum()))
        error = math.sqrt(variance / self.count + 1 / self.fitted.count)
        if away > max(_FAR_MEAN, _STANDARD_ERRORS * error):
            found.append(
                f"the mean of {self.name} is {away:.2f} standard deviations of the training rows "
                "away from their mean"
            )
        ratio, limit = self._spread(variance, moved=bool(found))
        if not 1 / limit < ratio < limit:
            found.append(
                f"the centred rows of {self.name} are {ratio:.2f} times as long as those of the fit"
            )
        return found + self._lost()

    def _spread(self, variance: float, moved: bool) -> tuple[float, float]:
        """Return how many times as long the rows are, and how many times would be too long."""
        known, seen = self.fitted.log_norms, mean_and_deviation(self.logs)
        # A model of an older version or of fit_map_reduce knows none. The logarithms are those of
        # distances from the mean of the fit: rows of another mean would look longer than they are.
        if known is None or seen is None or moved:
            return math.sqrt(variance), _FAR_NORM
        ratio = math.exp(seen[0] - (known[0] - math.log(self.scale)))
        error = max(seen[1], known[1]) * math.sqrt(1 / float(self.logs[0]) + 1 / self.fitted.count)
        return ratio, max(_FAR_NORM, math.exp(min(_STANDARD_ERRORS * error, 700.0)))

    def _lost(self) -> list[str]:
        """Compare what the axes leave out with what they left out of the rows of the fit."""
        lost, energy, lost2, both, energy2 = self.moments.tolist()
        if self.tried < _ROWS_TO_JUDGE_AXES or not energy or self.fitted.k >= self.fitted.dim:
            return []
        # In units of the variance of the fit: of their own energy, in case the norms differ.
        unit = 1 + float(self.apart.square().sum())
        share = lost / energy
        deviation = max(0.0, lost2 - 2 * share * both + share**2 * energy2) ** 0.5 / energy
        chance = unit * (1 - _share_of_chance(self.fitted.k / self.fitted.dim))
        loss = self.fitted.losses[-1]
        # Where few rows have most of the energy, the fit had fewer rows than it counted, and in the
        # few rows seen here the largest of such rows may be missing.
        tails = self.tried * energy2 / energy**2
        optimism = _OPTIMISM * chance * math.sqrt(self._axes * tails / self.fitted.count)
        optimism *= max(1.0, tails / 2)
        least = loss + max((chance - loss) / 2, optimism)
        if unit * (share - 3 * deviation) <= least:
            return []
        return [
            f"{self.fitted.k} axes explain {1 - unit * share:.2f} of {self.name}, but "
            f"{1 - loss:.2f} of the rows of the fit"
        ]


def _share_of_chance(kept: float) -> float:
    """Return the share of the energy in the largest coordinates of a random direction."""
    half = torch.tensor(1 - kept / 2, dtype=torch.float64)
    q = float(torch.special.ndtri(half))
    return 2 * q * math.exp(-q * q / 2) / math.sqrt(2 * math.pi) + kept
