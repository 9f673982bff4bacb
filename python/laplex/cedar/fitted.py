"""What a fit has found: all that codes, files and modules need of a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .basis import Basis


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted model, without the parameters of its fit.

    Attributes
    ----------
    bases : tuple of Basis
        The changes of basis of all starts; the first is the model.
    mean : Tensor [d]
        The centre b, in the precision of the model.
    data_mean : Tensor [d]
        Mean of the training rows.
    scale : float
        Root of the mean squared distance of the training rows from their mean.
    k : int
        Number of nonzero entries of a code; the largest of several.
    count : int
        Number of training rows.
    losses : tuple of float
        Squared error as a fraction of the variance, for each pass or step.
    steps : int
        Number of passes or steps.
    """

    bases: tuple[Basis, ...]
    mean: Tensor
    data_mean: Tensor
    scale: float
    k: int
    count: int
    losses: tuple[float, ...]
    steps: int

    @property
    def basis(self) -> Basis:
        """The change of basis of the model."""
        return self.bases[0]

    @property
    def dim(self) -> int:
        """The number of columns d."""
        return len(self.mean)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the model."""
        return self.mean.dtype

    def placed(self, device: torch.device) -> tuple[Basis, Tensor]:
        """Return the basis and the centre b on a device."""
        return self.basis.to(device, self.dtype), self.mean.to(device)
