"""Rotations to simple structure, as factor analysis has them: what quartimax and varimax share."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_scalar

from ..statistics import Statistics
from .dictionary import MAX_ROWS, Array, LinearDictionary
from .pca import principal_axes


@dataclass(frozen=True, eq=False)
class Orthomax:
    """What `orthomax` found.

    Attributes
    ----------
    rotation : ndarray ``[axes, axes]`` of float64
        R: coordinates @ R have simple structure.
    criterion : list of float
        Q at the start and after each iteration; never falls.
    converged : bool
        Whether the last iteration gained no more than the tolerance.
    """

    rotation: Array
    criterion: list[float]
    converged: bool


def orthomax(
    coordinates: npt.ArrayLike, gamma: float, *, max_iter: int = 100, tol: float = 1e-5
) -> Orthomax:
    r"""Rotate coordinates to the largest sum of their fourth powers, or variance of their squares.

    .. math::
        Q(R) = \sum_{ij} s_{ij}^4 - \frac{\gamma}{n} \sum_j \Bigl(\sum_i s_{ij}^2\Bigr)^2,
        \qquad S = A R

    gamma = 0 is quartimax, gamma = 1 varimax (Kaiser, "The varimax criterion for analytic rotation
    in factor analysis", Psychometrika 23, 1958), without Kaiser's normalisation of rows. Each step
    takes the polar factor of the gradient plus a multiple of R, as in Jennrich, "A simple general
    procedure for orthogonal rotation", Psychometrika 66 (2001); the multiple grows only where a
    step would make Q fall. Jennrich proves that with it large enough none does.

    Parameters
    ----------
    coordinates : array ``[n, axes]``
        A, such as the principal components of n embeddings. Products are taken in its precision.
    gamma : float
        From 0 to 1.
    max_iter : int
    tol : float
        Least gain of an iteration, in parts of Q.

    Raises
    ------
    ValueError
        gamma out of range.
    """
    check_scalar(gamma, "gamma", Real, min_val=0, max_val=1)
    given = np.asarray(coordinates)
    if given.dtype != np.float32:
        given = given.astype(np.float64)
    size = float(np.sqrt(np.mean(np.square(given, dtype=np.float64)))) or 1.0
    unit = given / given.dtype.type(size)  # Q is in parts of itself: no float32 overflows
    count, axes = unit.shape

    def evaluate(rotation: Array) -> tuple[float, Array]:
        rotated = unit @ rotation.astype(unit.dtype)
        square = np.square(rotated)
        energy = square.sum(0, dtype=np.float64)
        value = float(np.square(square).sum(dtype=np.float64) - gamma / count * energy @ energy)
        slope = rotated * (square - (gamma / count * energy).astype(unit.dtype))
        return value, (unit.T @ slope).astype(np.float64)

    rotation = np.eye(axes)
    value, gradient = evaluate(rotation)
    criterion, shift, converged = [value], 0.0, False
    for _ in range(max_iter):
        left, singular, right = np.linalg.svd(gradient + shift * rotation)
        candidate = left @ right
        new_value, new_gradient = evaluate(candidate)
        gain = new_value - value
        if gain >= 0:
            rotation, value, gradient = candidate, new_value, new_gradient
            criterion.append(value)
        converged = abs(gain) <= tol * abs(value)
        if converged:
            break
        if gain < 0:
            shift = max(2 * shift, float(singular.mean()))
    return Orthomax(rotation, [one * size**4 for one in criterion], converged)


class OrthomaxRotation(LinearDictionary):
    """The principal axes, rotated so that coordinates of rows become few and large."""

    _limits: ClassVar = {"max_iter": (Integral, 1), "tol": (Real, 0)}
    gamma: ClassVar[float]

    rotation_: Array
    criterion_: list[float]
    n_iter_: int
    converged_: bool

    def __init__(
        self,
        *,
        max_iter: int = 100,
        tol: float = 1e-5,
        max_rows: int = MAX_ROWS,
        random_state: Any = None,
    ) -> None:
        self.max_iter = max_iter
        self.tol = tol
        self.max_rows = max_rows
        self.random_state = random_state

    @property
    def name(self) -> str:
        """What tables call it."""
        return type(self).__name__.lower()

    def _learn(self, found: Statistics) -> None:
        axes, _ = principal_axes(found.sample)
        centred = (found.sample.double() - found.mean).numpy()
        scores = (centred @ axes.T).astype(found.sample.numpy().dtype)
        result = orthomax(scores, self.gamma, max_iter=self.max_iter, tol=self.tol)
        self.rotation_, self.criterion_ = result.rotation, result.criterion
        self.n_iter_, self.converged_ = len(result.criterion) - 1, result.converged
        self.atoms_ = self.readouts_ = self.rotation_.T @ axes
