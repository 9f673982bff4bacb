"""The entries of K by the formula, for ``to_dense`` and for single entries."""

from __future__ import annotations

import torch
from torch import Tensor

from .._support.profiles import PROFILES, Profile
from .._support.sides import BOTH, LEFT


def kernel(
    targets: Tensor,
    sources: Tensor,
    lengthscale: Tensor,
    frequency: Tensor | None,
    target_phase: Tensor | None,
    source_phase: Tensor | None,
    real_part: bool,
    profile: Profile = PROFILES["matern12"],
    side: int = BOTH,
) -> Tensor:
    """Compute entries of K by the formula in double precision; the arguments broadcast.

    The derivative of ``abs`` at 0 is 0, which is also the operator's convention for ties.
    """
    difference = targets.double() - sources.double()
    distance = difference.abs()
    scaled = distance * profile.root / lengthscale
    modulus = torch.exp(-scaled)
    if len(profile.polynomial) > 1:
        modulus = modulus * sum(c * scaled**power for power, c in enumerate(profile.polynomial))
    if side != BOTH:
        modulus = torch.where(difference >= 0 if side == LEFT else difference <= 0, modulus, 0.0)
    phase = torch.zeros((), dtype=torch.float64, device=targets.device)
    if frequency is not None:
        phase = frequency.double() * distance
    if target_phase is not None:
        phase = phase + target_phase.double()
    if source_phase is not None:
        phase = phase - source_phase.double()
    if frequency is None and target_phase is None and source_phase is None:
        return modulus
    if real_part:
        return modulus * phase.cos()
    return torch.complex(modulus * phase.cos(), modulus * phase.sin())
