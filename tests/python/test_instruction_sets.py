"""Every level of vector instructions that this machine has gives the same bits."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from laplex import _core

LEVELS = _core.info()["isa_available"]

#: Prints a digest of products, gradients and updates in every form, precision and layout.
DIGEST = """
import hashlib
import numpy as np
import laplex

digest = hashlib.sha256()
rng = np.random.default_rng(0)
for dtype in ("float32", "float64"):
    for n, m in ((1, 1), (7, 3), (64, 65), (300, 1000), (5000, 4000)):
        for spread in (0.01, 1.0, 300.0):  # cells of few and of many anchors
            x, y = (spread * rng.random(k).round(3) for k in (n, m))
            theta, phi = rng.random(n), rng.random(m)
            options = [
                {},
                {"target_phase": theta, "source_phase": phi},
                {"frequency": 3.0},
                {"frequency": 3.0, "target_phase": theta, "real_part": True},
                {"kernel": "matern32"},
                {"kernel": "matern52", "frequency": 3.0, "source_phase": phi},
                {"side": "left"},
                {"side": "right", "frequency": 3.0},
                {"side": "right", "kernel": "matern32"},
            ]
            for given in options:
                given = {k: np.asarray(v, dtype) if k.endswith("phase") else v
                         for k, v in given.items()}
                plan = laplex.Plan(x.astype(dtype), y.astype(dtype), lengthscale=0.5, **given)
                for rows in (1, 11):
                    v = rng.standard_normal((rows, m)).astype(dtype)
                    u = plan.apply(v)
                    digest.update(u.tobytes())
                    digest.update(plan.adjoint(u).tobytes())
                    for part in () if "side" in given else plan.half_sums(v):
                        digest.update(part.tobytes())
                    for gradient in plan.vjp(v, u):
                        if gradient is not None:
                            digest.update(gradient.tobytes())
                near = [z + spread / (n + m) * rng.standard_normal(len(z)) for z in (x, y)]
                plan.update(*(z.astype(dtype) for z in near), lengthscale=0.4)
                digest.update(plan.apply(v).tobytes())
print(laplex._core.info()["isa"], digest.hexdigest())
"""


def run(level: str | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LAPLEX_ISA": level or ""}
    return subprocess.run(
        [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True
    )


def test_all_levels_give_the_same_bits() -> None:
    found = {}
    for level in LEVELS:
        done = run(level)
        assert done.returncode == 0, done.stderr
        used, found[level] = done.stdout.split()
        assert used == level
    assert len(set(found.values())) == 1, found


def test_the_highest_level_is_the_default() -> None:
    done = run(None)
    assert done.stdout.split()[0] == LEVELS[-1]
    assert LEVELS[0] == "baseline"


@pytest.mark.parametrize("level", ["sse9", "AVX2", "neon "])
def test_a_level_that_is_not_there_is_refused_when_asked_for(level: str) -> None:
    done = run(level)
    assert done.returncode != 0
    assert f'ValueError: LAPLEX_ISA is "{level}"' in done.stderr
    assert "set it to one of baseline" in done.stderr
