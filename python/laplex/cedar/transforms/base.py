"""Base class of the transforms: parameters that a solver trains, and the basis they define."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..basis import Basis, random_rotation

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..settings import Settings

__all__ = ["Start", "Transform"]


class Start(NamedTuple):
    """What a fit provides to make a transform of ``dim`` coordinates.

    Attributes
    ----------
    dim : int
        The number d of coordinates.
    random : torch.Generator
        The source of random numbers.
    device, dtype
        Where the parameters live, and their type.
    rotation : Tensor [d, d], optional
        Rotation to start from; a random one if None.
    sample : Tensor [m, d], optional
        Centred rows of the data.
    """

    dim: int
    random: torch.Generator
    device: torch.device
    dtype: torch.dtype
    rotation: Tensor | None = None
    sample: Tensor | None = None


class Transform(nn.Module):
    """Base class of the transforms: modules whose parameters define a basis.

    A change of basis of your own overrides

    * ``from_rotation(rotation, settings)``, a class method: returns a transform with trainable
      parameters (``nn.Parameter``) whose basis is the rotation ``[d, d]``. Override ``new`` in its
      place if a fit starts from something else, which ``starts_from`` says;
    * ``at(basis, settings)``, a class method, for ``partial_fit`` from a fitted model: returns a
      transform whose basis is the given one;
    * ``forward()``: returns a `Basis` computed from the parameters, with gradients, such as
      ``DenseBasis(readouts, atoms)``;
    * ``finished()``: returns the basis that the model keeps, without gradients.

    The solver adam trains the parameters. A file of the model holds the tensors of the basis: a
    `DenseBasis` can be loaded again, a `Basis` of your own cannot.
    """

    #: Whether the alternating solver, procrustes, can find it.
    alternates: ClassVar[bool] = False
    #: Whether the solver for frames, pursuit, finds it.
    pursues: ClassVar[bool] = False
    #: What a fit prepares before it makes one: nothing, a rotation that the alternating solver
    #: finds on a sample of the data, or the sample itself.
    starts_from: ClassVar[Literal["chance", "rotation", "rows"]] = "chance"

    @classmethod
    def new(cls, settings: Settings, start: Start) -> Self:
        """Make a transform at the start of a fit.

        Parameters
        ----------
        settings : Settings
            The checked parameters of the estimator.
        start : Start
            What the fit provides.

        Returns
        -------
        Transform
            The transform, with parameters to train.
        """
        rotation = start.rotation
        if rotation is None:
            rotation = random_rotation(start.dim, start.random).to(start.device, start.dtype)
        return cls.from_rotation(rotation, settings)

    @classmethod
    def from_rotation(cls, rotation: Tensor, settings: Settings) -> Self:
        """Make a transform whose basis is a rotation.

        Parameters
        ----------
        rotation : Tensor ``[d, d]``
            The rotation.
        settings : Settings
            The checked parameters of the estimator.

        Returns
        -------
        Transform
            The transform, with parameters to train.
        """
        raise NotImplementedError(
            f"{cls.__name__} must define from_rotation: see laplex.cedar.transforms.Transform"
        )

    @classmethod
    def at(cls, basis: Basis, settings: Settings) -> Self:
        """Make a transform at a basis that was found before.

        Parameters
        ----------
        basis : Basis
            The basis, with readouts and atoms ``[axes, d]``.
        settings : Settings
            The checked parameters of the estimator.

        Returns
        -------
        Transform
            The transform, with parameters to train.
        """
        raise NotImplementedError(
            f"{cls.__name__} must define at: see laplex.cedar.transforms.Transform"
        )

    def forward(self) -> Basis:
        """Return the basis with gradients."""
        raise NotImplementedError(
            f"{type(self).__name__} must define forward: see laplex.cedar.transforms.Transform"
        )

    def finished(self) -> Basis:
        """Return the basis without gradients and without rounding errors of the training."""
        raise NotImplementedError(
            f"{type(self).__name__} must define finished: see laplex.cedar.transforms.Transform"
        )
