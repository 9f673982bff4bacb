"""Check the operator against a dense matrix in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from laplex import Plan

#: The promised bounds of max error / (sum ``|K| |v|``), by precision.
BOUNDS = {"float64": 1e-14, "float32": 1e-6}
#: The arguments of `laplex.Plan` for each form; ``phases`` stands for random phases.
FORMS: dict[str, dict[str, Any]] = {
    "real": {},
    "carrier phases": {"phases": True},
    "oscillating": {"frequency": 3.0},
    "cosine": {"phases": True, "frequency": 3.0, "real_part": True},
}
LENGTHSCALES = (1e-3, 0.1, 10.0)


@dataclass(frozen=True)
class Exactness:
    """The largest error of one form and precision relative to sum ``|K| |v|``, and its bound."""

    form: str
    precision: str
    error: float
    bound: float

    @property
    def passed(self) -> bool:
        """Whether the error is within the bound."""
        return self.error <= self.bound


def check_exactness(size: int, seed: int = 0) -> list[Exactness]:
    """Compare ``Plan.apply`` with a dense float64 product for each form and precision.

    Anchors are uniform on [-1, 1], and a tenth of them is tied. The error is the largest over three
    lengthscales.

    Parameters
    ----------
    size : int
        The number of sources; there are ``size // 2 + 1`` targets.
    seed : int
        The seed of anchors and values.

    Returns
    -------
    list of Exactness
    """
    rows = []
    for form, arguments in FORMS.items():
        for precision, bound in BOUNDS.items():
            rng = np.random.default_rng(seed)
            worst = max(
                _error(rng, size, np.dtype(precision), lengthscale, **arguments)
                for lengthscale in LENGTHSCALES
            )
            rows.append(Exactness(form, precision, worst, bound))
    return rows


def _error(
    rng: np.random.Generator,
    size: int,
    dtype: np.dtype[Any],
    lengthscale: float,
    *,
    phases: bool = False,
    frequency: float = 0.0,
    real_part: bool = False,
) -> float:
    sources = rng.uniform(-1, 1, size).astype(dtype)
    targets = rng.uniform(-1, 1, size // 2 + 1).astype(dtype)
    targets[::10] = sources[: len(targets[::10])]
    values = rng.standard_normal(size).astype(dtype)
    theta, phi = (
        rng.uniform(-np.pi, np.pi, count).astype(dtype) if phases else None
        for count in (len(targets), size)
    )
    plan = Plan(
        targets,
        sources,
        lengthscale=lengthscale,
        frequency=frequency,
        target_phase=theta,
        source_phase=phi,
        real_part=real_part,
    )
    distance = np.abs(np.subtract.outer(targets.astype(np.float64), sources.astype(np.float64)))
    modulus = np.exp(-distance / lengthscale)
    angle: NDArray[np.float64] = frequency * distance
    if theta is not None and phi is not None:
        angle += np.subtract.outer(theta.astype(np.float64), phi.astype(np.float64))
    kernel = modulus * (np.cos(angle) if real_part else np.exp(1j * angle))
    wide = values.astype(np.float64)
    scale = modulus @ np.abs(wide)
    return float(np.max(np.abs(plan.apply(values) - kernel @ wide) / scale))
