"""Which kernel the heads of a layer have."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from laplex._support.profiles import Profile, profile_of
from laplex._support.sides import LEFT, RIGHT, side_number


class KernelShape(NamedTuple):
    """The arguments ``kernel`` and ``side`` of `laplex.matvec`."""

    kernel: str = "matern12"
    side: str = "both"

    @property
    def profile(self) -> Profile:
        """The profile of the kernel."""
        return profile_of(self.kernel)

    @property
    def number(self) -> int:
        """The side's number in the core."""
        return side_number(self.side)

    def matrix(self, targets: Tensor, sources: Tensor, lengthscale: Tensor) -> Tensor:
        """Return the matrix ``[n, m]`` of one head, without phases."""
        difference = targets[:, None] - sources
        profile = self.profile
        if profile.root == 1.0:
            matrix = torch.exp(-difference.abs() / lengthscale)
        else:
            scaled = difference.abs() * profile.root / lengthscale
            powers = (c * scaled**power for power, c in enumerate(profile.polynomial))
            matrix = torch.exp(-scaled) * sum(powers)
        if self.number == LEFT:
            return matrix.masked_fill(difference < 0, 0.0)
        return matrix.masked_fill(difference > 0, 0.0) if self.number == RIGHT else matrix
