"""The reference itself, against dense matrices in 50-digit arithmetic."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from exactness_cases import ANCHORS, FORMS, MOMENTS, PHASED, beside, kernel, values

EVERY_FORM = (*FORMS, PHASED)


@pytest.mark.parametrize(
    ("n", "m", "lengthscale"), [(1, 1, 1.0), (6, 11, 0.2), (9, 33, 1e-6), (20, 16, 1e6)]
)
@pytest.mark.parametrize("form", EVERY_FORM)
@pytest.mark.parametrize("kind", ANCHORS)
def test_reference_equals_fifty_digits(
    form: str, kind: str, n: int, m: int, lengthscale: float
) -> None:
    rng = np.random.default_rng([EVERY_FORM.index(form), ANCHORS.index(kind), n])
    k = kernel(form, kind, n, m, lengthscale, "float64", rng)
    v = values(m, "float64", form != "cosine", rng)
    got, got_slope, got_far = k.apply(v), k.slope(v), k.stretched(v)
    scale = k.scale(v)
    with mpmath.workdps(50):
        rate = 1 / mpmath.mpf(k.lengthscale) - 1j * mpmath.mpf(k.frequency)
        for i, x in enumerate(k.targets):
            total = slope = far = mpmath.mpc(0)
            for j, y in enumerate(k.sources):
                d = mpmath.mpf(float(x)) - mpmath.mpf(float(y))
                entry = mpmath.exp(-rate * abs(d))
                if k.target_phase is not None:
                    angle = mpmath.mpf(float(k.target_phase[i])) - float(k.source_phase[j])
                    entry *= mpmath.exp(1j * angle)
                term = entry * mpmath.mpmathify(complex(v[j]))
                total += term
                slope += -rate * mpmath.sign(d) * term
                far += abs(d) * term
            if k.real_part:
                total = mpmath.mpc(total.real)
            # The exponent is at most 745 and the angle three times that, each rounded to 64 bits:
            # 4 * 745 * 5.4e-20 = 1.6e-16 of the entry. The 40 roundings of the sum vanish beside
            # it, and so does all of it beside the 1e-14 that the reference is to judge.
            tolerance = 2e-16 * float(scale[i]) + 1e-300
            assert abs(complex(total - to_mp(got[i]))) <= tolerance
            assert abs(complex(slope - to_mp(got_slope[i]))) <= tolerance * float(abs(rate))
            reach = max(1.0, 745 * k.lengthscale)
            assert abs(complex(far - to_mp(got_far[i]))) <= tolerance * reach


@pytest.mark.parametrize("kind", ANCHORS)
def test_moments_equal_fifty_digits(kind: str) -> None:
    rng = np.random.default_rng(ANCHORS.index(kind))
    k = beside(kernel(PHASED, kind, 20, 20, 0.2, "float64", rng), rng)
    v = values(20, "float64", True, rng)
    got, scales = k.moments(v, 5), k.moment_scales(v, 5)
    with mpmath.workdps(50):
        for i, x in enumerate(k.targets):
            d = [mpmath.mpf(float(x)) - mpmath.mpf(float(y)) for y in k.sources]
            r = [abs(each) / mpmath.mpf(k.lengthscale) for each in d]
            turn = [mpmath.mpf(float(k.target_phase[i])) - float(phi) for phi in k.source_phase]
            term = [
                mpmath.exp(1j * (angle + k.frequency * abs(each)) - far)
                * mpmath.mpmathify(complex(value))
                for each, far, angle, value in zip(d, r, turn, v, strict=True)
            ]
            for parity, power in MOMENTS:
                signs = [1 if parity == 0 else mpmath.sign(each) ** parity for each in d]
                powers = [sign * far**power for sign, far in zip(signs, r, strict=True)]
                total = sum(p * each for p, each in zip(powers, term, strict=True))
                scale = scales[power].of_parity(2 if parity else 0)[i]
                exact = sum(
                    abs(p) * mpmath.exp(-far) * abs(mpmath.mpmathify(complex(value)))
                    for p, far, value in zip(powers, r, v, strict=True)
                )
                # As above, with twice the roundings for the powers.
                assert abs(float(scale) - float(exact)) <= 4e-16 * float(exact)
                error = abs(complex(total - to_mp(got[power].of_parity(parity)[i])))
                assert error <= 4e-16 * float(scale) + 1e-300


def to_mp(z: np.clongdouble) -> mpmath.mpc:
    """An extended number without loss: its double part and the rest."""
    parts = []
    for part in (np.real(z), np.imag(z)):
        high = float(part)
        parts.append(mpmath.mpf(high) + mpmath.mpf(float(part - np.longdouble(high))))
    return mpmath.mpc(*parts)
