"""An independent reference for the operator: O(n) sums in 80-bit extended precision.

It shares nothing with the library. Where the library scans chunks of 16 one after the other, this
is a vectorised binary tree over the sorted sources (up-sweep and down-sweep, as of Blelloch) in
NumPy's ``longdouble``, whose 64-bit mantissa leaves errors of about 40 * 5e-20 after twenty levels.
Decays come from positions, never from products of decays. Look-ups use ``searchsorted``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Wide = np.longdouble
assert np.finfo(Wide).eps < 1e-18, "the reference needs 80-bit or 128-bit long double"


@dataclass(frozen=True)
class Sums:
    """Sums at the targets: one row per target, in the order the targets were given."""

    left: np.ndarray  # sources at or below the target
    right: np.ndarray  # sources strictly above
    strict: np.ndarray | None = None  # sources strictly below, where derivatives were asked for

    @property
    def even(self) -> np.ndarray:
        return self.left + self.right

    @property
    def odd(self) -> np.ndarray:
        assert self.strict is not None
        return self.strict - self.right


def decay(distance: np.ndarray, lengthscale: float, frequency: float) -> np.ndarray:
    """exp(-(1/ell - i omega) d), 0 where it underflows, whatever the angle is there."""
    modulus = np.exp(-distance / Wide(lengthscale))
    if frequency == 0:
        return modulus
    angle = np.where(modulus > 0, distance * Wide(frequency), Wide(0))
    return modulus * (np.cos(angle) + 1j * np.sin(angle))


def scan(
    z: np.ndarray, v: np.ndarray, lengthscale: float, frequency: float, moments: int
) -> list[np.ndarray]:
    """Inclusive prefix sums with decay, of v and of tau v (tau: distance to the prefix's end).

    Positions z ascending [m]. Padded to a power of two with empty elements at the last position.
    With moments=1, of v alone.
    """
    m = len(z)
    size = 1 << max(0, (m - 1).bit_length())
    pad = size - m
    z = np.concatenate([z, np.repeat(z[-1:], pad)])
    dtype = np.result_type(v.dtype, np.clongdouble if frequency else Wide)
    s0 = np.concatenate([v.astype(dtype), np.zeros(pad, dtype)])
    s1 = np.zeros(size, dtype)

    def combine(into: np.ndarray, source: np.ndarray) -> None:
        # the element ending at `source` moves to `into` and is added there
        d = z[into] - z[source]
        f = decay(d, lengthscale, frequency)
        if moments > 1:
            tau = np.where(f != 0, d / Wide(lengthscale), Wide(0))
            s1[into] += f * (s1[source] + tau * s0[source])
        s0[into] += f * s0[source]

    step = 1
    while step < size:  # up: pairs of neighbouring blocks
        into = np.arange(2 * step - 1, size, 2 * step)
        combine(into, into - step)
        step *= 2
    step = size // 2
    while step > 1:  # down: block ends feed the middle of the block after them
        step //= 2
        into = np.arange(3 * step - 1, size, 2 * step)
        combine(into, into - step)
    return [s0[:m], s1[:m]][:moments]


def half_sums(
    x: np.ndarray,
    y: np.ndarray,
    v: np.ndarray,
    lengthscale: float,
    frequency: float = 0.0,
    *,
    derivatives: bool = False,
) -> tuple[Sums, ...]:
    """(sums of v, sums of tau v) at the targets, for one row of values without phases.

    The latter, and the strict sums, only for `derivatives`: they are half of the work.
    """
    order = np.argsort(y, kind="stable")
    rising = np.argsort(x, kind="stable")  # look-ups in order are several times as fast

    def place(side: Literal["left", "right"]) -> np.ndarray:
        found = np.empty(len(x), np.int64)
        found[rising] = np.searchsorted(y[order], x[rising], side=side)
        return found

    upto = place("right")
    below = place("left") if derivatives else upto
    x, y = x.astype(Wide), y.astype(Wide)  # exact, and so were the comparisons before it
    z, w = y[order], v[order]
    dtype = np.result_type(v.dtype, np.clongdouble if frequency else Wide)
    moments = 2 if derivatives else 1
    if len(z) == 0:
        zeros = np.zeros(len(x), dtype)
        return (Sums(zeros, zeros, zeros),) * moments
    forward = scan(z, w, lengthscale, frequency, moments)
    backward = [s[::-1] for s in scan(-z[::-1], w[::-1], lengthscale, frequency, moments)]

    def read(sums: list[np.ndarray], at: np.ndarray, inside: np.ndarray) -> list[np.ndarray]:
        k = np.where(inside, at, 0)
        d = np.where(inside, np.abs(x - z[k]), Wide(0))
        f = np.where(inside, decay(d, lengthscale, frequency), 0)
        found = [f * sums[0][k]]
        if derivatives:
            tau = np.where(f != 0, d / Wide(lengthscale), Wide(0))
            found.append(f * (sums[1][k] + tau * sums[0][k]))
        return found

    parts = [read(forward, upto - 1, upto > 0), read(backward, upto, upto < len(z))]
    if derivatives:
        parts.append(read(forward, below - 1, below > 0))
    return tuple(Sums(*moment) for moment in zip(*parts, strict=True))


@dataclass(frozen=True)
class Kernel:
    """One kernel: what Plan takes, for one head."""

    targets: np.ndarray
    sources: np.ndarray
    lengthscale: float = 1.0
    frequency: float = 0.0
    target_phase: np.ndarray | None = None
    source_phase: np.ndarray | None = None
    real_part: bool = False

    def _sums(self, v: np.ndarray, *, derivatives: bool = False) -> tuple[Sums, ...]:
        wide = v.astype(np.clongdouble if np.iscomplexobj(v) else Wide)
        if self.source_phase is not None:
            wide = wide * unit(-self.source_phase.astype(Wide))
        anchors = self.targets, self.sources
        return half_sums(*anchors, wide, self.lengthscale, self.frequency, derivatives=derivatives)

    def _finish(self, u: np.ndarray) -> np.ndarray:
        if self.target_phase is not None:
            u = unit(self.target_phase.astype(Wide)) * u
        return u.real if self.real_part else u

    def apply(self, v: np.ndarray) -> np.ndarray:
        """K v for one row, in extended precision."""
        if self.real_part and np.iscomplexobj(v):
            return self.apply(v.real) + 1j * self.apply(v.imag)
        return self._finish(self._sums(v)[0].even)

    def scale(self, v: np.ndarray) -> np.ndarray:
        """sum_j exp(-d_ij / ell) |v_j|: what errors are measured in."""
        wide = np.abs(v.astype(np.clongdouble if np.iscomplexobj(v) else Wide))
        return half_sums(self.targets, self.sources, wide, self.lengthscale)[0].even

    def slope(self, v: np.ndarray) -> np.ndarray:
        """d(K v)_i / dx_i, before any real part; tied pairs left out."""
        odd = self._sums(v, derivatives=True)[0].odd
        if self.target_phase is not None:
            odd = unit(self.target_phase.astype(Wide)) * odd
        rate = 1 / Wide(self.lengthscale) - 1j * Wide(self.frequency)
        return -(rate.real if self.frequency == 0 else rate) * odd

    def stretched(self, v: np.ndarray) -> np.ndarray:
        """sum_j d_ij K_ij v_j, before any real part."""
        far = self._sums(v, derivatives=True)[1].even * Wide(self.lengthscale)
        return far if self.target_phase is None else unit(self.target_phase.astype(Wide)) * far

    def complex_apply(self, v: np.ndarray) -> np.ndarray:
        """K v before any real part."""
        u = self._sums(v)[0].even
        return u if self.target_phase is None else unit(self.target_phase.astype(Wide)) * u

    def adjoint(self) -> Kernel:
        """The kernel of K^H."""
        return Kernel(
            self.sources,
            self.targets,
            self.lengthscale,
            -self.frequency,
            self.source_phase,
            self.target_phase,
            self.real_part,
        )

    def options(self) -> dict[str, object]:
        """Keyword arguments for Plan."""
        return {
            "lengthscale": self.lengthscale,
            "frequency": self.frequency,
            "target_phase": self.target_phase,
            "source_phase": self.source_phase,
            "real_part": self.real_part,
        }


def unit(angle: np.ndarray) -> np.ndarray:
    """exp(i angle)."""
    return np.cos(angle) + 1j * np.sin(angle)
