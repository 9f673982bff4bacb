"""Stability of restarts: the matrix, and the axes that recur, against hand-made restarts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group

from laplex.cedar import metrics
from laplex.cedar.restarts import stability

D = 12
EPS = np.finfo(np.float64).eps


def shuffled(atoms: np.ndarray, seed: int) -> np.ndarray:
    """The same atoms in another order, with other signs and lengths."""
    rng = np.random.default_rng(seed)
    scales = rng.choice([-1, 1], (len(atoms), 1)) * rng.uniform(0.5, 2, (len(atoms), 1))
    return (scales * atoms)[rng.permutation(len(atoms))]


def partly_turned(atoms: np.ndarray, first: int) -> np.ndarray:
    """Atoms of which those from `first` on are replaced by a far basis of what they span."""
    rest = len(atoms) - first
    # The discrete cosine basis: no entry above sqrt(2 / rest).
    k, i = np.mgrid[:rest, :rest]
    turn = np.cos(np.pi * k * (2 * i + 1) / (2 * rest)) * np.sqrt(2 / rest)
    turn[0] /= np.sqrt(2)
    np.testing.assert_allclose(turn @ turn.T, np.eye(rest), atol=100 * EPS)
    return np.vstack([atoms[:first], turn @ atoms[first:]])


@pytest.fixture
def atoms() -> np.ndarray:
    return ortho_group.rvs(D, random_state=0)


def test_equal_restarts_are_stable(atoms: np.ndarray) -> None:
    report = stability(np.stack([atoms, shuffled(atoms, 1), shuffled(atoms, 2)]))
    np.testing.assert_allclose(report.mcc, np.ones((3, 3)), atol=50 * EPS)
    assert report.mean == pytest.approx(1, abs=50 * EPS)
    np.testing.assert_array_equal(report.recurrence, np.full(D, 2))
    assert report.recurring().all()


def test_axes_recur_where_others_have_them(atoms: np.ndarray) -> None:
    # Axes 0-3 are in all four restarts, 4-7 in three, 8-11 in the first alone.
    restarts = [
        atoms,
        shuffled(partly_turned(atoms, 8), 1),
        shuffled(partly_turned(atoms, 8), 2),
        shuffled(partly_turned(atoms, 4), 3),
    ]
    # sqrt(2 / 4) = 0.707 for four turned axes, hence a threshold above it.
    report = stability(torch.from_numpy(np.stack(restarts)), threshold=0.8)
    np.testing.assert_array_equal(report.recurrence, [3] * 4 + [2] * 4 + [0] * 4)
    np.testing.assert_array_equal(report.recurring(), [True] * 8 + [False] * 4)
    np.testing.assert_array_equal(report.recurring(4), [True] * 4 + [False] * 8)
    np.testing.assert_array_equal(report.recurring(min_restarts=2), report.recurring(3))
    for i, a in enumerate(restarts):
        for j, b in enumerate(restarts):
            assert report.mcc[i, j] == pytest.approx(metrics.mcc(a, b), abs=50 * EPS)
    np.testing.assert_array_equal(report.mcc, report.mcc.T)
    pairs = [report.mcc[i, j] for i in range(4) for j in range(i)]
    # Sums of six numbers of at most 1, in another order.
    assert report.mean == pytest.approx(np.mean(pairs), abs=4 * EPS)
    assert report.min == min(pairs) < report.mean
    assert report.table().splitlines() == [
        "restarts  axes  share",
        "       4     4  33.3%",
        "       3     4  33.3%",
        "       2     0   0.0%",
        "       1     4  33.3%",
    ]
    assert "12 axes in 4 restarts" in repr(report)
    assert "|cosine| > 0.8" in repr(report)
    assert report.table() in repr(report)


def test_the_order_of_the_others_does_not_matter(atoms: np.ndarray) -> None:
    restarts = [atoms, shuffled(partly_turned(atoms, 6), 1), ortho_group.rvs(D, random_state=9)]
    a, b = stability(restarts), stability([restarts[i] for i in (0, 2, 1)])
    np.testing.assert_array_equal(a.recurrence, b.recurrence)
    assert a.recurrence[:6].min() >= 1
    # A pair is matched the other way round, which rounds differently.
    assert a.mean == pytest.approx(b.mean, abs=50 * EPS)


def test_more_axes_than_dimensions(atoms: np.ndarray) -> None:
    wide = np.vstack([atoms, atoms + np.roll(atoms, 1, axis=0)])
    report = stability([wide, shuffled(wide, 1)])
    assert report.recurrence.shape == (2 * D,)
    assert report.mean == pytest.approx(1, abs=50 * EPS)


def test_errors(atoms: np.ndarray) -> None:
    with pytest.raises(ValueError, match="fit with n_init=2 or more"):
        stability(atoms[None])
    with pytest.raises(ValueError, match="restarts must have 3 dimensions"):
        stability(atoms)
    with pytest.raises(ValueError, match="restarts has values that are not finite"):
        stability(np.full((2, 3, 3), np.inf))
    for threshold in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="threshold must be between 0 and 1"):
            stability([atoms, atoms], threshold=threshold)
    report = stability([atoms, atoms])
    with pytest.raises(ValueError, match="fit with n_init=3 for more"):
        report.recurring()
    with pytest.raises(ValueError, match="from 2 to the number of restarts, 2, got 1"):
        report.recurring(1)
