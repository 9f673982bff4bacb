"""What a fit has found: all that codes, files and modules need of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .basis import Basis


@dataclass(frozen=True, eq=False)
class Modality:
    """Rows of another kind than those of the fit, such as texts where the fit saw images.

    Attributes
    ----------
    mean : Tensor [d]
        Mean of the rows, in the precision of the model.
    scale : float
        Root of the mean squared distance of the rows from their mean.
    loss : float
        Squared error of their codes as a fraction of their variance.
    count : int
        Number of rows.
    log_norms : tuple of float, or None
        Mean and standard deviation of the logarithm of the distance of a row from the mean.
    """

    mean: Tensor
    scale: float
    loss: float
    count: int
    log_norms: tuple[float, float] | None = None


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
    modalities : mapping of str to Modality
        Other kinds of rows, by name.
    log_norms : tuple of float, or None
        Mean and standard deviation of the logarithm of the distance of a training row from
        ``data_mean``. None if it is not known, as in models of older versions.
    columns : sequence of str or None
        Names of the columns d, if the training rows had any.
    """

    bases: tuple[Basis, ...]
    mean: Tensor
    data_mean: Tensor
    scale: float
    k: int
    count: int
    losses: tuple[float, ...]
    steps: int
    modalities: Mapping[str, Modality] = field(default_factory=dict)
    log_norms: tuple[float, float] | None = None
    columns: Sequence[str] | None = None

    @property
    def basis(self) -> Basis:
        """The change of basis of the model."""
        return self.bases[0]

    @property
    def dim(self) -> int:
        """The number of columns d."""
        return len(self.mean)

    @property
    def axes(self) -> int:
        """The number of axes: d, or more with a frame."""
        return self.basis.axes

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the model."""
        return self.mean.dtype

    def placed(self, device: torch.device) -> tuple[Basis, Tensor]:
        """Return the basis and the centre b on a device."""
        return self.basis.to(device, self.dtype), self.mean.to(device)

    def around(self, modality: str | None) -> Fitted:
        """Return the model with the mean, scale and loss of a modality in place of the fit's.

        The centre b moves with the mean, so that a learned centre keeps its distance from it.

        Raises
        ------
        ValueError
            If there is no such modality.
        """
        if modality is None:
            return self
        if modality not in self.modalities:
            known = " or ".join(map(repr, self.modalities)) or "None, as none was added"
            raise ValueError(
                f"modality must be {known}, got {modality!r}: call add_modality({modality!r}, X) "
                "with its rows first"
            )
        other = self.modalities[modality]
        return replace(
            self,
            mean=self.mean + (other.mean - self.data_mean),
            data_mean=other.mean,
            scale=other.scale,
            count=other.count,
            losses=(other.loss,),
            log_norms=other.log_norms,
        )
