"""A random rotation: the floor of every comparison."""

from __future__ import annotations

from typing import Any

from ..basis import random_rotation
from ..statistics import Statistics
from .dictionary import BASELINES, MAX_ROWS, LinearDictionary


@BASELINES.register("random-rotation", order=0)
class RandomRotation(LinearDictionary):
    """An orthogonal basis drawn uniformly (from the Haar measure); only the mean is learned.

    It shows what the top k of each row explains in any basis. A method that does not beat it has
    found nothing.

    Parameters
    ----------
    k : int
        Number of nonzero entries of a code.
    max_rows : int
        Largest number of rows in memory; the result does not depend on it.
    random_state : int, RandomState or None
        Seed of the rotation.

    Examples
    --------
    >>> import numpy as np
    >>> from laplex.cedar.baselines import RandomRotation
    >>> X = np.random.default_rng(0).standard_normal((100, 8))
    >>> model = RandomRotation(random_state=0).fit(X)
    >>> (model.transform(X, k=3) != 0).sum(1).max()
    np.int64(3)
    """

    def __init__(self, *, k: int = 32, max_rows: int = MAX_ROWS, random_state: Any = None) -> None:
        self.k = k
        self.max_rows = max_rows
        self.random_state = random_state

    @property
    def name(self) -> str:
        """The name of the method in tables."""
        return "random rotation"

    def _learn(self, found: Statistics) -> None:
        basis = random_rotation(self.n_features_in_, self._generator())
        self.atoms_ = self.readouts_ = basis.numpy()
