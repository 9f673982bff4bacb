"""Planted data: sparse causes, mixed by a known matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Planted:
    """Rows ``causes @ mixing``; atoms are the rows of `mixing`, of norm 1."""

    data: np.ndarray
    causes: np.ndarray
    mixing: np.ndarray

    @property
    def atoms(self) -> np.ndarray:
        return self.mixing / np.linalg.norm(self.mixing, axis=1, keepdims=True)


def planted(
    n: int,
    d: int,
    k: int,
    *,
    seed: int,
    draw: int = 0,
    condition: float = 1.0,
    positive: bool = False,
) -> Planted:
    """K of d normal causes a row, mixed by a rotation or by a matrix of a given condition.

    `seed` gives the mixture, `draw` other rows of it.
    """
    mixer = np.random.default_rng(seed)
    left = np.linalg.qr(mixer.standard_normal((d, d)))[0]
    right = np.linalg.qr(mixer.standard_normal((d, d)))[0]
    mixing = left @ np.diag(np.geomspace(1, 1 / condition, d)) @ right
    random = np.random.default_rng((seed, draw))
    chosen = np.argsort(random.random((n, d)), axis=1)[:, :k]
    values = random.standard_normal((n, k))
    causes = np.zeros((n, d))
    np.put_along_axis(causes, chosen, np.abs(values) if positive else values, axis=1)
    return Planted(causes @ mixing, causes, mixing)


def rotation_error(matrices: np.ndarray) -> float:
    """The largest entry of U U^T - I, in float64, of matrices [r, d, d]."""
    exact = matrices.astype(np.float64)
    return float(np.abs(exact @ exact.transpose(0, 2, 1) - np.eye(exact.shape[-1])).max())
