"""The calls that `tools/same_bits.py` makes: for each area a generator of (name, function)."""

from __future__ import annotations

from . import cedar, covariances, exits, kernels, layers

AREAS = {**kernels.AREAS, **layers.AREAS, **covariances.AREAS, **cedar.AREAS, **exits.AREAS}
