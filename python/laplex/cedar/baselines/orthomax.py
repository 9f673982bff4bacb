"""Rotations to simple structure from factor analysis: the base of quartimax and varimax."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..._support.arguments import share
from ..statistics import Statistics
from .dictionary import MAX_ROWS, Array, LinearDictionary
from .pca import principal_axes


@dataclass(frozen=True, eq=False)
class Orthomax:
    """Result of ``orthomax``.

    Attributes
    ----------
    rotation : ndarray ``[axes, axes]`` of float64
        The rotation R: ``coordinates @ R`` have simple structure.
    criterion : list of float
        The criterion Q at the start and after each iteration; it never falls.
    converged : bool
        Whether the last iteration gained no more than the tolerance.
    """

    rotation: Array
    criterion: list[float]
    converged: bool


def orthomax(
    coordinates: npt.ArrayLike, gamma: float, *, max_iter: int = 100, tol: float = 1e-5
) -> Orthomax:
    r"""Rotate coordinates to maximise their fourth powers (quartimax) or a variance (varimax).

    .. math::
        Q(R) = \sum_{ij} s_{ij}^4 - \frac{\gamma}{n} \sum_j \Bigl(\sum_i s_{ij}^2\Bigr)^2,
        \qquad S = A R

    gamma = 0 is quartimax and gamma = 1 is varimax (Kaiser, "The varimax criterion for analytic
    rotation in factor analysis", Psychometrika 23, 1958), without Kaiser's normalisation of rows.
    Each step takes the polar factor of the gradient plus a multiple of R, as in Jennrich, "A simple
    general procedure for orthogonal rotation", Psychometrika 66 (2001). The multiple grows only if
    a step would make Q fall; Jennrich proves that no step does if the multiple is large enough.

    Parameters
    ----------
    coordinates : array ``[n, axes]``
        The matrix A, such as the principal components of n embeddings. Products are computed in its
        precision.
    gamma : float
        From 0 to 1.
    max_iter : int
        Maximum number of iterations.
    tol : float
        Smallest gain of an iteration, as a fraction of Q.

    Returns
    -------
    Orthomax

    Raises
    ------
    TypeError, ValueError
        If gamma is not a number from 0 to 1.
    """
    gamma = share("gamma", gamma)
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
    """Base class: principal axes, rotated so that the coordinates of a row become few and large."""

    _limits: ClassVar = {"max_iter": (Integral, 1), "tol": (Real, 0)}
    gamma: ClassVar[float]

    rotation_: Array
    criterion_: list[float]
    n_iter_: int
    converged_: bool

    def __init__(
        self,
        *,
        k: int = 32,
        max_iter: int = 100,
        tol: float = 1e-5,
        max_rows: int = MAX_ROWS,
        random_state: Any = None,
    ) -> None:
        self.k = k
        self.max_iter = max_iter
        self.tol = tol
        self.max_rows = max_rows
        self.random_state = random_state

    @property
    def name(self) -> str:
        """The name of the method in tables."""
        return type(self).__name__.lower()

    def _learn(self, found: Statistics) -> None:
        axes, _ = principal_axes(found.sample)
        centred = (found.sample.double() - found.mean).numpy()
        scores = (centred @ axes.T).astype(found.sample.numpy().dtype)
        result = orthomax(scores, self.gamma, max_iter=self.max_iter, tol=self.tol)
        self.rotation_, self.criterion_ = result.rotation, result.criterion
        self.n_iter_, self.converged_ = len(result.criterion) - 1, result.converged
        self.atoms_ = self.readouts_ = self.rotation_.T @ axes
