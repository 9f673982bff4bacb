"""An independent reference for the operator: O(n) sums in 80-bit extended precision.

It shares nothing with the library. Where the library scans chunks of 16 one after the other, this
is a vectorised binary tree over the sorted sources (up-sweep and down-sweep, as of Blelloch) in
NumPy's ``longdouble``, whose 64-bit mantissa leaves errors of about 40 * 5e-20 after twenty levels.
Decays come from positions, never from products of decays. Look-ups use ``searchsorted``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Wide = np.longdouble
#: Matern kernels: s^2, and the coefficients of the polynomial in s r that multiplies exp(-s r). The
#: kernel's lengthscale over s is rounded to float64, here as in the library: with exact division,
#: entries around exp(-700) would differ by 8e-14 of themselves.
MATERN = {
    "matern12": (1, (Wide(1),)),
    "matern32": (3, (Wide(1), Wide(1))),
    "matern52": (5, (Wide(1), Wide(1), Wide(1) / 3)),
}
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

    @property
    def untied(self) -> np.ndarray:
        assert self.strict is not None
        return self.strict + self.right

    def of_parity(self, parity: int) -> np.ndarray:
        """The sum with the parity-th power of sign(x - y) as a factor, where sign(0) = 0."""
        if parity == 0:
            return self.even
        return self.odd if parity == 1 else self.untied


def decay(distance: np.ndarray, lengthscale: float, frequency: float) -> np.ndarray:
    """exp(-(1/ell - i omega) d), 0 where it underflows, whatever the angle is there."""
    modulus = np.exp(-distance / Wide(lengthscale))
    if frequency == 0:
        return modulus
    angle = np.where(modulus > 0, distance * Wide(frequency), Wide(0))
    return modulus * (np.cos(angle) + 1j * np.sin(angle))


def shifted(sums: list[np.ndarray], tau: np.ndarray, power: int) -> np.ndarray:
    """The moment of that power about a point farther away by tau >= 0, from those about the old.

    No term is negative if no value is, so nothing cancels that does not cancel in the sum itself.
    """
    return sum(math.comb(power, k) * tau ** (power - k) * sums[k] for k in range(power + 1))


def scan(
    z: np.ndarray, v: np.ndarray, lengthscale: float, frequency: float, moments: int
) -> list[np.ndarray]:
    """Inclusive prefix sums with decay, of tau^p v for p < moments (tau: distance to the end).

    Positions z ascending [m]. Padded to a power of two with empty elements at the last position.
    """
    m = len(z)
    size = 1 << max(0, (m - 1).bit_length())
    pad = size - m
    z = np.concatenate([z, np.repeat(z[-1:], pad)])
    dtype = np.result_type(v.dtype, np.clongdouble if frequency else Wide)
    sums = [np.zeros(size, dtype) for _ in range(moments)]
    sums[0][:m] = v

    def combine(into: np.ndarray, source: np.ndarray) -> None:
        # the element ending at `source` moves to `into` and is added there
        d = z[into] - z[source]
        f = decay(d, lengthscale, frequency)
        tau = np.where(f != 0, d / Wide(lengthscale), Wide(0)) if moments > 1 else d
        moved = [each[source] for each in sums]
        for power in range(moments):
            sums[power][into] += f * shifted(moved, tau, power)

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
    return [each[:m] for each in sums]


def half_sums(
    x: np.ndarray,
    y: np.ndarray,
    v: np.ndarray,
    lengthscale: float,
    frequency: float = 0.0,
    *,
    moments: int = 1,
    strict: bool = False,
) -> tuple[Sums, ...]:
    """Sums of tau^p v for p < moments at the targets, for one row of values without phases.

    The strict sums only on request: they are a third of the work.
    """
    order = np.argsort(y, kind="stable")
    rising = np.argsort(x, kind="stable")  # look-ups in order are several times as fast

    def place(side: Literal["left", "right"]) -> np.ndarray:
        found = np.empty(len(x), np.int64)
        found[rising] = np.searchsorted(y[order], x[rising], side=side)
        return found

    upto = place("right")
    below = place("left") if strict else upto
    x, y = x.astype(Wide), y.astype(Wide)  # exact, and so were the comparisons before it
    z, w = y[order], v[order]
    dtype = np.result_type(v.dtype, np.clongdouble if frequency else Wide)
    if len(z) == 0:
        zeros = np.zeros(len(x), dtype)
        return (Sums(zeros, zeros, zeros),) * moments
    forward = scan(z, w, lengthscale, frequency, moments)
    backward = [s[::-1] for s in scan(-z[::-1], w[::-1], lengthscale, frequency, moments)]

    def read(sums: list[np.ndarray], at: np.ndarray, inside: np.ndarray) -> list[np.ndarray]:
        k = np.where(inside, at, 0)
        d = np.where(inside, np.abs(x - z[k]), Wide(0))
        f = np.where(inside, decay(d, lengthscale, frequency), 0)
        tau = np.where(f != 0, d / Wide(lengthscale), Wide(0)) if moments > 1 else d
        found = [each[k] for each in sums]
        return [f * shifted(found, tau, power) for power in range(moments)]

    parts = [read(forward, upto - 1, upto > 0), read(backward, upto, upto < len(z))]
    if strict:
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
    shape: str = "matern12"
    side: str = "both"

    def _sums(
        self, v: np.ndarray, *, moments: int = 1, strict: bool = False, modulus: bool = False
    ) -> tuple[Sums, ...]:
        """Moments with phases only at the sources; with `modulus`, of |K| and |v|."""
        wide = v.astype(np.clongdouble if np.iscomplexobj(v) else Wide)
        if modulus:
            wide = np.abs(wide)
        elif self.source_phase is not None:
            wide = wide * unit(-self.source_phase.astype(Wide))
        return half_sums(
            self.targets,
            self.sources,
            wide,
            float(self.lengthscale) / math.sqrt(MATERN[self.shape][0]),
            0.0 if modulus else self.frequency,
            moments=moments,
            strict=strict,
        )

    def _even(self, v: np.ndarray, *, modulus: bool = False) -> np.ndarray:
        polynomial = MATERN[self.shape][1]
        mirrored = self if self.side != "right" else self._mirrored()
        found = mirrored._sums(v, moments=len(polynomial), modulus=modulus)
        parts = [each.even if self.side == "both" else each.left for each in found]
        return sum(c * part for c, part in zip(polynomial, parts, strict=True))

    def _mirrored(self) -> Kernel:
        """The kernel on the mirrored line, where right is left."""
        return replace(self, targets=-self.targets, sources=-self.sources)

    def _turned(self, u: np.ndarray) -> np.ndarray:
        return u if self.target_phase is None else unit(self.target_phase.astype(Wide)) * u

    def _finish(self, u: np.ndarray) -> np.ndarray:
        return self._turned(u).real if self.real_part else self._turned(u)

    def apply(self, v: np.ndarray) -> np.ndarray:
        """K v for one row, in extended precision."""
        if self.real_part and np.iscomplexobj(v):
            return self.apply(v.real) + 1j * self.apply(v.imag)
        return self._finish(self._even(v))

    def scale(self, v: np.ndarray) -> np.ndarray:
        """sum_j |K_ij| |v_j|, before any real part: what errors are measured in."""
        return self._even(v, modulus=True)

    def moments(self, v: np.ndarray, count: int) -> tuple[Sums, ...]:
        """The sums with powers 0 .. count - 1 of the scaled distance, before any real part."""
        return tuple(
            Sums(*(self._turned(half) for half in (each.left, each.right, each.strict)))
            for each in self._sums(v, moments=count, strict=True)
        )

    def moment_scales(self, v: np.ndarray, count: int) -> tuple[Sums, ...]:
        """The same sums of |K| and |v|: what errors of moments are measured in."""
        return self._sums(v, moments=count, strict=True, modulus=True)

    def slope(self, v: np.ndarray) -> np.ndarray:
        """d(K v)_i / dx_i, before any real part; tied pairs left out."""
        rate = 1 / Wide(self.lengthscale) - 1j * Wide(self.frequency)
        return -(rate.real if self.frequency == 0 else rate) * self.moments(v, 1)[0].odd

    def stretched(self, v: np.ndarray) -> np.ndarray:
        """sum_j d_ij K_ij v_j, before any real part."""
        return self._turned(self._sums(v, moments=2)[1].even * Wide(self.lengthscale))

    def complex_apply(self, v: np.ndarray) -> np.ndarray:
        """K v before any real part."""
        return self._turned(self._even(v))

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
            self.shape,
            {"left": "right", "right": "left"}.get(self.side, "both"),
        )

    def options(self) -> dict[str, object]:
        """Keyword arguments for Plan."""
        return {
            "lengthscale": self.lengthscale,
            "frequency": self.frequency,
            "target_phase": self.target_phase,
            "source_phase": self.source_phase,
            "real_part": self.real_part,
            "kernel": self.shape,
            "side": self.side,
        }


def unit(angle: np.ndarray) -> np.ndarray:
    """exp(i angle)."""
    return np.cos(angle) + 1j * np.sin(angle)
