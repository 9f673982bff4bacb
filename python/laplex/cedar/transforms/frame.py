"""A frame, which has more axes than the embedding has columns."""

from __future__ import annotations

import torch
from torch import Tensor

from ..basis import random_rotation
from . import TRANSFORMS
from .base import Transform


@TRANSFORMS.register("frame")
class Frame(Transform):
    """A frame of ``redundancy`` times d atoms; a search of its own finds it, not gradients."""

    pursues = True

    @classmethod
    def starting_atoms(cls, dim: int, redundancy: int, random: torch.Generator) -> Tensor:
        """Return the atoms of several random rotations.

        Parameters
        ----------
        dim : int
            Number of columns d.
        redundancy : int
            Number of rotations.
        random : torch.Generator
            The source of random numbers.

        Returns
        -------
        Tensor ``[redundancy * d, d]``
            The atoms as rows, in float64.
        """
        return torch.cat([random_rotation(dim, random) for _ in range(redundancy)])
