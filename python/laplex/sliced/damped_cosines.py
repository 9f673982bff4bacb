"""Fits of a few damped cosines to a polynomial of high degree times an exponential.

The polynomials have large coefficients of both signs, whose sum loses the digits of float32. A few
damped cosines have no such cancellation and come within `TOLERANCE` everywhere.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

TOLERANCE = 5e-6
"""The largest error of a fit; the functions are 1 at 0 and at most 1 elsewhere."""

_SAMPLES = 200
_LARGEST = 1e3  # of the sum of amplitudes: above, float32 would lose more digits than slices have


class Wave(NamedTuple):
    """amplitude exp(-rate t) cos(frequency t + phase)."""

    amplitude: float
    rate: float
    frequency: float = 0.0
    phase: float = 0.0


PLANE = {
    "laplace": (
        Wave(-0.0002312291542, 0.01078095598),
        Wave(-0.003347733982, 0.05119365962),
        Wave(-0.02547951476, 0.1568323554),
        Wave(-0.158753372, 0.3888376655),
        Wave(-1.509715325, 0.7892422803),
        Wave(2.69752972, 1.048468178),
    ),
    "matern32": (
        Wave(-0.0003085688922, 0.007215666648),
        Wave(-0.004444523088, 0.03404608224),
        Wave(-0.03466583069, 0.105239486),
        Wave(-0.2317368005, 0.2696613215),
        Wave(-3.080801495, 0.620311283),
        Wave(20.23120202, 1.063857414, -0.1342482352, 1.353990458),
    ),
}
"""The functions of the plane, which decay as 1 / t^2: minimax fits by iterated least squares.

They are 1 - t (the integral of exp(-t sin p) over 0 < p < pi/2), and 1 - t^2 (that of
sin(p) exp(-t sin p)).
"""


def fitted_waves(polynomial: list[Fraction], dimension: int) -> tuple[Wave, ...]:
    """Fit damped cosines to q(t) exp(-t) for t >= 0, as few as reach the tolerance.

    The exponents are those of the matrix pencil of equidistant samples (ESPRIT; Roy and Kailath,
    doi 10.1109/29.32276), the amplitudes are fitted by least squares.

    Raises
    ------
    NotImplementedError
        If no fit reaches the tolerance.
    """
    # In terms of sqrt(d) t, the functions of all dimensions are alike.
    step = Fraction(1, 2 ** round(math.log2(math.sqrt(dimension) / 0.3)))
    near = [k * step for k in range(_SAMPLES)]
    far = [near[-1] * k / 8 for k in range(9, 41)]
    between = [point + step / 2 for point in near[:-1]]
    samples = values_at(polynomial, near)
    points = np.array([float(t) for t in near + between + far])
    exact = np.concatenate((samples, values_at(polynomial, between + far)))
    windows = np.lib.stride_tricks.sliding_window_view(samples, _SAMPLES // 2)
    basis = np.linalg.svd(windows.T, full_matrices=False)[0]
    for count in range(5, 11):
        kept = basis[:, :count]
        turns = np.linalg.eigvals(np.linalg.lstsq(kept[:-1], kept[1:], rcond=None)[0])
        exponents = -np.log(turns.astype(complex)) / float(step)
        exponents = exponents[exponents.imag >= 0]  # of a conjugate pair, one
        if exponents.real.min() <= 0:
            continue
        columns = np.exp(-np.outer(points, exponents))
        parts = np.concatenate((columns.real, -columns.imag), axis=1)
        found = np.linalg.lstsq(parts, exact, rcond=None)[0]
        amplitudes = found[: len(exponents)] + 1j * found[len(exponents) :]
        error = np.abs(parts @ found - exact).max()
        if error <= TOLERANCE and np.abs(amplitudes).sum() <= _LARGEST:
            return tuple(
                Wave(*map(float, (abs(a), z.real, -z.imag, np.angle(a))))
                for a, z in zip(amplitudes, exponents, strict=True)
            )
    raise NotImplementedError(
        f"no sum of damped cosines is close to the kernel on a line for {dimension} coordinates: "
        "use kernel='energy', or fewer coordinates"
    )


def values_at(polynomial: list[Fraction], points: list[Fraction]) -> np.ndarray:
    """Evaluate q(t) exp(-t) without rounding errors, in whole numbers."""
    unit = math.lcm(*(point.denominator for point in points))
    scale = math.lcm(*(each.denominator for each in polynomial))
    degree = len(polynomial) - 1
    whole = [int(each * scale) * unit ** (degree - k) for k, each in enumerate(polynomial)]
    values = []
    for point in points:
        t, total = int(point * unit), 0
        for each in reversed(whole):
            total = total * t + each
        values.append(total / (scale * unit**degree) * math.exp(-float(point)))
    return np.array(values)
